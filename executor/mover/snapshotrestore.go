package mover

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/velero"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov2 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// labelLanding is in the selector of a claim that waits for a restored volume:
// a claim with a selector gets no new volume from any provisioner. Velero puts
// the label on the volume that it makes.
const labelLanding = "tranship.dev/landing"

// landing is one claim of ours that a snapshot is restored into.
type landing struct {
	v        *spec.Volume
	claim    *corev1.PersistentVolumeClaim
	pv       *corev1.PersistentVolume
	mark     mark
	download *movement // of this attempt
}

// landed says that the claim holds the wanted snapshot completely.
func (l *landing) landed() bool {
	return l.claim != nil && l.claim.DeletionTimestamp == nil && l.mark.holds(l.v.Snapshot) && l.pv != nil && bound(l.claim, l.pv)
}

// landingGroup is what one pod of the application will mount.
type landingGroup struct {
	namespace, name string
	landings        []*landing
	mounts          []string    // all our claims of the group, copied ones too: they decide on the node together
	consumer        *corev1.Pod // of this attempt
	strangers       []*corev1.Pod
}

// thinkLand has Velero make a new volume of every snapshot, bound to a claim
// of ours, from which the hand-over takes it. Nothing is ever restored into a
// volume that is there already: an older copy goes first.
func thinkLand(ctx context.Context, e *kube.Env) (thought, error) {
	volumes, err := volumesOf(ctx, e)
	if err != nil {
		return thought{}, err
	}
	downloads, watch, err := movements(ctx, e, e.Target, downloadResource)
	if err != nil {
		return thought{}, err
	}
	pods, err := e.Target.Kube.CoreV1().Pods(e.Settings.Namespace).List(ctx, ofPlan(e))
	if err != nil {
		return thought{}, fmt.Errorf("cannot list our pods on cluster %s: %w", e.Target.Name, err)
	}
	t := thought{watches: []watched{watch, watchOf(e.Target, podResource, e.Settings.Namespace, ofPlan(e).LabelSelector, pods.ResourceVersion)}}
	if o := endMovements(e, &t, downloads); o != nil || len(t.moves) > 0 {
		if o != nil {
			t.seen = *o
		}
		return t, nil
	}
	// They come first: the pods that stand for the application's mount them too.
	if o, err := landNative(ctx, e, volumes, &t); o != nil || err != nil || len(t.moves) > 0 {
		if o != nil && o.Seen == reconciler.Broken {
			return thought{seen: *o}, nil
		}
		if o != nil {
			t.seen = *o
		}
		return t, err
	}
	groups, err := landings(ctx, e, volumes, downloads)
	if err != nil {
		return thought{}, err
	}
	var waits, failures []reconciler.Observation
	for _, g := range groups {
		g.pods(e, pods.Items)
		switch o := g.next(e, &t); {
		case o == nil:
		case o.Seen == reconciler.Broken:
			failures = append(failures, *o)
		default:
			waits = append(waits, *o)
		}
	}
	switch {
	case len(failures) > 0:
		return thought{seen: failures[0]}, nil
	case len(waits) > 0:
		t.seen = waits[0]
	default:
		t.seen = succeeded(factsOf(volumes), "Velero has made a volume of every snapshot")
	}
	return t, nil
}

// landings reads the claim, the volume and the download of every volume of
// method snapshot, by the pod that will mount them.
func landings(ctx context.Context, e *kube.Env, volumes []spec.Volume, downloads []*movement) ([]*landingGroup, error) {
	byName := map[string]*landingGroup{}
	var groups []*landingGroup
	for i := range volumes {
		v := &volumes[i]
		if !staged(v) {
			continue
		}
		k := v.Namespace + "/" + v.Group
		if byName[k] == nil {
			byName[k] = &landingGroup{namespace: v.Namespace, name: v.Group}
		}
		g := byName[k]
		g.mounts = append(g.mounts, v.StagingClaim)
		if !snapshotted(v) || native(v) {
			continue
		}
		if len(g.landings) == 0 {
			groups = append(groups, g)
		}
		l := &landing{v: v}
		if err := l.read(ctx, e, downloads); err != nil {
			return nil, err
		}
		g.landings = append(g.landings, l)
	}
	return groups, nil
}

func downloadName(e *kube.Env, v *spec.Volume) string { return e.ObjectName("landing/" + key(v)) }

func (l *landing) read(ctx context.Context, e *kube.Env, downloads []*movement) error {
	var err error
	if l.claim, err = getClaim(ctx, e.Target, e.Settings.Namespace, l.v.StagingClaim); err != nil {
		return err
	}
	if l.claim != nil {
		if l.pv, err = getVolume(ctx, e.Target, l.claim.Spec.VolumeName); err != nil {
			return err
		}
	}
	for _, m := range downloads {
		if m.GetName() == downloadName(e, l.v) {
			l.download = m
		}
	}
	return nil
}

func (g *landingGroup) pods(e *kube.Env, all []corev1.Pod) {
	for i := range all {
		p := &all[i]
		if p.Labels[LabelComponent] != ComponentConsumer || p.Annotations[annotationVolume] != g.namespace+"/"+g.name {
			continue
		}
		if ofThisAttempt(e, p) && p.DeletionTimestamp == nil {
			g.consumer = p
		} else {
			g.strangers = append(g.strangers, p)
		}
	}
}

// next is one group's way:
//
//	older copy ──delete──▶ nothing ──▶ claims ──▶ consumer ──▶ DataDownloads ──completed──▶ marked clean ──▶ no consumer
func (g *landingGroup) next(e *kube.Env, t *thought) *reconciler.Observation {
	all := true
	for _, l := range g.landings {
		if o := l.refuse(e); o != nil {
			return o
		}
		all = all && l.landed()
	}
	if all {
		return g.finish(e, t)
	}
	if o := g.leave(e, t, g.strangers); o != nil {
		return o
	}
	for _, l := range g.landings {
		if o := l.prepare(e, t); o != nil {
			return o
		}
	}
	if len(t.moves) > 0 {
		return nil
	}
	if g.consumer == nil {
		t.move(fmt.Sprintf("create the pod %s/%s on cluster %s, for whose node the volumes of %s/%s are made", e.Settings.Namespace, g.podName(e), e.Target.Name, g.namespace, g.name), func(ctx context.Context) error {
			return g.createConsumer(ctx, e)
		})
		return nil
	}
	var wait *reconciler.Observation
	for _, l := range g.landings {
		if o := g.land(e, t, l); o != nil && (wait == nil || o.Seen == reconciler.Broken) {
			wait = o
		}
	}
	return wait
}

// finish lets the consumer go and notes what was made.
func (g *landingGroup) finish(e *kube.Env, t *thought) *reconciler.Observation {
	pods := g.strangers
	if g.consumer != nil {
		pods = append(pods, g.consumer)
	}
	for _, l := range g.landings {
		l.mark.record(l.v)
		l.v.TargetPV, l.v.TargetHandle, l.v.TargetPolicy = l.pv.Name, handle(l.pv), string(l.pv.Spec.PersistentVolumeReclaimPolicy)
	}
	return g.leave(e, t, pods)
}

func (g *landingGroup) leave(e *kube.Env, t *thought, pods []*corev1.Pod) *reconciler.Observation {
	var wait *reconciler.Observation
	for _, p := range pods {
		if p.DeletionTimestamp == nil {
			t.move(fmt.Sprintf("remove the pod %s/%s on cluster %s", p.Namespace, p.Name, e.Target.Name), func(ctx context.Context) error {
				return deletePod(ctx, e.Target, p)
			})
		}
		o := working("PodLeaving", object(spec.Target, "Pod", p.Namespace, p.Name), "waits until pod %s/%s of cluster %s is gone", p.Namespace, p.Name, e.Target.Name)
		wait = &o
	}
	return wait
}

// refuse names the reason for which a claim must not be replaced.
func (l *landing) refuse(e *kube.Env) *reconciler.Observation {
	at := object(spec.Target, "PersistentVolumeClaim", e.Settings.Namespace, l.v.StagingClaim)
	no := func(final bool, reason, format string, args ...any) *reconciler.Observation {
		o := broken(final, reason, at, format, args...)
		return &o
	}
	if l.v.Mark == spec.MarkLive {
		return no(true, "LiveClaim", "the ledger says that the copy of %s is live: it belongs to the application and is not replaced", key(l.v))
	}
	if l.v.Snapshot == "" {
		return no(false, "NoSnapshot", "no snapshot of %s is recorded: the snapshot step makes it", key(l.v))
	}
	if l.claim == nil {
		return nil
	}
	if !ours(e, l.claim) || l.claim.Annotations[annotationVolume] != key(l.v) {
		return no(true, "ForeignClaim", "claim %s/%s of cluster %s was not made by this plan: delete or rename it", l.claim.Namespace, l.claim.Name, e.Target.Name)
	}
	var err error
	if l.mark, err = markOf(l.claim); err != nil {
		return no(true, "UnknownMark", "claim %s/%s of cluster %s: %v", l.claim.Namespace, l.claim.Name, e.Target.Name, err)
	}
	if l.mark.kind == spec.MarkLive {
		return no(true, "LiveClaim", "claim %s/%s of cluster %s is marked %q: it belongs to the application and is not replaced", l.claim.Namespace, l.claim.Name, e.Target.Name, l.mark)
	}
	return nil
}

// prepare makes the empty claim of this attempt, after an older copy is gone.
func (l *landing) prepare(e *kube.Env, t *thought) *reconciler.Observation {
	c := l.claim
	switch {
	case c == nil:
		t.move(fmt.Sprintf("create claim %s/%s on cluster %s", e.Settings.Namespace, l.v.StagingClaim, e.Target.Name), func(ctx context.Context) error {
			return l.createClaim(ctx, e)
		})
		return nil
	case c.DeletionTimestamp == nil && (l.landed() || ofThisAttempt(e, c)):
		return nil
	case c.DeletionTimestamp == nil:
		t.move(fmt.Sprintf("delete claim %s/%s on cluster %s, an older copy", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
			return deleteClaim(ctx, e.Target, c)
		})
	}
	o := working("ClaimLeaving", claimAt(c), "waits until claim %s/%s of cluster %s, an older copy, is gone", c.Namespace, c.Name, e.Target.Name)
	return &o
}

func (l *landing) createClaim(ctx context.Context, e *kube.Env) error {
	m, err := mark{}.writing(l.v.Snapshot)
	if err != nil {
		return err
	}
	c := &corev1.PersistentVolumeClaim{ObjectMeta: objectMeta(e, e.Settings.Namespace, l.v.StagingClaim, ComponentStaging), Spec: claimSpec(l.v, nil)}
	c.Annotations[annotationVolume], c.Annotations[kube.AnnotationMark] = key(l.v), m.String()
	c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{labelLanding: l.v.StagingClaim}}
	return createClaim(ctx, e, c)
}

// land follows the download of one claim.
func (g *landingGroup) land(e *kube.Env, t *thought, l *landing) *reconciler.Observation {
	m := l.download
	switch {
	case l.landed():
		return nil
	case m == nil:
		t.move(fmt.Sprintf("have Velero restore the snapshot of %s on cluster %s", key(l.v), e.Target.Name), func(ctx context.Context) error {
			return l.createDownload(ctx, e)
		})
		return nil
	case m.phase() == phaseFailed || m.phase() == phaseCanceled:
		o := m.failed(l.v)
		return &o
	case m.phase() == phaseCompleted && l.pv != nil && bound(l.claim, l.pv):
		t.move(fmt.Sprintf("mark claim %s/%s on cluster %s clean", l.claim.Namespace, l.claim.Name, e.Target.Name), func(ctx context.Context) error {
			done, err := l.mark.written(l.v.Snapshot)
			if err != nil {
				return err
			}
			return setMark(ctx, e, e.Target, l.claim, done)
		})
		return nil
	}
	o := working("RestoringSnapshot", m.at(), "Velero on cluster %s restores the whole snapshot of %s: %s", e.Target.Name, key(l.v), m.progress())
	if p := g.consumer; m.number("progress", "totalBytes") == 0 && l.claim.Annotations["volume.kubernetes.io/selected-node"] == "" {
		o.Message += fmt.Sprintf("; pod %s/%s, which stands for the application's: %s", p.Namespace, p.Name, stuck(p))
	}
	return &o
}

func (l *landing) createDownload(ctx context.Context, e *kube.Env) error {
	d := &velerov2.DataDownload{ObjectMeta: objectMeta(e, e.Target.VeleroNamespace, downloadName(e, l.v), ComponentSnapshot)}
	d.Annotations[annotationVolume] = key(l.v)
	d.Spec = velerov2.DataDownloadSpec{
		TargetVolume:          velerov2.TargetVolumeSpec{PVC: l.v.StagingClaim, Namespace: e.Settings.Namespace},
		BackupStorageLocation: velero.LocationName(e), SnapshotID: l.v.Snapshot, SourceNamespace: l.v.Namespace,
		OperationTimeout: metav1.Duration{Duration: operationTimeout}, NodeOS: velerov2.NodeOSLinux, SnapshotSize: l.v.Bytes,
	}
	return create(ctx, e.Target, downloadResource, "DataDownload", d)
}

package mover

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// moving is one moved volume: the source's claim and volume, and, in the
// transfer, the target's volume of the same storage with the application's
// claim. Like a transfer it is read from the objects alone.
type moving struct {
	transfer
	claim     *corev1.PersistentVolumeClaim // of the source
	source    *corev1.PersistentVolume
	sourcePod *corev1.Pod // uses the claim on the source
	attached  string      // the node that still has the volume of the side that is to let go of it
}

// movingView is every moved volume of a plan.
type movingView struct {
	xs      []*moving
	watches []watched
}

// movedName is the name of a moved volume's object on the target: the same
// for every run, so that "already exists" means that it is ours.
func movedName(e *kube.Env, v *spec.Volume) string { return e.PlanObjectName("move/" + key(v)) }

// movings reads the source's side of every moved volume among those given.
func movings(ctx context.Context, e *kube.Env, volumes []spec.Volume) (*movingView, error) {
	view, pods := &movingView{}, podLists{}
	var err error
	for i := range volumes {
		v := &volumes[i]
		if !moved(v) {
			continue
		}
		m := &moving{transfer: transfer{v: v}}
		if m.claim, err = getClaim(ctx, e.Source, v.Namespace, v.Claim); err != nil {
			return nil, err
		}
		if m.source, err = getVolume(ctx, e.Source, v.SourcePV); err != nil {
			return nil, err
		}
		seen := len(pods)
		if m.sourcePod, err = pods.user(ctx, e.Source, v.Namespace, v.Claim); err != nil {
			return nil, err
		}
		if len(pods) > seen {
			view.watches = append(view.watches, watchOf(e.Source, podResource, v.Namespace, "", pods[v.Namespace].ResourceVersion))
		}
		view.xs = append(view.xs, m)
	}
	return view, nil
}

// readTarget reads the target's side.
func (view *movingView) readTarget(ctx context.Context, e *kube.Env) error {
	pods := podLists{}
	for _, m := range view.xs {
		var err error
		if m.pv, err = getVolume(ctx, e.Target, movedName(e, m.v)); err != nil {
			return err
		}
		if m.app, err = getClaim(ctx, e.Target, m.v.TargetNamespace, m.v.TargetClaim); err != nil {
			return err
		}
		if m.app != nil {
			if err := pods.on(ctx, e.Target, m.app, &m.transfer); err != nil {
				return err
			}
		}
	}
	selector := kube.LabelPlan + "=" + kube.Short(e.Run.Spec.Plan)
	view.watches = append(view.watches, watchOf(e.Target, claimResource, "", selector, ""), watchOf(e.Target, volumeResource, "", selector, ""))
	for ns, l := range pods {
		view.watches = append(view.watches, watchOf(e.Target, podResource, ns, "", l.ResourceVersion))
	}
	return nil
}

// user is a pod that may use a claim: any that is not over.
func (l podLists) user(ctx context.Context, on *kube.Cluster, namespace, claim string) (*corev1.Pod, error) {
	x := &transfer{}
	err := l.on(ctx, on, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: claim}}, x)
	return x.user, err
}

// attachments notes for every volume of a side where it is still attached: a
// pod that is gone has unmounted its volumes, and a disk of one node is
// detached from there only later.
func (view *movingView) attachments(ctx context.Context, on *kube.Cluster) error {
	l, err := on.Kube.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
	if err != nil {
		return on.Errorf(err, "list which volumes are attached")
	}
	nodes := map[string]string{}
	for _, a := range l.Items {
		if name := ptr.Deref(a.Spec.Source.PersistentVolumeName, ""); name != "" {
			nodes[name] = a.Spec.NodeName
		}
	}
	for _, m := range view.xs {
		pv := m.source
		if on.Side == spec.Target {
			pv = m.pv
		}
		if pv != nil {
			m.attached = nodes[pv.Name]
		}
	}
	return nil
}

// says lists the volumes for people.
func (view *movingView) says() string {
	var all []string
	for _, m := range view.xs {
		all = append(all, fmt.Sprintf("%s (volume %s)", key(m.v), m.v.SourcePV))
	}
	return strings.Join(all, ", ")
}

// thinkMove gives the target the source's own storage: a volume with the same
// source and the application's claim on it (safety properties 5, 6 and 7).
func thinkMove(ctx context.Context, e *kube.Env) (thought, error) {
	volumes, err := volumesOf(ctx, e)
	if err != nil {
		return thought{}, err
	}
	view, err := movings(ctx, e, volumes)
	if err != nil {
		return thought{}, err
	}
	if err := view.readTarget(ctx, e); err != nil {
		return thought{}, err
	}
	if err := view.attachments(ctx, e.Source); err != nil {
		return thought{}, err
	}
	t := thought{watches: view.watches}
	switch o := advance(view.xs, func(m *moving) *reconciler.Observation { return m.forward(e, &t) }); {
	case o == nil:
		t.seen = succeeded(nil, "moved: %s; the source's volumes stay at Retain for ever", view.says())
	case o.Seen == reconciler.Broken:
		return thought{seen: *o}, nil
	default:
		t.seen = *o
	}
	t.seen.Facts = factsOf(volumes) // also before the first effect: names and handles are in the record then
	return t, nil
}

// forward is the move of one volume, one effect at a time:
//
//	stopped ──say so on the source's volume──▶ announced ──create──▶ volume ──create the claim──▶ bound
//
// The source's volume says where it goes before that can be used, so that
// whoever finds it, our own retain-undo included, keeps it.
func (m *moving) forward(e *kube.Env, t *thought) *reconciler.Observation {
	if o := m.refuse(e); o != nil {
		return o
	}
	if o := m.stillUsed(e); o != nil {
		return o
	}
	want := m.wanted(e)
	m.v.TargetPV, m.v.TargetHandle, m.v.TargetPolicy = want.Name, handle(want), m.v.SourcePolicy
	if m.pv != nil {
		if o := m.foreign(e, want); o != nil {
			return o
		}
	}
	switch to := e.Target.Name + "/" + want.Name; {
	case m.source.Annotations[kube.AnnotationMoved] != to:
		t.move(fmt.Sprintf("note on volume %s of cluster %s that it goes to %s", m.source.Name, e.Source.Name, to), func(ctx context.Context) error {
			return patchVolume(ctx, e, e.Source, m.source, change{annotations: map[string]any{kube.AnnotationMoved: to}})
		})
	case m.pv == nil:
		t.move(fmt.Sprintf("create volume %s on cluster %s with the storage of %s", want.Name, e.Target.Name, m.source.Name), func(ctx context.Context) error {
			_, err := e.Target.Kube.CoreV1().PersistentVolumes().Create(ctx, want, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil // the next thought sees whose it is
			}
			return err
		})
	case !m.reserved(m.v.TargetNamespace, m.v.TargetClaim, m.app):
		m.moveReference(e, t, m.v.TargetNamespace, m.v.TargetClaim)
	case m.app == nil && m.pv.Status.Phase != corev1.VolumeAvailable:
		return m.reserving(e)
	case m.app == nil:
		t.move(fmt.Sprintf("create claim %s/%s on cluster %s", m.v.TargetNamespace, m.v.TargetClaim, e.Target.Name), func(ctx context.Context) error {
			return createClaim(ctx, e, applicationClaim(e, m.v, m.claim, m.claimSpec()))
		})
	default:
		return m.binding(e, t, m.app)
	}
	return nil
}

// refuse names the reason for which the move cannot go on.
func (m *moving) refuse(e *kube.Env) *reconciler.Observation {
	no := func(reason, at, format string, args ...any) *reconciler.Observation {
		o := broken(true, reason, at, format, args...)
		return &o
	}
	v := m.v
	claim := object(spec.Source, "PersistentVolumeClaim", v.Namespace, v.Claim)
	switch {
	case m.claim == nil || m.claim.DeletionTimestamp != nil:
		return no("ClaimMissing", claim, "claim %s of cluster %s is gone or being deleted: its volume is not moved", key(v), e.Source.Name)
	case m.source == nil || m.source.DeletionTimestamp != nil || m.claim.Spec.VolumeName != m.source.Name:
		return no("VolumeMissing", claim, "claim %s of cluster %s is bound to %q now, and the run began with volume %q: it is not moved", key(v), e.Source.Name, m.claim.Spec.VolumeName, v.SourcePV)
	case m.source.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain:
		return no("NotRetained", object(spec.Source, "PersistentVolume", "", v.SourcePV), "volume %s of cluster %s is at %s, and whoever deletes its claim would delete what the target uses: set it to Retain", v.SourcePV, e.Source.Name, m.source.Spec.PersistentVolumeReclaimPolicy)
	}
	if c := m.app; c != nil && (!ours(e, c) || c.Annotations[annotationVolume] != key(v)) {
		return no("ClaimExists", claimAt(c), "claim %s/%s is on cluster %s already and was not made by this plan: delete it, or give another targetClaim in volumes.overrides", c.Namespace, c.Name, e.Target.Name)
	}
	return nil
}

// foreign refuses a volume of our name that is not what we would have made.
func (m *moving) foreign(e *kube.Env, want *corev1.PersistentVolume) *reconciler.Observation {
	if !ours(e, m.pv) || m.pv.Annotations[annotationVolume] != key(m.v) || handle(m.pv) != handle(want) {
		o := broken(true, "ForeignVolume", m.at(), "volume %s of cluster %s is there already and is not the storage %q that this plan moves: delete or rename it", m.pv.Name, e.Target.Name, handle(want))
		return &o
	}
	if m.pv.DeletionTimestamp != nil {
		o := working("VolumeLeaving", m.at(), "waits until volume %s of cluster %s, which is being deleted, is gone", m.pv.Name, e.Target.Name)
		return &o
	}
	return nil
}

// stillUsed waits for the source to let go of the volume. The drained step has
// proven it for the pods, and this asks once more: from here on there is no
// second copy (safety property 7).
func (m *moving) stillUsed(e *kube.Env) *reconciler.Observation {
	if p := m.sourcePod; p != nil {
		o := working("ClaimInUse", object(spec.Source, "Pod", p.Namespace, p.Name), "waits until pod %s/%s of cluster %s lets go of claim %s, whose volume is to be moved", p.Namespace, p.Name, e.Source.Name, key(m.v))
		return &o
	}
	if m.attached != "" {
		o := working("StillAttached", object(spec.Source, "PersistentVolume", "", m.v.SourcePV), "waits until volume %s of cluster %s is detached from node %s", m.v.SourcePV, e.Source.Name, m.attached)
		return &o
	}
	return nil
}

// driverAnnotations are those without which a driver does not delete a volume of
// policy Delete one day.
var driverAnnotations = []string{"pv.kubernetes.io/provisioned-by", "volume.kubernetes.io/provisioner-deletion-secret-"}

// wanted is the target's volume: the source's, kept at Retain until the plan
// is closed, and reserved for the application's claim.
func (m *moving) wanted(e *kube.Env) *corev1.PersistentVolume {
	from, v := m.source, m.v
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: movedName(e, v), Labels: map[string]string{}, Annotations: stamps(e)}}
	for k, s := range from.Labels {
		// Zones are in the node affinity too, which the discovery has checked.
		if !hasAnyPrefix(k, []string{"tranship.dev/", "topology.kubernetes.io/", "failure-domain.beta.kubernetes.io/"}) {
			pv.Labels[k] = s
		}
	}
	for k, s := range from.Annotations {
		if hasAnyPrefix(k, driverAnnotations) {
			pv.Annotations[k] = s
		}
	}
	pv.Labels[kube.LabelPlan], pv.Labels[kube.LabelRun] = kube.Short(e.Run.Spec.Plan), e.RunLabel()
	pv.Annotations[annotationVolume], pv.Annotations[kube.AnnotationRun] = key(v), e.RunLabel()
	if raw, err := json.Marshal(previous{Policy: v.SourcePolicy}); err == nil { // a struct of one string
		pv.Annotations[kube.AnnotationPrevious] = string(raw)
	}
	from.Spec.DeepCopyInto(&pv.Spec)
	pv.Spec.VolumeAttributesClassName = nil // an object of the source's cluster
	pv.Spec.StorageClassName = v.StorageClassName
	pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	pv.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: v.TargetNamespace, Name: v.TargetClaim}
	mapping := e.Mapping()
	for _, s := range secretRefs(&pv.Spec.PersistentVolumeSource) {
		if to := mapping[s.Namespace]; to != "" { // the Secret goes along with the objects
			s.Namespace = to
		}
	}
	return pv
}

// claimSpec asks for exactly that volume; a class of "" is written out, or the
// API server would put its default there.
func (m *moving) claimSpec() corev1.PersistentVolumeClaimSpec {
	from := &m.claim.Spec
	return corev1.PersistentVolumeClaimSpec{
		AccessModes: from.AccessModes, Resources: *from.Resources.DeepCopy(), VolumeMode: from.VolumeMode,
		VolumeName: m.v.TargetPV, StorageClassName: ptr.To(m.v.StorageClassName),
	}
}

// liveMoves marks the moved volumes live, right before the target starts: it is
// the last look at the source's pods.
func liveMoves(ctx context.Context, e *kube.Env, t *thought, volumes []spec.Volume) (*reconciler.Observation, error) {
	view, err := movings(ctx, e, volumes)
	if err != nil || len(view.xs) == 0 {
		return nil, err
	}
	if err := view.readTarget(ctx, e); err != nil {
		return nil, err
	}
	since := mark{kind: spec.MarkLive, since: time.Now().UTC().Format(time.RFC3339)}
	return advance(view.xs, func(m *moving) *reconciler.Observation {
		if o := m.refuse(e); o != nil {
			return o
		}
		if m.sourcePod != nil {
			return m.stillUsed(e)
		}
		if m.pv == nil || m.app == nil || !bound(m.app, m.pv) {
			o := broken(false, "NotMoved", claimAt(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: m.v.TargetNamespace, Name: m.v.TargetClaim}}),
				"claim %s/%s of cluster %s is not bound to the moved volume %s: it cannot be marked live", m.v.TargetNamespace, m.v.TargetClaim, e.Target.Name, m.v.TargetPV)
			return &o
		}
		m.live(e, t, since)
		since.record(m.v)
		return nil
	}), nil
}

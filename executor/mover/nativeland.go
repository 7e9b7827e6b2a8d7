package mover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/velero"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
)

// nativeRetry times the number of Restores whose snapshots were not ready yet is
// how long after the last of them the next one is made, at most nativeRetryMost.
// AWS and Google upload snapshots in the background, and Velero calls the Backup
// complete before.
const (
	nativeRetry     = 5 * time.Second
	nativeRetryMost = 30 * time.Second
)

// nativeLanding is one claim of ours that gets a volume of a native snapshot. The
// volume comes under the name that it has on the source.
type nativeLanding struct {
	landing
	made *corev1.PersistentVolume // on the target, whoever made it
}

// landNative has the providers make a volume of every native snapshot:
//
//	older copy ──delete──▶ nothing ──▶ claims ──▶ Restore ──completed──▶ bound ──▶ marked clean
//
// A claim that names its volume gets no other, and the volume is reserved for
// it. So whatever becomes of the run, the volume goes with the claim.
func landNative(ctx context.Context, e *kube.Env, volumes []spec.Volume, t *thought) (*reconciler.Observation, error) {
	var all []*nativeLanding
	for i := range volumes {
		if native(&volumes[i]) {
			l := &nativeLanding{landing: landing{v: &volumes[i]}}
			if err := l.read(ctx, e); err != nil {
				return nil, err
			}
			all = append(all, l)
		}
	}
	if !slices.ContainsFunc(all, func(l *nativeLanding) bool { return !l.marked() || l.refuse(e) != nil }) {
		for _, l := range all {
			l.mark.record(l.v)
			l.v.TargetPV, l.v.TargetHandle, l.v.TargetPolicy = l.pv.Name, handle(l.pv), string(l.pv.Spec.PersistentVolumeReclaimPolicy)
		}
		return nil, nil
	}
	if o := advance(all, func(l *nativeLanding) *reconciler.Observation { return l.prepare(e, t) }); o != nil || len(t.moves) > 0 {
		return o, nil
	}
	if o, err := restoreNative(ctx, e, all, t); o != nil || err != nil || len(t.moves) > 0 {
		return o, err
	}
	return advance(all, func(l *nativeLanding) *reconciler.Observation { return l.bind(e, t) }), nil
}

func (l *nativeLanding) read(ctx context.Context, e *kube.Env) error {
	if err := l.landing.read(ctx, e, nil); err != nil {
		return err
	}
	var err error
	l.made, err = getVolume(ctx, e.Target, l.v.SourcePV)
	return err
}

// marked says that the claim holds the wanted snapshot.
func (l *nativeLanding) marked() bool {
	if l.claim != nil {
		l.mark, _ = markOf(l.claim) // refuse says what is wrong with it
	}
	return l.landed()
}

// prepare makes the claim of this attempt, after an older copy and its volume,
// which has the same name, are gone.
func (l *nativeLanding) prepare(e *kube.Env, t *thought) *reconciler.Observation {
	if o := l.refuse(e); o != nil {
		return o
	}
	c := l.claim
	if c != nil && c.DeletionTimestamp == nil && (l.landed() || ofThisAttempt(e, c)) {
		return nil
	}
	if c != nil {
		return l.landing.prepare(e, t)
	}
	at := object(spec.Target, "PersistentVolume", "", l.v.SourcePV)
	switch {
	case l.made != nil && !ours(e, l.made):
		o := broken(false, "VolumeNameTaken", at, "cluster %s has a volume %s that is not of this plan, and Velero would make that of claim %s under the same name: delete or rename it", e.Target.Name, l.v.SourcePV, key(l.v))
		return &o
	case l.made != nil:
		o := working("VolumeLeaving", at, "waits until volume %s of cluster %s, an older copy, is gone; it is %s", l.v.SourcePV, e.Target.Name, l.made.Status.Phase)
		return &o
	}
	t.move(fmt.Sprintf("create claim %s/%s on cluster %s", e.Settings.Namespace, l.v.StagingClaim, e.Target.Name), func(ctx context.Context) error {
		return l.create(ctx, e)
	})
	return nil
}

func (l *nativeLanding) create(ctx context.Context, e *kube.Env) error {
	from, err := getVolume(ctx, e.Source, l.v.SourcePV)
	if err != nil {
		return err
	}
	if from == nil {
		return fmt.Errorf("volume %s of cluster %s, a snapshot of which is to be restored, is gone", l.v.SourcePV, e.Source.Name)
	}
	m, err := mark{}.writing(l.v.Snapshot)
	if err != nil {
		return err
	}
	return createStaging(ctx, e, l.v, from, m)
}

// patch is what Velero changes in the volume before it creates it. What the
// source's volume says of this plan is not said of the copy.
func (l *nativeLanding) patch(e *kube.Env, policy corev1.PersistentVolumeReclaimPolicy) map[string]any {
	head := objectMeta(e, "", "", ComponentSnapshot)
	annotations := anyMap(head.Annotations)
	annotations[annotationVolume] = key(l.v)
	for _, stray := range []string{kube.AnnotationPrevious, kube.AnnotationMark, kube.AnnotationHeld, kube.AnnotationRun, kube.AnnotationMoved} {
		annotations[stray] = nil
	}
	var modes []any
	for _, m := range l.v.AccessModes {
		modes = append(modes, string(m))
	}
	return map[string]any{
		"metadata": map[string]any{"labels": anyMap(head.Labels), "annotations": annotations, "finalizers": nil},
		"spec": map[string]any{
			"claimRef":    map[string]any{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": e.Settings.Namespace, "name": l.v.StagingClaim, "uid": nil, "resourceVersion": nil},
			"accessModes": modes, "storageClassName": l.v.StorageClassName, "persistentVolumeReclaimPolicy": string(policy),
		},
	}
}

// restoreNative follows the Restores of this attempt: one, or more while the
// provider is not ready with its snapshots.
func restoreNative(ctx context.Context, e *kube.Env, all []*nativeLanding, t *thought) (*reconciler.Observation, error) {
	restores, err := nativeRestores(ctx, e, t)
	if err != nil {
		return nil, err
	}
	mine := slices.DeleteFunc(restores, func(u unstructured.Unstructured) bool { return !ofThisAttempt(e, &u) })
	name := func(n int) string { return e.ObjectName(fmt.Sprintf("native/%d", n)) }
	if len(mine) == 0 {
		return nil, orderRestore(ctx, e, all, t, name(1))
	}
	i := slices.IndexFunc(mine, func(u unstructured.Unstructured) bool { return u.GetName() == name(len(mine)) })
	if i < 0 {
		o := broken(false, "RestoreLost", "", "a Restore of native snapshots was deleted on cluster %s while the run needs it", e.Target.Name)
		return &o, nil
	}
	pause := min(time.Duration(len(mine))*nativeRetry, nativeRetryMost)
	o, r, err := velero.LookVolumeRestore(ctx, e, &mine[i])
	switch {
	case err != nil:
		return nil, err
	case o.Seen == reconciler.Succeeded:
		return nil, nil
	case o.Seen != reconciler.Broken || !notReady(o.Message) && !notReady(o.Log):
		return &o, nil
	case r.Status.CompletionTimestamp != nil && e.Target.Now().Sub(r.Status.CompletionTimestamp.Time) < pause:
		o := working("SnapshotPending", o.Object, "the provider is not ready with the snapshots of Backup %s yet; Velero on cluster %s is asked again after %s", r.Spec.BackupName, e.Target.Name, pause)
		o.Poll = time.Second
		return &o, nil
	}
	return nil, orderRestore(ctx, e, all, t, name(len(mine)+1))
}

// nativeRestores lists the plan's Restores of native snapshots.
func nativeRestores(ctx context.Context, e *kube.Env, t *thought) ([]unstructured.Unstructured, error) {
	o := helpers(e, ComponentSnapshot)
	l, err := listOf(ctx, e.Target, restoreResource, e.Target.VeleroNamespace, o)
	if err != nil {
		return nil, err
	}
	t.watches = append(t.watches, watchOf(e.Target, restoreResource, e.Target.VeleroNamespace, o.LabelSelector, l.GetResourceVersion()))
	return l.Items, nil
}

// orderRestore makes the Restore of that name of the one Backup that has them all.
func orderRestore(ctx context.Context, e *kube.Env, all []*nativeLanding, t *thought, name string) error {
	target, err := classes(ctx, e.Target)
	if err != nil {
		return err
	}
	patches, backup := map[string]map[string]any{}, ""
	for _, l := range all {
		policy := corev1.PersistentVolumeReclaimDelete
		if c := classNamed(target, l.v.StorageClassName); c != nil {
			policy = ptr.Deref(c.ReclaimPolicy, policy)
		}
		patches[l.v.SourcePV], backup = l.patch(e, policy), l.v.Snapshot
	}
	t.move(fmt.Sprintf("have Velero on cluster %s make volumes of the snapshots of Backup %s", e.Target.Name, backup), func(ctx context.Context) error {
		return velero.EnsureVolumeRestore(ctx, e, objectMeta(e, e.Target.VeleroNamespace, name, ComponentSnapshot), backup, patches)
	})
	return nil
}

// bind waits for the volume that the Restore has made, and notes that it is whole.
func (l *nativeLanding) bind(e *kube.Env, t *thought) *reconciler.Observation {
	c, pv := l.claim, l.made
	switch {
	case l.landed():
		return nil
	case pv == nil || !ofThisAttempt(e, pv) || pv.Labels[velerov1.RestoreNameLabel] == "":
		o := broken(false, "VolumeNotRestored", object(spec.Target, "PersistentVolume", "", l.v.SourcePV), "Velero on cluster %s has made no volume %s of the snapshot of claim %s, and calls its Restore complete", e.Target.Name, l.v.SourcePV, key(l.v))
		return &o
	case bound(c, pv):
		t.move(fmt.Sprintf("mark claim %s/%s on cluster %s clean", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
			done, err := l.mark.written(l.v.Snapshot)
			if err != nil {
				return err
			}
			return setMark(ctx, e, e.Target, c, done)
		})
		return nil
	}
	return l.join(e, t)
}

// join wakes the volume controller, which sees a volume that is reserved for a
// claim at the claim's next change or resync only, up to 15 s later.
func (l *nativeLanding) join(e *kube.Env, t *thought) *reconciler.Observation {
	c, pv := l.claim, l.made
	if c.Annotations[kube.AnnotationNudged] != pv.ResourceVersion {
		t.move(fmt.Sprintf("touch claim %s/%s on cluster %s, whose volume is there", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
			return patchClaim(ctx, e, e.Target, c, change{annotations: map[string]any{kube.AnnotationNudged: pv.ResourceVersion}})
		})
	}
	o := working("Binding", claimAt(c), "waits until claim %s/%s of cluster %s is bound to volume %s; it is %s", c.Namespace, c.Name, e.Target.Name, pv.Name, c.Status.Phase)
	o.Poll = time.Second
	return &o
}

// stopLandNative waits for what Velero still makes, which cannot be stopped, and
// sees that it has its claim: with that it goes.
func stopLandNative(ctx context.Context, e *kube.Env, volumes []spec.Volume, t *thought) (*reconciler.Observation, error) {
	if len(natives(volumes)) == 0 {
		return nil, nil
	}
	restores, err := nativeRestores(ctx, e, t)
	if err != nil {
		return nil, err
	}
	for i := range restores {
		phase, _, _ := unstructured.NestedString(restores[i].Object, "status", "phase")
		if _, ended, _ := unstructured.NestedString(restores[i].Object, "status", "completionTimestamp"); !ended && phase != string(velerov1.RestorePhaseFailedValidation) {
			o := working("RestoreRunning", object(spec.Target, "Restore", restores[i].GetNamespace(), restores[i].GetName()), "Restore %s on cluster %s is still %q; it cannot be stopped, and what it makes is deleted afterwards", restores[i].GetName(), e.Target.Name, phase)
			return &o, nil
		}
	}
	for i := range volumes {
		l := &nativeLanding{landing: landing{v: &volumes[i]}}
		if !native(l.v) {
			continue
		}
		if err := l.read(ctx, e); err != nil {
			return nil, err
		}
		if o := l.leave(e, t); o != nil {
			return o, nil
		}
	}
	return nil, nil
}

// leave waits until a volume that was made has its claim, or is gone after it.
func (l *nativeLanding) leave(e *kube.Env, t *thought) *reconciler.Observation {
	c, pv := l.claim, l.made
	if pv == nil || !ours(e, pv) || pv.Labels[LabelComponent] != ComponentSnapshot {
		return nil
	}
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.Namespace != e.Settings.Namespace || ref.Name != l.v.StagingClaim {
		return nil // the application has it, or had: that is the hand-back's
	}
	switch {
	case c != nil && c.DeletionTimestamp == nil && c.Spec.VolumeName == pv.Name && ref.UID == "":
		return l.join(e, t)
	case c == nil:
		o := working("VolumeLeaving", object(spec.Target, "PersistentVolume", "", pv.Name), "waits until volume %s of cluster %s is gone with its claim; it is %s", pv.Name, e.Target.Name, pv.Status.Phase)
		return &o
	}
	return nil
}

package mover

import (
	"context"
	"fmt"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// volumesOf is the run's list of volumes: the recorded one, or a discovery
// where nothing is recorded yet. The slice is the caller's own.
func volumesOf(ctx context.Context, e *kube.Env) ([]spec.Volume, error) {
	if len(e.Run.Facts.Volumes) > 0 {
		volumes := make([]spec.Volume, len(e.Run.Facts.Volumes))
		copy(volumes, e.Run.Facts.Volumes)
		for i := range volumes {
			if volumes[i].StagingClaim == "" {
				volumes[i].StagingClaim = stagingName(e, &volumes[i])
			}
			grow(&volumes[i])
		}
		return volumes, nil
	}
	d, err := Discover(ctx, e)
	if err != nil {
		return nil, err
	}
	if len(d.Problems) > 0 {
		return nil, fmt.Errorf("cannot use %s: %s", d.Problems[0].Object, d.Problems[0].Message)
	}
	return d.Volumes, nil
}

// thinkClaims makes the claims that the copies go into, in our namespace on the
// target. A claim of a class that waits for its first consumer stays Pending
// until the restore mounts it.
func thinkClaims(ctx context.Context, e *kube.Env) (thought, error) {
	volumes, err := volumesOf(ctx, e)
	if err != nil {
		return thought{}, err
	}
	t := thought{}
	all, err := stagingClaims(ctx, e)
	if err != nil {
		return thought{}, err
	}
	target, err := classes(ctx, e.Target)
	if err != nil {
		return thought{}, err
	}
	var wait *reconciler.Observation
	for i := range volumes {
		v := &volumes[i]
		if !copied(v) {
			continue
		}
		// By name, not from the list: a claim without our labels must be seen too.
		c, err := getClaim(ctx, e.Target, e.Settings.Namespace, v.StagingClaim)
		if err != nil {
			return thought{}, err
		}
		o, err := stagingClaim(ctx, e, &t, v, c, target)
		if err != nil {
			return thought{}, err
		}
		if o != nil && o.Seen == reconciler.Broken {
			return thought{seen: *o}, nil
		}
		if wait == nil {
			wait = o
		}
	}
	t.seen = succeeded(factsOf(volumes), "every claim is there")
	if wait != nil {
		t.seen = *wait
		t.seen.Facts = factsOf(volumes)
		t.watches = []watched{watchOf(e.Target, claimResource, e.Settings.Namespace, helpers(e, ComponentStaging).LabelSelector, all.ResourceVersion)}
	}
	return t, nil
}

// stagingClaims lists the plan's claims in our namespace on the target.
func stagingClaims(ctx context.Context, e *kube.Env) (*corev1.PersistentVolumeClaimList, error) {
	l, err := e.Target.Kube.CoreV1().PersistentVolumeClaims(e.Settings.Namespace).List(ctx, helpers(e, ComponentStaging))
	if err != nil {
		return nil, fmt.Errorf("cannot list our claims on cluster %s: %w", e.Target.Name, err)
	}
	return l, nil
}

// stagingClaim compares one claim with what the copy needs.
func stagingClaim(ctx context.Context, e *kube.Env, t *thought, v *spec.Volume, c *corev1.PersistentVolumeClaim, target []storagev1.StorageClass) (*reconciler.Observation, error) {
	if c == nil {
		if v.TargetPV != "" {
			lost, err := lostVolume(ctx, e, v)
			if lost != nil || err != nil {
				return lost, err
			}
		}
		t.move(fmt.Sprintf("create claim %s/%s on cluster %s", e.Settings.Namespace, v.StagingClaim, e.Target.Name), func(ctx context.Context) error {
			return createStaging(ctx, e, v, nil)
		})
		return nil, nil
	}
	if o := notOurs(e, v, c); o != nil {
		return o, nil
	}
	if c.DeletionTimestamp != nil {
		o := working("ClaimLeaving", claimAt(c), "waits until claim %s/%s of cluster %s, which is being deleted, is gone", c.Namespace, c.Name, e.Target.Name)
		return &o, nil
	}
	if why := unfit(v, c, target); why != "" {
		return replace(ctx, e, t, v, c, why)
	}
	if size := sizeOf(c); size.Cmp(resource.MustParse(v.Capacity)) < 0 {
		return enlarge(ctx, e, t, v, c)
	}
	return nil, nil
}

// lostVolume answers for a recorded copy whose claim is gone. A volume that is
// still there belongs to somebody; a new empty claim would hide that.
func lostVolume(ctx context.Context, e *kube.Env, v *spec.Volume) (*reconciler.Observation, error) {
	pv, err := getVolume(ctx, e.Target, v.TargetPV)
	if err != nil {
		return nil, err
	}
	if pv == nil || handle(pv) != v.TargetHandle || pv.DeletionTimestamp != nil {
		forget(v)
		return nil, nil
	}
	if r := pv.Spec.ClaimRef; r != nil && pv.Status.Phase == corev1.VolumeBound {
		o := broken(true, "VolumeElsewhere", object(spec.Target, "PersistentVolume", "", pv.Name), "volume %s of cluster %s, which holds the copy of %s, is bound to claim %s/%s: it is not copied into again", pv.Name, e.Target.Name, key(v), r.Namespace, r.Name)
		return &o, nil
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		o := working("VolumeLeaving", object(spec.Target, "PersistentVolume", "", pv.Name), "waits until volume %s of cluster %s, whose claim was deleted, is gone", pv.Name, e.Target.Name)
		return &o, nil
	}
	forget(v) // its class's own policy keeps it; the copy starts anew
	return nil, nil
}

// forget drops what the ledger knows of a copy that is not there any more.
func forget(v *spec.Volume) {
	v.TargetPV, v.TargetHandle, v.TargetPolicy, v.Mark, v.Held = "", "", "", spec.MarkNone, ""
}

// notOurs refuses a claim that this plan did not make, or that has come to
// stand for another volume than the recorded one.
func notOurs(e *kube.Env, v *spec.Volume, c *corev1.PersistentVolumeClaim) *reconciler.Observation {
	if !ours(e, c) || c.Annotations[annotationVolume] != key(v) {
		o := broken(true, "ForeignClaim", claimAt(c), "claim %s/%s of cluster %s was not made by this plan: delete or rename it", c.Namespace, c.Name, e.Target.Name)
		return &o
	}
	if v.TargetPV != "" && c.Spec.VolumeName != "" && c.Spec.VolumeName != v.TargetPV {
		o := broken(true, "ForeignVolume", claimAt(c), "claim %s/%s of cluster %s is bound to volume %s, and the ledger says %s: it is not written to", c.Namespace, c.Name, e.Target.Name, c.Spec.VolumeName, v.TargetPV)
		return &o
	}
	return nil
}

func claimAt(c *corev1.PersistentVolumeClaim) string {
	return object(spec.Target, "PersistentVolumeClaim", c.Namespace, c.Name)
}

// createStaging makes a claim of ours, for a new volume (nil) or, at a
// hand-back, for one that is there.
func createStaging(ctx context.Context, e *kube.Env, v *spec.Volume, pv *corev1.PersistentVolume, marks ...mark) error {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: objectMeta(e, e.Settings.Namespace, v.StagingClaim, ComponentStaging)}
	c.Annotations[annotationVolume] = key(v)
	for _, m := range marks {
		for k, s := range markAnnotations(m) {
			if text, ok := s.(string); ok {
				c.Annotations[k] = text
			}
		}
	}
	c.Spec = claimSpec(v, pv)
	return createClaim(ctx, e, c)
}

// claimSpec is of a claim for a new volume (nil), or for one that is there: then
// it asks for no more than the volume has, or it would never be bound.
func claimSpec(v *spec.Volume, pv *corev1.PersistentVolume) corev1.PersistentVolumeClaimSpec {
	size := resource.MustParse(v.Capacity)
	s := corev1.PersistentVolumeClaimSpec{AccessModes: v.AccessModes}
	if pv != nil {
		s.VolumeName = pv.Name
		if q := pv.Spec.Capacity.Storage(); !q.IsZero() && q.Cmp(size) < 0 {
			size = *q
		}
	}
	s.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: size}
	if v.StorageClassName != "" {
		s.StorageClassName = ptr.To(v.StorageClassName)
	}
	if isBlock(v) {
		s.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	}
	return s
}

func createClaim(ctx context.Context, e *kube.Env, c *corev1.PersistentVolumeClaim) error {
	_, err := e.Target.Kube.CoreV1().PersistentVolumeClaims(c.Namespace).Create(ctx, c, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the next thought sees it, and whether it is ours
	}
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota") {
		return fmt.Errorf("namespace %s of cluster %s has no quota left for a claim of %s: raise it: %w", c.Namespace, e.Target.Name, c.Spec.Resources.Requests.Storage(), err)
	}
	return err
}

// thinkClaimsUndo keeps the claims for the next try, marked for what they are,
// or deletes them if the plan says so.
func thinkClaimsUndo(ctx context.Context, e *kube.Env) (thought, error) {
	volumes, err := volumesOf(ctx, e)
	if err != nil {
		return thought{}, err
	}
	jobs, err := readJobs(ctx, e, e.Target, ComponentWriter)
	if err != nil {
		return thought{}, err
	}
	t := thought{}
	keep := e.Plan().Rollback.KeepVolumesOrDefault()
	// An ended writer does no harm, but its pod keeps the claim from going.
	if o := endWriters(&t, e, jobs, func(h *helperJob) bool { return h.active() || !keep }); o != nil || len(t.moves) > 0 {
		if o != nil {
			t.seen = *o
		}
		return t, nil
	}
	for i := range volumes {
		v := &volumes[i]
		if !staged(v) {
			continue
		}
		c, err := getClaim(ctx, e.Target, e.Settings.Namespace, v.StagingClaim)
		if err != nil {
			return thought{}, err
		}
		if c == nil || !ours(e, c) {
			if !keep {
				forget(v)
			}
			continue
		}
		if o := undoClaim(e, &t, v, c); o != nil && t.seen.Seen == reconciler.Absent {
			t.seen = *o
		}
	}
	if len(t.moves) == 0 && t.seen.Seen == reconciler.Absent {
		t.seen = succeeded(factsOf(volumes), "the copies are kept in namespace %s of cluster %s", e.Settings.Namespace, e.Target.Name)
	}
	return t, nil
}

func undoClaim(e *kube.Env, t *thought, v *spec.Volume, c *corev1.PersistentVolumeClaim) *reconciler.Observation {
	if !e.Plan().Rollback.KeepVolumesOrDefault() {
		if c.DeletionTimestamp == nil {
			t.move(fmt.Sprintf("delete claim %s/%s on cluster %s", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
				return deleteClaim(ctx, e.Target, c)
			})
		}
		o := working("ClaimLeaving", claimAt(c), "waits until claim %s/%s of cluster %s is gone", c.Namespace, c.Name, e.Target.Name)
		return &o
	}
	m, err := markOf(c)
	if err == nil && m.kind == spec.MarkWriting {
		m = mark{kind: spec.MarkDirty}
		t.move(fmt.Sprintf("mark claim %s/%s on cluster %s dirty", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
			return setMark(ctx, e, e.Target, c, m)
		})
	}
	m.record(v)
	return nil
}

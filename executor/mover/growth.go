package mover

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// A copy needs room that its source may not need: another file system has
// another overhead (ext4 takes up to 5 % of a volume for its tables and its
// journal), and a source on a shared file system is not held to its size at
// all. Where the files take up more than fullPercent of a claim, the target's
// is made so large that they take up fillPercent of it. CAM's successor does
// the same from 97 % of what `df` calls the size.
const (
	fullPercent = 90
	fillPercent = 80
)

// grow makes room for what the newest snapshot takes up. It is idempotent.
func grow(v *spec.Volume) {
	have, err := resource.ParseQuantity(v.Capacity)
	if err != nil || !copied(v) || v.DiskBytes <= have.Value()/100*fullPercent {
		return
	}
	const unit = 1 << 20 // storage rounds to MiB at least
	want := resource.NewQuantity((v.DiskBytes*100/fillPercent+unit-1)/unit*unit, resource.BinarySI)
	v.Notes = append(slices.Clip(v.Notes), fmt.Sprintf("its files take up %d MiB of its %s: the claim on the target is made larger, %s", v.DiskBytes/unit, v.Capacity, want))
	v.Capacity = want.String()
}

// unfit says why our claim cannot take the copy that the plan wants now; "" if
// it can. Neither class nor modes of a claim can be changed, and its size only
// where the class allows it.
func unfit(v *spec.Volume, c *corev1.PersistentVolumeClaim, target []storagev1.StorageClass) string {
	have := ptr.Deref(c.Spec.StorageClassName, "")
	if v.StorageClassName != "" && have != v.StorageClassName {
		return fmt.Sprintf("has storage class %q and the plan wants %q", have, v.StorageClassName)
	}
	modes := func(a, b []corev1.PersistentVolumeAccessMode) bool {
		return !slices.ContainsFunc(a, func(m corev1.PersistentVolumeAccessMode) bool { return !slices.Contains(b, m) })
	}
	if len(v.AccessModes) > 0 && (!modes(v.AccessModes, c.Spec.AccessModes) || !modes(c.Spec.AccessModes, v.AccessModes)) {
		return fmt.Sprintf("has access modes %v and the plan wants %v", c.Spec.AccessModes, v.AccessModes)
	}
	if size, want := sizeOf(c), resource.MustParse(v.Capacity); size.Cmp(want) < 0 && (c.Status.Phase != corev1.ClaimBound || !expands(target, have)) {
		return fmt.Sprintf("has %s, which cannot grow, and the copy needs %s", size.String(), v.Capacity)
	}
	return ""
}

// sizeOf is what a claim has got, or asks for while it has nothing.
func sizeOf(c *corev1.PersistentVolumeClaim) resource.Quantity {
	if q, ok := c.Status.Capacity[corev1.ResourceStorage]; ok {
		return q
	}
	return c.Spec.Resources.Requests[corev1.ResourceStorage]
}

func expands(classes []storagev1.StorageClass, name string) bool {
	c := classNamed(classes, name)
	return c != nil && ptr.Deref(c.AllowVolumeExpansion, false)
}

// replace deletes a claim of ours that is unfit; the next thought makes another,
// and the copy begins anew from the repository. The ledger forgets the volume
// with the step's intent, before anything is deleted.
func replace(ctx context.Context, e *kube.Env, t *thought, v *spec.Volume, c *corev1.PersistentVolumeClaim, why string) (*reconciler.Observation, error) {
	m, err := markOf(c)
	if err != nil || m.kind == spec.MarkLive {
		o := broken(true, "ClaimUnfit", claimAt(c), "claim %s/%s of cluster %s %s, but it is marked %q and is not deleted: delete it yourself if nobody needs it", c.Namespace, c.Name, e.Target.Name, why, c.Annotations[kube.AnnotationMark])
		return &o, nil
	}
	forget(v)
	jobs, err := readJobs(ctx, e, e.Target, ComponentWriter)
	if err != nil {
		return nil, err
	}
	moves := len(t.moves)
	// An ended writer, too, keeps its claim from going.
	if o := endWriters(t, e, jobs, func(*helperJob) bool { return true }); o != nil || len(t.moves) > moves {
		return o, nil
	}
	t.move(fmt.Sprintf("delete claim %s/%s on cluster %s, which %s", c.Namespace, c.Name, e.Target.Name, why), func(ctx context.Context) error {
		return deleteClaim(ctx, e.Target, c)
	})
	return nil, nil
}

// enlarge grows a claim of ours, and waits until its volume has grown: the
// application's claim asks for as much, and a smaller volume would never be
// bound to it. The file system inside follows when it is mounted next.
func enlarge(ctx context.Context, e *kube.Env, t *thought, v *spec.Volume, c *corev1.PersistentVolumeClaim) (*reconciler.Observation, error) {
	want := resource.MustParse(v.Capacity)
	if c.Spec.Resources.Requests.Storage().Cmp(want) < 0 {
		t.move(fmt.Sprintf("enlarge claim %s/%s on cluster %s to %s", c.Namespace, c.Name, e.Target.Name, v.Capacity), func(ctx context.Context) error {
			return patchClaim(ctx, e, e.Target, c, change{spec: map[string]any{"resources": map[string]any{"requests": map[string]any{"storage": v.Capacity}}}})
		})
		return nil, nil
	}
	pv, err := getVolume(ctx, e.Target, c.Spec.VolumeName)
	if err != nil || pv == nil || pv.Spec.Capacity.Storage().Cmp(want) >= 0 {
		return nil, err
	}
	o := working("Enlarging", claimAt(c), "waits until volume %s of cluster %s has grown from %s to %s", pv.Name, e.Target.Name, pv.Spec.Capacity.Storage(), v.Capacity)
	return &o, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const removeLimit = 5 * time.Minute

// remove takes a measured volume away from both clusters, the disk and the
// bucket, so that the next one finds the same room. Volumes that the product
// set to Retain are set to Delete first.
func (v *volume) remove(ctx context.Context) error {
	l := v.lab
	for _, c := range l.clusters() {
		pvs, err := v.volumes(ctx, c)
		if err != nil {
			return err
		}
		for _, name := range pvs {
			_, err := c.kube.CoreV1().PersistentVolumes().Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`), metav1.PatchOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("cannot let volume %s of cluster %s be deleted: %w", name, c.name, err)
			}
		}
		if err := l.cleanPlan(ctx, c, v.plan); err != nil {
			return err
		}
		if err := c.awaitNone(ctx, pvs); err != nil {
			return err
		}
	}
	return l.cleanBucket(ctx, l.dataPrefix(v.plan))
}

// volumes are the names of the volumes that the plan or its peer uses or used.
func (v *volume) volumes(ctx context.Context, c *cluster) ([]string, error) {
	list, err := c.kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the volumes of cluster %s: %w", c.name, err)
	}
	staged, err := c.kube.CoreV1().PersistentVolumeClaims(ourNamespace).List(ctx, metav1.ListOptions{LabelSelector: planLabel(v.plan)})
	if err != nil {
		return nil, fmt.Errorf("cannot list our claims on cluster %s: %w", c.name, err)
	}
	ours := []string{v.plan + "/", v.plan + peerSuffix + "/"}
	for _, p := range staged.Items {
		ours = append(ours, ourNamespace+"/"+p.Name)
	}
	var names []string
	for _, pv := range list.Items {
		if ref := pv.Spec.ClaimRef; ref != nil && (slices.Contains(ours, ref.Namespace+"/") || slices.Contains(ours, ref.Namespace+"/"+ref.Name)) {
			names = append(names, pv.Name)
		}
	}
	return names, nil
}

// awaitNone waits until volumes are gone.
func (c *cluster) awaitNone(ctx context.Context, names []string) error {
	ctx, stop := context.WithTimeout(ctx, removeLimit)
	defer stop()
	for _, name := range names {
		for {
			pv, err := c.kube.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				break
			}
			if err == nil && pv.Status.Phase == corev1.VolumeFailed {
				return fmt.Errorf("volume %s of cluster %s cannot be deleted: %s", name, c.name, pv.Status.Message)
			}
			if err := errors.Join(ctx.Err(), pause(ctx, 500*time.Millisecond)); err != nil {
				return fmt.Errorf("volume %s of cluster %s is still there: %w", name, c.name, err)
			}
		}
	}
	return nil
}

package mover

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// thinkStopSnapshot removes the plan's DataUploads and VolumeSnapshots from
// the source. Velero cancels what is on its way. What lies in the repository stays
// until the plan is closed.
func thinkStopSnapshot(ctx context.Context, e *kube.Env) (thought, error) {
	return removeSnapshots(ctx, e, stopNative)
}

// removeSnapshots is thinkStopSnapshot with what becomes of the native ones.
func removeSnapshots(ctx context.Context, e *kube.Env, drop func(context.Context, *kube.Env, *thought) (*reconciler.Observation, error)) (thought, error) {
	t := thought{}
	left, err := removeMovements(ctx, e, &t, e.Source)
	if err != nil {
		return t, err
	}
	snapshots, err := listOf(ctx, e.Source, snapshotResource, metav1.NamespaceAll, ofPlan(e))
	if err != nil {
		return t, err
	}
	for i := range snapshots.Items {
		o := &snapshots.Items[i]
		left = object(spec.Source, "VolumeSnapshot", o.GetNamespace(), o.GetName())
		remove(&t, e.Source, snapshotResource, o)
	}
	o, err := drop(ctx, e, &t)
	if err != nil {
		return t, err
	}
	t = t.gone(left, watchOf(e.Source, snapshotResource, metav1.NamespaceAll, ofPlan(e).LabelSelector, snapshots.GetResourceVersion()))
	if o != nil && left == "" {
		t.seen = *o
	}
	return t, nil
}

// cleanUpSnapshots adds to t what removes the helpers of snapshot copies.
func cleanUpSnapshots(ctx context.Context, e *kube.Env, t thought) (thought, error) {
	s, err := removeSnapshots(ctx, e, cleanUpNative)
	if err != nil {
		return t, err
	}
	r := thought{}
	left, err := stopConsumers(ctx, e, &r)
	r = r.gone(left)
	for _, more := range []thought{s, r} {
		t.moves, t.watches = append(t.moves, more.moves...), append(t.watches, more.watches...)
		if t.seen.Object == "" {
			t.seen = more.seen
		}
	}
	return t, err
}

// removeMovements deletes all of the plan's on one cluster; left names one that
// is still there.
func removeMovements(ctx context.Context, e *kube.Env, t *thought, on *kube.Cluster) (left string, err error) {
	resource := uploadResource
	if on.Side == spec.Target {
		resource = downloadResource
	}
	all, watch, err := movements(ctx, e, on, resource)
	if err != nil {
		return "", err
	}
	for _, m := range all {
		left = m.at()
		remove(t, on, m.resource, m.Unstructured)
	}
	if left != "" {
		t.watches = append(t.watches, watch)
	}
	return left, nil
}

// thinkStopLand removes the plan's DataDownloads, the pods that stood for the
// application's, and the claims that were not handed over: the next attempt
// makes new ones. A copy that was live keeps its data, as the plan asks.
func thinkStopLand(ctx context.Context, e *kube.Env) (thought, error) {
	t := thought{}
	left, err := stopConsumers(ctx, e, &t)
	if err != nil {
		return t, err
	}
	volumes := slices.Clone(e.Run.Facts.Volumes) // recorded, or nothing was made
	if o, err := stopLandNative(ctx, e, volumes, &t); err != nil || o != nil || len(t.moves) > 0 {
		if o != nil {
			t.seen = *o
		}
		return t, err
	}
	for i := range volumes {
		v := &volumes[i]
		if !snapshotted(v) {
			continue
		}
		c, err := getClaim(ctx, e.Target, e.Settings.Namespace, v.StagingClaim)
		if err != nil {
			return t, err
		}
		if c == nil {
			forget(v)
		}
		if c == nil || !ours(e, c) {
			continue
		}
		if m, err := markOf(c); err != nil || (m.kind != spec.MarkWriting && m.kind != spec.MarkClean) {
			continue
		}
		left = claimAt(c)
		if c.DeletionTimestamp == nil {
			t.move(fmt.Sprintf("delete claim %s/%s on cluster %s", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
				return deleteClaim(ctx, e.Target, c)
			})
		}
	}
	t = t.gone(left)
	if left == "" && len(t.moves) == 0 {
		t.seen.Facts = factsOf(volumes)
	}
	return t, nil
}

// stopConsumers removes the DataDownloads and the pods beside them.
func stopConsumers(ctx context.Context, e *kube.Env, t *thought) (left string, err error) {
	if left, err = removeMovements(ctx, e, t, e.Target); err != nil {
		return "", err
	}
	pods, err := e.Target.Kube.CoreV1().Pods(e.Settings.Namespace).List(ctx, helpers(e, ComponentConsumer))
	if err != nil {
		return "", fmt.Errorf("cannot list our pods on cluster %s: %w", e.Target.Name, err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		left = object(spec.Target, "Pod", p.Namespace, p.Name)
		if p.DeletionTimestamp == nil {
			t.move(fmt.Sprintf("remove the pod %s/%s on cluster %s", p.Namespace, p.Name, e.Target.Name), func(ctx context.Context) error {
				return deletePod(ctx, e.Target, p)
			})
		}
	}
	if len(pods.Items) > 0 {
		t.watches = append(t.watches, watchOf(e.Target, corev1.SchemeGroupVersion.WithResource("pods"), e.Settings.Namespace, helpers(e, ComponentConsumer).LabelSelector, pods.ResourceVersion))
	}
	return left, nil
}

package mover

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// transferView is every volume of a plan on its way.
type transferView struct {
	volumes []spec.Volume
	xs      []*transfer
	watches []watched
}

// transfers reads the three objects of every copied volume, and the pods.
func transfers(ctx context.Context, e *kube.Env) (*transferView, error) {
	volumes, err := volumesOf(ctx, e)
	if err != nil {
		return nil, err
	}
	selector := kube.LabelPlan + "=" + kube.Short(e.Run.Spec.Plan)
	labelled, err := e.Target.Kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("cannot list the persistent volumes of cluster %s: %w", e.Target.Name, err)
	}
	claims, err := e.Target.Kube.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("cannot list the claims of cluster %s: %w", e.Target.Name, err)
	}
	ourPods, err := e.Target.Kube.CoreV1().Pods(e.Settings.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list our pods on cluster %s: %w", e.Target.Name, err)
	}
	view := &transferView{volumes: volumes, watches: []watched{
		watchOf(e.Target, podResource, e.Settings.Namespace, helpers(e, ComponentWriter).LabelSelector, ourPods.ResourceVersion),
		watchOf(e.Target, claimResource, "", selector, claims.ResourceVersion),
		watchOf(e.Target, volumeResource, "", selector, labelled.ResourceVersion),
	}}
	pods := podLists{e.Settings.Namespace: ourPods}
	for i := range volumes {
		v := &volumes[i]
		if !staged(v) {
			continue
		}
		x := &transfer{v: v}
		if err := x.read(ctx, e, labelled.Items); err != nil {
			return nil, err
		}
		for _, c := range []*corev1.PersistentVolumeClaim{x.staging, x.app} {
			if c == nil {
				continue
			}
			if err := pods.on(ctx, e.Target, c, x); err != nil {
				return nil, err
			}
		}
		view.xs = append(view.xs, x)
	}
	return view, nil
}

// podLists are the pods of namespaces, each read once.
type podLists map[string]*corev1.PodList

// on finds the pods on a claim.
func (l podLists) on(ctx context.Context, on *kube.Cluster, c *corev1.PersistentVolumeClaim, x *transfer) error {
	if l[c.Namespace] == nil {
		pods, err := on.Kube.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("cannot list the pods of namespace %s of cluster %s: %w", c.Namespace, on.Name, err)
		}
		l[c.Namespace] = pods
	}
	for i := range l[c.Namespace].Items {
		switch p := &l[c.Namespace].Items[i]; {
		case !namesClaim(p, c.Name):
		case over(p), harmless(p, c):
			x.ended = append(x.ended, p)
		default:
			x.user = p
		}
	}
	return nil
}

// harmless says that a writer of ours has nothing more to do with a claim,
// though its pod is still there: a claim is marked clean only when its writer
// has synced it and said so, and its pod's status follows up to two seconds later.
func harmless(p *corev1.Pod, c *corev1.PersistentVolumeClaim) bool {
	plan := p.Labels[kube.LabelPlan]
	if p.Labels[LabelComponent] != ComponentWriter || plan == "" || plan != c.Labels[kube.LabelPlan] {
		return false
	}
	m, err := markOf(c)
	return ended(p) || (err == nil && m.kind == spec.MarkClean)
}

func (x *transfer) read(ctx context.Context, e *kube.Env, labelled []corev1.PersistentVolume) error {
	var err error
	if x.staging, err = getClaim(ctx, e.Target, e.Settings.Namespace, x.v.StagingClaim); err != nil {
		return err
	}
	if x.app, err = getClaim(ctx, e.Target, x.v.TargetNamespace, x.v.TargetClaim); err != nil {
		return err
	}
	name := x.v.TargetPV
	if name == "" && x.staging != nil && ours(e, x.staging) {
		name = x.staging.Spec.VolumeName
	}
	for i := range labelled { // a lost journal: the volume itself says whose it is
		if name == "" && labelled[i].Annotations[annotationVolume] == key(x.v) {
			name = labelled[i].Name
		}
	}
	x.pv, err = getVolume(ctx, e.Target, name)
	return err
}

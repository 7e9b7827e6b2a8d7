package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// maxAbove bounds how far up a chain of controllers is followed: it may have a
// circle in it.
const maxAbove = 10

// Below finds the pods that hang below some objects by references to controllers,
// at any depth, and have not ended. It reads what stands between once.
func Below(ctx context.Context, c *Cluster, namespaces []string, roots map[types.UID]bool) (map[types.UID][]corev1.Pod, error) {
	if len(roots) == 0 {
		return nil, nil
	}
	found := map[types.UID][]corev1.Pod{}
	w := climb{c: c, roots: roots, above: map[types.UID]*metav1.OwnerReference{}}
	for _, ns := range namespaces {
		pods, err := c.Kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, c.wrap(err, "list pods in namespace %s", ns)
		}
		for _, p := range pods.Items {
			if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
				continue
			}
			root, err := w.root(ctx, ns, metav1.GetControllerOf(&p))
			if err != nil {
				return nil, err
			}
			if root != "" {
				found[root] = append(found[root], p)
			}
		}
	}
	return found, nil
}

// climb remembers the controllers of what it has read, nil for those without.
type climb struct {
	c     *Cluster
	roots map[types.UID]bool
	above map[types.UID]*metav1.OwnerReference
}

func (w *climb) root(ctx context.Context, ns string, by *metav1.OwnerReference) (types.UID, error) {
	for n := 0; by != nil && n < maxAbove; n++ {
		if w.roots[by.UID] {
			return by.UID, nil
		}
		next, known := w.above[by.UID]
		if !known {
			var err error
			if next, err = w.controller(ctx, ns, by); err != nil {
				return "", err
			}
			w.above[by.UID] = next
		}
		by = next
	}
	return "", nil
}

// controller reads an object and says who controls it; nil when it is gone.
func (w *climb) controller(ctx context.Context, ns string, o *metav1.OwnerReference) (*metav1.OwnerReference, error) {
	gvk := schema.FromAPIVersionAndKind(o.APIVersion, o.Kind)
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	gvr, err := w.c.resource(Item{Unstructured: u})
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, w.c.wrap(err, "find out about %s %s", o.APIVersion, o.Kind)
	}
	have, err := w.c.get(ctx, gvr, ns, o.Name)
	if err != nil || have == nil || have.GetUID() != o.UID {
		return nil, err
	}
	return metav1.GetControllerOf(have), nil
}

// Ready counts the pods that are ready and stay.
func Ready(pods []corev1.Pod) (n int32) {
	for i := range pods {
		if podReady(&pods[i]) && pods[i].DeletionTimestamp == nil {
			n++
		}
	}
	return n
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

package kube

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// Wake returns a channel that is closed at the first change of the selected
// objects after resourceVersion (of the list or object that the caller just
// read). The watch ends with ctx; a watch that the server ends closes the
// channel too, which costs one more look.
func (c *Cluster) Wake(ctx context.Context, gvr schema.GroupVersionResource, namespace string, o metav1.ListOptions) (<-chan struct{}, error) {
	o.Watch = true
	w, err := c.Dynamic.Resource(gvr).Namespace(namespace).Watch(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("cannot watch %s in namespace %q of cluster %s: %w", gvr.Resource, namespace, c.Name, err)
	}
	woken := make(chan struct{})
	go func() {
		defer close(woken)
		defer w.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case ev, open := <-w.ResultChan():
				if !open || ev.Type != watch.Bookmark {
					return
				}
			}
		}
	}()
	return woken, nil
}

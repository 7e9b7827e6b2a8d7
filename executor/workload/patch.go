package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// edit is what a patch changes. A nil value deletes an annotation.
type edit struct {
	spec        map[string]any
	annotations map[string]any
}

// body is a merge patch that the server accepts only for exactly this object
// in exactly the state that was read.
func (ed edit) body(i item) ([]byte, error) {
	metadata := map[string]any{"uid": string(i.GetUID()), "resourceVersion": i.GetResourceVersion()}
	if len(ed.annotations) > 0 { // null would delete everybody's annotations
		metadata["annotations"] = ed.annotations
	}
	patch := map[string]any{"metadata": metadata}
	if len(ed.spec) > 0 {
		patch["spec"] = ed.spec
	}
	return json.Marshal(patch)
}

// conflicts is how often a patch is computed anew in one call because a
// controller wrote the status in between.
const conflicts = 5

// change patches i as decide says. After a conflict the object is read and
// decide is asked again; a nil edit means that there is nothing to do.
func change(ctx context.Context, e *kube.Env, c *kube.Cluster, i item, decide func(item) (*edit, error)) error {
	client := c.Dynamic.Resource(i.kind.gvr).Namespace(i.GetNamespace())
	object := kube.Describe(i.object(c.Side))
	for range conflicts {
		if err := superseded(e, i, object); err != nil {
			return err
		}
		ed, err := decide(i)
		if err != nil || ed == nil {
			return err
		}
		body, err := ed.body(i)
		if err != nil {
			return fmt.Errorf("cannot encode the patch of %s: %w", object, err)
		}
		_, err = client.Patch(ctx, i.GetName(), types.MergePatchType, body, metav1.PatchOptions{FieldManager: FieldManager})
		if err == nil || apierrors.IsNotFound(err) {
			return nil // gone: the next look says so
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("cannot patch %s on cluster %s: %w", object, c.Name, err)
		}
		fresh, err := client.Get(ctx, i.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read %s on cluster %s: %w", object, c.Name, err)
		}
		if fresh.GetUID() != i.GetUID() {
			return nil // replaced: the next look says so
		}
		i.Unstructured = fresh
	}
	return fmt.Errorf("cannot patch %s on cluster %s: somebody else keeps changing it; find out who with `kubectl get --show-managed-fields`", object, c.Name)
}

// superseded refuses to touch what a newer daemon has changed.
func superseded(e *kube.Env, i item, object string) error {
	epoch, err := strconv.ParseInt(i.GetAnnotations()[kube.AnnotationEpoch], 10, 64)
	if err == nil && epoch > e.Settings.Epoch {
		return fmt.Errorf("%s was changed by a daemon with epoch %d, this one has %d: %w", object, epoch, e.Settings.Epoch, reconciler.ErrSuperseded)
	}
	return nil
}

// atOnce bounds the calls in flight: enough that a hundred workloads stop
// together, few enough for any API server.
const atOnce = 8

// each calls f for every element and returns all the errors.
func each[T any](list []T, f func(T) error) error {
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, atOnce)
		errs  = make([]error, len(list))
	)
	for n, x := range list {
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			errs[n] = f(x)
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

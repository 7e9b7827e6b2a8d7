package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// scaling are the kinds that change how many pods a workload has. One that is
// at zero is left alone by them, so that the source's stay as they are; the
// target gets them when its workloads run.
// KEDA's are not inert at zero: the stop pauses them. What one of them has made
// in turn (an autoscaler, Jobs) is left to it. They are in a version that every
// cluster has that serves the group.
var scaling = []schema.GroupVersionResource{
	{Group: "autoscaling", Version: "v1", Resource: "horizontalpodautoscalers"},
	{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"},
	{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledjobs"},
}

// Annotations by which KEDA pauses: with everything as it is, or at a number of
// pods. Of both, the number wins.
const (
	AnnotationPaused         = "autoscaling.keda.sh/paused"
	AnnotationPausedReplicas = "autoscaling.keda.sh/paused-replicas"
)

// Scales says that the object scales workloads.
func Scales(i Item) bool {
	return slices.ContainsFunc(scaling, func(s schema.GroupVersionResource) bool { return s.GroupResource() == i.GVR.GroupResource() })
}

// asPaused gives a portable object the annotations that its author pauses it by,
// instead of those that the stop has put there.
func asPaused(i, source Item, stopped []spec.Workload) Item {
	for _, w := range stopped {
		if w.UID != string(source.GetUID()) || w.UID == "" || !Scales(source) {
			continue
		}
		annotations := i.GetAnnotations()
		delete(annotations, AnnotationPaused)
		delete(annotations, AnnotationPausedReplicas)
		if annotations == nil {
			annotations = map[string]string{}
		}
		maps.Copy(annotations, w.Annotations)
		i.SetAnnotations(annotations)
	}
	return i
}

// autoscaler is one object of the source and what the target has of it.
type autoscaler struct {
	source Item
	want   Item // as it shall be on the target
	gvr    schema.GroupVersionResource
	target *Item
}

func autoscalers(ctx context.Context, e *Env) ([]autoscaler, error) {
	var kinds []schema.GroupResource
	for _, s := range scaling {
		kinds = append(kinds, s.GroupResource())
	}
	items, err := coveredOf(ctx, e, kinds)
	if err != nil {
		return nil, err
	}
	var all []autoscaler
	for _, i := range items {
		a := autoscaler{source: i, want: asPaused(Portable(i, e.Mapping()), i, e.Run.Facts.Workloads)}
		if a.gvr, err = e.Target.resource(a.want); err != nil {
			return nil, e.Target.wrap(err, "find out about %s %s", a.want.GetAPIVersion(), a.want.GetKind())
		}
		if a.target, err = e.Target.get(ctx, a.gvr, a.want.GetNamespace(), a.want.GetName()); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func lookAutoscalers(ctx context.Context, e *Env) (reconciler.Observation, error) {
	all, err := autoscalers(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	return scaledBy(e, all), nil
}

// scaledBy says how far the target is with what scales its workloads.
func scaledBy(e *Env, all []autoscaler) reconciler.Observation {
	created := slices.Clone(e.Run.Facts.Created)
	updated := slices.Clone(e.Run.Facts.Updated)
	var missing []string
	var foreign *reconciler.Observation
	found := map[string]int{}
	for _, a := range all {
		name := Describe(a.want.Record(spec.Target))
		if a.target != nil {
			found[a.want.groupKind().String()]++
		}
		switch {
		case a.target == nil, e.updates() && !ofThisMove(e, *a.target) && NotUpdated(a.source, *a.target) == "":
			missing = append(missing, name)
		case WasThere(e, *a.target):
			updated = append(updated, a.target.Record(spec.Target))
		case ofThisMove(e, *a.target):
			r := a.target.Record(spec.Target)
			created = append(slices.DeleteFunc(created, func(o spec.Object) bool { return keyOfRecord(o) == keyOfRecord(r) }), r)
		case e.Plan().ExistingOrDefault() != spec.ExistingSkip:
			foreign = &reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "ExistingObject", Object: name,
				Message: fmt.Sprintf("%s exists on cluster %s and is not of plan %s; remove it and start the cutover again", name, e.Target.Name, e.Run.Spec.Plan)}
		}
	}
	if foreign != nil && (!e.Undo || len(missing) == 0) { // a copy back that failed makes the others first
		return *foreign
	}
	if len(missing) > 0 {
		return reconciler.Observation{Message: "to be created or updated: " + limited(missing, ", ")}
	}
	o := reconciler.Observation{Seen: reconciler.Succeeded, Message: fmt.Sprintf("%d autoscalers are on the target", len(all))}
	if len(all) > 0 {
		o.Facts = &spec.Facts{Created: created, Updated: updated, Counts: WithTarget(e.Run.Facts.Counts, found)}
	}
	return o
}

func ensureAutoscalers(ctx context.Context, e *Env) error {
	all, err := autoscalers(ctx, e)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.target != nil {
			if !e.updates() || ofThisMove(e, *a.target) {
				continue
			}
			if err := supersede(ctx, e, a.source, a.want, *a.target); err != nil {
				return err
			}
			continue
		}
		_, err := e.Target.Dynamic.Resource(a.gvr).Namespace(a.want.GetNamespace()).Create(ctx, e.Marked(a.want).Unstructured, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return e.Target.wrap(err, "create %s", Describe(a.want.Record(spec.Target)))
		}
	}
	return nil
}

// madeAutoscalers are those that this run has put on the target, and those of
// the target that it or an earlier run has updated. Of the other
// API groups only the names are asked for: one of somebody else's that is broken
// must not keep the source down.
func madeAutoscalers(ctx context.Context, e *Env) ([]Item, error) {
	var resources []schema.GroupVersionResource
	for _, r := range scaling {
		served, err := e.Target.ServesGroup(r.Group)
		if err != nil {
			return nil, err
		}
		if served {
			resources = append(resources, r)
		}
	}
	items, err := e.Target.ListThese(ctx, resources, e.Namespaces(spec.Target), "")
	return slices.DeleteFunc(items, func(i Item) bool { return !OfRun(e, i) && !WasThere(e, i) }), err
}

func lookAutoscalersUndo(ctx context.Context, e *Env) (reconciler.Observation, error) {
	items, err := madeAutoscalers(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if len(items) == 0 {
		return reconciler.Observation{Seen: reconciler.Succeeded, Message: "nothing of this run scales workloads of the target"}, nil
	}
	if slices.ContainsFunc(items, func(i Item) bool { return i.GetDeletionTimestamp() == nil }) {
		return reconciler.Observation{Message: "to be removed or put back: " + namesOf(items, maxNamed)}, nil
	}
	name := Describe(items[0].Record(spec.Target))
	return reconciler.Observation{Seen: reconciler.Working, Reason: "ObjectsTerminating", Object: name,
		Message: fmt.Sprintf("%s on cluster %s is still being deleted; a finalizer (%s) keeps it", name, e.Target.Name, strings.Join(items[0].GetFinalizers(), ", "))}, nil
}

func ensureAutoscalersUndo(ctx context.Context, e *Env) error {
	items, err := madeAutoscalers(ctx, e)
	if err != nil {
		return err
	}
	for _, i := range items {
		if keeps(i) {
			err = e.putBackNow(ctx, i)
		} else {
			err = e.Target.Delete(ctx, i.Record(spec.Target))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

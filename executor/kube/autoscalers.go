package kube

import (
	"context"
	"fmt"
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
var scaling = []schema.GroupResource{{Group: "autoscaling", Resource: "horizontalpodautoscalers"}}

// Scales says that the object scales workloads.
func Scales(i Item) bool { return slices.Contains(scaling, i.GVR.GroupResource()) }

// autoscaler is one object of the source and what the target has of it.
type autoscaler struct {
	want   Item // as it shall be on the target
	gvr    schema.GroupVersionResource
	target *Item
}

func autoscalers(ctx context.Context, e *Env) ([]autoscaler, error) {
	items, err := coveredOf(ctx, e, scaling)
	if err != nil {
		return nil, err
	}
	var all []autoscaler
	for _, i := range items {
		a := autoscaler{want: e.Marked(Portable(i, e.Mapping()))}
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
	created := slices.Clone(e.Run.Facts.Created)
	var missing []string
	for _, a := range all {
		name := Describe(a.want.Record(spec.Target))
		switch {
		case a.target == nil:
			missing = append(missing, name)
		case ofThisMove(e, *a.target):
			r := a.target.Record(spec.Target)
			created = append(slices.DeleteFunc(created, func(o spec.Object) bool { return keyOfRecord(o) == keyOfRecord(r) }), r)
		case e.Plan().ExistingOrDefault() == spec.ExistingFail:
			return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "ExistingObject", Object: name,
				Message: fmt.Sprintf("%s exists on cluster %s and is not of plan %s; remove it and start the cutover again", name, e.Target.Name, e.Run.Spec.Plan)}, nil
		}
	}
	if len(missing) > 0 {
		return reconciler.Observation{Message: "to be created: " + limited(missing, ", ")}, nil
	}
	o := reconciler.Observation{Seen: reconciler.Succeeded, Message: fmt.Sprintf("%d autoscalers are on the target", len(all))}
	if len(all) > 0 {
		o.Facts = &spec.Facts{Created: created}
	}
	return o, nil
}

func ensureAutoscalers(ctx context.Context, e *Env) error {
	all, err := autoscalers(ctx, e)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.target != nil {
			continue
		}
		_, err := e.Target.Dynamic.Resource(a.gvr).Namespace(a.want.GetNamespace()).Create(ctx, a.want.Unstructured, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return e.Target.wrap(err, "create %s", Describe(a.want.Record(spec.Target)))
		}
	}
	return nil
}

// madeAutoscalers are those that this run has put on the target. They are listed
// by a version that every cluster has, without asking what else there is: an
// API group of somebody else's that is broken must not keep the source down.
func madeAutoscalers(ctx context.Context, e *Env) ([]Item, error) {
	var resources []schema.GroupVersionResource
	for _, r := range scaling {
		resources = append(resources, r.WithVersion("v1"))
	}
	items, err := e.Target.ListThese(ctx, resources, e.Namespaces(spec.Target), "")
	return slices.DeleteFunc(items, func(i Item) bool { return !OfRun(e, i) }), err
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
		return reconciler.Observation{Message: "to be removed: " + namesOf(items, maxNamed)}, nil
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
		if err := e.Target.Delete(ctx, i.Record(spec.Target)); err != nil {
			return err
		}
	}
	return nil
}

package kube

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resource is where a cluster keeps objects of an item's kind. What was
// unknown at the last discovery is looked up once more.
func (c *Cluster) resource(i Item) (schema.GroupVersionResource, error) {
	m, err := c.mapping(i.GroupVersionKind())
	if err != nil {
		return schema.GroupVersionResource{}, err
	}
	return m.Resource, nil
}

func (c *Cluster) mapping(gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	m, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		c.Mapper.Reset()
		m, err = c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	return m, err
}

// ServesGroup says that a cluster has an API group, as of the last discovery.
func (c *Cluster) ServesGroup(group string) (bool, error) {
	groups, err := c.Discovery.ServerGroups()
	if err != nil {
		return false, c.wrap(err, "read which API groups there are")
	}
	return slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == group }), nil
}

// Has says that a cluster serves exactly this version and kind.
func (c *Cluster) Has(i Item) (bool, error) {
	_, err := c.resource(i)
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	if err != nil {
		return false, c.wrap(err, "find out about %s %s", i.GetAPIVersion(), i.GetKind())
	}
	return true, nil
}

// OfPlan says that an object of the target was put there by this plan: by a
// restore, by hand of ours, or as an object of our own.
func OfPlan(e *Env, o metav1.Object) bool {
	return o.GetAnnotations()[AnnotationPlan] == e.Run.Spec.Plan || Ours(o) && o.GetLabels()[LabelPlan] == Short(e.Run.Spec.Plan)
}

// OfRun says that an object of the target was put there by this very run, or by
// the cutover that it takes back.
func OfRun(e *Env, o metav1.Object) bool {
	return OfPlan(e, o) && o.GetAnnotations()[AnnotationRun] == e.Origin()
}

// Find reads a recorded object by its name; nil when it is not there.
func (c *Cluster) Find(ctx context.Context, o spec.Object) (*Item, error) {
	return c.get(ctx, GVROf(o), o.Namespace, o.Name)
}

// get returns nil for an object that is not there.
func (c *Cluster) get(ctx context.Context, gvr schema.GroupVersionResource, namespace, name string) (*Item, error) {
	u, err := c.Dynamic.Resource(gvr).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.wrap(err, "read %s %s/%s", gvr.Resource, namespace, name)
	}
	return &Item{gvr, u}, nil
}

// existing judges an object of the target whose name is taken: fine when this
// plan put it there.
func existing(ctx context.Context, e *Env, source, held Item, gvr schema.GroupVersionResource) (string, bool, error) {
	have, err := e.Target.get(ctx, gvr, held.GetNamespace(), held.GetName())
	if err != nil || have == nil || OfPlan(e, have) {
		return "", false, err
	}
	switch e.Plan().ExistingOrDefault() {
	case spec.ExistingSkip:
		return "", false, nil
	case spec.ExistingUpdate:
		return tryUpdate(ctx, e, source, held, *have)
	}
	return fmt.Sprintf("%s: it exists already and is not of plan %s", Describe(have.Record(spec.Target)), e.Run.Spec.Plan), false, nil
}

// Delete removes exactly one recorded object; one that is gone, or that was
// replaced by another of its name, is left alone.
func (c *Cluster) Delete(ctx context.Context, o spec.Object) error {
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	if o.UID == "" {
		return fmt.Errorf("%s on cluster %s has no recorded UID; it is not deleted", Describe(o), c.Name)
	}
	uid := metav1.NewUIDPreconditions(o.UID).UID
	opts.Preconditions = &metav1.Preconditions{UID: uid}
	err := c.Dynamic.Resource(GVROf(o)).Namespace(o.Namespace).Delete(ctx, o.Name, opts)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return c.wrap(err, "delete %s", Describe(o))
}

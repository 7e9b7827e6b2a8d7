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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Definitions are the resources that CustomResourceDefinitions add to a cluster.
type Definitions map[schema.GroupResource]bool

var definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// ReadDefinitions lists them.
func ReadDefinitions(ctx context.Context, c *Cluster) (Definitions, error) {
	l, err := c.Dynamic.Resource(definitionResource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, c.Errorf(err, "list the definitions of custom resources")
	}
	d := Definitions{}
	for _, i := range l.Items {
		group, _, _ := unstructured.NestedString(i.Object, "spec", "group")
		plural, _, _ := unstructured.NestedString(i.Object, "spec", "names", "plural")
		d[schema.GroupResource{Group: group, Resource: plural}] = true
	}
	return d, nil
}

// understood are the custom resources whose controllers' ways are known, or that
// are only read by these: they are moved like other objects, or have steps of
// their own.
var understood = map[schema.GroupKind]bool{
	{Group: "keda.sh", Kind: "ScaledObject"}:               true,
	{Group: "keda.sh", Kind: "ScaledJob"}:                  true,
	{Group: "keda.sh", Kind: "TriggerAuthentication"}:      true,
	{Group: "apps.openshift.io", Kind: "DeploymentConfig"}: true,
}

// Snapshot says that an object stands for content of the source's storage. Made on
// the target it would stand for something else.
func Snapshot(i Item) bool { return strings.HasSuffix(i.GVR.Group, "snapshot.storage.k8s.io") }

// Custom says that an object is of an operator whose ways are not known. It is
// made on the target when the workloads run there (docs/kinds.md).
func (d Definitions) Custom(i Item) bool {
	return d[i.GVR.GroupResource()] && !understood[i.groupKind()] && !Snapshot(i)
}

// Controls says that an object with this reference is made by such an operator.
func (d Definitions) Controls(o *metav1.OwnerReference) bool {
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil || gv.Group == "" || understood[schema.GroupKind{Group: gv.Group, Kind: o.Kind}] {
		return false
	}
	for gr := range d {
		if gr.Group == gv.Group {
			return true
		}
	}
	return false
}

// Kept says that an object of the source is a custom resource or pod that the run keeps
// and makes on the target in a step of its own. One that a hook has deleted and made
// anew is the same.
func (e *Env) Kept(i Item) bool {
	for _, c := range e.Run.Facts.Custom {
		if keyOfRecord(c.Object) == keyOfItem(i, nil) {
			return true
		}
	}
	return false
}

// Newcomers names the covered custom resources and pods without a controller of the
// source that came after the others were kept: Velero would restore them while
// everything is held at zero.
func Newcomers(ctx context.Context, e *Env) (names []string, err error) {
	items, err := toKeep(ctx, e)
	for _, i := range items {
		if !e.Kept(i) {
			names = append(names, Describe(i.Record(spec.Source)))
		}
	}
	return names, err
}

// toKeep are the custom resources and the pods without a controller that the plan moves.
func toKeep(ctx context.Context, e *Env) ([]Item, error) {
	definitions, err := ReadDefinitions(ctx, e.Source)
	if err != nil {
		return nil, err
	}
	kinds := []schema.GroupResource{podResource}
	for gr := range definitions {
		kinds = append(kinds, gr)
	}
	items, err := coveredOf(ctx, e, kinds)
	if err != nil {
		return nil, err
	}
	var own []Item
	for _, i := range items {
		if definitions.Custom(i) || Bare(i) {
			own = append(own, i)
		}
	}
	return own, nil
}

// counterpart is what is kept of the source and what the target has in its place.
type counterpart struct {
	want Item
	gvr  schema.GroupVersionResource
	have *Item
}

func (e *Env) onTarget(ctx context.Context, want Item) (counterpart, error) {
	x := counterpart{want: want}
	var err error
	if x.gvr, err = e.Target.resource(x.want); err != nil {
		return x, e.Target.wrap(err, "find out about %s %s", x.want.GetAPIVersion(), x.want.GetKind())
	}
	x.have, err = e.Target.get(ctx, x.gvr, x.want.GetNamespace(), x.want.GetName())
	return x, err
}

// wanted are the custom resources and pods that the target is to get: in a cutover those that
// are kept on the source, as they were there, and in a rollback that takes itself back
// those that it has removed, for which no source is needed. Lost says that some
// cannot be had.
func (e *Env) wanted(ctx context.Context) (all []Item, lost string, err error) {
	if e.Run.Spec.Kind == spec.RunRollback {
		return e.removed(ctx)
	}
	if e.Source == nil {
		return nil, "", fmt.Errorf("cluster %s does not answer, and keeps the custom resources and pods that the target is to get", e.Run.Spec.Closure.Source.Metadata.Name)
	}
	kept, err := e.kept(ctx)
	if err != nil {
		return nil, "", err
	}
	if n := len(e.Run.Facts.Custom) - len(kept); n > 0 {
		lost = fmt.Sprintf("%d of %d Secrets that kept custom resources and pods in namespace %s of cluster %s are gone, so that the target cannot get these", n, len(e.Run.Facts.Custom), e.Settings.Namespace, e.Source.Name)
	}
	for _, k := range kept {
		if k.pod() {
			if is, err := e.wantedPod(ctx, k); err != nil {
				return nil, "", err
			} else if !is {
				continue
			}
		}
		all = append(all, Held(k.was, e.Translation()))
	}
	return all, lost, nil
}

func lookCustom(ctx context.Context, e *Env) (reconciler.Observation, error) {
	all, lost, err := e.wanted(ctx)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if lost != "" {
		return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: reconciler.ReasonKeptObjectGone, Message: lost}, nil
	}
	created := map[string]spec.Object{}
	for _, o := range e.Run.Facts.Created {
		created[Describe(o)] = o
	}
	var missing []string
	for _, want := range all {
		x, err := e.onTarget(ctx, want)
		if err != nil {
			return reconciler.Observation{}, err
		}
		name := Describe(x.want.Record(spec.Target))
		switch {
		case x.have == nil:
			missing = append(missing, name)
		case OfRun(e, x.have) && x.have.GetDeletionTimestamp() != nil: // its undo was begun
			return reconciler.Observation{Seen: reconciler.Working, Reason: "ObjectsTerminating", Object: name,
				Message: fmt.Sprintf("%s on cluster %s is being deleted, and made anew when it has gone; it waits for %s", name, e.Target.Name, strings.Join(x.have.GetFinalizers(), ", "))}, nil
		case OfRun(e, x.have):
			created[name] = x.have.Record(spec.Target)
		case OfPlan(e, x.have) || e.Plan().ExistingOrDefault() != spec.ExistingSkip:
			return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "ExistingObject", Object: name,
				Message: fmt.Sprintf("%s exists on cluster %s and is not of this run, and is not updated: remove it and start the cutover again", name, e.Target.Name)}, nil
		}
	}
	if len(missing) > 0 {
		return reconciler.Observation{Message: "to be created: " + limited(missing, ", ")}, nil
	}
	o := reconciler.Observation{Seen: reconciler.Succeeded, Message: fmt.Sprintf("%d custom resources and pods without a controller are on the target", len(all))}
	if len(all) > 0 {
		o.Facts = &spec.Facts{Created: inOrder(e.Run.Facts.Created, created)}
	}
	return o, nil
}

// inOrder is a list of objects with newer versions of some, and what is new at the end.
func inOrder(old []spec.Object, newer map[string]spec.Object) []spec.Object {
	var all []spec.Object
	for _, o := range old {
		if now, ok := newer[Describe(o)]; ok { // once, whatever the record says
			all = append(all, now)
			delete(newer, Describe(o))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(newer)) {
		all = append(all, newer[name])
	}
	return all
}

func ensureCustom(ctx context.Context, e *Env) error {
	all, _, err := e.wanted(ctx)
	if err != nil {
		return err
	}
	for _, want := range all {
		x, err := e.onTarget(ctx, want)
		if err != nil {
			return err
		}
		if x.have != nil {
			continue
		}
		_, err = e.Target.Dynamic.Resource(x.gvr).Namespace(x.want.GetNamespace()).Create(ctx, e.Marked(x.want).Unstructured, metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return e.Target.wrap(err, "create %s", Describe(x.want.Record(spec.Target)))
		}
	}
	return nil
}

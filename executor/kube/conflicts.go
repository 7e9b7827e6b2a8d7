package kube

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// trafficConflicts finds what would keep users from reaching the application
// on the target: node ports and hosts that somebody else there has. It is
// asked while the application still runs; the traffic step comes too late.
func trafficConflicts(ctx context.Context, e *Env, items []Item) (taken, unasked []string, err error) {
	others := foreignLists{e: e, lists: map[schema.GroupVersionResource][]Item{}}
	for _, i := range items {
		ask := hostTaken
		if Opens(i) {
			ask = nodePortTaken
		} else if !Traffic(i) {
			continue
		}
		refusal, err := ask(ctx, &others, i)
		switch {
		case apierrors.IsForbidden(err):
			unasked = append(unasked, Describe(i.Record(spec.Source)))
		case err != nil:
			return nil, nil, err
		case refusal != "":
			taken = append(taken, Describe(i.Record(spec.Source))+": "+refusal)
		}
	}
	return taken, unasked, nil
}

// foreignLists reads each resource of the whole target at most once.
type foreignLists struct {
	e     *Env
	lists map[schema.GroupVersionResource][]Item
}

// of lists what is not of this plan.
func (f *foreignLists) of(ctx context.Context, gvr schema.GroupVersionResource) ([]Item, error) {
	if have, ok := f.lists[gvr]; ok {
		return have, nil
	}
	all, err := f.e.Target.list(ctx, gvr, metav1.NamespaceAll, "")
	if err != nil {
		return nil, err
	}
	f.lists[gvr] = slices.DeleteFunc(all, func(i Item) bool { return ofThisMove(f.e, i) })
	return f.lists[gvr], nil
}

// way is one way in: what a controller of a class answers for.
type way struct{ class, host, path string }

// waysOf are the ways that an Ingress or Route claims.
func waysOf(i Item) []way {
	class, _, _ := unstructured.NestedString(i.Object, "spec", "ingressClassName")
	class = firstOf(class, i.GetAnnotations()["kubernetes.io/ingress.class"])
	var ways []way
	eachMap(i.Object, func(rule map[string]any) {
		host, _ := rule["host"].(string)
		bare := true
		eachMap(rule, func(p map[string]any) {
			path, _ := p["path"].(string)
			ways, bare = append(ways, way{class, host, firstOf(path, "/")}), false
		}, "http", "paths")
		if bare {
			ways = append(ways, way{class, host, "/"})
		}
	}, "spec", "rules")
	if host, _, _ := unstructured.NestedString(i.Object, "spec", "host"); host != "" {
		path, _, _ := unstructured.NestedString(i.Object, "spec", "path")
		ways = append(ways, way{class, host, firstOf(path, "/")})
	}
	return ways
}

func (w way) String() string { return firstOf(w.host, "any host") + w.path }

// hostTaken says which object of the target claims the same host and path.
func hostTaken(ctx context.Context, others *foreignLists, i Item) (string, error) {
	c := others.e.Target
	gvr, err := c.resource(Portable(i, others.e.Mapping()))
	if meta.IsNoMatchError(err) {
		return "", nil // refused by its kind already
	}
	if err != nil {
		return "", c.wrap(err, "find out about %s %s", i.GetAPIVersion(), i.GetKind())
	}
	list, err := others.of(ctx, gvr)
	if err != nil {
		return "", err
	}
	wanted := waysOf(i)
	for _, other := range list {
		if keyOfItem(other, nil) == keyOfItem(i, others.e.Mapping()) {
			continue // of the same name: what exists is judged elsewhere
		}
		for _, w := range waysOf(other) {
			if w.host != "" && slices.Contains(wanted, w) { // without a host, some classes give each its own address
				return fmt.Sprintf("%s is claimed by %s on cluster %s; remove it there, or give one of the two another host or path", w, Describe(other.Record(spec.Target)), c.Name), nil
			}
		}
	}
	return "", nil
}

// nodePortTaken asks the target for the node ports that the author of a
// Service has chosen. A name of the server's choice keeps a Service that
// exists from answering for its own ports.
func nodePortTaken(ctx context.Context, others *foreignLists, i Item) (string, error) {
	e := others.e
	if len(explicitNodePorts(i)) == 0 {
		return "", nil
	}
	want := Portable(i, e.Mapping())
	services := e.Target.Dynamic.Resource(i.GVR).Namespace(want.GetNamespace())
	have, err := e.Target.get(ctx, i.GVR, want.GetNamespace(), want.GetName())
	if err != nil || have != nil {
		return "", err // what exists is judged elsewhere
	}
	want.SetName("")
	want.SetGenerateName("asked-")
	_, err = services.Create(ctx, want.Unstructured, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if !apierrors.IsInvalid(err) {
		return "", nil // any other refusal is that of the object itself, or passes
	}
	say := fmt.Sprintf("cluster %s cannot give it its node ports: %s", e.Target.Name, apiMessage(err))
	list, listed := others.of(ctx, i.GVR)
	if listed != nil {
		return say, nil
	}
	for port := range nodePortsOf(want) {
		for _, other := range list {
			if nodePortsOf(other)[port] {
				say = fmt.Sprintf("node port %d is taken by %s on cluster %s; free it there, or choose another port in the source's Service", port, Describe(other.Record(spec.Target)), e.Target.Name)
			}
		}
	}
	return say, nil
}

func nodePortsOf(i Item) map[int64]bool {
	ports := map[int64]bool{}
	eachMap(i.Object, func(p map[string]any) {
		if n, ok := p["nodePort"].(int64); ok && n > 0 {
			ports[n] = true
		}
	}, "spec", "ports")
	return ports
}

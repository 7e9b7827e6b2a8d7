package workload

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// place is where to watch for what a Look has just listed.
type place struct {
	gvr       schema.GroupVersionResource
	namespace string
	version   string
}

// wake returns a channel that is sent on at the first change in any of the
// places. Its watches end with ctx; without any, Poll does the waking.
func wake(ctx context.Context, e *kube.Env, c *kube.Cluster, places []place) <-chan struct{} {
	woken := make(chan struct{}, 1)
	opened := 0
	for _, p := range places {
		ch, err := c.Wake(ctx, p.gvr, p.namespace, metav1.ListOptions{ResourceVersion: p.version})
		if err != nil {
			if e.Log != nil {
				e.Log.Debug("no watch, looking again after the poll interval", "resource", p.gvr.Resource, "namespace", p.namespace, "error", err)
			}
			continue
		}
		opened++
		go func() {
			<-ch
			select {
			case woken <- struct{}{}:
			default:
			}
		}()
	}
	if opened == 0 {
		return nil
	}
	return woken
}

// covered lists the source's workloads that belong to the plan.
func covered(ctx context.Context, e *kube.Env) ([]item, []place, error) {
	sel, err := e.Selector()
	if err != nil {
		return nil, nil, err
	}
	return listed(ctx, e.Source, e.Namespaces(spec.Source), sel, nil)
}

// toUndo is covered for who puts things back: what the run has not recorded it has
// not stopped, so that the source does not wait for an API group that is broken
// and holds nothing of that. Without any record the objects are the record.
func toUndo(ctx context.Context, e *kube.Env) ([]item, []place, error) {
	sel, err := e.Selector()
	if err != nil {
		return nil, nil, err
	}
	var without func(*kind) bool
	if len(e.Run.Facts.Workloads) > 0 {
		without = func(k *kind) bool { return !recordedKind(e, k) }
	}
	return listed(ctx, e.Source, e.Namespaces(spec.Source), sel, without)
}

func recordedKind(e *kube.Env, k *kind) bool {
	return slices.ContainsFunc(e.Run.Facts.Workloads, func(w spec.Workload) bool { return w.Kind == k.name })
}

// listed lists the workloads of namespaces that a selector matches, and what
// those have made. Where there is nothing of a kind there is nothing to watch:
// what appears is found by the next look. Of kinds that not every cluster has,
// without (nil: none) says which are done without while the server cannot list
// them: those of OpenShift have an API server of their own.
func listed(ctx context.Context, c *kube.Cluster, names []string, sel string, without func(*kind) bool) ([]item, []place, error) {
	matcher, err := labels.Parse(sel)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot understand the label selector %q: %w", sel, err)
	}
	type query struct {
		kind *kind
		ns   string
		list *unstructured.UnstructuredList
	}
	served, err := servedBy(c)
	if err != nil {
		return nil, nil, err
	}
	var queries []*query
	for _, ns := range names {
		for _, k := range served {
			queries = append(queries, &query{kind: k, ns: ns})
		}
	}
	err = each(queries, func(q *query) error {
		o := metav1.ListOptions{LabelSelector: sel}
		if q.kind.partOf != nil {
			o.LabelSelector = "" // what a covered one made need not carry its labels
		}
		var err error
		q.list, err = c.Dynamic.Resource(q.kind.gvr).Namespace(q.ns).List(ctx, o)
		gone := apierrors.IsNotFound(err) // since discovery
		if q.kind.extension && (gone || without != nil && without(q.kind) && apierrors.ReasonForError(err) != metav1.StatusReasonUnknown) {
			q.list = &unstructured.UnstructuredList{}
			return nil
		}
		return c.Errorf(err, "list %s in namespace %s", q.kind.gvr.Resource, q.ns)
	})
	if err != nil {
		return nil, nil, err
	}
	var (
		items  []item
		places []place
	)
	for _, q := range queries {
		if len(q.list.Items) > 0 {
			places = append(places, place{q.kind.gvr, q.ns, q.list.GetResourceVersion()})
		}
		for n := range q.list.Items {
			items = append(items, item{q.kind, &q.list.Items[n]})
		}
	}
	return among(items, func(i item) bool { return matcher.Matches(labels.Set(i.GetLabels())) }), places, nil
}

// servedBy are the kinds that a cluster may have objects of. It costs nothing:
// groups are discovered once a connection, and again by each preflight.
func servedBy(c *kube.Cluster) ([]*kind, error) {
	var served []*kind
	for _, k := range kinds {
		if k.extension {
			has, err := c.ServesGroup(k.gvr.Group)
			if err != nil {
				return nil, err
			}
			if !has {
				continue
			}
		}
		served = append(served, k)
	}
	return served, nil
}

// get reads one workload; the item is empty when it does not exist.
func get(ctx context.Context, c *kube.Cluster, k *kind, namespace, name string) (item, error) {
	u, err := c.Dynamic.Resource(k.gvr).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return item{kind: k}, nil
	}
	if err != nil {
		return item{}, fmt.Errorf("cannot read %s %s/%s on cluster %s: %w", k.name, namespace, name, c.Name, err)
	}
	return item{k, u}, nil
}

func (i item) exists() bool { return i.Unstructured != nil }

// counted is what the start records before it acts: where the run has stopped the
// source, the stop has done so; else what runs there now. Whoever scales the source
// later changes nothing of what is asked of the target.
func counted(ctx context.Context, e *kube.Env) (*spec.Facts, error) {
	if slices.ContainsFunc(e.Run.Steps, func(s spec.Step) bool { return s.Verb == "workload.stop" }) {
		return nil, nil
	}
	if e.Source == nil {
		return nil, fmt.Errorf("cannot tell what to run on the target: the run does not stop the source, so that its counts are read there, and cluster %s cannot be reached", e.Run.Spec.Closure.Source.Metadata.Name)
	}
	items, _, err := covered(ctx, e)
	if err != nil {
		return nil, err
	}
	list, err := intents(e, items)
	if list == nil {
		list = []spec.Workload{} // there are none, whatever an earlier step has found
	}
	return &spec.Facts{Workloads: list}, err
}

// withTime returns the run's instants with one more; the first instant of a
// name stays.
func withTime(e *kube.Env, name string, at time.Time) []spec.NamedTime {
	times := slices.Clone(e.Run.Facts.Times)
	if at.IsZero() || slices.ContainsFunc(times, func(t spec.NamedTime) bool { return t.Name == name }) {
		return times
	}
	return append(times, spec.NamedTime{Name: name, Time: metav1.NewMicroTime(at)})
}

// Instants at which the stop found a workload in trouble. Its restart can then
// only prove that it is where it was.
const (
	unhealthyBefore = "unhealthy before the stop: "
	podlessBefore   = "without a pod before the stop: "
)

// withTroubles returns the run's instants with those of the workloads that do
// not run as they should while nothing has been stopped yet.
func withTroubles(e *kube.Env, items []item) []spec.NamedTime {
	times, now := e.Run.Facts.Times, time.Now()
	for _, i := range items {
		name := kube.Describe(i.object(spec.Source))
		if !i.runs() || i.readyPods() >= i.wantedPods() {
			continue
		}
		prefix := unhealthyBefore
		if i.allPods() == 0 {
			prefix = podlessBefore
		}
		times = append(slices.Clip(times), spec.NamedTime{Name: prefix + name, Time: metav1.NewMicroTime(now)})
	}
	return times
}

// troubled says whether a workload was in that kind of trouble at the stop.
func troubled(e *kube.Env, w *spec.Workload, prefix string) bool {
	return slices.ContainsFunc(e.Run.Facts.Times, func(t spec.NamedTime) bool { return t.Name == prefix+kube.Describe(w.Object) })
}

const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// sooner is the earlier of two instants that there is.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// earliest is the first instant in an annotation of items.
func earliest(items []item, annotation string) time.Time {
	var first time.Time
	for _, i := range items {
		t, err := time.Parse(timeFormat, i.GetAnnotations()[annotation])
		if err == nil && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

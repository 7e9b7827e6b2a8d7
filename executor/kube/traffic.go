package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// addressWait is how long the step waits for an address of the target's load
// balancer; without one the move is still a success, and says so.
const addressWait = time.Minute

// lead is one object that leads users to the application.
type lead struct {
	source Item
	target *Item // nil while it is not there
	entry  spec.Traffic
	open   bool // the target's object leads users
	// foreign is in the way on the target and not of this plan.
	foreign bool
}

// leading are the kinds that lead users to an application.
var leading = []schema.GroupResource{
	{Resource: "services"},
	{Group: "networking.k8s.io", Resource: "ingresses"},
	{Group: "extensions", Resource: "ingresses"}, // of clusters before 1.22
	{Group: "route.openshift.io", Resource: "routes"},
}

// coveredOf lists what the plan moves of some kinds.
func coveredOf(ctx context.Context, e *Env, kinds []schema.GroupResource) ([]Item, error) {
	selector, err := e.Selector()
	if err != nil {
		return nil, err
	}
	resources, err := e.Source.listable()
	if err != nil {
		return nil, err
	}
	resources = slices.DeleteFunc(resources, func(r schema.GroupVersionResource) bool { return !slices.Contains(kinds, r.GroupResource()) })
	items, err := e.Source.ListThese(ctx, resources, e.Namespaces(spec.Source), selector)
	return Select(items), err
}

func leads(ctx context.Context, e *Env) ([]lead, error) {
	items, err := coveredOf(ctx, e, leading)
	if err != nil {
		return nil, err
	}
	var all []lead
	for _, i := range items {
		if !Traffic(i) && !Opens(i) {
			continue
		}
		held := Held(i, e.Translation())
		gvr, err := e.Target.resource(held)
		if err != nil {
			return nil, e.Target.wrap(err, "find out about %s %s", held.GetAPIVersion(), held.GetKind())
		}
		l := lead{source: i}
		l.target, err = e.Target.get(ctx, gvr, held.GetNamespace(), held.GetName())
		if err != nil {
			return nil, err
		}
		l.entry = spec.Traffic{Object: held.Record(spec.Target), OldAddress: Address(i)}
		l.entry.Resource = gvr.Resource
		if l.target != nil {
			l.entry.UID = string(l.target.GetUID())
			l.foreign = !ofThisMove(e, *l.target)
			l.open = !l.foreign && (Traffic(i) || Opens(*l.target))
		}
		if l.open {
			l.entry.NewAddress = Address(*l.target)
		}
		all = append(all, l)
	}
	return all, nil
}

// Address is where an object is reached: the load balancer's address, the
// hosts of an Ingress or Route, or the node ports of a Service.
func Address(i Item) string {
	var parts []string
	eachMap(i.Object, func(m map[string]any) {
		for _, f := range []string{"hostname", "ip"} {
			if s, _ := m[f].(string); s != "" {
				parts = append(parts, s)
				return
			}
		}
	}, "status", "loadBalancer", "ingress")
	eachMap(i.Object, func(m map[string]any) {
		if s, _ := m["host"].(string); s != "" {
			parts = append(parts, s)
		}
	}, "spec", "rules")
	if host, _, _ := unstructured.NestedString(i.Object, "spec", "host"); host != "" {
		parts = append(parts, host)
	}
	if i.GetKind() == "Service" {
		eachMap(i.Object, func(m map[string]any) {
			if n, ok := m["nodePort"]; ok {
				parts = append(parts, fmt.Sprintf("node port %v", n))
			}
		}, "spec", "ports")
	}
	return strings.Join(parts, ", ")
}

func factsOf(e *Env, all []lead) *spec.Facts {
	f := &spec.Facts{Skipped: slices.Clone(e.Run.Facts.Skipped), Updated: slices.Clone(e.Run.Facts.Updated)}
	found := map[string]int{}
	for _, l := range all {
		f.Traffic = append(f.Traffic, l.entry)
		if l.target != nil && WasThere(e, *l.target) && !slices.ContainsFunc(f.Updated, func(o spec.Object) bool { return o.UID == string(l.target.GetUID()) }) {
			f.Updated = append(f.Updated, l.target.Record(spec.Target))
		}
		if l.foreign && !e.updates() && !slices.ContainsFunc(f.Skipped, func(o spec.Object) bool { return keyOfRecord(o) == keyOfRecord(l.entry.Object) }) {
			f.Skipped = append(f.Skipped, l.target.Record(spec.Target))
		}
		if l.open && Traffic(l.source) { // the others were counted with what was restored
			found[l.source.groupKind().String()]++
		}
	}
	f.Counts = WithTarget(e.Run.Facts.Counts, found)
	return f
}

func lookTraffic(ctx context.Context, e *Env) (reconciler.Observation, error) {
	all, err := leads(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	return seenOf(e, all), nil
}

// seenOf says how far the target is with what leads users to it.
func seenOf(e *Env, all []lead) reconciler.Observation {
	o := reconciler.Observation{Facts: factsOf(e, all)}
	var closed, waiting []string
	var foreign *lead
	skips := e.Plan().ExistingOrDefault() == spec.ExistingSkip
	for i := range all {
		l := &all[i]
		switch {
		case l.foreign && skips: // it stays as it is, and is in the record
		case l.foreign && e.updates() && NotUpdated(l.source, *l.target) == "":
			closed = append(closed, Describe(l.entry.Object))
		case l.foreign:
			foreign = cmp.Or(foreign, l)
		case !l.open:
			closed = append(closed, Describe(l.entry.Object))
		case l.entry.NewAddress == "" && l.entry.OldAddress != "":
			waiting = append(waiting, Describe(l.entry.Object))
		}
	}
	if foreign != nil && (!e.Undo || len(closed) == 0) { // a copy back that failed opens the others first
		o.Seen, o.Final, o.Reason, o.Object = reconciler.Broken, true, "ExistingObject", Describe(foreign.entry.Object)
		o.Message = fmt.Sprintf("%s exists on cluster %s and is not of plan %s; remove it, then create the source's by hand", o.Object, e.Target.Name, e.Run.Spec.Plan)
		return o
	}
	if len(closed) > 0 {
		o.Message = "to be opened: " + limited(closed, ", ")
		return o
	}
	if len(waiting) > 0 && e.Step.Started != nil && time.Since(e.Step.Started.Time) < addressWait {
		o.Seen, o.Reason, o.Object = reconciler.Working, "WaitingForAddress", waiting[0]
		o.Message = fmt.Sprintf("cluster %s has given no address to %s yet", e.Target.Name, limited(waiting, ", "))
		return o
	}
	o.Seen = reconciler.Succeeded
	o.Message = fmt.Sprintf("%d objects lead users to the target", len(all))
	if len(waiting) > 0 {
		o.Message += fmt.Sprintf("; cluster %s has given no address to %s", e.Target.Name, limited(waiting, ", "))
	}
	return o
}

func ensureTraffic(ctx context.Context, e *Env) error {
	all, err := leads(ctx, e)
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.open || l.foreign && !e.updates() {
			continue
		}
		if err := openLead(ctx, e, l); err != nil {
			return err
		}
	}
	return nil
}

func openLead(ctx context.Context, e *Env, l lead) error {
	want := Portable(l.source, e.Mapping())
	objects := e.Target.Dynamic.Resource(GVROf(l.entry.Object)).Namespace(want.GetNamespace())
	if l.target == nil {
		_, err := objects.Create(ctx, e.Marked(want).Unstructured, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // the next Look judges it
		}
		return e.Target.wrap(err, "create %s", Describe(l.entry.Object))
	}
	if l.foreign {
		return supersede(ctx, e, l.source, want, *l.target)
	}
	want = e.onto(want, *l.target)
	_, err := objects.Update(ctx, want.Unstructured, metav1.UpdateOptions{})
	if apierrors.IsInvalid(err) && strings.Contains(err.Error(), "nodePort") {
		// The author's node port is taken on the target: any other will do, the
		// record says which it became.
		eachMap(want.Object, func(p map[string]any) { delete(p, "nodePort") }, "spec", "ports")
		_, err = objects.Update(ctx, want.Unstructured, metav1.UpdateOptions{})
	}
	return e.Target.wrap(err, "open %s", Describe(l.entry.Object))
}

// opened are the run's objects on the target that still lead users.
func opened(ctx context.Context, e *Env) ([]Item, error) {
	var open []Item
	entries := slices.Clone(e.Run.Facts.Traffic)
	slices.Reverse(entries)
	for _, t := range entries {
		i, err := e.Target.get(ctx, GVROf(t.Object), t.Namespace, t.Name)
		if err != nil {
			return nil, err
		}
		if i == nil || !ofThisMove(e, *i) || t.UID != "" && t.UID != string(i.GetUID()) {
			continue
		}
		if Traffic(*i) || Opens(*i) {
			open = append(open, *i)
		}
	}
	return open, nil
}

func lookTrafficUndo(ctx context.Context, e *Env) (reconciler.Observation, error) {
	open, err := opened(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if len(open) == 0 {
		return reconciler.Observation{Seen: reconciler.Succeeded, Message: "nothing leads users to the target"}, nil
	}
	if slices.ContainsFunc(open, func(i Item) bool { return i.GetDeletionTimestamp() == nil }) {
		return reconciler.Observation{Message: "to be closed: " + namesOf(open, maxNamed)}, nil
	}
	return reconciler.Observation{Seen: reconciler.Working, Reason: "ObjectsTerminating", Object: Describe(open[0].Record(spec.Target)),
		Message: fmt.Sprintf("%s on cluster %s is still being deleted; a finalizer (%s) keeps it", Describe(open[0].Record(spec.Target)), e.Target.Name, strings.Join(open[0].GetFinalizers(), ", "))}, nil
}

func ensureTrafficUndo(ctx context.Context, e *Env) error {
	open, err := opened(ctx, e)
	if err != nil {
		return err
	}
	for _, i := range open {
		if Traffic(i) && keeps(i) {
			if err := e.putBackNow(ctx, i); err != nil {
				return err
			}
			continue
		}
		if Traffic(i) {
			if err := e.Target.Delete(ctx, i.Record(spec.Target)); err != nil {
				return err
			}
			continue
		}
		patch := HoldPatch(i)
		patch["metadata"] = map[string]any{"uid": string(i.GetUID()), "resourceVersion": i.GetResourceVersion()}
		raw, err := json.Marshal(patch)
		if err != nil {
			return err
		}
		_, err = e.Target.Dynamic.Resource(i.GVR).Namespace(i.GetNamespace()).Patch(ctx, i.GetName(), types.MergePatchType, raw, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return e.Target.wrap(err, "close %s", Describe(i.Record(spec.Target)))
		}
	}
	return nil
}

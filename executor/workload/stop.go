package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// intents is what the stop records before it acts: every covered workload
// with all that is needed to put it back.
func intents(e *kube.Env, items []item) ([]spec.Workload, error) {
	var list []spec.Workload
	for _, i := range items {
		if i.over() {
			continue // it does not run on the target again
		}
		w, err := intent(e, i)
		if err != nil {
			return nil, err
		}
		list = append(list, *w)
	}
	return list, nil
}

func intent(e *kube.Env, i item) (*spec.Workload, error) {
	p, err := readPrevious(i)
	if err != nil {
		return nil, err
	}
	w := &spec.Workload{Object: i.object(spec.Source), Paused: i.paused(), PartOf: i.partOf(), ClaimRetention: formerRetention(e, i, p)}
	w.LastScheduled, _, _ = unstructured.NestedString(i.Object, "status", "lastScheduleTime")
	b := i.kind.brake
	if b == byNodeSelector {
		w.Replicas = i.wantedPods()
	}
	b.read(i, w)
	// A stop that an earlier run of this plan made is not the author's: its
	// annotation knows what was there.
	if b.stops(w) && ours(e, i) && b.recall(p, w) && b == byNodeSelector {
		w.Replicas, _ = recall[int32](p, keyPods)
	}
	return w, nil
}

// formerRetention is the claim retention to put back one day: what retain
// recorded, or what is kept on the object, or what is set now.
func formerRetention(e *kube.Env, i item, p previous) *spec.ClaimRetention {
	for _, w := range e.Run.Facts.Workloads {
		if w.UID == string(i.GetUID()) && w.ClaimRetention != nil {
			return w.ClaimRetention
		}
	}
	if r, ok := recall[spec.ClaimRetention](p, keyClaimRetention); ok && ours(e, i) {
		return &r
	}
	if !i.retains() {
		return i.retention()
	}
	return nil
}

func lookStop(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	items, places, err := covered(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if e.Step.State == spec.StepPending {
		list, err := intents(e, items)
		return reconciler.Observation{Facts: &spec.Facts{Workloads: list, Times: withTroubles(e, items)}}, err
	}
	bare, err := stopBare(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	below, err := operands(ctx, e, operandGrace)
	if err != nil {
		return reconciler.Observation{}, err
	}
	list, err := toStop(e, items)
	if err != nil {
		return reconciler.Observation{}, err
	}
	verdicts := append(bare.during(len(unpaused(list)) == 0), below...)
	for _, p := range scalersFirst(list) {
		v, err := stopVerdict(e, p)
		if err != nil {
			return reconciler.Observation{}, err
		}
		verdicts = append(verdicts, v)
	}
	o := fold(forward, verdicts)
	if o.Seen == reconciler.Working {
		o.Wake = wake(ctx, e, e.Source, places)
	}
	if o.Seen == reconciler.Succeeded {
		o.Message = fmt.Sprintf("%d workloads of the source are stopped", len(list))
		if n := bare.gone(); n > 0 {
			o.Message += fmt.Sprintf(", and %d pods without a controller deleted", n)
		}
		o.Facts = &spec.Facts{Workloads: recordsOf(list), Times: withTime(e, reconciler.TimeStop, sooner(earliest(items, AnnotationStoppedAt), bare.stopped))}
	}
	return o, nil
}

// toStop pairs what was recorded with what the source has. What a recorded
// workload has made since, such as a CronJob's Job, is stopped like it.
func toStop(e *kube.Env, items []item) ([]pair, error) {
	list := pairs(e.Run.Facts.Workloads, items)
	for n, p := range list {
		if p.recorded != nil || p.item.partOf() == "" || p.item.over() {
			continue
		}
		w, err := intent(e, p.item)
		if err != nil {
			return nil, err
		}
		list[n].recorded = w
	}
	return list, nil
}

// recordsOf is what is recorded of pairs.
func recordsOf(list []pair) []spec.Workload {
	var records []spec.Workload
	for _, p := range list {
		if p.recorded != nil {
			records = append(records, *p.recorded)
		}
	}
	return records
}

// pair is a recorded workload beside what the cluster has now; either side
// may be missing.
type pair struct {
	recorded *spec.Workload
	item     item
	lost     bool // recorded is read from the object's own annotation
}

// pairs matches by kind, namespace and name, so that a replaced object (same
// name, other UID) is seen as such and not as one gone and one new.
func pairs(recorded []spec.Workload, items []item) []pair {
	type key struct{ kind, namespace, name string }
	rest := map[key]item{}
	for _, i := range items {
		rest[key{i.kind.name, i.GetNamespace(), i.GetName()}] = i
	}
	var list []pair
	for n := range recorded {
		w := &recorded[n]
		k := key{w.Kind, w.Namespace, w.Name}
		i, found := rest[k]
		if !found {
			i = item{kind: kindNamed(w.Kind)}
		}
		delete(rest, k)
		list = append(list, pair{recorded: w, item: i})
	}
	for _, i := range items {
		if _, left := rest[key{i.kind.name, i.GetNamespace(), i.GetName()}]; left {
			list = append(list, pair{item: i})
		}
	}
	return list
}

// changedMeanwhile is the verdict on a pair that is not what was recorded;
// ok is true when it is.
func changedMeanwhile(p pair) (v verdict, ok bool) {
	broken := func(o spec.Object, reason, format string) (verdict, bool) {
		return verdict{reconciler.Broken, reason, fmt.Sprintf(format, kube.Describe(o)), o, true}, false
	}
	switch {
	case p.recorded == nil && p.item.runs():
		return broken(p.item.object(spec.Source), "NewWorkload", "%s appeared after the application was listed; migrate again once nothing is being deployed")
	case p.recorded == nil:
		return verdict{seen: reconciler.Succeeded}, false
	case !p.item.exists() && p.item.kind != nil && p.item.kind.over != nil:
		return verdict{seen: reconciler.Succeeded}, false // it has ended, and was cleaned up
	case !p.item.exists():
		return broken(p.recorded.Object, "WorkloadGone", "%s was deleted, or lost the plan's labels, after the application was listed; migrate again once nothing is being deployed")
	case string(p.item.GetUID()) != p.recorded.UID:
		return broken(p.recorded.Object, "WorkloadReplaced", "%s was deleted and made anew after the application was listed; migrate again once nothing is being deployed")
	}
	return verdict{}, true
}

func stopVerdict(e *kube.Env, p pair) (verdict, error) {
	if v, ok := changedMeanwhile(p); !ok {
		return v, nil
	}
	i, object := p.item, p.recorded.Object
	if other := foreign(e, i); other != "" && i.runs() {
		return heldByOther(object, other), nil
	}
	stopped, err := stoppedByThisRun(e, i)
	if err != nil {
		return verdict{}, err
	}
	switch {
	case i.runs() && stopped:
		return scaledBackUp(i, object), nil
	case i.runs() && i.retains() && !i.observed():
		// The retention that keeps the claims must have reached the
		// controller before the scale-down does.
		return verdict{reconciler.Working, "WaitsForController", kube.Describe(object) + " is not known to its controller in its newest form yet", object, false}, nil
	case i.runs():
		return verdict{seen: reconciler.Absent, object: object}, nil
	case !i.observed():
		return notYetSeen(i, object), nil
	}
	return verdict{seen: reconciler.Succeeded}, nil
}

// stoppedByThisRun says whether this very run has scaled i down before.
func stoppedByThisRun(e *kube.Env, i item) (bool, error) {
	p, err := readPrevious(i)
	if err != nil {
		return false, err
	}
	return i.stoppedBy(p) && i.GetAnnotations()[kube.AnnotationRun] == e.RunLabel(), nil
}

func notYetSeen(i item, o spec.Object) verdict {
	return verdict{reconciler.Working, "WaitsForController", fmt.Sprintf("%s is %s, and its controller has not seen it yet", kube.Describe(o), i.kind.brake.done), o, false}
}

func heldByOther(o spec.Object, run string) verdict {
	return verdict{reconciler.Broken, "ChangedByOtherPlan", fmt.Sprintf(
		"%s still carries what %s changed; roll that plan back, or remove annotation %s by hand if nothing is to be put back",
		kube.Describe(o), run, kube.AnnotationPrevious), o, true}
}

func scaledBackUp(i item, o spec.Object) verdict {
	who := "somebody"
	if manager, at := i.scaler(); manager != "" && manager != FieldManager {
		who = fmt.Sprintf("%q", manager)
		if !at.IsZero() {
			who += " at " + at.UTC().Format(time.RFC3339)
		}
	}
	if keeper := kube.Keeper(i); keeper != "" {
		who += fmt.Sprintf(" (it is kept by %s)", keeper)
	}
	for _, owner := range i.GetOwnerReferences() {
		if owner.Controller != nil && *owner.Controller {
			who += fmt.Sprintf(" (it belongs to %s %s)", owner.Kind, owner.Name)
		}
	}
	what := "let run again"
	if i.kind.brake == byReplicas {
		what = fmt.Sprintf("scaled back up to %d", i.replicas())
	}
	return verdict{reconciler.Broken, "ScaledBackUp", fmt.Sprintf(
		"%s was stopped and then %s by %s; pause what manages it, then migrate again", kube.Describe(o), what, who), o, true}
}

func ensureStop(ctx context.Context, e *kube.Env) error {
	items, _, err := covered(ctx, e)
	if err != nil {
		return err
	}
	now := time.Now()
	list, err := toStop(e, items)
	if err != nil {
		return err
	}
	err = each(scalersFirst(list), func(p pair) error {
		if _, ok := changedMeanwhile(p); !ok {
			return nil // not what was approved and recorded: Look says so
		}
		return change(ctx, e, e.Source, p.item, func(i item) (*edit, error) { return stopEdit(e, i, now) })
	})
	if err != nil || len(unpaused(list)) > 0 {
		return err
	}
	bare, err := stopBare(ctx, e)
	if err != nil {
		return err
	}
	return bare.stop(ctx, e)
}

// stopEdit stops i, in two patches where its claims are in danger:
// a StatefulSet that deletes claims on scaling is set to Retain first, and
// scaled only when its controller has seen that.
func stopEdit(e *kube.Env, i item, now time.Time) (*edit, error) {
	stopped, err := stoppedByThisRun(e, i)
	if err != nil || !i.runs() || stopped || foreign(e, i) != "" {
		return nil, err
	}
	if !i.retains() {
		return retentionEdit(e, i)
	}
	if !i.observed() {
		return nil, nil
	}
	b := i.kind.brake
	annotations, err := remember(e, i, map[string]any{
		b.key: b.value(i.setting()), keyReady: i.readyPods(), keyPods: i.allPods(),
	})
	if err != nil {
		return nil, err
	}
	annotations[AnnotationStoppedAt] = now.UTC().Format(timeFormat)
	ed := &edit{annotations: annotations}
	ed.hold(i)
	return ed, nil
}

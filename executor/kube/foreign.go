package kube

import (
	"context"
	"slices"

	"github.com/tranship/tranship/spec"
)

// Foreign pairs off the covered objects of the source whose name is taken on
// the target by something that is not of this plan: source holds them, there
// what is in their place.
func Foreign(e *Env, covered, target []Item) (source, there []Item) {
	return taken(e, covered, target, func(t Item) bool { return !ofThisMove(e, t) })
}

// LeftBehind pairs off those whose name is taken by what an earlier run of this plan
// has put there.
func LeftBehind(e *Env, covered, target []Item) (source, there []Item) {
	return taken(e, covered, target, func(t Item) bool { return OfPlan(e, t) && !OfRun(e, t) })
}

func taken(e *Env, covered, target []Item, counts func(t Item) bool) (source, there []Item) {
	have := map[itemKey]Item{}
	for _, i := range target {
		have[keyOfItem(i, nil)] = i
	}
	mapping := e.Mapping()
	for _, i := range covered {
		if DefaultAccount(i) {
			continue
		}
		if t, found := have[keyOfItem(i, mapping)]; found && counts(t) {
			source, there = append(source, i), append(there, t)
		}
	}
	return source, there
}

// WithoutForeign drops the objects that Velero does not restore, because the plan
// leaves what is in their place on the target as it is (existing: Skip) or
// updates it itself (existing: Update), in this run or in an earlier one that
// could not put it back.
func WithoutForeign(ctx context.Context, e *Env, items []Item) ([]Item, error) {
	if e.Plan().ExistingOrDefault() == spec.ExistingFail {
		return items, nil
	}
	target, err := e.Target.ListAll(ctx, e.Namespaces(spec.Target), "")
	if err != nil {
		return nil, err
	}
	foreign, _ := Foreign(e, items, target)
	taken := map[itemKey]bool{}
	for _, i := range foreign {
		taken[keyOfItem(i, e.Mapping())] = true
	}
	for _, t := range target {
		if WasThere(e, t) {
			taken[keyOfItem(t, nil)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(items), func(i Item) bool { return taken[keyOfItem(i, e.Mapping())] }), nil
}

package reconciler

import (
	"slices"

	"github.com/tranship/tranship/spec"
)

// ground is a namespace of a cluster, as one of the names or addresses by which
// plans know the cluster.
type ground struct {
	side               spec.Side
	cluster, namespace string
}

// overlaps finds the plans that meet on some ground, without comparing each
// with all. One goroutine uses it. It never holds more than the plans do.
type overlaps struct {
	of map[string][]ground
	on map[ground][]string // nearly all have one plan, and there are eight of them a plan
}

func newOverlaps(want *Desired, rec *Recorded) *overlaps {
	o := &overlaps{of: map[string][]ground{}, on: map[ground][]string{}}
	for plan := range want.Closures {
		o.set(plan, want, rec)
	}
	for plan := range rec.Plans {
		if want.Closures[plan] == nil {
			o.set(plan, want, rec)
		}
	}
	return o
}

// set notes anew what a plan covers.
func (o *overlaps) set(plan string, want *Desired, rec *Recorded) {
	for _, g := range o.of[plan] {
		left := slices.DeleteFunc(o.on[g], func(p string) bool { return p == plan })
		if o.on[g] = left; len(left) == 0 {
			delete(o.on, g)
		}
	}
	delete(o.of, plan)
	for _, c := range coverages(plan, want, rec) {
		o.of[plan] = append(o.of[plan], grounds(c.Covered)...)
	}
	for _, g := range o.of[plan] {
		if on := o.on[g]; len(on) == 0 || on[len(on)-1] != plan { // a record may cover what the documents do
			o.on[g] = append(on, plan)
		}
	}
}

func grounds(c *spec.Covered) []ground {
	var out []ground
	for _, n := range c.Namespaces {
		for _, at := range names(c.Source) {
			out = append(out, ground{spec.Source, at, n.Name})
		}
		for _, at := range names(c.Target) {
			out = append(out, ground{spec.Target, at, n.Target()})
		}
	}
	return out
}

func names(p spec.Place) []string {
	all := []string{"cluster " + p.Cluster}
	if p.Server != "" {
		all = append(all, "server "+p.Server)
	}
	if p.InCluster {
		all = append(all, "the daemon's own")
	}
	return all
}

// meets lists the plans that share some ground with one.
func (o *overlaps) meets(plan string) map[string]bool {
	var all map[string]bool
	for _, g := range o.of[plan] {
		for _, other := range o.on[g] {
			if other == plan {
				continue
			}
			if all == nil {
				all = map[string]bool{}
			}
			all[other] = true
		}
	}
	return all
}

// conflict names an older plan that covers an object or claim of the given
// one, on the source or on the target; nil when there is none. What runs counts
// as it was frozen, whatever Git says since.
func (o *overlaps) conflict(plan string, want *Desired, rec *Recorded) *Clash {
	mine := want.Closures[plan]
	if mine == nil {
		return nil
	}
	own := coverage{coveredBy(mine), volumesOf(rec.Plans[plan])}
	var first *Clash
	for other := range o.meets(plan) {
		if first != nil && !older(other, first.Plan, rec.Plans) || !older(other, plan, rec.Plans) {
			continue
		}
		for _, c := range coverages(other, want, rec) {
			if what := shared(own, c); what != "" {
				first = &Clash{Plan: other, What: what, Mute: want.Closures[other] == nil}
				break
			}
		}
	}
	return first
}

package reconciler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// pair is the two clusters of a run, by the names of their documents.
type pair struct{ source, target string }

func pairOf(c *spec.Closure) pair {
	return pair{c.Plan.Spec.SourceCluster, c.Plan.Spec.TargetCluster}
}

// Slots are how many runs may go on at a time: in all, and between two
// clusters. Zero means no limit.
type Slots struct {
	Total   int // at a time
	PerPair int // between the same two clusters
}

// waiter is a run that is wanted now and has no slot.
type waiter struct {
	order *Order
	pair  pair
	since time.Time // when it became due
	last  time.Time // when the plan was served last; zero: never
	said  int       // the place that its status names; 0: none
}

// queue holds the runs that wait for a slot. Undoing waits for none and takes
// none: rollbacks never come here, and a run that turns back gives its slot
// back. One goroutine uses it.
type queue struct {
	waiting map[string]*waiter // by plan
}

// put notes that a run is wanted; what it said of its place stays.
func (q *queue) put(in *PlanInput, st *spec.PlanStatus, o *Order) {
	w := &waiter{order: o, pair: pairOf(o.Closure), since: dueSince(in, st, o)}
	if st.LastStage != nil {
		w.last = st.LastStage.Ended.Time
	}
	if old := q.waiting[o.Plan]; old != nil {
		w.said = old.said
	}
	q.waiting[o.Plan] = w
}

// undoes says that a run takes something back: a rollback, or one that is on
// its way back. That may take for ever where a cluster is gone.
func undoes(run *spec.Run) bool {
	if run.Spec.Kind == spec.RunRollback {
		return true
	}
	defs, err := definitions(run)
	return err == nil && failing(defs, run)
}

func (q *queue) drop(plan string) { delete(q.waiting, plan) }

// dueSince is when a run became due. A plan whose slots were missed since its
// newest stage run is due since the first of them, so that plans which are due
// more often, or earlier in the night, cannot pass it for ever.
func dueSince(in *PlanInput, st *spec.PlanStatus, o *Order) time.Time {
	if o.Kind != spec.RunStage {
		return o.Approval.Time.Time
	}
	var served time.Time
	if st.LastStage != nil {
		served = st.LastStage.Ended.Time
	}
	if o.Slot == nil {
		at := in.Now
		if asked := o.Closure.Plan.Spec.Stage.RequestedAt; asked != nil {
			at = asked.Time
		}
		if at.Before(served) {
			return served
		}
		return at
	}
	due := o.Slot.Time
	for _, m := range st.Missed {
		if m.After(served) && m.Time.Before(due) {
			due = m.Time
		}
	}
	return due
}

// before is the order of the queue: cutovers first, for which people and windows
// wait, and of which each needs an approval of its own; then who is due for
// longest, then who was served longest ago.
func before(a, b *waiter) int {
	late := func(w *waiter) int {
		if w.order.Kind == spec.RunMigrate {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(late(a), late(b)), a.since.Compare(b.since), a.last.Compare(b.last), strings.Compare(a.order.Plan, b.order.Plan))
}

// place is where a run stands that has to wait.
type place struct {
	plan string
	at   int // from 1
	of   int
	busy int  // runs that have a slot, in all or between the two clusters
	pair bool // it is the limit of its two clusters that it waits for
}

// serve takes the runs that may start out of the queue, and says where the
// others stand. A run whose clusters are taken does not hold up the ones behind
// it. busy is the runs that have a slot, by clusters.
func (q *queue) serve(limit Slots, busy map[pair]int) (start []*Order, places []place) {
	total := 0
	for _, n := range busy {
		total += n
	}
	line := make([]*waiter, 0, len(q.waiting))
	for _, w := range q.waiting {
		line = append(line, w)
	}
	slices.SortFunc(line, before)
	behind, full := map[pair]int{}, func(n, limit int) bool { return limit > 0 && n >= limit }
	for _, w := range line {
		if full(total, limit.Total) || full(busy[w.pair], limit.PerPair) {
			behind[w.pair]++
			places = append(places, place{plan: w.order.Plan, at: behind[w.pair], pair: full(busy[w.pair], limit.PerPair)})
			continue
		}
		total++
		busy[w.pair]++
		start = append(start, w.order)
		q.drop(w.order.Plan)
	}
	for i := range places {
		p := &places[i]
		at := q.waiting[p.plan].pair
		if p.of, p.busy = behind[at], busy[at]; !p.pair {
			p.at, p.of, p.busy = i+1, len(places), total
		}
	}
	return start, places
}

// tell says a place in the status. It is written when it is new, and again when
// half of the queue before it is gone or it is one of the first: a status is a
// commit, and a long queue moves all the time.
func (q *queue) tell(p place) bool {
	w := q.waiting[p.plan]
	if w.said != 0 && 2*p.at > w.said && (p.at > 3 || p.at == w.said) {
		return false
	}
	w.said = p.at
	return true
}

// say is the sentence of a place.
func (p place) say(w pair) string {
	where := ""
	if p.pair {
		where = fmt.Sprintf(" between %s and %s", w.source, w.target)
	}
	return fmt.Sprintf("waits for a slot: %s of %d%s; %d runs%s are going on, as many as the configuration allows", ordinal(p.at), p.of, where, p.busy, where)
}

func ordinal(n int) string {
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			return fmt.Sprintf("%dst", n)
		case 2:
			return fmt.Sprintf("%dnd", n)
		case 3:
			return fmt.Sprintf("%drd", n)
		}
	}
	return fmt.Sprintf("%dth", n)
}

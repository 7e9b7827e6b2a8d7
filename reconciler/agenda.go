package reconciler

import (
	"container/heap"
	"hash/fnv"
	"time"
)

// agenda says which plans the core is to be asked about: those that something
// has changed for, and those whose time has come. The rest keep their answer.
// One goroutine uses it. It holds no more than one entry a plan.
type agenda struct {
	changed map[string]bool
	later   map[string]bool // to be asked at the next poll
	wakes   wakes
	of      map[string]*wake
	at      time.Time // of the newest question
}

func newAgenda() *agenda {
	return &agenda{changed: map[string]bool{}, later: map[string]bool{}, of: map[string]*wake{}}
}

// ask wants a plan to be asked about in the next pass.
func (a *agenda) ask(plan string) { a.changed[plan] = true }

// askLater wants it at the next poll: what failed is tried again then.
func (a *agenda) askLater(plan string) { a.later[plan] = true }

// poll makes what was to be asked later due.
func (a *agenda) poll() {
	for plan := range a.later {
		a.changed[plan] = true
	}
	clear(a.later)
}

// sweep is after how long at the latest every plan is asked about, whatever its
// answer says of its time: a clock may be set meanwhile. Plans are spread over
// half of it, so that not all are asked at once.
const sweep = 10 * time.Minute

// wakeAt is when the answer about a plan may be another one by time alone.
func (a *agenda) wakeAt(plan string, now, at time.Time) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(plan)) // it takes everything
	last := now.Add(sweep/2 + time.Duration(h.Sum32())%(sweep/2))
	if at.IsZero() || at.After(last) {
		at = last
	}
	if w := a.of[plan]; w != nil {
		w.at = at
		heap.Fix(&a.wakes, w.index)
		return
	}
	w := &wake{plan: plan, at: at}
	a.of[plan] = w
	heap.Push(&a.wakes, w)
}

// sooner moves the time of a plan forward, never back.
func (a *agenda) sooner(plan string, now, at time.Time) {
	if w := a.of[plan]; w == nil || at.Before(w.at) {
		a.wakeAt(plan, now, at)
	}
}

// due takes up to limit plans that are to be asked about now. A clock that was
// set back makes all of them due.
func (a *agenda) due(now time.Time, limit int) []string {
	back := now.Round(0).Before(a.at)
	a.at = now.Round(0)
	for len(a.wakes) > 0 && (back || !a.wakes[0].at.After(now)) {
		w := heap.Pop(&a.wakes).(*wake)
		delete(a.of, w.plan)
		a.changed[w.plan] = true
	}
	var out []string
	for plan := range a.changed {
		if len(out) == limit {
			break
		}
		out = append(out, plan)
		delete(a.changed, plan)
	}
	return out
}

// next is when something is due; zero: never by itself.
func (a *agenda) next(now time.Time) time.Time {
	switch {
	case len(a.changed) > 0:
		return now
	case len(a.wakes) > 0:
		return a.wakes[0].at
	}
	return time.Time{}
}

// forget takes a plan off that is in no ledger any more.
func (a *agenda) forget(known func(plan string) bool) {
	for plan, w := range a.of {
		if !known(plan) {
			heap.Remove(&a.wakes, w.index)
			delete(a.of, plan)
		}
	}
	for _, set := range []map[string]bool{a.changed, a.later} {
		for plan := range set {
			if !known(plan) {
				delete(set, plan)
			}
		}
	}
}

type wake struct {
	plan  string
	at    time.Time
	index int
}

// wakes is a heap by time.
type wakes []*wake

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w wakes) Swap(i, j int)      { w[i], w[j] = w[j], w[i]; w[i].index, w[j].index = i, j }
func (w *wakes) Push(x any)        { e := x.(*wake); e.index = len(*w); *w = append(*w, e) }
func (w *wakes) Pop() any {
	old := *w
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	return last
}

package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// wanted is a run that a plan wants.
func wanted(plan string, kind spec.RunKind, between pair, due time.Time) (*PlanInput, *Order) {
	c := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.SourceCluster, p.TargetCluster = between.source, between.target })
	c.Plan.Metadata.Name = plan
	slot := metav1.NewTime(due)
	return &PlanInput{Now: due}, &Order{Plan: plan, Kind: kind, Closure: c, Slot: &slot, Approval: &spec.Approval{Time: slot}}
}

// TestQueue: each row is a queue and what may start, in its order.
func TestQueue(t *testing.T) {
	a, b := pair{"old", "new"}, pair{"eins", "zwei"}
	type row struct {
		plan string
		kind spec.RunKind
		at   pair
		due  int // minutes after noon
		last int // minutes before noon; 0: never
		miss int // the first slot missed since, minutes before noon
	}
	for name, c := range map[string]struct {
		rows  []row
		limit Slots
		busy  map[pair]int
		start string
		says  string // of the last one that waits
	}{
		"first due, first served":                 {[]row{{"x", spec.RunStage, a, 2, 9, 0}, {"y", spec.RunStage, a, 1, 9, 0}, {"z", spec.RunStage, a, 3, 9, 0}}, Slots{2, 0}, nil, "y x", "1st of 1; 2 runs are going on"},
		"due at once, served longest ago":         {[]row{{"x", spec.RunStage, a, 1, 5, 0}, {"y", spec.RunStage, a, 1, 9, 0}, {"z", spec.RunStage, a, 1, 0, 0}}, Slots{2, 0}, nil, "z y", ""},
		"missed slots are not forgotten":          {[]row{{"x", spec.RunStage, a, 1, 300, 0}, {"y", spec.RunStage, a, 9, 300, 60}}, Slots{1, 0}, nil, "y", ""},
		"slots missed before it was served are":   {[]row{{"x", spec.RunStage, a, 1, 300, 0}, {"y", spec.RunStage, a, 9, 30, 60}}, Slots{1, 0}, nil, "x", ""},
		"a cutover goes first":                    {[]row{{"x", spec.RunStage, a, 1, 9, 0}, {"y", spec.RunMigrate, a, 9, 9, 0}}, Slots{1, 0}, nil, "y", ""},
		"a close does not":                        {[]row{{"x", spec.RunStage, a, 1, 9, 0}, {"y", spec.RunClose, a, 9, 9, 0}}, Slots{1, 0}, nil, "x", ""},
		"clusters that are taken hold up nobody":  {[]row{{"x", spec.RunStage, a, 1, 9, 0}, {"y", spec.RunStage, b, 2, 9, 0}, {"z", spec.RunStage, a, 3, 9, 0}}, Slots{9, 2}, map[pair]int{a: 2}, "y", "2nd of 2 between old and new; 2 runs between old and new are going on"},
		"all are taken":                           {[]row{{"x", spec.RunStage, a, 1, 9, 0}, {"y", spec.RunStage, b, 2, 9, 0}}, Slots{3, 2}, map[pair]int{a: 1, b: 2}, "", "1st of 1 between eins and zwei"},
		"more go on than there are slots":         {[]row{{"x", spec.RunStage, a, 1, 9, 0}}, Slots{3, 2}, map[pair]int{b: 7}, "", "1st of 1; 7 runs are going on"},
		"no limits":                               {[]row{{"x", spec.RunStage, a, 1, 9, 0}, {"y", spec.RunStage, a, 2, 9, 0}}, Slots{}, map[pair]int{a: 50}, "x y", ""},
		"the limit of two clusters is not shared": {[]row{{"x", spec.RunStage, a, 1, 9, 0}, {"y", spec.RunStage, b, 2, 9, 0}}, Slots{0, 1}, nil, "x y", ""},
	} {
		t.Run(name, func(t *testing.T) {
			q := &queue{waiting: map[string]*waiter{}}
			for _, r := range c.rows {
				in, o := wanted(r.plan, r.kind, r.at, noon.Add(time.Duration(r.due)*time.Minute))
				st := newStatus(r.plan)
				if r.last > 0 {
					st.LastStage = &spec.StageNote{Ended: metav1.NewTime(noon.Add(-time.Duration(r.last) * time.Minute))}
				}
				if r.miss > 0 {
					st.Missed = []metav1.Time{metav1.NewTime(noon.Add(-time.Duration(r.miss) * time.Minute))}
				}
				q.put(in, st, o)
			}
			busy := map[pair]int{}
			for at, n := range c.busy {
				busy[at] = n
			}
			start, places := q.serve(c.limit, busy)
			var names []string
			for _, o := range start {
				names = append(names, o.Plan)
			}
			if got := strings.Join(names, " "); got != c.start {
				t.Errorf("starts %q", got)
			}
			if len(places)+len(start) != len(c.rows) || len(q.waiting) != len(places) {
				t.Errorf("%d start, %d wait of %d", len(start), len(places), len(c.rows))
			}
			if c.says != "" {
				last := places[len(places)-1]
				if say := last.say(q.waiting[last.plan].pair); !strings.Contains(say, c.says) {
					t.Errorf("it says %q", say)
				}
			}
		})
	}
}

// TestNobodyWaitsForEver lets plans become due at random, runs end at random,
// and demands: never more runs than the limits allow, a slot is never left free
// beside a run that fits it, and every plan that wants to be served is, whatever
// the others do, after each of them was served at most once before it.
func TestNobodyWaitsForEver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plans := rapid.IntRange(1, 12).Draw(t, "plans")
		limit := Slots{rapid.IntRange(1, 4).Draw(t, "total"), rapid.IntRange(1, 4).Draw(t, "per pair")}
		pairs := make([]pair, plans)
		for i := range pairs {
			pairs[i] = pair{fmt.Sprint("s", rapid.IntRange(0, 2).Draw(t, "source")), "t"}
		}
		q := &queue{waiting: map[string]*waiter{}}
		running, status := map[string]pair{}, map[string]*spec.PlanStatus{}
		passed := map[string]map[string]int{} // of a plan that waits: who was served before it, and how often
		now := noon
		for range rapid.IntRange(1, 80).Draw(t, "minutes") {
			now = now.Add(time.Minute)
			for i := range plans {
				name := fmt.Sprint("p", i)
				if status[name] == nil {
					status[name] = newStatus(name)
				}
				switch _, runs := running[name]; {
				case runs && rapid.IntRange(0, 2).Draw(t, "ends") == 0:
					delete(running, name)
					status[name].LastStage = &spec.StageNote{Ended: metav1.NewTime(now)}
				case !runs && q.waiting[name] == nil && rapid.Bool().Draw(t, "due"):
					in, o := wanted(name, spec.RunStage, pairs[i], now)
					q.put(in, status[name], o)
				case q.waiting[name] != nil && rapid.IntRange(0, 3).Draw(t, "a newer slot") == 0:
					status[name].Missed = append(status[name].Missed, *q.waiting[name].order.Slot)
					in, o := wanted(name, spec.RunStage, pairs[i], now)
					q.put(in, status[name], o)
				}
			}
			busy := map[pair]int{}
			for _, at := range running {
				busy[at]++
			}
			start, places := q.serve(limit, busy)
			for _, o := range start {
				running[o.Plan] = pairOf(o.Closure)
				delete(passed, o.Plan)
				for waits, w := range q.waiting {
					if w.pair == pairOf(o.Closure) {
						if passed[waits] == nil {
							passed[waits] = map[string]int{}
						}
						if passed[waits][o.Plan]++; passed[waits][o.Plan] > 1 {
							t.Fatalf("%s was served twice while %s waited for the same clusters", o.Plan, waits)
						}
					}
				}
			}
			count := map[pair]int{}
			for _, at := range running {
				if count[at]++; count[at] > limit.PerPair {
					t.Fatalf("%d runs between %v, %d are allowed", count[at], at, limit.PerPair)
				}
			}
			if len(running) > limit.Total {
				t.Fatalf("%d runs, %d are allowed", len(running), limit.Total)
			}
			for _, p := range places {
				if at := q.waiting[p.plan].pair; len(running) < limit.Total && count[at] < limit.PerPair {
					t.Fatalf("%s waits beside a free slot", p.plan)
				}
			}
		}
	})
}

// A long queue moves all the time: what its members say of their place is
// written again a few times only, and never out of date by more than half.
func TestPlacesAreToldSeldom(t *testing.T) {
	q := &queue{waiting: map[string]*waiter{}}
	const n = 200
	for i := range n {
		in, o := wanted(fmt.Sprintf("p%03d", i), spec.RunStage, pair{"old", "new"}, noon.Add(time.Duration(i)*time.Second))
		q.put(in, newStatus(o.Plan), o)
	}
	written := 0
	for len(q.waiting) > 0 {
		_, places := q.serve(Slots{1, 1}, map[pair]int{})
		for _, p := range places {
			if q.tell(p) {
				written++
			}
			if said := q.waiting[p.plan].said; said != p.at && (p.at <= 3 || said >= 2*p.at) {
				t.Fatalf("%s stands at %d and says %d", p.plan, p.at, said)
			}
		}
	}
	if written > n*11 {
		t.Errorf("%d statuses for %d plans", written, n)
	}
}

// Three plans are due, two may run between their clusters: the third waits and
// says so, in the same record, and starts as soon as one of the others is over.
func TestAWaitingRunStartsWhenASlotIsFree(t *testing.T) {
	l, want := estate(t, 3)
	l.want, l.Slots = want, always(l.Slots().Total, 2)
	asked := metav1.NewTime(noon.Add(-time.Second))
	for _, c := range want.Closures {
		c.Plan.Spec.SourceCluster, c.Plan.Spec.TargetCluster, c.Plan.Spec.Stage.RequestedAt = "old", "new", &asked
	}
	m := l.ledger.(*memory)
	l.askAll()
	l.everything(t)
	waits := slices.DeleteFunc([]string{"plan-00000", "plan-00001", "plan-00002"}, func(p string) bool { return l.drivers[p] != nil })
	if len(waits) != 1 || m.reason(waits[0]) != "WaitsForSlot" || m.records != 1 {
		t.Fatalf("%v wait, one says %q, %d records", waits, m.reason(waits[0]), m.records)
	}
	for range 2 { // prepared, frozen, recorded
		l.handleAll(t.Context(), <-l.messages)
	}
	ctx := t.Context()
	for l.drivers[waits[0]] == nil {
		l.handleAll(ctx, <-l.messages)
	}
}

// What time alone changes is asked about when it has come, what somebody changed
// in the next pass, and nothing else is.
func TestAgenda(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, now := newAgenda(), noon
		due, asked := map[string]time.Time{}, map[string]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			plan := fmt.Sprint("p", rapid.IntRange(0, 9).Draw(t, "plan"))
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				due[plan] = now.Add(time.Duration(rapid.IntRange(1, 290).Draw(t, "in")) * time.Second)
				a.wakeAt(plan, now, due[plan])
			case 1:
				a.ask(plan)
				asked[plan] = true
			case 2:
				now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "passes")) * time.Second)
			case 3:
				got := a.due(now, 100)
				for _, p := range got {
					if !asked[p] && (due[p].IsZero() || due[p].After(now)) {
						t.Fatalf("%s is asked about for nothing", p)
					}
				}
				for p := range asked {
					if !slices.Contains(got, p) {
						t.Fatalf("%s was changed and is not asked about", p)
					}
				}
				clear(asked)
				for p, at := range due {
					if at.After(now) {
						continue
					}
					if delete(due, p); !slices.Contains(got, p) {
						t.Fatalf("%s was due at %s and is not asked about at %s", p, at, now)
					}
				}
			}
		}
		if next := a.next(now); len(due) > 0 && next.IsZero() {
			t.Fatal("no alarm is set")
		}
		if len(a.of)+len(a.changed) > 20 {
			t.Fatalf("%d entries for ten plans", len(a.of)+len(a.changed))
		}
	})
}

// A clock that was set back: whatever was to come is asked about at once.
func TestAgendaOfAClockThatWasSetBack(t *testing.T) {
	a := newAgenda()
	a.due(noon, 10)
	a.wakeAt("shop", noon, noon.Add(time.Minute))
	if got := a.due(noon.Add(-time.Hour), 10); !slices.Equal(got, []string{"shop"}) {
		t.Errorf("%v", got)
	}
	a.wakeAt("shop", noon, noon.Add(time.Minute))
	a.forget(func(string) bool { return false })
	if got := a.due(noon.Add(time.Hour), 10); len(got) != 0 {
		t.Errorf("forgotten, and asked about: %v", got)
	}
}

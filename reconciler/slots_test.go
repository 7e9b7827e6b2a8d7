package reconciler

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// idle is a loop that runs nothing and has read one plan.
func idle(c *spec.Closure, st *spec.PlanStatus) *Loop {
	l := New(Config{Source: &branch{}, Ledger: newMemory(), Executor: &cluster{made: map[string]int{}}, Clock: realClock{}, Notifier: quiet{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Interval: func() time.Duration { return time.Hour }, Slots: always(1, 0)})
	l.rec = &Recorded{Plans: map[string]*spec.PlanStatus{"shop": st}, Open: map[string]*spec.Run{}}
	l.want = &Desired{Commit: "tip", Approval: spec.Approval{Commit: "tip"}, Closures: map[string]*spec.Closure{"shop": c}}
	return l
}

func approved(state spec.State, c *spec.Closure) *spec.PlanStatus {
	st := newStatus("shop")
	st.Recorded.State = state
	st.Recorded.Flip = &spec.Flip{To: c.Plan.Spec.State, Attempt: 1, Digest: c.Digest(), Approval: spec.Approval{Commit: "c1", Time: metav1.NewTime(time.Now())}}
	return st
}

// Long copies of other plans take all slots: a cutover waits for one, a
// rollback does not.
func TestARollbackWaitsForNoSlot(t *testing.T) {
	for _, to := range []spec.State{spec.RolledBack, spec.Migrated} {
		c, was := closureIn(to, 1, discard), spec.Migrated
		if to == spec.Migrated {
			was = spec.Staged
		}
		st := approved(was, c)
		st.Recorded.Cutover, st.Recorded.CutoverPath = "shop-migrate-1", "runs/x.yaml"
		l := idle(c, st)
		l.drivers["web"] = &driver{driving: true}
		l.agenda.ask("shop")
		l.pass(t.Context())
		if starts := l.drivers["shop"] != nil; starts != (to == spec.RolledBack) {
			t.Errorf("to %s: starts %v, says %s", to, starts, reasonOf(l.rec.Plans["shop"]))
		}
		l.runs.Wait()
	}
}

// A limit that is raised counts at the next pass, though nothing of any plan has
// changed.
func TestARaisedLimitCountsAtOnce(t *testing.T) {
	c := closureIn(spec.Migrated, 1)
	l := idle(c, approved(spec.Staged, c))
	l.drivers["web"] = &driver{driving: true}
	l.agenda.ask("shop")
	l.pass(t.Context())
	if l.drivers["shop"] != nil || reasonOf(l.rec.Plans["shop"]) != "WaitsForSlot" {
		t.Fatalf("it does not wait: %s", reasonOf(l.rec.Plans["shop"]))
	}
	l.Slots = always(2, 0)
	l.pass(t.Context())
	if l.drivers["shop"] == nil {
		t.Error("it waits all the same")
	}
	l.runs.Wait()
}

// Rollbacks, and runs on their way back, may take for ever, and keep nobody from
// what there are slots for: not once they turn back, not after a restart of the
// daemon, and not while they are prepared.
func TestUndoingTakesNoSlot(t *testing.T) {
	now := time.Now()
	over, end := context.WithCancel(t.Context())
	end() // what is driven records nothing
	c := closureIn(spec.Migrated, 1)
	web := closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.Namespaces = []spec.NamespaceMapping{{Name: "web"}} })
	of := func(kind spec.RunKind, state spec.StepState) *spec.Run {
		o := Order{Kind: kind, Plan: "web", Closure: web}
		if kind == spec.RunRollback {
			o.Undoes = Freeze(now, Order{Kind: spec.RunMigrate, Plan: "web", Closure: web}, newStatus("web"))
		}
		run := Freeze(now, o, newStatus("web"))
		run.Steps[0].State, run.Steps[0].Undo = state, "x"
		return run
	}
	for name, x := range map[string]struct {
		takes  func(l *Loop)
		starts bool
	}{
		"a cutover":              {func(l *Loop) { l.start(over, of(spec.RunMigrate, spec.StepRunning)) }, false},
		"a stage run":            {func(l *Loop) { l.start(over, of(spec.RunStage, spec.StepRunning)) }, false},
		"a cutover goes back":    {func(l *Loop) { l.start(over, of(spec.RunMigrate, spec.StepUndoing)) }, true},
		"a rollback":             {func(l *Loop) { l.start(over, of(spec.RunRollback, spec.StepRunning)) }, true},
		"a rollback is prepared": {func(l *Loop) { l.launch(over, &Order{Kind: spec.RunRollback, Plan: "web", Closure: web}) }, true},
		"a cutover is prepared":  {func(l *Loop) { l.launch(over, &Order{Kind: spec.RunMigrate, Plan: "web", Closure: web}) }, false},
		"a cutover turns back": {func(l *Loop) {
			l.start(over, of(spec.RunMigrate, spec.StepRunning))
			l.pass(t.Context())
			l.recorded(over, &save{run: of(spec.RunMigrate, spec.StepUndoing)}, nil)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := idle(c, approved(spec.Staged, c))
			l.Slots = always(l.Slots().Total, 1)
			l.rec.Plans["web"] = newStatus("web")
			l.agenda.ask("shop")
			x.takes(l)
			l.pass(t.Context())
			if starts := l.drivers["shop"] != nil; starts != x.starts {
				t.Errorf("starts %v, says %s", starts, reasonOf(l.rec.Plans["shop"]))
			}
			l.runs.Wait()
		})
	}
}

// A cutover was being prepared, and Git says Staged meanwhile and asks for a
// stage run: that one is prepared in its place, and not taken for done.
func TestAnotherRunIsWantedMeanwhile(t *testing.T) {
	at := metav1.NewTime(time.Now().Add(-time.Second))
	c := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Stage.RequestedAt = &at })
	l := idle(c, newStatus("shop"))
	l.drivers["shop"] = l.newDriver(c)
	l.begin(t.Context(), message{plan: "shop", order: &Order{Kind: spec.RunMigrate, Plan: "shop", Closure: closureIn(spec.Migrated, 1)}, survey: &Survey{}})
	l.runs.Wait()
	if done := l.rec.Plans["shop"].Recorded.HandledRequest; l.drivers["shop"] == nil || done != nil {
		t.Fatalf("prepared %v, taken for done %v", l.drivers["shop"] != nil, done)
	}
	l.handleAll(t.Context(), <-l.messages)
	if run := l.rec.Open["shop-stage-1"]; run == nil || l.rec.Plans["shop"].Recorded.HandledRequest == nil {
		t.Fatalf("%+v", l.rec.Open)
	}
}

// always is a limit that never changes.
func always(total, perPair int) func() Slots {
	return func() Slots { return Slots{total, perPair} }
}

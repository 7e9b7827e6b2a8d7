package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
)

// movedWorld is a run of a plan that moves one claim and, if asked, copies another.
func movedWorld(kind spec.RunKind, copies bool, break_ ...string) *world {
	w := newWorld(kind, copies, break_...)
	o := Order{Kind: kind, Plan: "shop", Closure: &w.journal.Spec.Closure, Approval: w.journal.Spec.ApprovedBy,
		Volumes: append(w.journal.Facts.Volumes, spec.Volume{Namespace: "shop", Claim: "media", Action: "move"})}
	w.journal = Freeze(w.now, o, &spec.PlanStatus{})
	return w
}

func stepNames(r *spec.Run) []string {
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Name)
	}
	return names
}

// A plan that only moves copies nothing, and still keeps the source's volumes.
func TestStepsOfAPlanThatMoves(t *testing.T) {
	only, both := stepNames(movedWorld(spec.RunMigrate, false).journal), stepNames(movedWorld(spec.RunMigrate, true).journal)
	for _, n := range []string{"retain", "drained", "move", "live"} {
		if !slices.Contains(only, n) || !slices.Contains(both, n) {
			t.Errorf("no step %s: %v", n, only)
		}
	}
	for _, n := range []string{"upload", "claims", "last-upload", "hand-over"} {
		if slices.Contains(only, n) || !slices.Contains(both, n) {
			t.Errorf("step %s: %v", n, only)
		}
	}
	if at := func(n string) int { return slices.Index(both, n) }; at("drained") > at("move") || at("last-restore") > at("move") || at("move") > at("hand-over") || at("hand-over") > at("live") {
		t.Errorf("order: %v", both)
	}
	if stage := stepNames(movedWorld(spec.RunStage, false).journal); slices.Contains(stage, "move") || slices.Contains(stage, "upload") {
		t.Errorf("a stage run of moved volumes: %v", stage)
	}
	if plain := stepNames(newWorld(spec.RunMigrate, true).journal); slices.Contains(plain, "move") {
		t.Errorf("nothing is moved: %v", plain)
	}
}

// wayBack is the order in which the storage changes hands: the target's pods
// are proven gone, then the move is taken back, then the source starts, and
// only then does it get its own reclaim policy again (safety property 7).
var wayBack = []string{"undo:start", "undo:move", "undo:stop", "undo:retain"}

func TestKilledWhileAMoveIsTakenBack(t *testing.T) {
	for _, breaks := range []string{"do:health:1", "do:move:1!"} {
		ref := movedWorld(spec.RunMigrate, true, breaks)
		ref.life(t)
		want := effects(ref)
		if ref.ended.Status.Phase != spec.RunFailed {
			t.Fatalf("%s: %+v", breaks, ref.ended.Status)
		}
		last := -1
		for _, n := range wayBack {
			at := slices.Index(want, n)
			if at < 0 && n == "undo:start" && strings.HasPrefix(breaks, "do:move") {
				continue // never begun
			}
			if at <= last {
				t.Fatalf("%s: %s is at %d: %v", breaks, n, at, want)
			}
			last = at
		}
		for k := 1; k <= ref.tick; k++ {
			if testing.Short() && k%7 != 0 {
				continue
			}
			for _, after := range []bool{false, true} {
				w := movedWorld(spec.RunMigrate, true, breaks)
				w.killAt, w.after = k, after
				first := w.journal
				if w.life(t) && w.ended == nil {
					w.restart(false, first)
					w.life(t)
				}
				w.check(t, fmt.Sprintf("%s, killed at %d after=%v", breaks, k, after), want, spec.RunFailed)
			}
		}
	}
}

func TestRollbackOfAMove(t *testing.T) {
	w := movedWorld(spec.RunMigrate, true)
	w.life(t)
	back := stepNames(Freeze(w.now, Order{Kind: spec.RunRollback, Plan: "shop", Closure: &w.ended.Spec.Closure, Approval: &spec.Approval{}, Undoes: w.ended}, &spec.PlanStatus{}))
	last := -1
	for _, n := range wayBack {
		at := slices.Index(back, strings.Replace(n, ":", "-", 1))
		if at <= last {
			t.Fatalf("%s is at %d: %v", n, at, back)
		}
		last = at
	}
}

// The status says what a rollback could not take back.
func TestRolledBackSaysWhatStays(t *testing.T) {
	s := &story{st: &spec.PlanStatus{}, at: noon}
	s.commit(closureIn(spec.RolledBack, 1))
	s.st.Recorded.State, s.st.Recorded.Flip, s.st.Recorded.Unrecorded = spec.RolledBack, nil, false
	say := func() string { return find(s.decide().Status, "Ready").Message }
	if got := say(); strings.Contains(got, "stays") {
		t.Errorf("without moved volumes: %s", got)
	}
	s.st.Volumes = []spec.Volume{{Namespace: "shop", Claim: "media", Action: "move"}, {Namespace: "shop", Claim: "data", Action: "copy"}}
	if got := say(); !strings.HasSuffix(got, "what it wrote on the target stays on the moved volumes shop/media") {
		t.Error(got)
	}
}

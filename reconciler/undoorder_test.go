package reconciler

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// Undos come by turns, and in each of them backwards; what belongs to another
// step's undo comes right in front of it, where that step is there.
func TestUndoOrder(t *testing.T) {
	early, last := StepDef{Name: "early", UndoBefore: true, UndoFirst: true}, StepDef{Name: "last"}
	copying, hook, kept := StepDef{Name: "copy", UndoBefore: true}, StepDef{Name: "hook", UndoBefore: true, UndoWith: "stop"}, StepDef{Name: "kept", UndoBefore: true, UndoWith: "stop"}
	stop, move, late := StepDef{Name: "stop", UndoBefore: true}, StepDef{Name: "move", UndoBefore: true}, StepDef{Name: "late", UndoBefore: true, UndoLate: true}
	for name, c := range map[string]struct {
		defs []StepDef
		want []string
	}{
		"nothing":      {nil, nil},
		"turns":        {[]StepDef{last, late, copying, early, move}, []string{"early", "move", "copy", "late", "last"}},
		"with another": {[]StepDef{kept, copying, hook, last, early, stop, move}, []string{"early", "move", "hook", "kept", "stop", "copy", "last"}},
		"without it":   {[]StepDef{kept, copying, hook, last, early, move}, []string{"early", "move", "hook", "copy", "kept", "last"}},
		"behind it":    {[]StepDef{stop, copying, hook, move}, []string{"move", "hook", "copy", "stop"}},
	} {
		var got []string
		for _, i := range undoOrder(c.defs) {
			got = append(got, c.defs[i].Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Whatever the rows are: every step once, turns in order, and only what belongs to
// the same step between an undo and the one that it belongs to.
func TestUndoOrderOfAnyRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		defs := make([]StepDef, rapid.IntRange(0, 12).Draw(t, "steps"))
		for i := range defs {
			defs[i] = StepDef{Name: fmt.Sprint(i), UndoBefore: rapid.Bool().Draw(t, "before")}
			defs[i].UndoFirst = defs[i].UndoBefore && rapid.Bool().Draw(t, "first")
		}
		for i := range defs { // of a later step of the same turn, or of none that is there
			with := i + rapid.IntRange(1, 4).Draw(t, "with")
			if rapid.Bool().Draw(t, "has") && (with >= len(defs) || defs[with].UndoWith == "" && defs[with].undoneIn() == defs[i].undoneIn()) {
				defs[i].UndoWith = fmt.Sprint(with)
			}
		}
		for i := range defs { // nothing belongs to what belongs to something
			if defs[i].UndoWith != "" && slices.ContainsFunc(defs, func(d StepDef) bool { return d.UndoWith == defs[i].Name }) {
				defs[i].UndoWith = ""
			}
		}
		order := undoOrder(defs)
		if sorted := slices.Sorted(slices.Values(order)); len(slices.Compact(sorted)) != len(defs) {
			t.Fatalf("%v", order)
		}
		at := map[string]int{}
		for n, i := range order {
			at[defs[i].Name] = n
		}
		for a := range defs {
			for b := range a { // a is the later step
				da, db := defs[a], defs[b]
				if da.undoneIn() != db.undoneIn() {
					if (at[da.Name] < at[db.Name]) != (da.undoneIn() < db.undoneIn()) {
						t.Fatalf("%s and %s are undone in the wrong turn: %v", da.Name, db.Name, order)
					}
				} else if da.UndoWith == db.UndoWith && at[da.Name] > at[db.Name] {
					t.Fatalf("%s is undone after %s: %v", da.Name, db.Name, order)
				}
			}
		}
		for _, d := range defs {
			anchor, ok := at[d.UndoWith]
			if !ok || d.UndoWith == "" {
				continue
			}
			if at[d.Name] >= anchor {
				t.Fatalf("%s is undone after %s, which it belongs to: %v", d.Name, d.UndoWith, order)
			}
			for _, i := range order[at[d.Name]:anchor] {
				if defs[i].UndoWith != d.UndoWith {
					t.Fatalf("%s is undone between %s and %s: %v", defs[i].Name, d.Name, d.UndoWith, order)
				}
			}
		}
	})
}

// The rows that belong to another say so of one that is there, in the same turn,
// and later: otherwise their place would be nowhere.
func TestRowsBelongToRows(t *testing.T) {
	for kind, steps := range Itineraries {
		for i, d := range steps {
			if d.UndoWith == "" {
				continue
			}
			with := slices.IndexFunc(steps, func(o StepDef) bool { return o.Name == d.UndoWith })
			if with <= i || steps[with].undoneIn() != d.undoneIn() || steps[with].UndoWith != "" {
				t.Errorf("%s/%s belongs to %s", kind, d.Name, d.UndoWith)
			}
		}
	}
}

// A hook that has an undo is started on record only; its undo comes right in
// front of the restart of the source, in a cutover as in a rollback. A hook
// without one is as it was.
func TestStepsOfAHookWithUndo(t *testing.T) {
	freeze := func(undo string, quiesce bool) *spec.Run {
		c := &spec.Closure{}
		c.Plan.Spec.Hooks = []spec.PlanHook{{Hook: "scale-down", Undo: undo, Phase: spec.PreBackup}}
		c.Plan.Spec.Cutover.Quiesce = &quiesce
		return Freeze(noon, Order{Kind: spec.RunMigrate, Plan: "shop", Closure: c, Approval: &spec.Approval{}}, &spec.PlanStatus{})
	}
	for undo, want := range map[string]string{"": "pre-backup-hooks", "scale-up": "hooks-with-undo"} {
		names := stepNames(freeze(undo, true))
		if slices.Contains(names, "pre-backup-hooks") == slices.Contains(names, "hooks-with-undo") || !slices.Contains(names, want) {
			t.Errorf("undo %q: %v", undo, names)
		}
	}
	if d := stepTable(spec.RunMigrate)["hooks-with-undo"]; !d.Push || !d.Gate || !d.UndoBefore || d.UndoTarget {
		t.Errorf("%+v", d)
	}
	for _, quiesce := range []bool{true, false} {
		back := Freeze(noon, Order{Kind: spec.RunRollback, Plan: "shop", Closure: &spec.Closure{}, Approval: &spec.Approval{}, Undoes: finished(freeze("scale-up", quiesce), noon)}, &spec.PlanStatus{})
		names := stepNames(back)
		i := slices.Index(names, "undo-hooks-with-undo")
		if i < 0 || i < slices.Index(names, "undo-start") || quiesce && !slices.Equal(names[i+1:i+3], []string{"undo-keep-custom-resources", "undo-stop"}) || i > slices.Index(names, "undo-restore") {
			t.Errorf("quiesce %t: %v", quiesce, names)
		}
		if d := stepTable(spec.RunRollback)["undo-hooks-with-undo"]; d.Soft || !d.Forever {
			t.Errorf("%+v", d)
		}
	}
}

// The gate comes before the hook, for it stops something. Behind it none keeps the
// application waiting half stopped, and an approval that is gone turns the run round.
func TestGateBeforeAHookThatStops(t *testing.T) {
	closed := Gate{Reason: "OutsideWindow", Say: "the window has closed"}
	for name, c := range map[string]struct {
		first, later Gate
		phase        spec.RunPhase
		hook         bool
	}{
		"closed before it":     {closed, closed, spec.RunCanceled, false},
		"closed behind it":     {Gate{Open: true}, closed, spec.RunSucceeded, true},
		"taken back behind it": {Gate{Open: true}, Gate{Cancel: true, Reason: "StateChanged", Say: "Git says Staged"}, spec.RunCanceled, true},
		"taken back before it": {Gate{Cancel: true, Reason: "StateChanged", Say: "Git says Staged"}, closed, spec.RunCanceled, false},
		"open all along":       {Gate{Open: true}, Gate{Open: true}, spec.RunSucceeded, true},
	} {
		w := newWorld(hooked, true)
		w.gate = func(int) Gate {
			if w.made["do:hooks-with-undo:1"] == 0 {
				return c.first
			}
			return c.later
		}
		w.endless = true
		for i := 0; i < 3 && w.ended == nil; i++ {
			w.now = w.now.Add(5 * time.Hour)
			w.life(t)
		}
		es := effects(w)
		if w.ended == nil || w.ended.Status.Phase != c.phase || slices.Contains(es, "do:hooks-with-undo:1") != c.hook {
			t.Errorf("%s: %+v, effects %v", name, w.ended, es)
		}
		if c.phase == spec.RunCanceled && slices.Contains(es, "undo:hooks-with-undo") != c.hook {
			t.Errorf("%s: effects %v", name, es)
		}
	}
}

// A daemon that loses its journal while such a hook runs, and is told to cancel,
// knows by Git's record alone that the hook has to be undone.
func TestAHookThatNobodyRemembersIsUndone(t *testing.T) {
	ref := newWorld(hooked, true)
	ref.life(t)
	ran := 0
	for k := 1; k <= ref.tick; k++ {
		for _, after := range []bool{false, true} {
			w := newWorld(hooked, true)
			w.killAt, w.after = k, after
			first := w.journal
			if !w.life(t) || w.ended != nil {
				continue
			}
			w.restart(true, first)
			w.cancelAt = w.tick
			w.life(t)
			es := effects(w)
			if !slices.Contains(es, "do:hooks-with-undo:1") || w.ended.Status.Phase == spec.RunSucceeded {
				continue
			}
			ran++
			i, restart := slices.Index(es, "undo:hooks-with-undo"), slices.Index(es, "undo:stop")
			if i < 0 || restart >= 0 && i > restart {
				t.Errorf("kill at %d after=%t: %v", k, after, es)
			}
		}
	}
	if ran == 0 {
		t.Error("no hook was to be undone")
	}
}

// An undo of a hook that fails is never given up, and the source's workloads wait for it.
func TestAnUndoOfAHookIsNeverGivenUp(t *testing.T) {
	for kind, names := range map[spec.RunKind][3]string{hooked: {"undo:hooks-with-undo!", "undo:stop", "hooks-with-undo"}, unhooked: {"do:undo-hooks-with-undo:", "do:undo-stop:1", "undo-hooks-with-undo"}} {
		w := newWorld(kind, true, "do:health:1!", names[0])
		for n := range 1000 {
			w.broken[fmt.Sprint(names[0], n)] = true // each attempt of a rollback is one
		}
		w.endless = true
		w.life(t)
		at := slices.IndexFunc(w.journal.Steps, func(s spec.Step) bool { return s.Name == names[2] })
		if es := effects(w); slices.Contains(es, names[1]) || w.ended != nil || w.journal.Steps[at].Attempt <= undoAttempts {
			t.Fatalf("%s: attempt %d, effects %v", kind, w.journal.Steps[at].Attempt, es)
		}
		w.broken = map[string]bool{}
		w.life(t)
		if es := effects(w); !slices.Contains(es, names[1]) || w.ended == nil {
			t.Errorf("%s: effects %v", kind, es)
		}
	}
}

// Velero cannot be told to stop, and what it makes meanwhile would be left behind.
func TestAnUndoThatVeleroStillWorksOnIsWaitedFor(t *testing.T) {
	for _, step := range []string{"backup", "restore", "late-restore"} {
		d := stepTable(spec.RunMigrate)[step]
		begun := metav1.NewMicroTime(noon)
		run := &spec.Run{Spec: spec.RunSpec{Kind: spec.RunMigrate}, Steps: []spec.Step{{Name: step, Undo: d.Undo, State: spec.StepUndoing, Attempt: undoAttempts, Undid: &spec.Undid{Started: &begun}}}}
		in := Input{Now: noon.Add(7 * undoTimeout), Run: run, Seen: Observation{Seen: Working, Reason: "VeleroStuck"}}
		if dec := undoTurn(d, in, 0); dec.Kind != Wait || dec.Waiting.Reason != "VeleroStuck" {
			t.Errorf("%s: given up while Velero works: %+v", step, dec)
		}
		in.Seen = Observation{Seen: Succeeded}
		if dec := undoTurn(d, in, 0); dec.Kind != Save || dec.Run.Steps[0].State != spec.StepUndone {
			t.Errorf("%s: not undone: %+v", step, dec)
		}
		in.Seen, in.Err = Observation{}, errors.New("no answer")
		if dec := undoTurn(d, in, 0); dec.Kind != Save || dec.Run.Steps[0].State != spec.StepUndoFail {
			t.Errorf("%s: a cluster that never answers holds the run for ever: %+v", step, dec)
		}
	}
}

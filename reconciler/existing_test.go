package reconciler

import (
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
)

// A close deletes what is remembered of objects that were on the target before. Where no
// cutover stands, it first puts back what an undo has left.
func TestACloseLosesNoFormerObject(t *testing.T) {
	cutover := newWorld(spec.RunMigrate, true).journal
	for state, want := range map[spec.State]bool{"": true, spec.Staged: true, spec.RolledBack: true, spec.Migrated: false} {
		order := Order{Kind: spec.RunClose, Plan: "shop", Closure: &cutover.Spec.Closure, Approval: &spec.Approval{}}
		steps := Freeze(noon, order, &spec.PlanStatus{Recorded: spec.Recorded{State: state}}).Steps
		i := slices.IndexFunc(steps, func(s spec.Step) bool { return s.Verb == "kube.update-undo" })
		if purge := slices.IndexFunc(steps, func(s spec.Step) bool { return s.Verb == "velero.purge" }); (i >= 0) != want || i > purge {
			t.Errorf("a close of a plan that is %q: %+v", state, steps)
		}
	}
}

// What cannot be put back ends the close before anything is deleted, and the plan's
// condition says why.
func TestACloseSaysWhatItCannotPutBack(t *testing.T) {
	w := newWorld(spec.RunClose, true)
	d := &driver{shell: w, ledger: w, executor: forbidden{w, "put-existing-back"}, clock: newSteady(w), run: w.journal, cancel: make(chan string, 1), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for range 3000 {
		if done, err := d.turn(t.Context()); err != nil {
			t.Fatal(err)
		} else if done {
			break
		}
	}
	if w.ended == nil || w.ended.Status.Phase != spec.RunFailed || !strings.Contains(w.ended.Status.Message, "the cluster refuses it") {
		t.Fatalf("%+v", w.journal.Status)
	}
	if es := effects(w); len(es) > 0 {
		t.Errorf("nothing may be deleted, and these were: %v", es)
	}
}

package reconciler

import (
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
)

// A target that dies after it was started: the source is not started while
// nobody knows what runs there, and the status says so and names the way out.
// Somebody says that the target is gone: everything of the source is put back.
func TestTheTargetIsDead(t *testing.T) {
	wait := newWorld(spec.RunMigrate, true, "do:health:1!")
	wait.dead, wait.endless = true, true
	wait.life(t)
	if es := effects(wait); slices.Contains(es, "undo:stop") || wait.ended != nil {
		t.Fatalf("two applications may run: %v", es)
	}
	if w := wait.waiting; w.Reason != "TargetUnreachable" || !strings.Contains(w.Message, "tranship rollback shop --target-is-dead") {
		t.Fatalf("%+v", w)
	}
	w := newWorld(spec.RunMigrate, true, "do:health:1!")
	w.dead, w.word, w.sayAt = true, "ada said so", 300
	w.life(t)
	es := effects(w)
	if w.ended.Status.Phase != spec.RunFailed || !slices.Contains(es, "undo:stop") || !slices.Contains(es, "undo:retain") {
		t.Fatalf("%+v, effects %v", w.ended.Status, es)
	}
	if err := orderBroken(w); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(w.ended.Status.Warnings, func(s string) bool {
		return strings.Contains(s, "TargetIsDead") && strings.Contains(s, "ada said so")
	}) {
		t.Errorf("warnings: %q", w.ended.Status.Warnings)
	}
}

// The same for the rollback of a finished cutover.
func TestTheTargetOfARollbackIsDead(t *testing.T) {
	done := newWorld(spec.RunMigrate, true)
	done.life(t)
	back := Freeze(done.now, Order{Kind: spec.RunRollback, Plan: "shop", Closure: &done.ended.Spec.Closure, Approval: &spec.Approval{}, Undoes: done.ended}, &spec.PlanStatus{})
	for _, word := range []string{"", "ada said so"} {
		w := newWorld(spec.RunStage, true)
		w.journal, w.dead, w.word, w.endless = back, true, word, word == ""
		w.life(t)
		if said := word != ""; said != slices.Contains(effects(w), "do:undo-stop:1") {
			t.Fatalf("%q: effects %v", word, effects(w))
		}
		if word == "" && w.waiting.Reason != "TargetUnreachable" || word != "" && (w.ended.Status.Phase != spec.RunSucceeded || len(w.ended.Status.Warnings) == 0) {
			t.Fatalf("%q: waits %+v, ended %+v", word, w.waiting, w.ended)
		}
	}
}

// A word that nobody needed changes nothing: what answers is undone.
func TestATargetThatAnswersIsNotDead(t *testing.T) {
	w := newWorld(spec.RunMigrate, true, "do:health:1!")
	w.word = "ada said so"
	w.life(t)
	if es := effects(w); !slices.Contains(es, "undo:start") || es[len(es)-1] != "undo:namespaces" {
		t.Fatalf("effects %v", es)
	}
}

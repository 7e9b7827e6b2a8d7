package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

func TestItinerariesAreComplete(t *testing.T) {
	for kind, steps := range Itineraries {
		names := map[string]bool{}
		for _, d := range steps {
			if names[d.Name] {
				t.Errorf("%s: step %s stands twice", kind, d.Name)
			}
			names[d.Name] = true
			if (d.Undo == "") == (d.NoUndo == "") {
				t.Errorf("%s/%s: exactly one of Undo and NoUndo is wanted", kind, d.Name)
			}
			if d.Help == "" || d.Timeout == nil {
				t.Errorf("%s/%s: help and timeout are wanted", kind, d.Name)
			}
			if d.NoReturn && d.Undo == "" && !d.Soft && d.Verb != "" {
				t.Errorf("%s/%s: a step behind the point of no return is soft, a record, or has an undo", kind, d.Name)
			}
		}
	}
}

// TestSatisfiedStepsWaitForTheFrozenRunToo finds the first effect already
// there, as every run but the first does: nothing may be done, or taken for
// done, before the frozen run is in Git.
func TestSatisfiedStepsWaitForTheFrozenRunToo(t *testing.T) {
	for _, kind := range []spec.RunKind{spec.RunStage, spec.RunMigrate} {
		w := newWorld(kind, true)
		w.made["do:locations:1"], w.age["do:locations:1"] = 1, 2
		w.pushDown = func(n int) bool { return n < 50 }
		w.life(t)
		if w.ended.Status.Phase != spec.RunSucceeded || w.pushes < 50 {
			t.Fatalf("%+v after %d pushes", w.ended.Status, w.pushes)
		}
		if err := orderBroken(w); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestCanceledAtEveryInstant takes the approval back at every tick: before
// users reach the target everything is undone in the right order, afterwards
// the cutover ends.
func TestCanceledAtEveryInstant(t *testing.T) {
	for _, kind := range []spec.RunKind{spec.RunMigrate, hooked} {
		ref := newWorld(kind, true)
		ref.life(t)
		for k := 1; k <= ref.tick; k++ {
			w := newWorld(kind, true)
			w.cancelAt = k
			w.life(t)
			canceledRightly(t, w, fmt.Sprintf("%s, cancel at %d", kind, k))
		}
	}
}

func canceledRightly(t *testing.T, w *world, name string) {
	t.Helper()
	es := effects(w)
	reached := slices.Contains(es, "do:traffic:1")
	if reached != (w.ended.Status.Phase == spec.RunSucceeded) {
		t.Fatalf("%s: %s, effects %v", name, w.ended.Status.Phase, es)
	}
	if err := orderBroken(w); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if reached {
		return
	}
	for _, e := range es {
		step, ok := strings.CutPrefix(strings.TrimSuffix(e, ":1"), "do:")
		if d := stepTable(spec.RunMigrate)[step]; ok && d.Undo != "" && !slices.Contains(es, "undo:"+step) {
			t.Errorf("%s: %s was not undone: %v", name, step, es)
		}
	}
	restart := slices.Index(es, "undo:stop")
	for i, e := range es {
		step, _ := strings.CutPrefix(e, "undo:")
		if d := stepTable(spec.RunMigrate)[step]; restart >= 0 && d.Undo != "" && d.UndoBefore && e != "do:"+step+":1" && i > restart && e != "undo:upload" {
			t.Errorf("%s: %s came after the restart of the source: %v", name, e, es)
		}
	}
}

func TestGitOutage(t *testing.T) {
	down := func(from, to int) func(int) bool { return func(n int) bool { return n >= from && n < to } }
	cases := []struct {
		name   string
		broken func(n int) bool
		phase  spec.RunPhase
		want   string // an effect that happened
		not    string // one that did not
	}{
		{"no run starts", down(1, 100), spec.RunSucceeded, "do:clean-up:1", ""},
		{"short, before the stop", down(2, 30), spec.RunSucceeded, "do:clean-up:1", ""},
		{"long, before the stop", down(2, 5000), spec.RunFailed, "undo:namespaces", "do:hand-over:1"},
		{"longer than gitOutage before the hand-over", down(3, 5000), spec.RunFailed, "undo:stop", "do:hand-over:1"},
		{"longer than gitOutage before live", down(4, 5000), spec.RunFailed, "undo:hand-over", "do:start:1"},
		{"after live the run goes on and waits to be shown", down(5, 900), spec.RunSucceeded, "do:traffic:1", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(spec.RunMigrate, true)
			w.pushDown = c.broken
			w.life(t)
			es := effects(w)
			if w.ended.Status.Phase != c.phase || !slices.Contains(es, c.want) || slices.Contains(es, c.not) {
				t.Fatalf("%s %s, effects %v", w.ended.Status.Phase, w.ended.Status.Message, es)
			}
			if c.phase == spec.RunFailed && !strings.Contains(w.ended.Status.Message, "could not be pushed") {
				t.Errorf("the message does not say why: %s", w.ended.Status.Message)
			}
		})
	}
}

// TestTheTargetWaitsForItsRecord: a plan without volumes has no claim to mark
// live, and still the target does not start on a record that Git does not have.
func TestTheTargetWaitsForItsRecord(t *testing.T) {
	w := newWorld(spec.RunMigrate, false)
	w.made["do:live:1"], w.age["do:live:1"] = 1, 2 // nothing is to be done
	w.pushDown = func(n int) bool { return n >= 3 && n < 5000 }
	w.life(t)
	if es := effects(w); w.ended.Status.Phase != spec.RunFailed || slices.Contains(es, "do:start:1") || !slices.Contains(es, "undo:stop") {
		t.Fatalf("%+v, effects %v", w.ended.Status, es)
	}
}

func TestGateBeforeTheStop(t *testing.T) {
	closed := Gate{Reason: "TipUnreadable", Say: "the branch cannot be read"}
	t.Run("waits with the application running, then goes on", func(t *testing.T) {
		w := newWorld(spec.RunMigrate, true)
		w.gate = func(n int) Gate {
			if n < 10 {
				return closed
			}
			return Gate{Open: true}
		}
		w.life(t)
		if w.ended.Status.Phase != spec.RunSucceeded || w.gates < 10 {
			t.Fatalf("%+v after %d questions", w.ended.Status, w.gates)
		}
	})
	t.Run("an approval that is gone cancels", func(t *testing.T) {
		w := newWorld(spec.RunMigrate, true)
		w.gate = func(int) Gate { return Gate{Cancel: true, Reason: "StateChanged", Say: "Git says Staged"} }
		w.life(t)
		if es := effects(w); w.ended.Status.Phase != spec.RunCanceled || slices.Contains(es, "do:stop:1") {
			t.Fatalf("%+v, effects %v", w.ended.Status, es)
		}
	})
	t.Run("a gate that stays closed cancels at cutover.timeout", func(t *testing.T) {
		w := newWorld(spec.RunMigrate, true)
		w.gate = func(int) Gate { return closed }
		for i := 0; i < 3 && w.ended == nil; i++ {
			w.now = w.now.Add(5 * time.Hour)
			w.life(t)
		}
		if es := effects(w); w.ended == nil || w.ended.Status.Phase != spec.RunCanceled || slices.Contains(es, "do:stop:1") {
			t.Fatalf("%+v, effects %v", w.ended, es)
		}
	})
}

func TestRollbackOfAFinishedCutover(t *testing.T) {
	w := newWorld(spec.RunMigrate, true)
	w.life(t)
	back := Freeze(w.now, Order{Kind: spec.RunRollback, Plan: "shop", Closure: &w.ended.Spec.Closure, Approval: &spec.Approval{}, Undoes: w.ended}, &spec.PlanStatus{})
	var names []string
	for _, s := range back.Steps {
		names = append(names, s.Name)
	}
	want := []string{"put-source-back", "undo-movers", "undo-traffic", "undo-autoscalers", "undo-custom-resources", "undo-start", "undo-last-upload", "undo-keep-custom-resources", "undo-stop", "undo-upload", "undo-hand-over", "undo-last-restore",
		"undo-retain", "undo-restore", "undo-backup", "undo-restore-volumes", "undo-claims", "undo-namespaces", "rolled-back"}
	if !slices.Equal(names, want) {
		t.Fatalf("\n got %v\nwant %v", names, want)
	}
	w2 := newWorld(spec.RunStage, true)
	w2.journal = back
	w2.life(t)
	if w2.ended.Status.Phase != spec.RunSucceeded {
		t.Fatalf("%+v", w2.ended.Status)
	}
	back = clone(back)
	back.Spec.Closure.Plan.Spec.Rollback.TargetWrites = "Discard"
	w3 := newWorld(spec.RunStage, true)
	w3.journal = back
	w3.life(t)
	if say := w3.ended.Status.Message; !strings.Contains(say, "live since "+stamp(back.Facts.Times[0].Time.Time)) || !strings.Contains(say, "is not on the source") {
		t.Errorf("what was discarded is not told: %q", say)
	}
}

// TestARollbackIsNotGivenUpBeforeTheSourceRuns keeps failing what restarts the
// source for far longer than any time limit.
func TestARollbackIsNotGivenUpBeforeTheSourceRuns(t *testing.T) {
	w := newWorld(spec.RunMigrate, true)
	w.life(t)
	edited := w.ended.Spec.Closure
	edited.Plan.Spec.TargetCluster = "elsewhere"
	back := Freeze(w.now, Order{Kind: spec.RunRollback, Plan: "shop", Closure: &edited, Approval: &spec.Approval{}, Undoes: w.ended}, &spec.PlanStatus{})
	if back.Spec.Closure.Plan.Spec.TargetCluster == "elsewhere" {
		t.Fatal("the rollback would run on clusters that the cutover never touched")
	}
	w2 := newWorld(spec.RunStage, true)
	w2.journal = back
	for n := 1; n <= 30; n++ {
		w2.broken[fmt.Sprintf("do:undo-stop:%d", n)] = true
	}
	w2.life(t)
	if w2.ended.Status.Phase != spec.RunSucceeded || w2.made["do:undo-stop:31"] != 1 {
		t.Fatalf("%+v", w2.ended.Status)
	}
}

// TestABlindPendingStepHasADeadline cannot look before the traffic step
// begins: the cutover is undone instead of waiting for ever.
func TestABlindPendingStepHasADeadline(t *testing.T) {
	w := newWorld(spec.RunMigrate, true)
	w.blind = "traffic"
	w.life(t)
	if w.ended.Status.Phase != spec.RunFailed || !slices.Contains(effects(w), "undo:stop") {
		t.Fatalf("%+v", w.ended.Status)
	}
}

func TestUnknownStepRefuses(t *testing.T) {
	run := &spec.Run{Spec: spec.RunSpec{Kind: spec.RunStage}, Steps: []spec.Step{{Name: "from-a-newer-version"}}}
	if _, err := Next(Input{Run: run}); err == nil || !strings.Contains(err.Error(), "does not know") {
		t.Fatalf("got %v", err)
	}
}

func TestStopTime(t *testing.T) {
	w := newWorld(spec.RunMigrate, true)
	at := func(name string, s float64) spec.NamedTime {
		n := spec.NamedTime{Name: name}
		n.Time.Time = w.now.Add(time.Duration(s * float64(time.Second)))
		return n
	}
	stop, own := stopTime([]spec.NamedTime{at(TimeStop, 10), at(TimeDrained, 12.5), at(TimeStart, 14), at(TimeHealthy, 17)})
	if stop != 7 || own != 5.5 {
		t.Fatalf("stop %v, own %v", stop, own)
	}
}

// A cutover takes the newest stage run's estimate over and says how wrong it was.
func TestTheEstimateIsJudged(t *testing.T) {
	st := &spec.PlanStatus{Estimate: &spec.Estimate{StopSeconds: 10, ChangedBytes: 5}}
	r := Freeze(time.Now(), Order{Kind: spec.RunMigrate, Plan: "shop", Closure: &spec.Closure{}}, st)
	if r.Facts.Estimate == nil || r.Facts.Estimate.StopSeconds != 10 {
		t.Fatalf("the cutover knows no estimate: %+v", r.Facts)
	}
	if e := judged(r.Facts.Estimate, 8.5); e.ErrorSeconds == nil || *e.ErrorSeconds != -1.5 || st.Estimate.ErrorSeconds != nil {
		t.Errorf("%+v of %+v, want an error of -1.5 s and the stage run's estimate untouched", e, st.Estimate)
	}
	if e := judged(r.Facts.Estimate, 0); e.ErrorSeconds != nil {
		t.Errorf("nothing was stopped, and the error is %v", *e.ErrorSeconds)
	}
}

func TestOverdueNamesTheObjectOnce(t *testing.T) {
	for message, want := range map[string]string{
		"pod shop/web-0 is Pending": "last that was seen: pod shop/web-0 is Pending",
		"it is Pending":             "last that was seen: source Pod shop/web-0: it is Pending",
	} {
		said := overdue(Input{Seen: Observation{Object: "source Pod shop/web-0", Message: message}}, spec.Step{Name: "drained"})
		if !strings.HasSuffix(said, want) {
			t.Errorf("said %q, want %q", said, want)
		}
	}
}

// The source is asked again whether it is stopped, right before volumes change
// hands and right before users are led to the target: from then on a failure is not
// undone by itself.
func TestTheSourceIsWatchedToTheEnd(t *testing.T) {
	var before []string
	for i, d := range migrateSteps {
		if d.Verb == "workload.still-stopped" {
			before = append(before, migrateSteps[i+1].Name)
			if after := d.Name == "one-side-only"; d.NoReturn != after || d.Soft != after || d.When == nil || d.When(&FreezeFacts{}) || !d.When(&FreezeFacts{Quiesce: true}) {
				t.Errorf("%+v", d)
			}
		}
	}
	if !slices.Equal(before, []string{"move", "traffic", "migrated"}) {
		t.Errorf("it is asked before %v", before)
	}
	last := slices.IndexFunc(migrateSteps, func(d StepDef) bool { return d.Name == "move" })
	for _, d := range migrateSteps[last:] {
		if d.Verb == "mover.upload" || d.Verb == "mover.restore" || d.Verb == "mover.land" {
			t.Errorf("%s copies after that", d.Name)
		}
	}
}

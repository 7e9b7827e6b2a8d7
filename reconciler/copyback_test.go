package reconciler

import (
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// The source is written after the target is proven stopped and before anything
// that leads to the source's start, and what it held is kept before the stop.
func TestStepsOfACopyBack(t *testing.T) {
	w := newWorld(copyBack, true)
	names := stepNames(w.journal)
	order := []string{"keep-source", "upload-target", "undo-traffic", "undo-start", "last-upload-target", "write-source", "undo-stop", "undo-hand-over", "undo-restore", "rolled-back"}
	last := -1
	for _, n := range order {
		i := slices.Index(names, n)
		if i <= last {
			t.Errorf("%s is in the wrong place: %v", n, names)
		}
		last = i
	}
	for _, s := range w.journal.Steps {
		if d := stepTable(spec.RunRollback)[s.Name]; d.Name == "" || s.Undo != "" && s.Undo != d.Undo {
			t.Errorf("step %+v is not in the table", s)
		}
	}
	discards := newWorld(spec.RunRollback, true).journal
	if discards.Steps[0].Name != "put-source-back" || len(newWorld(spec.RunRollback, false).journal.Steps) == len(discards.Steps) {
		t.Errorf("a rollback that discards: %v", stepNames(discards))
	}
	for _, s := range discards.Steps[1:] {
		if s.Undo != "" || !strings.HasPrefix(s.Name, "undo-") && s.Name != "rolled-back" {
			t.Errorf("a rollback that discards has %+v", s)
		}
	}
	if moves := stepNames(newWorld(copyBack, false).journal); slices.Contains(moves, "keep-source") {
		t.Errorf("nothing was copied, and yet: %v", moves)
	}
}

// TestCopyBackSteps: the rows obey what is demanded of every itinerary.
func TestCopyBackSteps(t *testing.T) {
	for _, d := range slices.Concat(copyBackSteps, copyBackAfterStop, []StepDef{putSourceBack}) {
		if (d.Undo == "") == (d.NoUndo == "") || d.Help == "" || d.Timeout == nil || d.Soft {
			t.Errorf("%+v", d)
		}
	}
}

// A copy back that fails starts the target again, in the order in which a
// cutover does, never the source, and leaves the plan Migrated.
func TestACopyBackThatFailsStartsTheTargetAgain(t *testing.T) {
	for _, broken := range []string{"keep-source", "upload-target", "last-upload-target", "write-source"} {
		w := newWorld(copyBack, true, "do:"+broken+":1!")
		w.life(t)
		es := effects(w)
		stopped := slices.Contains(es, "do:undo-start:1")
		var again []string
		for _, e := range es {
			if e == "undo:undo-start" || e == "undo:undo-autoscalers" || e == "undo:undo-traffic" {
				again = append(again, strings.TrimPrefix(e, "undo:undo-"))
			}
		}
		if got := strings.Join(again, " "); stopped != (got == "start autoscalers traffic") || !stopped && got != "" {
			t.Errorf("%s: the target was stopped: %t, started again: %s", broken, stopped, got)
		}
		if slices.Contains(es, "do:undo-stop:1") || slices.Contains(es, "do:undo-hand-over:1") {
			t.Errorf("%s: the source was started: %v", broken, es)
		}
		st := &spec.PlanStatus{}
		st.Recorded.State = spec.Migrated
		if st = Ended(st, w.ended, "p"); st.Recorded.RollbackFailed || st.Recorded.State != spec.Migrated || !strings.Contains(st.LastFailure, broken) {
			t.Errorf("%s: %+v", broken, st)
		}
		if slices.Contains(es, "do:write-source:1") && !slices.Contains(es, "undo:write-source") {
			t.Errorf("%s: a writer is left: %v", broken, es)
		}
	}
}

// A source that cannot be put back leaves the application running on the target.
func TestASourceThatCannotBePutBack(t *testing.T) {
	w := newWorld(spec.RunRollback, true, "do:put-source-back:1!")
	w.life(t)
	st := &spec.PlanStatus{}
	st.Recorded.State = spec.Migrated
	if st = Ended(st, w.ended, "p"); st.Recorded.State != spec.Migrated || st.Recorded.RollbackFailed || !strings.Contains(st.LastFailure, "runs on the target as before") {
		t.Errorf("%+v", st)
	}
	if es := effects(w); slices.Contains(es, "do:undo-traffic:1") || slices.Contains(es, "do:undo-stop:1") {
		t.Errorf("effects %v", es)
	}
}

// A source that goes away while it is written does not keep the target from being
// started again: only what is left of the movers there waits for it.
func TestASourceThatGoesAwayWhileItIsWritten(t *testing.T) {
	for _, broken := range []string{"write-source", "last-upload-target"} {
		w := newWorld(copyBack, true, "do:"+broken+":1!")
		w.unreached, w.endless = []string{"write-source", "keep-source"}, true
		w.life(t)
		es := effects(w)
		if !slices.Contains(es, "undo:undo-start") || slices.Contains(es, "undo:write-source") || w.ended != nil {
			t.Errorf("%s: effects %v", broken, es)
		}
		if i := slices.Index(es, "undo:last-upload-target"); i < 0 || i > slices.Index(es, "undo:undo-start") { // it leaves the claims first
			t.Errorf("%s: effects %v", broken, es)
		}
		w.unreached = nil
		w.life(t)
		if w.ended == nil || !returned(w.ended) {
			t.Errorf("%s: %+v", broken, w.ended)
		}
	}
}

// What cannot be made anew on the target does not keep the run from its end, and
// is told; a stop of the target, which the source's start waits for, is never given up.
func TestAnUndoOfAnUndoEnds(t *testing.T) {
	w := newWorld(copyBack, true, "do:write-source:1!", "undo:undo-autoscalers!")
	w.life(t)
	if st := Ended(newStatus("shop"), w.ended, "p"); w.ended.Status.Phase != spec.RunFailed || !st.Recorded.RollbackFailed || !slices.ContainsFunc(w.ended.Status.Warnings, func(s string) bool { return strings.Contains(s, "undo-autoscalers: Injected") }) {
		t.Errorf("%+v", w.ended.Status)
	}
	if es := effects(w); !slices.Contains(es, "undo:undo-start") || !slices.Contains(es, "undo:undo-traffic") {
		t.Errorf("effects %v", es)
	}
	if d := stepTable(spec.RunMigrate)["start"]; d.UndoEnds {
		t.Errorf("%+v", d)
	}
	run := *w.ended
	run.Steps = slices.Clone(run.Steps)
	i := slices.IndexFunc(run.Steps, func(s spec.Step) bool { return s.Name == "undo-start" })
	run.Steps[i].Undid = &spec.Undid{Reason: ReasonWorkloadMissing, Message: "web is not there"}
	defs, _ := definitions(&run)
	if _, warnings := firstFailure(defs, &run); !slices.ContainsFunc(warnings, func(s string) bool { return strings.Contains(s, "web is not there") }) {
		t.Errorf("warnings %q", warnings)
	}
}

// What an undo has given up is a warning of the record: of a cutover that goes back,
// and of a rollback, whose steps are undos.
func TestWhatAnUndoGaveUpIsOnRecord(t *testing.T) {
	for reason := range incomplete {
		for kind, steps := range map[spec.RunKind][]spec.Step{
			spec.RunMigrate:  {{Name: "keep-custom-resources", State: spec.StepUndone, Undid: &spec.Undid{Reason: reason, Message: "db is not as it was"}}},
			spec.RunRollback: {{Name: "undo-keep-custom-resources", State: spec.StepDone, Reason: reason, Message: "db is not as it was"}},
		} {
			run := &spec.Run{Spec: spec.RunSpec{Kind: kind}, Steps: steps}
			defs, err := definitions(run)
			if err != nil {
				t.Fatal(err)
			}
			if _, warnings := firstFailure(defs, run); len(warnings) != 1 || !strings.Contains(warnings[0], "db is not as it was") {
				t.Errorf("%s, %s: %q", kind, reason, warnings)
			}
		}
	}
}

// The content of the source is overwritten only when the record that names
// what is kept of it is in Git; a Git that stays away starts the target again.
func TestTheSourceIsOverwrittenOnlyOnRecord(t *testing.T) {
	w := newWorld(copyBack, true)
	w.pushDown = func(n int) bool { return n > 1 } // all but the frozen run
	w.endless = true
	w.life(t)
	if es := effects(w); slices.Contains(es, "do:write-source:1") || !slices.Contains(es, "undo:undo-start") {
		t.Errorf("effects %v", es)
	}
}

// Whatever the next rollback of the same cutover says, a source that may be
// half written is not started so; and it works on what the failed one made anew.
func TestAfterAFailedCopyBack(t *testing.T) {
	w := newWorld(copyBack, true, "do:write-source:1!")
	w.life(t)
	before := *w.ended
	before.Facts.Traffic = []spec.Traffic{{NewAddress: "made anew"}}
	before.Facts.OnTarget = []spec.Workload{{Replicas: 3}}
	for _, c := range []struct {
		word   string
		before *spec.Run
		want   string
	}{{"Discard", &before, "put-source-back"}, {"Discard", nil, "put-source-back"}, {"CopyBack", &before, "write-source"}} {
		closure := before.Spec.Closure
		closure.Plan.Spec.Rollback.TargetWrites = c.word
		cutover := finished(newWorld(spec.RunMigrate, true).journal, w.now)
		next := Freeze(w.now, Order{Kind: spec.RunRollback, Plan: "shop", Closure: &closure, Approval: &spec.Approval{}, Undoes: cutover, Before: c.before}, &spec.PlanStatus{})
		names := stepNames(next)
		i := slices.Index(names, c.want)
		if early := i < slices.Index(names, "undo-traffic"); i < 0 || early != (c.word == "Discard") || i > slices.Index(names, "undo-stop") {
			t.Errorf("%s after %t: %v", c.word, c.before != nil, names)
		}
		if c.before != nil && (len(next.Facts.Traffic) == 0 || next.Facts.OnTarget != nil || len(next.Facts.Times) != 1 || next.Facts.Times[0].Name != TimeLive) {
			t.Errorf("%s: facts %+v", c.word, next.Facts)
		}
	}
	half := []spec.Volume{{Namespace: "shop", Claim: "data", Action: "copy", Back: &spec.CopiedBack{Cutover: "shop-migrate-1", Kept: []string{"k"}, Mark: spec.MarkClean}}}
	cutover := newWorld(spec.RunMigrate, true).journal
	for _, undoes := range []*spec.Run{cutover, nil} { // one that was taken back does not stand any more
		closes := stepNames(Freeze(w.now, Order{Kind: spec.RunClose, Plan: "shop", Closure: &before.Spec.Closure, Approval: &spec.Approval{}, Volumes: half, Undoes: undoes}, &spec.PlanStatus{}))
		if i := slices.Index(closes, "put-source-back"); (undoes != nil) != (i >= 0) || i > slices.Index(closes, "purge-data") {
			t.Errorf("a close of a plan that is migrated: %t, and its source overwritten: %v", undoes != nil, closes)
		}
	}
}

// What is said of a copy back is of the rollback that did it.
func TestWhatCameBackIsSaid(t *testing.T) {
	w := newWorld(copyBack, true)
	w.journal.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data", Action: "copy",
		Back: &spec.CopiedBack{Kept: []string{"k0", "k1"}, Mark: spec.MarkClean, ChangedFiles: 3, WrittenBytes: 40, DeletedEntries: 1}}}
	if c := progress(w.journal); !strings.Contains(c.message, "the target is live since 2026-03-01") {
		t.Error(c.message)
	}
	w.life(t)
	if st := w.ended.Status; !strings.Contains(st.Message, "3 files and 40 bytes") || !strings.Contains(st.Message, "live since") || st.StopSeconds <= 0 {
		t.Errorf("%+v", st)
	}
	s := &story{st: newStatus("shop"), at: noon}
	s.migrated()
	s.say(doc(spec.RolledBack, discard))
	s.end(spec.RunSucceeded)
	s.st.Volumes = w.ended.Facts.Volumes
	if d := s.decide(); !strings.Contains(find(d.Status, "Ready").Message, "snapshot k1 of shop/data") {
		t.Error(find(d.Status, "Ready").Message)
	} else if say := find(d.Status, "Ready").Message; !strings.Contains(say, "`tranship kept shop`") || !strings.Contains(say, "Discard comes after that") {
		t.Error(say)
	}
	again := Freeze(w.now, Order{Kind: spec.RunMigrate, Plan: "shop", Closure: &w.ended.Spec.Closure, Approval: &spec.Approval{}, Volumes: w.ended.Facts.Volumes}, &spec.PlanStatus{})
	if b := again.Facts.Volumes[0].Back; b.Mark != spec.MarkNone || len(b.Kept) != 2 || broughtBack(again.Facts.Volumes) != "" || w.ended.Facts.Volumes[0].Back.Mark != spec.MarkClean {
		t.Errorf("the next cutover says %+v", b)
	}
}

func TestCopyBackOfADeviceIsRefused(t *testing.T) {
	s := &story{st: newStatus("shop"), at: noon}
	s.migrated()
	s.st.Volumes = []spec.Volume{{Namespace: "shop", Claim: "disk", Action: "copy", VolumeMode: corev1.PersistentVolumeBlock}}
	back := func(p *spec.PlanSpec) { p.Rollback.TargetWrites = "CopyBack" }
	s.commit(doc(spec.RolledBack, back))
	if d := s.decide(); d.Start != nil || reasonOf(d.Status) != "CopyBackNotPossible" || !strings.Contains(find(d.Status, "Ready").Message, "shop/disk") {
		t.Fatalf("%+v", d)
	}
	s.st.Volumes[0].VolumeMode = ""
	if d := s.decide(); d.Start == nil || d.Start.Kind != spec.RunRollback {
		t.Fatalf("%+v", d)
	}
}

// Only a copy back of the same cutover says what the next rollback finds, and it
// does so whatever has ended since.
func TestARollbackKnowsTheCopyBackBefore(t *testing.T) {
	cutover, back := newWorld(spec.RunMigrate, true).journal, newWorld(copyBack, true, "do:write-source:1!")
	back.life(t)
	other, discards, closes := *back.ended, finished(newWorld(spec.RunRollback, true).journal, noon), newWorld(spec.RunClose, true, "do:policies:1!")
	other.Spec.Undoes = "shop-migrate-0"
	closes.life(t)
	cutover = finished(cutover, noon)
	again := *cutover
	again.Metadata.Name = "shop-migrate-2"
	for _, c := range []struct {
		name string
		runs []*spec.Run
		want *spec.Run
	}{
		{"a copy back", []*spec.Run{cutover, back.ended}, back.ended},
		{"a copy back and a close", []*spec.Run{cutover, back.ended, closes.ended}, back.ended},
		{"one of another cutover", []*spec.Run{cutover, &other}, nil},
		{"nothing", []*spec.Run{cutover}, nil},
		{"a close", []*spec.Run{cutover, closes.ended}, nil},
		{"a cutover after it", []*spec.Run{cutover, back.ended, discards, &again}, nil},
	} {
		m, st := newMemory(), newStatus("shop")
		for _, r := range c.runs {
			m.runs[r.Metadata.Name], st = r, Ended(st, r, spec.RunPath(r))
		}
		o := &Order{Kind: spec.RunRollback}
		if msg := New(Config{Ledger: m}).prepare(t.Context(), o, &st.Recorded); msg.err != nil || o.Undoes == nil || o.Before != c.want {
			t.Errorf("%s: %v, before it %+v", c.name, msg.err, o.Before)
		}
	}
	m := newMemory() // versions that did not keep the path of the last rollback
	m.runs["cutover"], m.runs["back"] = cutover, back.ended
	o := &Order{Kind: spec.RunRollback}
	if New(Config{Ledger: m}).prepare(t.Context(), o, &spec.Recorded{CutoverPath: spec.RunPath(cutover), LastRunPath: spec.RunPath(back.ended)}); o.Before != back.ended {
		t.Errorf("of an old record: %+v", o.Before)
	}
}

// A close gives the source its content back where a copy back has begun to write,
// also when no look could tell afterwards what it has marked.
func TestACloseAfterAWriteThatNobodySaw(t *testing.T) {
	for _, broken := range []string{"write-source", "upload-target"} {
		w := newWorld(copyBack, true, "do:"+broken+":1!")
		w.life(t)
		cutover := newWorld(spec.RunMigrate, true).journal
		st := Ended(Ended(newStatus("shop"), finished(cutover, noon), "c"), w.ended, "b")
		close := Order{Kind: spec.RunClose, Plan: "shop", Closure: &w.ended.Spec.Closure, Approval: &spec.Approval{}, Volumes: w.ended.Facts.Volumes, Undoes: cutover}
		for range 2 { // a rollback that does not come so far does not make it forgotten
			if names := stepNames(Freeze(w.now, close, st)); slices.Contains(names, "put-source-back") != (broken == "write-source") {
				t.Errorf("after %s: %v", broken, names)
			}
			early := newWorld(copyBack, true, "do:keep-source:1!")
			early.life(t)
			st = Ended(st, early.ended, "e")
		}
	}
}

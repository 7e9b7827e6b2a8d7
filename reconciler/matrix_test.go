package reconciler

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var update = flag.Bool("update", false, "write docs/states.md anew; read the difference before you commit it")

const scheduled = "0 * * * *"

// doc is a plan's document as people write it in these tests.
func doc(state spec.State, edit ...func(*spec.PlanSpec)) *spec.Closure {
	return closureIn(state, 1, append([]func(*spec.PlanSpec){func(p *spec.PlanSpec) { p.Stage.Schedule = scheduled }}, edit...)...)
}

func discard(p *spec.PlanSpec) { p.Rollback.TargetWrites = "Discard" }
func frozen(p *spec.PlanSpec)  { p.Suspend = &spec.Suspend{Reason: "freeze"} }

// upTo makes the open run stand at a step: what is before it is done.
func (s *story) upTo(step string) {
	if !slices.ContainsFunc(s.open.Steps, func(st spec.Step) bool { return st.Name == step }) {
		panic("the run has no step " + step)
	}
	now := metav1.NewMicroTime(s.at)
	for i := range s.open.Steps {
		st := &s.open.Steps[i]
		st.Started = &now
		if st.Name == step {
			st.State = spec.StepRunning
			return
		}
		st.State = spec.StepDone
	}
}

// say commits a document and decides.
func (s *story) say(c *spec.Closure) { s.commit(c); s.decide() }

func (s *story) migrated() {
	s.say(doc(spec.Staged))
	s.say(doc(spec.Migrated))
	s.end(spec.RunSucceeded)
	s.decide()
}

func (s *story) rolledBack(phase spec.RunPhase) {
	s.migrated()
	s.say(doc(spec.RolledBack, discard))
	s.end(phase)
	s.decide()
}

func atNight(p *spec.PlanSpec) {
	p.Windows = []spec.Window{{Kind: "Allow", Schedule: "0 22 * * *", Duration: &metav1.Duration{Duration: time.Hour}, Applies: []string{spec.WindowCutover}}}
}

// planStates are all the states that a plan can be in.
var planStates = []struct {
	name string
	play func(s *story)
}{
	{"unknown", func(*story) {}},
	{"unrecorded", func(s *story) { s.say(doc(spec.Migrated)) }},
	{"staged", func(s *story) { s.say(doc(spec.Staged)) }},
	{"approved, suspended", func(s *story) { s.say(doc(spec.Staged)); s.say(doc(spec.Migrated, frozen)) }},
	{"approved, waits for a window", func(s *story) { s.say(doc(spec.Staged, atNight)); s.say(doc(spec.Migrated, atNight)) }},
	{"stage running", func(s *story) { s.say(doc(spec.Staged)); s.at = s.at.Add(time.Hour); s.decide() }},
	{"cutover before the stop", func(s *story) { s.say(doc(spec.Staged)); s.say(doc(spec.Migrated)); s.upTo("backup") }},
	{"cutover after the stop", func(s *story) { s.say(doc(spec.Staged)); s.say(doc(spec.Migrated)); s.upTo("drained") }},
	{"cutover with live claims", func(s *story) {
		s.say(doc(spec.Staged))
		s.say(doc(spec.Migrated))
		s.upTo("start")
	}},
	{"cutover being undone", func(s *story) {
		s.say(doc(spec.Staged))
		s.say(doc(spec.Migrated))
		s.upTo("drained")
		s.open.Status.Cancel = "StateChanged: Git says Staged"
		s.say(doc(spec.Staged))
	}},
	{"cutover, users on the target", func(s *story) { s.say(doc(spec.Staged)); s.say(doc(spec.Migrated)); s.upTo("migrated") }},
	{"cutover failed", func(s *story) {
		s.say(doc(spec.Staged))
		s.say(doc(spec.Migrated))
		s.end(spec.RunFailed)
		s.decide()
	}},
	{"migrated", func(s *story) { s.migrated() }},
	{"taken for migrated by hand", func(s *story) {
		s.say(doc(spec.Migrated))
		s.st.Recorded.Unrecorded, s.st.Recorded.State = false, spec.Migrated // tranship ledger adopt
		s.decide()
	}},
	{"rollback running", func(s *story) { s.migrated(); s.say(doc(spec.RolledBack, discard)) }},
	{"rollback failed", func(s *story) { s.rolledBack(spec.RunFailed) }},
	{"rolled back", func(s *story) { s.rolledBack(spec.RunSucceeded) }},
	{"closing", func(s *story) { s.say(doc(spec.Staged)); s.say(doc(spec.Closed)) }},
	{"close failed", func(s *story) { s.say(doc(spec.Staged)); s.say(doc(spec.Closed)); s.end(spec.RunFailed); s.decide() }},
	{"closed", func(s *story) { s.say(doc(spec.Staged)); s.say(doc(spec.Closed)); s.end(spec.RunSucceeded); s.decide() }},
	{"removed", func(s *story) { s.say(doc(spec.Staged)); Remove(s.st); s.c = nil; s.decide() }},
	{"removed while its cutover is past the stop", func(s *story) {
		s.say(doc(spec.Staged))
		s.say(doc(spec.Migrated))
		s.upTo("drained")
		Remove(s.st)
		s.c = nil
		s.decide()
	}},
	{"removed after its cutover", func(s *story) { s.migrated(); Remove(s.st); s.c = nil; s.decide() }},
}

// happening is what an event changes beside the story itself.
type happening struct {
	hold     *spec.Waiting
	problems []spec.Problem
	conflict *Clash
	depends  []Dependency
	frozen   bool // no stage run or cutover may start
}

// planEvents are all the things that can happen to it.
var planEvents = []struct {
	name string
	play func(s *story) happening
}{
	{"nothing", func(*story) happening { return happening{} }},
	{"an hour passes", func(s *story) happening { s.at = s.at.Add(time.Hour); return happening{} }},
	{"the clock is set back by an hour", func(s *story) happening { s.at = s.at.Add(-time.Hour); return happening{} }},
	{"the daemon is killed", func(s *story) happening { s.restart(); return happening{} }},
	{"the daemon is killed, and Git says Migrated, attempt 2, when it is back", func(s *story) happening {
		s.restart()
		s.commit(doc(spec.Migrated, func(p *spec.PlanSpec) { p.Cutover.Attempt = 2 }))
		return happening{}
	}},
	{"Git says Staged", func(s *story) happening { s.commit(doc(spec.Staged)); return happening{} }},
	{"Git says Migrated", func(s *story) happening { s.commit(doc(spec.Migrated)); return happening{} }},
	{"Git says Migrated, attempt 2", func(s *story) happening {
		s.commit(doc(spec.Migrated, func(p *spec.PlanSpec) { p.Cutover.Attempt = 2 }))
		return happening{}
	}},
	{"Git says RolledBack", func(s *story) happening { s.commit(doc(spec.RolledBack, discard)); return happening{} }},
	{"Git says Closed", func(s *story) happening { s.commit(doc(spec.Closed)); return happening{} }},
	{"suspended, an hour passes", func(s *story) happening {
		s.at = s.at.Add(time.Hour)
		if s.c != nil {
			c := *s.c
			frozen(&c.Plan.Spec)
			s.commit(&c)
		}
		return happening{frozen: true}
	}},
	{"the document is broken", func(s *story) happening {
		return happening{problems: []spec.Problem{{File: "plan.yaml", Line: 3, Message: "must be"}}, frozen: true}
	}},
	{"the document is removed", func(s *story) happening {
		if s.c != nil {
			Remove(s.st)
		}
		s.c = nil
		return happening{frozen: true}
	}},
	{"the branch is rewritten", func(*story) happening {
		return happening{hold: &spec.Waiting{Reason: "HistoryRewritten", Message: "acknowledge"}, frozen: true}
	}},
	{"the ledger is edited", func(*story) happening {
		return happening{hold: &spec.Waiting{Reason: reasonLedgerChanged, Message: "adopt"}, frozen: true}
	}},
	{"an older plan covers the same", func(s *story) happening {
		s.at = s.at.Add(time.Hour)
		return happening{conflict: &Clash{Plan: "older"}, frozen: true}
	}},
	{"a plan that it depends on is behind", func(s *story) happening {
		s.at = s.at.Add(time.Hour)
		return happening{depends: []Dependency{{Plan: "platform", Stages: true}}, frozen: true}
	}},
	{"a step of the run is done", func(s *story) happening { s.step(spec.StepDone); return happening{} }},
	{"a step of the run fails", func(s *story) happening { s.step(spec.StepFailed); return happening{} }},
	{"the run succeeds", func(s *story) happening { s.over(spec.RunSucceeded); return happening{} }},
	{"the run fails", func(s *story) happening { s.over(spec.RunFailed); return happening{} }},
	{"the run is undone by a cancel", func(s *story) happening { s.over(spec.RunCanceled); return happening{} }},
}

func (s *story) over(phase spec.RunPhase) {
	if s.open != nil {
		s.end(phase)
	}
}

// restart is what is left of a daemon that was killed: what it had recorded.
func (s *story) restart() {
	data, err := spec.EncodeStatus(s.st)
	if err == nil {
		s.st, err = spec.DecodeStatus(data)
	}
	if err == nil && s.open != nil {
		if data, err = spec.EncodeRun(s.open); err == nil {
			s.open, err = spec.DecodeRun(data)
		}
	}
	if err != nil {
		panic(err)
	}
}

// step ends the step at which the open run stands.
func (s *story) step(state spec.StepState) {
	if s.open == nil {
		return
	}
	now := metav1.NewMicroTime(s.at)
	for i := range s.open.Steps {
		if st := &s.open.Steps[i]; st.State != spec.StepDone {
			st.State, st.Started, st.Ended, st.Reason = state, &now, &now, "Tested"
			return
		}
	}
}

// answer decides like the loop does after an event.
func (s *story) answer(h happening) PlanDecision {
	c := s.c
	if h.problems != nil {
		c = nil
	}
	return Decide(PlanInput{Now: s.at, Plan: "shop", Closure: c, Problems: h.problems, Status: s.st, Open: s.open, Hold: h.hold,
		Conflict: h.conflict, Depends: h.depends, Commit: "tip", Approval: &spec.Approval{Commit: "tip", Time: metav1.NewTime(s.at)}})
}

// TestEveryStateMeetsEveryEvent decides for every state of a plan and every
// event, holds the rules that have no exception, and compares the whole table
// with docs/states.md, so that a change of any answer is seen by a reviewer.
func TestEveryStateMeetsEveryEvent(t *testing.T) {
	var b strings.Builder
	b.WriteString(statesHead)
	for _, e := range planEvents {
		fmt.Fprintf(&b, "\n## %s\n\n| the plan is | answer |\n|---|---|\n", e.name)
		for _, st := range planStates {
			s := &story{st: newStatus("shop"), at: noon}
			st.play(s)
			h := e.play(s)
			d := s.answer(h)
			noException(t, st.name+" × "+e.name, s, h, d)
			fmt.Fprintf(&b, "| %s | %s%s |\n", st.name, inWords(d), touched(s, h))
		}
	}
	const file = "../docs/states.md"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("docs/states.md is not what Decide answers; go test ./reconciler -run EveryState -update, and read the difference")
	}
}

// noException are the rules that hold in every cell.
func noException(t *testing.T, cell string, s *story, h happening, d PlanDecision) {
	t.Helper()
	reason := reasonOf(d.Status)
	switch {
	case reason == "":
		t.Errorf("%s: no answer", cell)
	case d.Start != nil && s.open != nil:
		t.Errorf("%s: a second run starts beside %s", cell, s.open.Metadata.Name)
	case d.Start != nil && d.Cancel != "":
		t.Errorf("%s: starts and cancels", cell)
	case d.Start != nil && h.hold != nil:
		t.Errorf("%s: starts while everything is held", cell)
	case d.Start != nil && h.frozen && d.Start.Kind != spec.RunRollback && d.Start.Kind != spec.RunClose:
		t.Errorf("%s: %s starts although nothing may", cell, d.Start.Kind)
	case d.Start != nil && d.Start.Kind != spec.RunStage && s.st.Recorded.Flip == nil:
		t.Errorf("%s: %s starts without an approval", cell, d.Start.Kind)
	case d.Start != nil && s.st.Recorded.State == spec.Closed:
		t.Errorf("%s: %s starts on a closed plan", cell, d.Start.Kind)
	case d.Cancel != "" && (s.open == nil || s.open.Spec.Kind == spec.RunRollback || s.open.Spec.Kind == spec.RunClose):
		t.Errorf("%s: cancels what may not be", cell)
	}
	if d.Start == nil {
		return
	}
	d.Start.Undoes = &spec.Run{Steps: []spec.Step{{Name: "stop", Undo: "workload.start-source"}}}
	s.open = Freeze(s.at, *d.Start, d.Status)
	s.st = Started(d.Status, s.open)
	if again := s.answer(h); again.Start != nil {
		t.Errorf("%s: the same approval or slot starts again", cell)
	}
}

// touched says what becomes of an open run when the ledger is not trusted; the
// loop and the driver ask backFirst (TestLedgerChangedWhileAway shows them doing so).
func touched(s *story, h happening) string {
	switch {
	case s.open == nil || h.hold == nil || h.hold.Reason != reasonLedgerChanged:
		return ""
	case backFirst(s.open):
		return "; the run is undone first"
	}
	return "; nothing is touched"
}

func inWords(d PlanDecision) string {
	text := "`" + reasonOf(d.Status) + "`"
	switch {
	case d.Start != nil:
		text += ": a " + string(d.Start.Kind) + " run starts"
	case d.Cancel != "":
		text += ": the run is undone"
	}
	return text
}

const statesHead = `# Every state of a plan, and every event

What the daemon answers: the reason of the plan's Ready condition, and whether a run starts or is undone.
Made and held by TestEveryStateMeetsEveryEvent, which also demands, without exception: never two runs of
a plan; nothing starts while everything is held; no stage run or cutover starts on a plan that is
suspended, broken, removed, in conflict or behind a plan that it depends on; no cutover, rollback or close without an approval that has not
been used; nothing on a closed plan; the same approval or slot never starts twice. The plans here have a
schedule on the hour and rollback.targetWrites: Discard where they say RolledBack. A daemon that was killed
is one that knows what was recorded, and nothing else. Where the ledger was edited, the table says what becomes
of an open run before anybody is asked.
`

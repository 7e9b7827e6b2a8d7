package reconciler

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nightly is a plan with windows from 22:00 to 02:00 UTC.
func nightly(state spec.State, edit ...func(*spec.PlanSpec)) *spec.Closure {
	return closureIn(state, 1, append([]func(*spec.PlanSpec){func(p *spec.PlanSpec) {
		p.Windows = []spec.Window{{Kind: "Allow", Schedule: "0 22 * * *", Duration: &metav1.Duration{Duration: 4 * time.Hour}}}
	}}, edit...)...)
}

func saidBy(d PlanDecision) (reason, message string) {
	if c := find(d.Status, "Ready"); c != nil {
		return c.Reason, c.Message
	}
	return "", ""
}

var ten = time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC) // noon's day

// A cutover that is approved at noon starts when the window opens, by the
// alarm, and what is said until then does not change.
func TestCutoverWaitsForItsWindow(t *testing.T) {
	s := &story{st: &spec.PlanStatus{}, at: noon}
	s.commit(nightly(spec.Staged))
	s.decide()
	s.commit(nightly(spec.Migrated))
	first := s.decide()
	reason, said := saidBy(first)
	if first.Start != nil || reason != "OutsideWindow" || !strings.Contains(said, "opens at 2026-11-22T22:00:00Z") || !first.Wake.Equal(ten) {
		t.Fatalf("at noon: %+v %s %s", first.Start, reason, said)
	}
	for at := noon; at.Before(ten); at = at.Add(7 * time.Minute) {
		s.at = at
		if d := s.decide(); d.Start != nil || !same(d.Status, first.Status) {
			t.Fatalf("at %s it starts %v, and the status changes", at, d.Start)
		}
	}
	s.at = ten
	if d := s.decide(); d.Start == nil || d.Start.Kind != spec.RunMigrate {
		_, said := saidBy(d)
		t.Fatalf("the window is open, and nothing starts: %s", said)
	}
}

// An approval lapses although its plan waits for a window.
func TestApprovalLapsesOutsideTheWindow(t *testing.T) {
	until := metav1.NewTime(ten.Add(-time.Hour))
	brief := func(p *spec.PlanSpec) { p.Cutover.NotAfter = &until }
	s := &story{st: &spec.PlanStatus{}, at: noon}
	s.commit(nightly(spec.Staged, brief))
	s.decide()
	s.commit(nightly(spec.Migrated, brief))
	if _, said := saidBy(s.decide()); !strings.Contains(said, "ends before that, at 2026-11-22T21:00:00Z") {
		t.Errorf("before the end it says: %s", said)
	}
	s.at = ten
	if reason, _ := saidBy(s.decide()); reason != "ApprovalLapsed" {
		t.Errorf("it says %s", reason)
	}
}

func TestCutoverThatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		stop   time.Duration
		at     time.Time
		start  bool
		reason string
		says   string
	}{
		"it fits":                 {20 * time.Minute, ten.Add(3 * time.Hour), true, "", ""},
		"as long as the window":   {4 * time.Hour, ten.Add(3 * time.Second), true, "", ""},
		"too late for today":      {20 * time.Minute, ten.Add(3*time.Hour + 50*time.Minute), false, "WindowTooShort", "opens at 2026-11-23T22:00:00Z: the stop is estimated to take 20m0s, and the window closes at 2026-11-23T02:00:00Z"},
		"no window is so long":    {5 * time.Hour, ten, false, "WindowTooShort", "none opens in the next years that is long enough"},
		"closed, and never fits":  {5 * time.Hour, noon, false, "OutsideWindow", "change spec.windows"},
		"closed, and it will fit": {time.Hour, noon, false, "OutsideWindow", "opens at 2026-11-22T22:00:00Z"},
	} {
		s := &story{st: &spec.PlanStatus{Estimate: &spec.Estimate{StopSeconds: c.stop.Seconds()}}, at: c.at}
		s.commit(nightly(spec.Staged))
		s.decide()
		s.commit(nightly(spec.Migrated))
		d := s.decide()
		reason, said := saidBy(d)
		if (d.Start != nil) != c.start || c.reason != "" && (reason != c.reason || !strings.Contains(said, c.says)) {
			t.Errorf("%s: start %v, %s: %s", name, d.Start != nil, reason, said)
		}
	}
}

// Rollback and close are not asked for windows (design: gates).
func TestRollbackAndClosePassWindows(t *testing.T) {
	s := &story{st: &spec.PlanStatus{}, at: ten}
	s.commit(nightly(spec.Staged))
	s.decide()
	s.commit(nightly(spec.Migrated))
	s.decide()
	s.end(spec.RunSucceeded)
	s.at = ten.Add(14 * time.Hour)
	s.commit(nightly(spec.RolledBack, discard))
	if d := s.decide(); d.Start == nil || d.Start.Kind != spec.RunRollback {
		t.Fatal("the rollback waits for a window")
	}
	s.end(spec.RunSucceeded)
	s.commit(nightly(spec.Closed))
	if d := s.decide(); d.Start == nil || d.Start.Kind != spec.RunClose {
		t.Fatal("the close waits for a window")
	}
}

func TestStageSlotsAndWindows(t *testing.T) {
	every := func(expr string, deadline time.Duration) func(*spec.PlanSpec) {
		return func(p *spec.PlanSpec) {
			p.Stage.Schedule, p.Stage.StartingDeadline = expr, &metav1.Duration{Duration: deadline}
		}
	}
	for name, c := range map[string]struct {
		edit   func(*spec.PlanSpec)
		starts []string // HH:MM of the day after noon's, and of the next
		missed int
	}{
		"hourly, inside only":                {every("0 * * * *", time.Minute), []string{"22:00", "23:00", "00:00", "01:00"}, 0},
		"a slot shortly before the opening":  {every("50 21 * * *", 30*time.Minute), []string{"22:00"}, 0},
		"a slot too long before the opening": {every("50 20 * * *", 30*time.Minute), nil, 0},
	} {
		s := &story{st: &spec.PlanStatus{}, at: noon}
		s.commit(nightly(spec.Staged, c.edit))
		var starts []string
		for s.at = noon; s.at.Before(noon.Add(23 * time.Hour)); s.at = s.at.Add(time.Minute) {
			d := s.decide()
			if d.Start == nil {
				continue
			}
			starts = append(starts, s.at.Format("15:04"))
			s.end(spec.RunSucceeded)
		}
		if strings.Join(starts, " ") != strings.Join(c.starts, " ") || len(s.st.Missed) != c.missed {
			t.Errorf("%s: started at %v, missed %v", name, starts, s.st.Missed)
		}
	}
}

// The status of a plan outside its windows stays the same from slot to slot.
func TestSlotsOutsideWindowsAreNoCommits(t *testing.T) {
	s := &story{st: &spec.PlanStatus{}, at: noon}
	s.commit(nightly(spec.Staged, func(p *spec.PlanSpec) { p.Stage.Schedule = "*/10 * * * *" }))
	first := s.decide().Status
	if first.NextStage == nil || !first.NextStage.Time.Equal(ten) {
		t.Errorf("the next stage run is said to be at %v", first.NextStage)
	}
	for ; s.at.Before(ten.Add(-time.Hour - time.Minute)); s.at = s.at.Add(time.Minute) {
		if d := s.decide(); d.Start != nil || !same(d.Status, first) {
			t.Fatalf("at %s: starts %v, or the status changed", s.at, d.Start)
		}
	}
}

// A request to stage waits for the window, too.
func TestRequestedStageWaits(t *testing.T) {
	asked := metav1.NewTime(noon.Add(-time.Minute))
	s := &story{st: &spec.PlanStatus{}, at: noon}
	s.commit(nightly(spec.Staged, func(p *spec.PlanSpec) { p.Stage.RequestedAt = &asked }))
	d := s.decide()
	if reason, _ := saidBy(d); d.Start != nil || reason != "OutsideWindow" || !d.Wake.Equal(ten) {
		t.Fatalf("start %v, reason %s, wake %s", d.Start, reason, d.Wake)
	}
	s.at = ten
	if d := s.decide(); d.Start == nil || d.Start.Kind != spec.RunStage {
		t.Error("the window is open, and the stage run does not start")
	}
}

// Before the stop the windows are asked again, and the plan says what follows.
func TestWindowClosesBeforeTheStop(t *testing.T) {
	for does, want := range map[string]Gate{
		"":                 {Reason: "OutsideWindow"},
		"PauseAtSafePoint": {Reason: "OutsideWindow"},
		"Cancel":           {Reason: "OutsideWindow", Cancel: true},
		"Finish":           {Open: true},
	} {
		c := nightly(spec.Migrated, func(p *spec.PlanSpec) { p.Cutover.OnWindowClose = does })
		run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Attempt: 1, Digest: c.Digest(), ApprovedBy: &spec.Approval{Time: metav1.NewTime(noon)}}}
		desired := &Desired{Closures: map[string]*spec.Closure{"shop": c}}
		st := &spec.PlanStatus{Estimate: &spec.Estimate{StopSeconds: 300}}
		if g := JudgeGate(ten.Add(time.Hour), run, desired, st, nil); !g.Open {
			t.Errorf("%q inside: %+v", does, g)
		}
		for what, at := range map[string]time.Time{"closed": ten.Add(5 * time.Hour), "closing": ten.Add(4*time.Hour - 30*time.Second)} {
			g := JudgeGate(at, run, desired, st, nil)
			if what == "closing" && want.Reason != "" {
				want.Reason = "WindowTooShort"
			} else if want.Reason != "" {
				want.Reason = "OutsideWindow"
			}
			if g.Open != want.Open || g.Cancel != want.Cancel || g.Reason != want.Reason {
				t.Errorf("%q %s: %+v, want %+v", does, what, g, want)
			}
		}
	}
}

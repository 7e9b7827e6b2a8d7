package reconciler

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func closureIn(state spec.State, attempt int, edit ...func(*spec.PlanSpec)) *spec.Closure {
	c := &spec.Closure{}
	c.Plan.Metadata.Name = "shop"
	p := &c.Plan.Spec
	p.State, p.SourceCluster, p.TargetCluster, p.Cutover.Attempt = state, "old", "new", attempt
	p.Namespaces = []spec.NamespaceMapping{{Name: "shop"}}
	for _, e := range edit {
		e(p)
	}
	return c
}

// story plays commits and finished runs and asks for the decision at the end.
type story struct {
	st   *spec.PlanStatus
	c    *spec.Closure
	open *spec.Run
	n    int
	at   time.Time

	clash *Clash
	trust *Trust      // with a policy over plans/
	proof *spec.Proof // of the commits to come
}

func (s *story) commit(c *spec.Closure) {
	s.n++
	id := strings.Repeat("abcdef"[s.n%6:s.n%6+1], 40)
	by := spec.Approval{Commit: id, Time: metav1.NewTime(s.at)}
	known := s.st.Recorded.SeenState
	if known != c.Plan.Spec.State || s.st.Recorded.SeenAttempt != c.Plan.Spec.Cutover.AttemptOrDefault() {
		f := PlanFlip{State: c.Plan.Spec.State, Attempt: c.Plan.Spec.Cutover.AttemptOrDefault(), Digest: c.Digest(), Appeared: known == "", Path: "plans/shop.yaml", WasPath: "plans/shop.yaml", Proof: s.proof}
		if s.c != nil {
			f.Was = s.c.Digest()
		}
		Accept(s.st, f, by, false, s.trust)
	}
	s.c = c
}

func (s *story) decide() PlanDecision {
	d := Decide(PlanInput{Now: s.at, Plan: "shop", Closure: s.c, Status: s.st, Open: s.open, Commit: "tip", Approval: &spec.Approval{Commit: "tip"}, Conflict: s.clash, Trust: s.trust})
	s.st = d.Status
	if d.Start != nil {
		d.Start.Undoes = &spec.Run{Steps: []spec.Step{{Name: "stop", Undo: "workload.start-source"}}}
		s.open = Freeze(s.at, *d.Start, s.st)
		s.st = Started(s.st, s.open)
	}
	return d
}

func (s *story) end(phase spec.RunPhase) {
	end := metav1.NewMicroTime(s.at)
	s.open.Status.Phase, s.open.Status.Ended = phase, &end
	s.st = Ended(s.st, s.open, "runs/x.yaml")
	s.open = nil
}

// TestStateEventTable is the table of ARCHITECTURE.md: every row plays a
// history and names what the last decision starts, cancels or says.
func TestStateEventTable(t *testing.T) {
	staged := closureIn(spec.Staged, 1)
	migrated, rolledBack := closureIn(spec.Migrated, 1), closureIn(spec.RolledBack, 1, discard)
	closed := closureIn(spec.Closed, 1)
	cut := func(s *story) { s.commit(staged); s.decide(); s.commit(migrated); s.decide(); s.end(spec.RunSucceeded) }
	rows := []struct {
		name   string
		play   func(s *story)
		start  spec.RunKind
		cancel string
		reason string // of the Ready condition
	}{
		{"flip without enough approvals", func(s *story) { s.guard(); s.commit(staged); s.decide(); s.proof = nil; s.commit(migrated) }, "", "", "Unapproved"},
		{"flip with enough approvals", func(s *story) { s.guard(); s.commit(staged); s.decide(); s.commit(migrated) }, spec.RunMigrate, "", "CuttingOver"},
		{"RolledBack without enough approvals", func(s *story) { s.guard(); cut(s); s.proof = nil; s.commit(rolledBack) }, "", "", "Unapproved"},
		{"RolledBack with an attempt that was approved before", func(s *story) { s.guard(); cut(s); s.commit(rolledBack) }, "", "", "ApprovalUsed"},
		{"Closed without enough approvals", func(s *story) { s.guard(); cut(s); s.proof = nil; s.commit(closed) }, "", "", "Unapproved"},
		{"documents changed without enough approvals, a stage run due", func(s *story) {
			s.guard()
			s.commit(staged)
			s.decide()
			s.proof = nil
			s.c = closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.TargetCluster, p.Stage.RequestedAt = "elsewhere", &metav1.Time{Time: noon} })
		}, "", "", "Unapproved"},
		{"flip outside of windows", func(s *story) { s.commit(nightly(spec.Staged)); s.decide(); s.commit(nightly(spec.Migrated)) }, "", "", "OutsideWindow"},
		{"staged and nothing due", func(s *story) { s.commit(staged) }, "", "", "Staged"},
		{"appears as Migrated", func(s *story) { s.commit(migrated) }, "", "", "Unrecorded"},
		{"appears as Migrated, attempt raised", func(s *story) { s.commit(migrated); s.decide(); s.commit(closureIn(spec.Migrated, 2)) }, spec.RunMigrate, "", "CuttingOver"},
		{"flip to Migrated", func(s *story) { s.commit(staged); s.decide(); s.commit(migrated) }, spec.RunMigrate, "", "CuttingOver"},
		{"Migrated again without a new commit", func(s *story) { cut(s) }, "", "", "Migrated"},
		{"failed cutover does not start again", func(s *story) { s.commit(staged); s.decide(); s.commit(migrated); s.decide(); s.end(spec.RunFailed) }, "", "", "CutoverNotDone"},
		{"failed cutover, attempt raised", func(s *story) {
			s.commit(staged)
			s.decide()
			s.commit(migrated)
			s.decide()
			s.end(spec.RunFailed)
			s.decide()
			s.commit(closureIn(spec.Migrated, 2))
		}, spec.RunMigrate, "", "CuttingOver"},
		{"back to Staged during a cutover", func(s *story) { s.commit(staged); s.decide(); s.commit(migrated); s.decide(); s.commit(staged) }, "", "StateChanged", "Canceling"},
		{"RolledBack during a cutover", func(s *story) { s.commit(staged); s.decide(); s.commit(migrated); s.decide(); s.commit(rolledBack) }, "", "StateChanged", "Canceling"},
		{"back to Staged after a cutover", func(s *story) { cut(s); s.commit(staged) }, "", "", "StagedAfterCutover"},
		{"RolledBack with no cutover", func(s *story) { s.commit(staged); s.decide(); s.commit(rolledBack) }, "", "", "NothingToRollBack"},
		{"RolledBack of a cutover that was adopted and is on no record", func(s *story) {
			s.commit(migrated)
			s.decide()
			s.st.Recorded.Unrecorded, s.st.Recorded.State = false, spec.Migrated // tranship ledger adopt
			s.decide()
			s.commit(rolledBack)
		}, "", "", "NothingToRollBack"},
		{"RolledBack without targetWrites", func(s *story) { cut(s); s.commit(closureIn(spec.RolledBack, 1)) }, "", "", "TargetWritesRequired"},
		{"RolledBack after a cutover", func(s *story) { cut(s); s.commit(rolledBack) }, spec.RunRollback, "", "RollingBack"},
		{"RolledBack after a cutover, suspended, plan edited", func(s *story) {
			cut(s)
			s.commit(closureIn(spec.RolledBack, 1, discard, func(p *spec.PlanSpec) { p.Suspend, p.SourceCluster = &spec.Suspend{Reason: "freeze"}, "other" }))
		}, spec.RunRollback, "", "RollingBack"},
		{"targetWrites added after the refusal", func(s *story) { cut(s); s.commit(closureIn(spec.RolledBack, 1)); s.decide(); s.c = rolledBack }, spec.RunRollback, "", "RollingBack"},
		{"a rollback that failed", func(s *story) { cut(s); s.commit(rolledBack); s.decide(); s.end(spec.RunFailed) }, "", "", "RollbackNotDone"},
		{"a close that failed", func(s *story) { s.commit(staged); s.decide(); s.commit(closed); s.decide(); s.end(spec.RunFailed) }, "", "", "CloseNotDone"},
		{"RolledBack when users already reach the target", func(s *story) {
			s.commit(staged)
			s.decide()
			s.commit(migrated)
			s.decide()
			now := metav1.NewMicroTime(noon)
			for i := range s.open.Steps {
				s.open.Steps[i].State, s.open.Steps[i].Started = spec.StepDone, &now
			}
			s.commit(rolledBack)
			s.decide()
			s.end(spec.RunSucceeded)
		}, spec.RunRollback, "", "RollingBack"},
		{"rolled back", func(s *story) { cut(s); s.commit(rolledBack); s.decide(); s.end(spec.RunSucceeded) }, "", "", "RolledBack"},
		{"Migrated, RolledBack, Migrated", func(s *story) {
			cut(s)
			s.commit(rolledBack)
			s.decide()
			s.end(spec.RunSucceeded)
			s.decide()
			s.commit(closureIn(spec.Migrated, 1, discard))
		}, spec.RunMigrate, "", "CuttingOver"},
		{"Staged after a rollback", func(s *story) {
			cut(s)
			s.commit(rolledBack)
			s.decide()
			s.end(spec.RunSucceeded)
			s.decide()
			s.commit(staged)
		}, "", "", "Staged"},
		{"Closed", func(s *story) { s.commit(staged); s.decide(); s.commit(closed) }, spec.RunClose, "", "Closing"},
		{"Closed while a run is going on", func(s *story) { s.commit(staged); s.decide(); s.commit(migrated); s.decide(); s.commit(closed) }, "", "", "Running"},
		{"any state after Closed", func(s *story) {
			s.commit(staged)
			s.decide()
			s.commit(closed)
			s.decide()
			s.end(spec.RunSucceeded)
			s.decide()
			s.commit(migrated)
		}, "", "", "PlanClosed"},
		{"the closure changed after the approval", func(s *story) {
			s.commit(staged)
			s.decide()
			s.commit(migrated)
			s.c = closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.SourceCluster = "elsewhere" })
		}, "", "", "ApprovalOutdated"},
		{"flipped and taken back before it was served", func(s *story) { s.commit(staged); s.decide(); s.commit(migrated); s.commit(staged) }, "", "", "Staged"},
		{"an old approval lapses", func(s *story) { s.commit(staged); s.decide(); s.commit(migrated); s.at = s.at.Add(8 * 24 * time.Hour) }, "", "", "ApprovalLapsed"},
		{"notBefore waits", func(s *story) {
			nb := metav1.NewTime(noon.Add(time.Hour))
			s.commit(staged)
			s.decide()
			s.commit(closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.Cutover.NotBefore = &nb }))
		}, "", "", "NotBefore"},
		{"suspended", func(s *story) {
			s.commit(staged)
			s.decide()
			s.commit(closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.Suspend = &spec.Suspend{Reason: "freeze"} }))
		}, "", "", "Suspended"},
		{"an older plan covers the same", func(s *story) {
			s.commit(staged)
			s.decide()
			s.clash = &Clash{Plan: "elder", What: "namespace shop of source cluster old"}
			s.commit(migrated)
		}, "", "", "PlanConflict"},
		{"an older plan covers the same, and is closed", func(s *story) {
			s.commit(staged)
			s.clash = &Clash{Plan: "elder", What: "namespace shop of source cluster old"}
			s.commit(migrated)
			s.decide()
			s.clash = nil
		}, spec.RunMigrate, "", "CuttingOver"},
		{"a stage is asked for and an older plan covers the same", func(s *story) {
			asked := metav1.NewTime(noon)
			s.clash = &Clash{Plan: "elder", What: "namespace shop of source cluster old"}
			s.commit(closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Stage.RequestedAt = &asked }))
		}, "", "", "PlanConflict"},
		{"RolledBack after a cutover while an older plan covers the same", func(s *story) {
			cut(s)
			s.clash = &Clash{Plan: "elder", What: "namespace shop of source cluster old"}
			s.commit(rolledBack)
		}, spec.RunRollback, "", "RollingBack"},
		{"a stage slot is due", func(s *story) {
			c := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Stage.Schedule = "*/5 * * * *" })
			s.commit(c)
			s.decide()
			s.at = s.at.Add(6 * time.Minute)
		}, spec.RunStage, "", "Staging"},
		{"no stage slot while Migrated", func(s *story) {
			c := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Stage.Schedule = "*/5 * * * *" })
			m := closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.Stage.Schedule = "*/5 * * * *" })
			s.commit(c)
			s.decide()
			s.commit(m)
			s.decide()
			s.end(spec.RunSucceeded)
			s.at = s.at.Add(time.Hour)
		}, "", "", "Migrated"},
		{"removed", func(s *story) { s.commit(staged); s.decide(); Remove(s.st); s.c = nil }, "", "", "Removed"},
		{"removed after the stop", func(s *story) {
			s.commit(staged)
			s.decide()
			s.commit(migrated)
			s.decide()
			for i := range s.open.Steps {
				if s.open.Steps[i].Name == "stop" {
					s.open.Steps[i].State = spec.StepRunning
				}
			}
			Remove(s.st)
			s.c = nil
		}, "", "", "Removed"},
		{"removed before the stop", func(s *story) {
			s.commit(staged)
			s.decide()
			s.commit(migrated)
			s.decide()
			Remove(s.st)
			s.c = nil
		}, "", "Removed", "Removed"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			s := &story{st: newStatus("shop"), at: noon}
			r.play(s)
			d := s.decide()
			var kind spec.RunKind
			if d.Start != nil {
				kind = d.Start.Kind
			}
			if waits := d.Status.NextStage != nil; waits && r.reason != "Staged" {
				t.Errorf("a next stage run at %s", d.Status.NextStage)
			}
			if kind != r.start || !strings.HasPrefix(d.Cancel, r.cancel) || (r.cancel == "") != (d.Cancel == "") || reasonOf(d.Status) != r.reason {
				t.Fatalf("start %q cancel %q reason %s (%s)", kind, d.Cancel, reasonOf(d.Status), find(d.Status, "Ready").Message)
			}
		})
	}
}

// TestOneApprovalOneCutover replays the same commit: it never counts twice.
func TestOneApprovalOneCutover(t *testing.T) {
	s := &story{st: newStatus("shop"), at: noon}
	s.commit(closureIn(spec.Staged, 1))
	s.decide()
	by := spec.Approval{Commit: "one", Time: metav1.NewTime(noon)}
	f := PlanFlip{State: spec.Migrated, Attempt: 1, Digest: closureIn(spec.Migrated, 1).Digest()}
	s.c = closureIn(spec.Migrated, 1)
	Accept(s.st, f, by, false, nil)
	if d := s.decide(); d.Start == nil {
		t.Fatal("the first approval starts nothing")
	}
	s.end(spec.RunFailed)
	Accept(s.st, PlanFlip{State: spec.Staged, Attempt: 1}, spec.Approval{Commit: "two"}, false, nil)
	Accept(s.st, f, by, false, nil)
	if d := s.decide(); d.Start != nil {
		t.Fatalf("the approval %s started a second cutover", by.Commit)
	}
}

// TestARewrittenBranchLeavesRunsAlone: what runs goes on frozen, nothing new
// starts, and nothing of the tip is taken for accepted.
func TestARewrittenBranchLeavesRunsAlone(t *testing.T) {
	s := &story{st: newStatus("shop"), at: noon}
	s.commit(closureIn(spec.Staged, 1))
	s.decide()
	s.commit(closureIn(spec.Migrated, 1))
	s.decide()
	hold := &spec.Waiting{Reason: "HistoryRewritten", Message: "acknowledge"}
	other := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.SourceCluster = "elsewhere" })
	d := Decide(PlanInput{Now: noon, Plan: "shop", Closure: other, Status: s.st, Open: s.open, Hold: hold})
	if d.Cancel != "" || d.Start != nil || d.Status.Digest == other.Digest() {
		t.Fatalf("cancel %q, digest %s", d.Cancel, d.Status.Digest)
	}
	if d = Decide(PlanInput{Now: noon, Plan: "shop", Status: s.st, Hold: hold}); reasonOf(d.Status) != "HistoryRewritten" {
		t.Fatalf("reason %s", reasonOf(d.Status))
	}
}

func TestManyPlansRemovedHoldEverything(t *testing.T) {
	rec := &Recorded{Plans: map[string]*spec.PlanStatus{}, Daemon: spec.DaemonStatus{Accepted: "a"}}
	gone := []string{"p0", "p1", "p2"}
	for _, p := range append(gone, "p3", "p4") {
		rec.Plans[p] = newStatus(p)
	}
	want := &Desired{Commit: "b", Commits: []PlanCommit{{Removed: gone}}}
	plans, d := AcceptAll(noon, rec, want)
	if len(plans) != 0 || d.Hold == nil || d.Hold.Reason != "ManyPlansRemoved" || d.Accepted != "a" {
		t.Fatalf("hold %+v, accepted %s, %d plans", d.Hold, d.Accepted, len(plans))
	}
	rec.Daemon.Acknowledged = "b"
	want.Closures = map[string]*spec.Closure{"p3": closureIn(spec.Staged, 1), "p4": closureIn(spec.Staged, 1)}
	plans, d = AcceptAll(noon, rec, want)
	removed := 0
	for _, st := range plans {
		if st.Recorded.Removed {
			removed++
		}
	}
	if removed != 3 || d.Hold != nil || d.Accepted != "b" {
		t.Fatalf("acknowledged: hold %+v, %d removed", d.Hold, removed)
	}
}

// A configuration that reads fewer plans than before is no better than a commit that
// removes them: the branch has not moved, or has moved for another reason.
func TestManyPlansThatAreNotReadAnyMoreHoldEverything(t *testing.T) {
	rec := &Recorded{Plans: map[string]*spec.PlanStatus{}, Daemon: spec.DaemonStatus{Accepted: "a"}}
	for _, p := range []string{"p0", "p1", "p2", "p3"} {
		rec.Plans[p] = newStatus(p)
	}
	for _, want := range []*Desired{{Commit: "a"}, {Commit: "b", Commits: []PlanCommit{{}}}} {
		want.Closures = map[string]*spec.Closure{"p3": closureIn(spec.Staged, 1)}
		plans, d := AcceptAll(noon, rec, want)
		if len(plans) != 0 || d.Hold == nil || d.Hold.Reason != "ManyPlansRemoved" || !strings.Contains(d.Hold.Message, "shard, source.path or source.ignore") || d.Accepted != "a" {
			t.Errorf("%s: hold %+v, %d plans", want.Commit, d.Hold, len(plans))
		}
		acknowledged := *rec
		acknowledged.Daemon.Acknowledged = want.Commit
		removed := func(rec *Recorded) (n int, hold *spec.Waiting) {
			plans, d := AcceptAll(noon, rec, want)
			for _, st := range plans {
				if st.Recorded.Removed {
					n++
				}
			}
			return n, d.Hold
		}
		if n, hold := removed(&acknowledged); n != 3 || hold != nil {
			t.Errorf("acknowledged: hold %+v, %d removed", hold, n)
		}
		want.Partial = true
		if n, hold := removed(rec); n > 0 || hold != nil {
			t.Errorf("only a part was looked at: hold %+v, %d removed", hold, n)
		}
	}
	// Three that came and went between two polls are nobody's loss.
	want := &Desired{Commit: "b", Commits: []PlanCommit{{Removed: []string{"x", "y", "z"}}}, Closures: map[string]*spec.Closure{}}
	for p := range rec.Plans {
		want.Closures[p] = closureIn(spec.Staged, 1)
	}
	if _, d := AcceptAll(noon, rec, want); d.Hold != nil {
		t.Errorf("hold %+v", d.Hold)
	}
}

// A plan of which nobody can say whose it is stays, and says why; others that are
// gone do not wait for it. Text that may hold anything hides them all.
func TestAPlanThatMayBeAnyShardsStays(t *testing.T) {
	rec := &Recorded{Plans: map[string]*spec.PlanStatus{"shop": newStatus("shop"), "web": newStatus("web")}, Daemon: spec.DaemonStatus{Accepted: "a"}}
	unclear := spec.Problem{File: "shop.yaml", Line: 3, Document: "MigrationPlan/shop", Message: "its labels cannot be read"}
	want := &Desired{Commit: "b", Other: []spec.Problem{unclear}}
	out := Foresee(noon, rec, want).Plans
	if c := out["shop"].Condition; c.Reason != "InvalidDocuments" || c.Message != "shop.yaml:3: its labels cannot be read" || len(out["shop"].Status.Problems) != 1 {
		t.Errorf("%+v", c)
	}
	if r := out["web"].Condition.Reason; r != "Removed" {
		t.Errorf("the other is %s", r)
	}
	want.Other = append(want.Other, spec.Problem{File: "x.yaml", Message: "this is not valid YAML"})
	if c := Foresee(noon, rec, want).Plans["web"].Condition; c.Reason != "InvalidDocuments" || !strings.Contains(c.Message, "x.yaml") {
		t.Errorf("%+v", c)
	}
}

// What is asked before a rollback says since when the target is live.
func TestTargetWritesAreAskedForWithTheTime(t *testing.T) {
	s := &story{st: &spec.PlanStatus{}, at: noon}
	s.commit(closureIn(spec.Staged, 1))
	s.decide()
	s.commit(closureIn(spec.Migrated, 1))
	s.decide()
	live := metav1.NewMicroTime(noon.Add(time.Minute))
	for i := range s.open.Steps {
		if s.open.Steps[i].Name == "live" {
			s.open.Steps[i].Ended = &live
		}
	}
	s.end(spec.RunSucceeded)
	s.commit(closureIn(spec.RolledBack, 1))
	if got := meta.FindStatusCondition(s.decide().Status.Conditions, "Ready").Message; !strings.Contains(got, "2026-11-22T12:01:00Z") || !strings.Contains(got, "How much") {
		t.Errorf("it says %q", got)
	}
	s.commit(closureIn(spec.RolledBack, 1, discard))
	s.decide()
	s.end(spec.RunSucceeded)
	if s.st.Recorded.Live != nil {
		t.Error("the target is live after it was rolled back")
	}
}

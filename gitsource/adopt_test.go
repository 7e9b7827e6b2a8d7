package gitsource

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// edited is a status as a person writes it by hand.
func edited(t *testing.T, st *spec.PlanStatus) string {
	t.Helper()
	text, err := spec.EncodeStatus(st)
	must(t, err)
	return string(text)
}

// A person has changed a status and adopts the result; the daemon had said
// something else of that plan meanwhile, and of another one. The adopted word
// counts for the first, and nothing is lost of the other.
func TestAdoptedRecordsWinOverUnpushedOnes(t *testing.T) {
	for name, restarted := range map[string]bool{"while the daemon runs": false, "while it is away": true} {
		t.Run(name, func(t *testing.T) {
			s := gittest.New(t)
			r := s.Repo("plans.git")
			c := testConfig(t, s, r)
			a := acquired(t, c, "a")
			must(t, a.Record(testContext(t), planChange("shop", "one")))
			must(t, a.Push(testContext(t)))
			must(t, a.Record(testContext(t), planChange("shop", "of the journal")))
			must(t, a.Record(testContext(t), planChange("web", "of the journal")))
			foreignCommit(r, statusPath("shop"), edited(t, status("shop", "by hand")))
			if restarted {
				must(t, a.Close())
			}
			must(t, openLedger(t, testConfig(t, s, r)).Adopt(testContext(t)))
			if restarted {
				a = openLedger(t, c)
				_, err := a.Acquire(testContext(t), "a", false)
				must(t, err)
			}
			must(t, a.Push(testContext(t)))
			if rec := load(t, a); waits(t, rec, "shop") != "by hand" || waits(t, rec, "web") != "of the journal" {
				t.Errorf("shop says %q, web %q", waits(t, rec, "shop"), waits(t, rec, "web"))
			}
			if !strings.Contains(r.Git("show", ledgerRef+":"+statusPath("shop")), "by hand") {
				t.Error("the journal won in Git")
			}
			r.Fsck()
		})
	}
}

// A run went on while somebody changed its plan's status: what it did is not
// lost, whatever the adopted status says of it, and neither is the rest of
// what the person has written.
func TestAdoptionLosesNoRun(t *testing.T) {
	ended := func(run *spec.Run, st *spec.PlanStatus) (*spec.Run, *spec.PlanStatus) {
		done, after := *run, *st
		end := runStart
		done.Status.Phase, done.Status.Ended = spec.RunSucceeded, &end
		after.Recorded.OpenRun, after.Recorded.LastRun, after.Recorded.LastRunPath = "", run.Metadata.Name, spec.RunPath(run)
		after.Recorded.State, after.Recorded.Cutover, after.Recorded.CutoverPath = spec.Migrated, run.Metadata.Name, spec.RunPath(run)
		return &done, &after
	}
	byHand := status("shop", "by hand")
	byHand.Recorded.Flip = &spec.Flip{To: spec.Migrated, Approval: spec.Approval{Commit: "used"}}
	for name, c := range map[string]struct {
		does  func(run *spec.Run, st *spec.PlanStatus) reconciler.Change // unpushed
		check func(t *testing.T, rec *reconciler.Recorded)
	}{
		"it goes on": {func(run *spec.Run, _ *spec.PlanStatus) reconciler.Change {
			next := *run
			next.Steps = []spec.Step{{Name: "stop", Verb: "workload.stop", State: spec.StepRunning}}
			return reconciler.Change{Runs: runs(&next), Message: "stop"}
		}, func(t *testing.T, rec *reconciler.Recorded) {
			run := rec.Open["shop-migrate-1"]
			if run == nil || run.Steps[0].State != spec.StepRunning {
				t.Errorf("the open run is lost: %+v", run)
			}
		}},
		"it has ended": {func(run *spec.Run, st *spec.PlanStatus) reconciler.Change {
			done, after := ended(run, st)
			return reconciler.Change{Runs: runs(done), Plans: plans(after), Message: "done"}
		}, func(t *testing.T, rec *reconciler.Recorded) {
			r := rec.Plans["shop"].Recorded
			if r.State != spec.Migrated || r.Cutover != "shop-migrate-1" || len(rec.Open) != 0 {
				t.Errorf("the cutover is lost: %+v", r)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := gittest.New(t)
			r := s.Repo("plans.git")
			a := acquired(t, testConfig(t, s, r), "a")
			run, st := openRun("shop", 1)
			st.Recorded.Numbers, st.Recorded.Approvals = map[spec.RunKind]int{spec.RunMigrate: 1}, []string{"used"}
			must(t, a.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run), Message: "frozen"}))
			must(t, a.Push(testContext(t)))
			must(t, a.Record(testContext(t), c.does(run, st)))
			foreignCommit(r, statusPath("shop"), edited(t, byHand))
			must(t, a.Adopt(testContext(t)))
			must(t, a.Push(testContext(t)))
			rec := load(t, a)
			c.check(t, rec)
			got := rec.Plans["shop"]
			if waits(t, rec, "shop") != "by hand" || got.Recorded.Flip != nil || got.Recorded.Numbers[spec.RunMigrate] != 1 || len(got.Recorded.Approvals) != 1 {
				t.Errorf("joined to %+v", got)
			}
			r.Fsck()
		})
	}
}

// What was decided before an adoption is not laid over it: nothing is written until
// the ledger was loaded, and who serves it is told.
func TestNothingIsWrittenOverAnAdoptedLedger(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	a := acquired(t, c, "a")
	must(t, a.Record(testContext(t), planChange("shop", "one")))
	must(t, a.Push(testContext(t)))
	foreignCommit(r, statusPath("shop"), edited(t, status("shop", "by hand")))
	must(t, openLedger(t, testConfig(t, s, r)).Adopt(testContext(t)))
	a.batch = time.Millisecond
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	must(t, a.Check(ctx)) // which is when a daemon meets it
	var heard error
	must(t, a.Serve(ctx, func(err error) { heard = err; stop() }))
	if !errors.Is(heard, reconciler.ErrAdopted) {
		t.Errorf("it heard %v", heard)
	}
	if err := a.Record(testContext(t), planChange("shop", "from memory")); !errors.Is(err, reconciler.ErrAdopted) {
		t.Errorf("it was written over: %v", err)
	}
	if rec := load(t, a); waits(t, rec, "shop") != "by hand" {
		t.Errorf("shop says %q", waits(t, rec, "shop"))
	}
	must(t, a.Record(testContext(t), planChange("shop", "after it was read")))
	must(t, a.Push(testContext(t)))
	if !strings.Contains(r.Git("show", ledgerRef+":"+statusPath("shop")), "after it was read") {
		t.Error("nothing is written any more")
	}
	r.Fsck()
}

// Our own commit reached the server, its reply did not, and somebody edited on
// top of it: what it holds is not written a second time.
func TestAdoptionDoublesNothing(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	a := acquired(t, testConfig(t, s, r), "a")
	c := planChange("web", "x")
	c.Logs = []reconciler.Log{{Plan: "web", Run: "web-stage-1", Name: "x.log", Text: "once\n"}}
	must(t, a.Record(testContext(t), c))
	s.Inject(receivePack, 1, gittest.LostReply(func() {
		foreignCommit(r, statusPath("shop"), edited(t, status("shop", "by hand")))
	}))
	if err := a.Push(testContext(t)); err == nil {
		t.Fatal("the edit was not noticed")
	}
	must(t, openLedger(t, testConfig(t, s, r)).Adopt(testContext(t)))
	must(t, a.Push(testContext(t)))
	if log := r.Git("show", ledgerRef+":"+logPath("web", "web-stage-1", "x.log", a.startOf(c.Logs[0], nil))); log != "once" {
		t.Errorf("%q", log)
	}
	r.Fsck()
}

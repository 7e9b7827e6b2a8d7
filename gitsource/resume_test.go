package gitsource

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// notAcquired is the error with which an Acquire gives up.
func notAcquired(t *testing.T, l *Ledger) error {
	t.Helper()
	_, err := l.Acquire(triedOnce(t, l), "a", false)
	if err == nil {
		t.Fatal("the ledger was acquired")
	}
	return err
}

// A daemon that restarts while Git is down goes on with the run that it had
// begun, and pushes all of it when Git is back.
func TestResumeWhileGitIsDown(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	l := acquired(t, c, "a")
	run, st := openRun("shop", 1)
	must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run), Message: "frozen"}))
	must(t, l.Push(testContext(t)))
	must(t, l.Record(testContext(t), planChange("web", "only in the journal")))
	s.SetDown(true)
	must(t, l.Close())

	l = openLedger(t, c)
	epoch, err := l.Resume("a", notAcquired(t, l))
	must(t, err)
	if epoch != 1 {
		t.Errorf("epoch %d, want the one of before", epoch)
	}
	rec := load(t, l)
	if rec.Open["shop-migrate-1"] == nil || waits(t, rec, "web") != "only in the journal" || rec.Changed != "" {
		t.Errorf("%+v", rec)
	}
	must(t, l.Record(testContext(t), planChange("shop", "put back")))
	s.SetDown(false)
	must(t, l.Push(testContext(t)))
	for plan, want := range map[string]string{"shop": "put back", "web": "only in the journal"} {
		if !strings.Contains(r.Git("show", ledgerRef+":"+statusPath(plan)), want) {
			t.Errorf("%s is not pushed", plan)
		}
	}
	ledgerSound(t, r)
}

// Another daemon took over while Git was out of reach: as soon as Git answers,
// the resumed one is through.
func TestResumedDaemonLearnsOfATakeOver(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	must(t, acquired(t, c, "a").Close())
	b := openLedger(t, testConfig(t, s, r))
	_, err := b.Acquire(testContext(t), "b", true)
	must(t, err)
	s.SetDown(true)
	a := openLedger(t, c)
	_, err = a.Resume("a", notAcquired(t, a))
	must(t, err)
	must(t, a.Record(testContext(t), planChange("shop", "from the dead")))
	s.SetDown(false)
	if err = a.Push(testContext(t)); !errors.Is(err, reconciler.ErrSuperseded) {
		t.Fatalf("%v", err)
	}
	if _, err := a.Resume("a", err); !errors.Is(err, reconciler.ErrSuperseded) {
		t.Errorf("superseded, and resumed: %v", err)
	}
	must(t, b.Record(testContext(t), planChange("shop", "from b")))
	must(t, b.Push(testContext(t)))
	if strings.Contains(r.Git("show", ledgerRef+":"+statusPath("shop")), "from the dead") {
		t.Error("a superseded daemon wrote")
	}
}

// What forbids to go on: nothing was ever held, another daemon holds it, or
// this one was superseded.
func TestResumeIsRefused(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	a := acquired(t, c, "a")
	b := openLedger(t, testConfig(t, s, r))
	held := notAcquired(t, b)
	if _, err := b.Resume("b", held); !errors.Is(err, ErrHeld) {
		t.Errorf("held: %v", err)
	}
	s.SetDown(true)
	down := notAcquired(t, b)
	if _, err := b.Resume("b", down); !errors.Is(err, ErrUnreachable) {
		t.Errorf("an empty data directory: %v", err)
	}
	s.SetDown(false)
	_, err := b.Acquire(testContext(t), "b", true)
	must(t, err)
	if err := a.Check(testContext(t)); !errors.Is(err, reconciler.ErrSuperseded) {
		t.Fatal(err)
	}
	must(t, a.Close())
	s.SetDown(true)
	a = openLedger(t, c)
	if _, err := a.Resume("a", notAcquired(t, a)); err == nil {
		t.Error("a superseded daemon was resumed")
	}
}

// The ledger was rewritten while the daemon was away: it gets its old record,
// and word of it.
func TestResumeOnARewrittenLedger(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	l := acquired(t, c, "a")
	run, st := openRun("shop", 1)
	must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run), Message: "frozen"}))
	must(t, l.Push(testContext(t)))
	must(t, l.Close())
	r.Git("update-ref", ledgerRef, ledgerRef+"~1")
	l = openLedger(t, c)
	_, err := l.Resume("a", notAcquired(t, l))
	must(t, err)
	rec := load(t, l)
	if rec.Open["shop-migrate-1"] == nil || !strings.Contains(rec.Changed, "was rewritten") {
		t.Errorf("%+v", rec)
	}
	must(t, l.Record(testContext(t), planChange("shop", "put back"))) // the journal takes it
	if err := l.Push(testContext(t)); !errors.Is(err, reconciler.ErrLedgerChanged) {
		t.Errorf("%v", err)
	}
	must(t, l.Adopt(testContext(t)))
	if rec := load(t, l); rec.Changed != "" {
		t.Errorf("after the adoption: %s", rec.Changed)
	}
	must(t, l.Push(testContext(t)))
	ledgerSound(t, r)
}

// The push that raised the epoch arrived, its answer did not, and the daemon was
// resumed with the epoch of before. It learns of its own commit: the epoch in Git
// never goes back, and its next start is not refused.
func TestResumedAfterItRaisedTheEpoch(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	must(t, acquired(t, c, "a").Close())
	l := openLedger(t, c)
	ctx, giveUp := context.WithCancel(testContext(t))
	defer giveUp()
	s.Inject(receivePack, 1, gittest.LostReply(func() { s.SetDown(true); giveUp() }))
	_, err := l.Acquire(ctx, "a", false)
	if err == nil {
		t.Fatal("the ledger was acquired")
	}
	epoch, err := l.Resume("a", err)
	must(t, err)
	must(t, l.Record(testContext(t), reconciler.Change{Daemon: &spec.DaemonStatus{Commit: "x"}, Plans: plans(status("shop", "goes on")), Message: "on"}))
	s.SetDown(false)
	must(t, l.Push(testContext(t)))
	if d := load(t, l).Daemon; epoch != 1 || d.Epoch != 2 || l.Epoch() != 2 {
		t.Errorf("resumed with %d, Git says %d, the daemon has %d", epoch, d.Epoch, l.Epoch())
	}
	if newest := r.Git("log", "-1", "--format=%B", ledgerRef); !strings.Contains(newest, epochTrailer+": 2") {
		t.Errorf("the newest commit: %s", newest)
	}
	must(t, l.Close())
	l = openLedger(t, c)
	if epoch, err = l.Acquire(testContext(t), "a", false); err != nil || epoch != 3 {
		t.Fatalf("the next start: epoch %d, %v", epoch, err)
	}
	ledgerSound(t, r)
}

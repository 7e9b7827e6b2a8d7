package gitsource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
)

func TestRestartRaisesTheEpoch(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	for want := range int64(3) {
		l := openLedger(t, c)
		got, err := l.Acquire(testContext(t), "a", false)
		must(t, err)
		if got != want+1 || l.Epoch() != got {
			t.Errorf("epoch %d, want %d", got, want+1)
		}
		must(t, l.Close())
	}
	// A new name in the same directory is still this daemon.
	l := openLedger(t, c)
	_, err := l.Acquire(testContext(t), "renamed", false)
	must(t, err)
	ledgerSound(t, r)
}

func TestOneDaemonPerDataDirectory(t *testing.T) {
	s := gittest.New(t)
	c := testConfig(t, s, s.Repo("plans.git"))
	_ = openLedger(t, c)
	if _, err := OpenLedger(c); !errors.Is(err, ErrHeld) {
		t.Errorf("%v", err)
	}
}

func TestTakeOver(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	first := testConfig(t, s, r)
	a := acquired(t, first, "a")
	must(t, a.Record(testContext(t), planChange("shop", "from a")))
	must(t, a.Push(testContext(t)))

	b := openLedger(t, testConfig(t, s, r))
	_, err := b.Acquire(testContext(t), "b", false)
	if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), "--take-over") {
		t.Fatalf("%v", err)
	}
	must(t, a.Record(testContext(t), planChange("shop", "late words of a")))
	epoch, err := b.Acquire(testContext(t), "b", true)
	must(t, err)
	if epoch != 2 {
		t.Errorf("epoch %d", epoch)
	}
	for range 2 { // for ever
		if err := a.Push(testContext(t)); !errors.Is(err, reconciler.ErrSuperseded) {
			t.Errorf("Push: %v", err)
		}
		if err := a.Record(testContext(t), planChange("shop", "x")); !errors.Is(err, reconciler.ErrSuperseded) {
			t.Errorf("Record: %v", err)
		}
	}
	a.batch = time.Millisecond
	if err := a.Serve(testContext(t), nobody); !errors.Is(err, reconciler.ErrSuperseded) {
		t.Errorf("Serve: %v", err)
	}
	must(t, a.Close())

	a = openLedger(t, first)
	if _, err := a.Acquire(testContext(t), "a", false); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "took it over") {
		t.Errorf("a superseded daemon raises again: %v", err)
	}
	if _, err := a.Acquire(testContext(t), "a", true); err != nil {
		t.Fatal(err)
	}
	must(t, a.Push(testContext(t)))
	if got := waits(t, load(t, a), "shop"); got != "from a" {
		t.Errorf("a superseded journal was replayed: %q", got)
	}
	if kept, _ := filepath.Glob(filepath.Join(first.DataDir, "journal", "*.superseded-*")); len(kept) != 1 {
		t.Errorf("kept for people: %v", kept)
	}
	b.batch = time.Millisecond
	if err := b.Serve(testContext(t), nobody); !errors.Is(err, reconciler.ErrSuperseded) {
		t.Errorf("an idle daemon does not notice: %v", err)
	}
	ledgerSound(t, r)
}

// The other daemon takes over between two lives of this one, whose journal
// holds a change that never reached Git.
func TestSupersededWhileAway(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	a := acquired(t, c, "a")
	must(t, a.Record(testContext(t), planChange("shop", "late words of a")))
	must(t, a.Close())
	b := openLedger(t, testConfig(t, s, r))
	_, err := b.Acquire(testContext(t), "b", true)
	must(t, err)
	a = openLedger(t, c)
	if rec := load(t, a); rec.Plans["shop"] != nil {
		t.Error("a superseded journal is shown")
	}
	if _, err := a.Acquire(testContext(t), "a", false); !errors.Is(err, ErrHeld) {
		t.Errorf("%v", err)
	}
}

func TestSilentLedgerMayBeTaken(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	_ = acquired(t, testConfig(t, s, r), "a")
	c := testConfig(t, s, r)
	c.SeenWithin = time.Nanosecond
	_ = acquired(t, c, "b")
}

// A cluster remembers epoch 57 of a ledger that was lost and began anew: whoever
// holds the new one raises above it, with Git's consent only.
func TestRaiseAboveWhatAClusterRemembers(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	a := acquired(t, c, "a")
	must(t, a.Record(testContext(t), planChange("shop", "kept")))
	s.SetDown(true)
	ctx, cancel := context.WithTimeout(testContext(t), time.Second)
	defer cancel()
	if _, err := a.RaiseAbove(ctx, 57); err == nil || errors.Is(err, reconciler.ErrSuperseded) || a.Epoch() != 1 {
		t.Errorf("without Git: epoch %d, %v", a.Epoch(), err)
	}
	s.SetDown(false)
	for range 2 { // the second cluster finds it raised
		epoch, err := a.RaiseAbove(testContext(t), 57)
		if must(t, err); epoch != 58 || a.Epoch() != 58 {
			t.Errorf("epoch %d", epoch)
		}
	}
	must(t, a.Push(testContext(t)))
	if rec := load(t, a); waits(t, rec, "shop") != "kept" {
		t.Error("the record is lost")
	}
	b := openLedger(t, testConfig(t, s, r))
	_, err := b.Acquire(testContext(t), "b", true)
	must(t, err)
	if _, err := a.RaiseAbove(testContext(t), 80); !errors.Is(err, reconciler.ErrSuperseded) {
		t.Errorf("a daemon that was replaced raises: %v", err)
	}
	if b.Epoch() != 59 {
		t.Errorf("the next epoch is %d", b.Epoch())
	}
	must(t, b.Record(testContext(t), planChange("web", "x")))
	must(t, b.Push(testContext(t)))
	ledgerSound(t, r)
}

// The push of a raised epoch lands, its reply is lost, and the process dies.
func TestCrashWhileAcquiring(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	a := acquired(t, c, "a")
	must(t, a.Record(testContext(t), planChange("shop", "kept")))
	must(t, a.Close())
	a = openLedger(t, c)
	s.Inject(receivePack, 1, gittest.LostReply(func() { s.SetDown(true) }))
	if _, err := a.Acquire(triedOnce(t, a), "a", false); err == nil {
		t.Fatal("the acquisition must fail")
	}
	must(t, a.Close())
	s.SetDown(false)
	a = openLedger(t, c)
	epoch, err := a.Acquire(testContext(t), "a", false)
	must(t, err)
	must(t, a.Push(testContext(t)))
	if epoch != 3 || waits(t, load(t, a), "shop") != "kept" {
		t.Errorf("epoch %d", epoch)
	}
	ledgerSound(t, r)
}

func TestLostJournalWorks(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	a := acquired(t, c, "a")
	run, st := openRun("shop", 1)
	must(t, a.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run), Message: "frozen"}))
	must(t, a.Push(testContext(t)))
	must(t, a.Close())
	must(t, os.RemoveAll(c.DataDir))
	a = openLedger(t, c)
	if rec := load(t, a); rec.Open["shop-migrate-1"] == nil || rec.Origin {
		t.Errorf("%+v", rec)
	}
	if _, err := a.Acquire(testContext(t), "a", false); !errors.Is(err, ErrHeld) {
		t.Errorf("nobody can tell whether the other \"a\" is dead: %v", err)
	}
	if _, err := a.Acquire(testContext(t), "a", true); err != nil {
		t.Error(err)
	}
	ledgerSound(t, r)
}

func TestRewrittenLedgerIsRefused(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	a := acquired(t, c, "a")
	for _, word := range []string{"one", "two"} {
		must(t, a.Record(testContext(t), planChange("shop", word)))
		must(t, a.Push(testContext(t)))
	}
	r.Git("update-ref", ledgerRef, ledgerRef+"~1")
	must(t, a.Record(testContext(t), planChange("web", "three")))
	if err := a.Push(testContext(t)); !errors.Is(err, ErrLedgerRewritten) {
		t.Fatalf("Push: %v", err)
	}
	rec, err := a.Load(testContext(t))
	if err != nil || !strings.Contains(rec.Changed, "was rewritten") || waits(t, rec, "shop") != "two" || waits(t, rec, "web") != "three" {
		t.Errorf("Load: %v, %+v", err, rec)
	}
	must(t, a.Close())
	a = openLedger(t, c)
	if _, err := a.Acquire(testContext(t), "a", true); !errors.Is(err, ErrLedgerRewritten) {
		t.Errorf("a restart forgets it: %v", err)
	}
	adopter := openLedger(t, testConfig(t, s, r)) // another machine, without an epoch
	must(t, adopter.Adopt(testContext(t)))
	_, err = a.Acquire(testContext(t), "a", false)
	must(t, err)
	must(t, a.Push(testContext(t)))
	if rec := load(t, a); waits(t, rec, "shop") != "one" || waits(t, rec, "web") != "three" {
		t.Error("after adoption Git's records count, and the journal's go on top")
	}
	// The adoption covers that rewrite, not the next one.
	r.Git("update-ref", ledgerRef, ledgerRef+"~1")
	if err := a.Check(testContext(t)); !errors.Is(err, ErrLedgerRewritten) {
		t.Errorf("%v", err)
	}
	ledgerSound(t, r)
}

func TestDeletedLedgerIsRefused(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	a := acquired(t, testConfig(t, s, r), "a")
	r.Git("update-ref", "-d", ledgerRef)
	must(t, a.Record(testContext(t), planChange("shop", "x")))
	if err := a.Push(testContext(t)); !errors.Is(err, ErrLedgerRewritten) {
		t.Errorf("%v", err)
	}
	must(t, a.Adopt(testContext(t)))
	must(t, a.Push(testContext(t)))
	ledgerSound(t, r)
}

func TestHandEditedLedgerIsRefused(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	a := acquired(t, c, "a")
	must(t, a.Record(testContext(t), planChange("shop", "one")))
	must(t, a.Push(testContext(t)))
	foreignCommit(r, "logs/note.txt", "harmless")
	must(t, a.Check(testContext(t)))
	foreignCommit(r, "runs/2026/11/x/stage-1.yaml", "not a record")
	must(t, a.Record(testContext(t), planChange("shop", "two")))
	err := a.Push(testContext(t))
	if !errors.Is(err, ErrLedgerEdited) || !strings.Contains(err.Error(), "grace@example.com") || !strings.Contains(err.Error(), "runs/2026/11/x/stage-1.yaml") {
		t.Fatalf("%v", err)
	}
	if rec := load(t, a); !strings.Contains(rec.Changed, "grace@example.com") || waits(t, rec, "shop") != "two" {
		t.Errorf("Load: %+v", rec)
	}
	must(t, a.Adopt(testContext(t)))
	must(t, a.Push(testContext(t)))
	if rec := load(t, a); waits(t, rec, "shop") != "two" || rec.Changed != "" {
		t.Errorf("%+v", rec)
	}
	r.Fsck()
}

// A daemon on a new machine, or with an emptied data directory, has nothing to
// compare the ledger with but the ledger.
func TestHandEditedLedgerIsRefusedByANewDaemon(t *testing.T) {
	deep := func(r *gittest.Repo) {
		for n := range 3 {
			foreignCommit(r, "logs/note.txt", fmt.Sprint(n))
		}
	}
	const record = "runs/2026/11/x/stage-1.yaml"
	cases := map[string]struct {
		edit    func(r *gittest.Repo)
		refused string // part of why, "" when it is not
	}{
		"untouched":       {func(*gittest.Repo) {}, ""},
		"notes only":      {deep, ""},
		"a record on top": {func(r *gittest.Repo) { foreignCommit(r, record, "no record") }, record},
		"below notes":     {func(r *gittest.Repo) { foreignCommit(r, record, "no record"); deep(r) }, "grace@example.com"},
		"all of it": {func(r *gittest.Repo) {
			r.Git("update-ref", ledgerRef, r.Git("commit-tree", "-m", "begin anew", ledgerRef+"^{tree}"))
		}, "no commit of branch tranship/ledger"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := gittest.New(t)
			r := s.Repo("plans.git")
			a := acquired(t, testConfig(t, s, r), "a")
			must(t, a.Record(testContext(t), planChange("shop", "one")))
			must(t, a.Push(testContext(t)))
			must(t, a.Close())
			c.edit(r)
			conf := testConfig(t, s, r)
			for range 2 { // a restart does not forget
				b := openLedger(t, conf)
				_, err := b.Acquire(testContext(t), "b", true)
				if c.refused == "" {
					must(t, err)
					if rec := load(t, b); rec.Changed != "" || waits(t, rec, "shop") != "one" {
						t.Errorf("%+v", rec)
					}
				} else if !errors.Is(err, ErrLedgerEdited) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("it was taken: %v", err)
				}
				must(t, b.Close())
			}
			if c.refused == "" {
				return
			}
			b := openLedger(t, conf)
			if rec, err := b.Load(testContext(t)); name != "all of it" && (err != nil || rec.Changed == "" || waits(t, rec, "shop") != "one") {
				t.Errorf("what the last daemon wrote is not shown: %v %+v", err, rec)
			}
			must(t, b.Adopt(testContext(t)))
			_, err := b.Acquire(testContext(t), "b", true)
			must(t, err)
		})
	}
}

// A daemon that has nothing to do hears of an edit, too.
func TestServeTellsOfAnEdit(t *testing.T) {
	for name, queued := range map[string]bool{"with a record to push": true, "with none": false} {
		t.Run(name, func(t *testing.T) {
			s := gittest.New(t)
			r := s.Repo("plans.git")
			a := acquired(t, testConfig(t, s, r), "a")
			must(t, a.Record(testContext(t), planChange("shop", "one")))
			must(t, a.Push(testContext(t)))
			foreignCommit(r, "runs/2026/11/x/stage-1.yaml", "not a record")
			if queued {
				must(t, a.Record(testContext(t), planChange("shop", "two")))
			}
			a.batch = time.Millisecond
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
			defer stop()
			var heard error
			must(t, a.Serve(ctx, func(err error) { heard = err; stop() }))
			if !errors.Is(heard, reconciler.ErrLedgerChanged) || !strings.Contains(heard.Error(), "grace@example.com") {
				t.Errorf("it heard %v", heard)
			}
		})
	}
}

func nobody(error) {}

func TestLedgerBranchOfSomebodyElse(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	w := r.Clone()
	w.Write("README.md", "a project").Push("first")
	w.Git("push", "-q", "origin", "HEAD:refs/heads/tranship/ledger")
	l := openLedger(t, testConfig(t, s, r))
	if _, err := l.Acquire(testContext(t), "a", true); !errors.Is(err, ErrLedgerEdited) || !strings.Contains(err.Error(), "not a Tranship ledger") {
		t.Errorf("%v", err)
	}
}

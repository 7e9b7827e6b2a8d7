package gitsource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

func TestLedgerBeginsOnAnEmptyRepository(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	l := openLedger(t, c)
	if rec := load(t, l); !rec.Origin {
		t.Error("a ledger that was never written is an origin")
	}
	if err := l.Record(testContext(t), planChange("shop", "x")); !errors.Is(err, ErrNotAcquired) {
		t.Errorf("Record before Acquire: %v", err)
	}
	epoch, err := l.Acquire(testContext(t), "a", false)
	must(t, err)
	if epoch != 1 || !load(t, l).Origin {
		t.Errorf("epoch %d, and still an origin", epoch)
	}
	run, st := openRun("shop", 1)
	must(t, l.Record(testContext(t), reconciler.Change{Plans: []*spec.PlanStatus{st}, Runs: []*spec.Run{run}, Message: "shop-migrate-1: frozen",
		Trailers: map[string]string{"Migration-Plan": "shop", "Migration-Run": "shop-migrate-1", "Source-Commit": run.Spec.Commit, "Plan-Digest": "sha256:x\nEvil: yes"},
		Logs:     []reconciler.Log{{Plan: "shop", Run: "shop-migrate-1", Name: "stop.log", Text: "one"}}}))
	if rec := load(t, l); rec.Open["shop-migrate-1"] == nil {
		t.Error("Load does not show what the journal holds")
	}
	must(t, l.Push(testContext(t)))
	must(t, l.Record(testContext(t), reconciler.Change{Logs: []reconciler.Log{{Plan: "shop", Run: "shop-migrate-1", Name: "stop.log", Text: "two\n"}}}))
	must(t, l.Push(testContext(t)))
	got := r.Git("show", ledgerRef+":logs/2026/11/"+spec.ShortName("shop")+"/migrate-1/stop.log")
	if got != "one\ntwo" {
		t.Errorf("log: %q", got)
	}
	trailers := r.Input(r.Git("log", "-1", "--format=%B", ledgerRef+"~1")+"\n", "interpret-trailers", "--parse")
	want := "Migration-Plan: shop\nMigration-Run: shop-migrate-1\nSource-Commit: " + run.Spec.Commit + "\nPlan-Digest: sha256:x Evil: yes\nTranship-Epoch: 1\n"
	if !strings.HasPrefix(trailers, want) {
		t.Errorf("trailers:\n%s", trailers)
	}
	read, err := l.Run(testContext(t), spec.RunPath(run))
	must(t, err)
	if read.Metadata.Name != run.Metadata.Name {
		t.Errorf("run %q", read.Metadata.Name)
	}
	ledgerSound(t, r)
	if mode := stat(t, filepath.Join(c.DataDir, "git", "ledger")).Mode().Perm(); mode != 0o700 {
		t.Errorf("cache has mode %o", mode)
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info
}

func TestHundredPlansAreOneCommit(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	before := commits(r)
	for i := range 100 {
		must(t, l.Record(testContext(t), planChange(fmt.Sprintf("plan-%d", i), "x")))
	}
	must(t, l.Push(testContext(t)))
	if n := commits(r) - before; n != 1 {
		t.Errorf("%d commits", n)
	}
	for i := range 100 { // the same again changes nothing
		must(t, l.Record(testContext(t), planChange(fmt.Sprintf("plan-%d", i), "x")))
	}
	must(t, l.Push(testContext(t)))
	if n := commits(r) - before; n != 1 {
		t.Errorf("%d commits after recording the same again", n)
	}
	if h := l.Health(); h.Unpushed != 0 || h.LastError != nil {
		t.Errorf("health: %+v", h)
	}
	ledgerSound(t, r)
}

// Four daemons of one epoch cannot exist; four writers that share one show
// that the swap on the server loses and doubles nothing.
func TestFourWritersLoseAndDoubleNothing(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	writers := []*Ledger{acquired(t, testConfig(t, s, r), "a")}
	for range 3 {
		l := openLedger(t, testConfig(t, s, r))
		must(t, l.sync(testContext(t)))
		must(t, l.settle(0, func(h *journalHead) { h.Epoch, h.Holder = 1, "a" }))
		l.epoch, l.holder = 1, "a"
		writers = append(writers, l)
	}
	const records = 100
	ctx := testContext(t)
	var wg sync.WaitGroup
	for w, l := range writers {
		wg.Go(func() {
			for i := range records {
				c := planChange(fmt.Sprintf("w%d-%d", w, i), "x")
				c.Logs = []reconciler.Log{{Plan: "shared", Run: "shared-stage-1", Name: "all.log", Text: fmt.Sprintf("w%d-%d\n", w, i)}}
				err := l.Record(context.Background(), c)
				if i%20 == w { // each at its own pace
					err = errors.Join(err, l.Push(ctx))
				}
				if err != nil {
					t.Error(err)
				}
			}
			if err := l.Push(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fresh, err := OpenView(testContext(t), testConfig(t, s, r))
	must(t, err)
	defer func() { must(t, fresh.Close()) }()
	plans, err := fresh.Plans()
	must(t, err)
	logs, err := fresh.Logs("shared", "shared-stage-1")
	must(t, err)
	if len(plans) != 4*records || len(logs) != 1 {
		t.Fatalf("%d plans, %d logs", len(plans), len(logs))
	}
	for w := range writers {
		for i := range records {
			if n := strings.Count(logs[0].Text, fmt.Sprintf("w%d-%d\n", w, i)); n != 1 {
				t.Errorf("record w%d-%d is there %d times", w, i, n)
			}
		}
	}
	ledgerSound(t, r)
}

func TestPushFaults(t *testing.T) {
	appended := func(l *Ledger, text string) error {
		c := planChange("shop", text)
		c.Logs = []reconciler.Log{{Plan: "shop", Run: "shop-stage-1", Name: "x.log", Text: text + "\n"}}
		return l.Record(context.Background(), c)
	}
	cases := map[string]func(s *gittest.Server, r *gittest.Repo){
		"lost reply":  func(s *gittest.Server, _ *gittest.Repo) { s.Inject(receivePack, 1, gittest.LostReply(nil)) },
		"500":         func(s *gittest.Server, _ *gittest.Repo) { s.Inject(receivePack, 2, gittest.Answer(500)) },
		"502":         func(s *gittest.Server, _ *gittest.Repo) { s.Inject(receivePack, 2, gittest.Answer(502)) },
		"409":         func(s *gittest.Server, _ *gittest.Repo) { s.Inject(receivePack, 2, gittest.Answer(409)) },
		"429":         func(s *gittest.Server, _ *gittest.Repo) { s.Inject(receivePack, 2, gittest.Later(429, "0")) },
		"403 for now": func(s *gittest.Server, _ *gittest.Repo) { s.Inject(receivePack, 1, gittest.Answer(403)) },
		"401 for now": func(s *gittest.Server, _ *gittest.Repo) { s.Inject(receivePack, 1, gittest.Answer(401)) },
		"cut answer":  func(s *gittest.Server, _ *gittest.Repo) { s.Inject(receivePack, 1, gittest.Truncated(5)) },
		"stale tip": func(s *gittest.Server, r *gittest.Repo) {
			s.Inject(receivePack, 1, gittest.Before(func() { foreignCommit(r, "README.md", "hello") }))
		},
		"lost reply, then a commit of another": func(s *gittest.Server, r *gittest.Repo) {
			s.Inject(receivePack, 1, gittest.LostReply(func() { foreignCommit(r, "notes.txt", "hello") }))
		},
		"rejected by a hook, once": func(s *gittest.Server, r *gittest.Repo) {
			r.Hook("pre-receive", "rm hooks/pre-receive; echo protected >&2; exit 1")
		},
	}
	for name, fault := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gittest.New(t)
			r := s.Repo("plans.git")
			l := acquired(t, testConfig(t, s, r), "a")
			must(t, appended(l, "one"))
			must(t, l.Push(testContext(t)))
			fault(s, r)
			must(t, appended(l, "two"))
			must(t, l.Push(testContext(t)))
			must(t, appended(l, "three"))
			must(t, l.Push(testContext(t)))
			if got := waits(t, load(t, l), "shop"); got != "three" {
				t.Errorf("status says %q", got)
			}
			path := logPath("shop", "shop-stage-1", "x.log", time.Now())
			if got := r.Git("show", ledgerRef+":"+path); got != "one\ntwo\nthree" {
				t.Errorf("log: %q", got)
			}
			r.Fsck()
		})
	}
}

// foreignCommit puts a commit of somebody else's on the ledger.
func foreignCommit(r *gittest.Repo, path, text string) string {
	return forgedCommit(r, path, text, "edit by hand")
}

// forgedCommit is one with whatever message, such as a daemon's.
func forgedCommit(r *gittest.Repo, path, text, message string) string {
	index := filepath.Join(r.Dir, "foreign-index")
	blob := r.Input(text, "hash-object", "-w", "--stdin")
	script := fmt.Sprintf("export GIT_INDEX_FILE=%s; git read-tree %s; git update-index --add --cacheinfo 100644,%s,%s; git write-tree", index, ledgerRef, blob, path)
	r.Git("config", "alias.foreign", "!sh -c '"+script+"'")
	tree := r.Git("foreign")
	commit := r.Git("commit-tree", "-p", ledgerRef, "-m", message, tree)
	r.Git("update-ref", ledgerRef, commit)
	return commit
}

func TestPushSaysWhatTheServerSaid(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	r.Hook("pre-receive", "echo 'GH006: Protected branch' >&2; exit 1")
	must(t, l.Record(testContext(t), planChange("shop", "x")))
	err := l.Push(triedOnce(t, l))
	if !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "GH006: Protected branch") {
		t.Errorf("%v", err)
	}
	if h := l.Health(); h.Unpushed != 1 || h.LastError == nil {
		t.Errorf("health: %+v", h)
	}
}

func TestSlowServerKeepsToDeadlines(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	s.Inject(receivePack, 1, gittest.Slow(time.Minute))
	must(t, l.Record(testContext(t), planChange("shop", "x")))
	ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second)
	defer cancel()
	begun := time.Now()
	if err := l.Push(ctx); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > 40*time.Second {
		t.Errorf("took %s", took)
	}
	must(t, l.Push(testContext(t)))
}

func TestOutageIsReplayedByTheNextProcess(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	l := acquired(t, c, "a")
	must(t, l.Record(testContext(t), planChange("old", "before")))
	must(t, l.Push(testContext(t)))
	s.SetDown(true)
	run, st := openRun("shop", 1)
	must(t, l.Record(testContext(t), reconciler.Change{Plans: []*spec.PlanStatus{st}, Runs: []*spec.Run{run}, Message: "frozen"}))
	must(t, l.Record(testContext(t), reconciler.Change{Daemon: &spec.DaemonStatus{Accepted: strings.Repeat("b", 40)}}))
	if err := l.Push(triedOnce(t, l)); !errors.Is(err, ErrUnreachable) {
		t.Fatalf("%v", err)
	}
	rec := load(t, l) // an outage does not matter to a daemon that has read the ledger
	if rec.Open["shop-migrate-1"] == nil {
		t.Error("the run is not loaded")
	}
	must(t, l.Close())

	l = openLedger(t, c)
	if _, err := l.Load(testContext(t)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a new process must read the ledger first: %v", err)
	}
	s.SetDown(false)
	epoch, err := l.Acquire(testContext(t), "a", false)
	must(t, err)
	if epoch != 2 {
		t.Errorf("epoch %d", epoch)
	}
	must(t, l.Push(testContext(t)))
	view, err := OpenView(testContext(t), testConfig(t, s, r))
	must(t, err)
	defer func() { must(t, view.Close()) }()
	got, err := view.Run("shop", "shop-migrate-1")
	must(t, err)
	daemon, err := view.Daemon()
	must(t, err)
	if got == nil || daemon.Accepted != strings.Repeat("b", 40) || daemon.Epoch != 2 {
		t.Errorf("run %v, daemon %+v", got, daemon)
	}
	ledgerSound(t, r)
}

// The reply is lost and the process dies before it looks again: the next one
// must not write the log a second time.
func TestLostReplyAcrossARestart(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	l := acquired(t, c, "a")
	s.Inject(receivePack, 1, gittest.LostReply(func() { s.SetDown(true) }))
	must(t, l.Record(testContext(t), reconciler.Change{Logs: []reconciler.Log{{Plan: "shop", Run: "shop-stage-1", Name: "x.log", Text: "once\n"}}}))
	if err := l.Push(triedOnce(t, l)); err == nil {
		t.Fatal("the push must fail")
	}
	must(t, l.Close())
	s.SetDown(false)
	l = acquired(t, c, "a")
	must(t, l.Record(testContext(t), planChange("shop", "x")))
	must(t, l.Push(testContext(t)))
	if got := r.Git("show", ledgerRef+":"+logPath("shop", "shop-stage-1", "x.log", time.Now())); got != "once" {
		t.Errorf("log: %q", got)
	}
	ledgerSound(t, r)
}

func TestServeBatchesAndKeepsHeartbeatsRare(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	l.batch = 50 * time.Millisecond
	before := commits(r)
	ctx, stop := context.WithCancel(testContext(t))
	done := make(chan error)
	go func() { done <- l.Serve(ctx, nobody) }()
	must(t, l.Record(testContext(t), planChange("shop", "x")))
	eventually(t, func() bool { return l.Health().Unpushed == 0 })
	must(t, l.Record(testContext(t), reconciler.Change{Daemon: &spec.DaemonStatus{Commit: "x"}}))
	time.Sleep(300 * time.Millisecond) // several batch intervals
	if n := commits(r) - before; n != 1 || l.Health().Unpushed != 1 {
		t.Errorf("%d commits, %d unpushed: the daemon's own status is not worth a commit yet", n, l.Health().Unpushed)
	}
	must(t, l.Record(testContext(t), planChange("shop", "y")))
	eventually(t, func() bool { return l.Health().Unpushed == 0 })
	must(t, l.Record(testContext(t), planChange("shop", "z")))
	stop()
	must(t, <-done)
	if l.Health().Unpushed != 0 {
		t.Error("the last records are not pushed at the end")
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(25 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("did not come true within ten minutes")
}

func TestWornCacheIsFetchedAnew(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	for i := range 5 {
		l.store.packs = maxPacks + 1
		must(t, l.Record(testContext(t), planChange("shop", fmt.Sprint(i))))
		must(t, l.Push(testContext(t)))
	}
	if l.store.packs > maxPacks {
		t.Error("the cache was not emptied")
	}
	ledgerSound(t, r)
}

func TestDamagedCacheIsFetchedAnew(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	l := acquired(t, c, "a")
	must(t, l.Record(testContext(t), planChange("shop", "one")))
	must(t, l.Push(testContext(t)))
	must(t, l.Close())
	must(t, os.RemoveAll(filepath.Join(c.DataDir, "git", "ledger", "objects")))
	l = acquired(t, c, "a")
	goesOn(t, r, l)
}

func TestNewerFormatIsRefused(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	_ = acquired(t, testConfig(t, s, r), "a")
	foreignCommit(r, formatFile, "apiVersion: tranship.dev/v2\nkind: Ledger\nformat: 2\n")
	l := openLedger(t, testConfig(t, s, r))
	if _, err := l.Acquire(testContext(t), "b", true); !errors.Is(err, ErrFormat) {
		t.Errorf("%v", err)
	}
	if _, err := OpenView(testContext(t), testConfig(t, s, r)); !errors.Is(err, ErrFormat) {
		t.Errorf("%v", err)
	}
}

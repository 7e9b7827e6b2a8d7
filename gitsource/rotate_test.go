package gitsource

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// nextYear makes a ledger believe that it is so many years later.
func nextYear(l *Ledger, n int) { l.now = func() time.Time { return time.Now().AddDate(n, 0, 0) } }

func archive(n int) string { return fmt.Sprintf("%s-%d", ledgerRef, time.Now().UTC().Year()+n) }

// grown is the story with a run that goes on over New Year, and a stage run in
// between, so that the one before is referred to by nothing.
func grown(t testing.TB) (*story, *spec.Run) {
	t.Helper()
	s := tell(t)
	s.end(s.begin("web", spec.RunStage), spec.RunSucceeded, "Succeeded", "")
	s.push()
	open := s.begin("shop", spec.RunClose)
	s.logs(open, "going on\n")
	s.push()
	return s, open
}

func TestANewYear(t *testing.T) {
	s, open := grown(t)
	old := s.repo.Git("rev-parse", ledgerRef)
	before := load(t, s.l)
	must(t, s.l.rotate(testContext(t)))
	if s.repo.Git("rev-parse", ledgerRef) != old {
		t.Fatal("the year is not over, and the ledger has begun anew")
	}
	nextYear(s.l, 1)
	var again time.Time
	s.l.turnYear(testContext(t), &again)
	first := s.repo.Git("rev-parse", ledgerRef)
	if got := s.repo.Git("log", "-1", "--format=%P %(trailers:key="+previousTrailer+",valueonly)", ledgerRef); strings.TrimSpace(got) != fmt.Sprintf("%s tranship/ledger-%d", old, time.Now().UTC().Year()) {
		t.Errorf("the first commit has parents and names %q", got)
	}
	if s.repo.Git("rev-parse", archive(0)) != old {
		t.Error("the old year is not kept")
	}
	files := s.repo.Git("ls-tree", "-r", "--name-only", ledgerRef)
	for path, want := range map[string]bool{shop(stageFile): false, shop(stageLog): false, shop(migrateFile): true, spec.RunPath(open): true,
		strings.Replace(spec.RunPath(open), "runs/", "logs/", 1)[:len(spec.RunPath(open))-len(".yaml")] + "/upload.log": true, statusPath("web"): true} {
		if strings.Contains(files, path) != want {
			t.Errorf("%s: want %v in\n%s", path, want, files)
		}
	}
	if after := load(t, s.l); len(after.Open) != 1 || len(after.Plans) != len(before.Plans) || after.Plans["shop"].Recorded.LastDigest != before.Plans["shop"].Recorded.LastDigest {
		t.Errorf("%+v", after)
	}

	// The run goes on and ends, a year passes, and another.
	s.logs(open, "still\n")
	s.end(open, spec.RunSucceeded, "Succeeded", "")
	s.push()
	s.end(s.begin("shop", spec.RunStage), spec.RunSucceeded, "Succeeded", "")
	s.push()
	nextYear(s.l, 2)
	must(t, s.l.rotate(testContext(t)))
	must(t, s.l.rotate(testContext(t))) // not due any more
	s.end(s.begin("web", spec.RunStage), spec.RunSucceeded, "Succeeded", "")
	s.push()
	if s.repo.Git("merge-base", "--is-ancestor", first, archive(1)) != "" {
		t.Error("the second year is not kept")
	}
	ledgerSound(t, s.repo)

	w := s.repo.Clone()
	for _, dir := range []string{"", w.Dir} {
		rep := s.audit(AuditOptions{Dir: dir, Known: []string{old, first}})
		if len(rep.Findings) > 0 || rep.Runs != 7 || rep.Commits != 10+3+2 || rep.Signed["bot"] != rep.Commits || !strings.HasPrefix(rep.Checkpoint, "7 ") {
			t.Errorf("%+v", rep)
		}
	}
	if years := yearsOf(t, s.config); !slices.Equal(years, []int{4, 4, 5}) {
		t.Errorf("records by year, the newest first: %v", years)
	}
}

// yearsOf counts the records in each year of a ledger, the newest first.
func yearsOf(t *testing.T, c Config) (n []int) {
	t.Helper()
	v, err := OpenView(testContext(t), c)
	must(t, err)
	for v != nil {
		count := 0
		for _, plan := range []string{"shop", "web"} {
			runs, err := v.Runs(plan)
			must(t, err)
			count += len(runs)
		}
		n = append(n, count)
		older, err := v.Older(testContext(t))
		must(t, err)
		must(t, v.Close())
		v = older
	}
	return n
}

// The process dies before or after each of the two pushes; with its disk or
// without it, the next one ends what was begun, once.
func TestAKilledRotationIsEnded(t *testing.T) {
	for _, push := range []int{1, 2} {
		for _, after := range []bool{false, true} {
			for _, disk := range []bool{true, false} {
				t.Run(fmt.Sprintf("push %d, after %v, disk %v", push, after, disk), func(t *testing.T) {
					t.Parallel()
					s, open := grown(t)
					old := s.repo.Git("rev-parse", ledgerRef)
					s.logs(open, "not pushed yet\n")
					nextYear(s.l, 1)
					seen := 0
					s.server.Inject(receivePack, 1<<20, func(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter)) {
						if seen++; seen < push {
							serve(w)
							return
						}
						s.server.SetDown(true)
						if after {
							gittest.LostReply(nil)(w, r, serve)
						}
						panic(http.ErrAbortHandler)
					})
					if err := s.l.rotate(testContext(t)); err == nil {
						t.Fatal("it was not killed")
					}
					must(t, s.l.Close())
					s.server.Heal()
					s.server.SetDown(false)
					if !disk {
						s.config.DataDir = t.TempDir()
					}
					// A git that another test starts right now may hold our lock until it execs.
					var err error
					eventually(t, func() bool { s.l, err = OpenLedger(s.config); return err == nil })
					t.Cleanup(func() { _ = s.l.Close() })
					_, err = s.l.Acquire(testContext(t), "b", !disk)
					must(t, err)
					nextYear(s.l, 1)
					must(t, s.l.rotate(testContext(t)))
					s.end(open, spec.RunSucceeded, "Succeeded", "")
					s.push()
					begun := strings.Fields(s.repo.Git("log", "--format=%H", "--grep=^"+previousTrailer, ledgerRef))
					if len(begun) != 1 || s.repo.Git("merge-base", old, archive(0)) != old {
						t.Errorf("first commits of the year: %v", begun)
					}
					if rec := load(t, s.l); len(rec.Open) != 0 || len(rec.Plans) != 2 {
						t.Errorf("%+v", rec)
					}
					log := s.repo.Git("show", ledgerRef+":"+spec.LogDir(open)+"/upload.log")
					want := "going on\ndone"
					if disk {
						want = "going on\nnot pushed yet\ndone"
					}
					if log != want {
						t.Errorf("log: %q", log)
					}
					if rep := s.audit(AuditOptions{}); len(rep.Findings) > 0 {
						t.Errorf("%+v", rep.Findings)
					}
					ledgerSound(t, s.repo)
				})
			}
		}
	}
}

// A daemon that was away over New Year, or two, finds the way; but not to a
// year that begins with something else than the old one held.
func TestADaemonThatWasAwayFindsTheNewYear(t *testing.T) {
	s, _ := grown(t)
	was := t.TempDir()
	must(t, os.CopyFS(was, os.DirFS(s.config.DataDir)))
	away := func(t *testing.T, url string) *Ledger {
		c := s.config
		c.DataDir, c.Spec.Source.URL = t.TempDir(), url
		must(t, os.CopyFS(c.DataDir, os.DirFS(was)))
		return openLedger(t, c)
	}
	s.end(s.begin("web", spec.RunStage), spec.RunSucceeded, "Succeeded", "")
	s.push()
	for n := 1; n <= 2; n++ {
		nextYear(s.l, n)
		must(t, s.l.rotate(testContext(t)))
		s.record(planChange("new", fmt.Sprint("year ", n)))
		s.push()
	}
	if rec := load(t, away(t, s.repo.URL)); rec.Changed != "" || waits(t, rec, "new") != "year 2" || len(rec.Open) != 1 {
		t.Errorf("%+v", rec)
	}

	for name, change := range map[string]func(s *story, c *forged){
		"nothing": nil,
		"a status": func(s *story, c *forged) {
			c.tree = s.edit(c.tree, statusPath("shop"), replace("migrate: 1", "migrate: 4"))
		},
		"a cutover": func(s *story, c *forged) { c.tree = s.edit(c.tree, shop(migrateFile), gone) },
		"a link": func(_ *story, c *forged) {
			c.message = strings.Replace(c.message, previousTrailer, "X-"+previousTrailer, 1)
		},
		"the commit named": func(s *story, c *forged) {
			c.message = strings.Replace(c.message, s.repo.Git("rev-parse", archive(1)), s.merge, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			forgery := s.copy(t)
			forgery.config.Spec.Ledger.Signers = nil
			forgery.repo.Git("update-ref", ledgerRef, s.repo.Git("rev-list", "--max-parents=0", ledgerRef))
			if change == nil {
				must(t, away(t, forgery.repo.URL).sync(testContext(t)))
				return
			}
			forgery.forge(0, func(_ int, c *forged) { change(forgery, c) })
			if err := away(t, forgery.repo.URL).sync(testContext(t)); !errors.Is(err, reconciler.ErrLedgerChanged) {
				t.Errorf("%v", err)
			}
			if rep := forgery.audit(AuditOptions{}); len(rep.Findings) == 0 {
				t.Error("the audit finds nothing")
			}
		})
	}
}

// A host that lets nobody move a branch backwards keeps the ledger as it is.
func TestARefusedRotationChangesNothing(t *testing.T) {
	s, _ := grown(t)
	s.repo.Git("config", "receive.denyNonFastForwards", "true")
	old := s.repo.Git("rev-parse", ledgerRef)
	nextYear(s.l, 1)
	if err := s.l.rotate(testContext(t)); !errors.Is(err, ErrRejected) {
		t.Errorf("%v", err)
	}
	s.record(planChange("new", "x"))
	s.push()
	if s.repo.Git("rev-parse", ledgerRef+"~1") != old {
		t.Error("the ledger did not go on")
	}
	s.repo.Git("update-ref", archive(0), s.merge)
	if err := s.l.rotate(testContext(t)); err == nil || s.repo.Git("rev-parse", archive(0)) != s.merge {
		t.Errorf("a branch of somebody else was moved: %v", err)
	}
	c := s.config
	c.Spec.Ledger.Rotation = spec.RotationNever
	s.repo.Git("update-ref", "-d", archive(0))
	must(t, s.l.Close())
	l := acquired(t, c, "a")
	nextYear(l, 5)
	must(t, l.rotate(testContext(t)))
	if refs := s.repo.Git("for-each-ref", "--format=%(refname)"); strings.Contains(refs, "ledger-") {
		t.Errorf("rotation: Never, and %s", refs)
	}
}

func TestServeBeginsTheNewYear(t *testing.T) {
	s, _ := grown(t)
	nextYear(s.l, 1)
	s.l.batch = 50 * time.Millisecond
	ctx, stop := context.WithCancel(testContext(t))
	done := make(chan error)
	go func() { done <- s.l.Serve(ctx, nobody) }()
	s.record(planChange("new", "x"))
	eventually(t, func() bool {
		return s.l.Health().Unpushed == 0 && strings.Contains(s.repo.Git("for-each-ref"), "tranship/ledger-")
	})
	stop()
	must(t, <-done)
	if rep := s.audit(AuditOptions{}); len(rep.Findings) > 0 {
		t.Errorf("%+v", rep.Findings)
	}
}

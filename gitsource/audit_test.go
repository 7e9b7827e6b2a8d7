package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// story is a ledger as daemons write it: 2 plans, 3 runs, logs, all signed.
type story struct {
	t      testing.TB
	server *gittest.Server
	repo   *gittest.Repo
	config Config
	bot    *signer
	l      *Ledger
	merge  string // on the plans' branch
	status map[string]*spec.PlanStatus
	now    time.Time
}

func tell(t testing.TB) *story {
	t.Helper()
	server := gittest.New(t)
	s := &story{t: t, server: server, repo: server.Repo("plans.git"), bot: sshSigner(t, "bot", "Bot"), status: map[string]*spec.PlanStatus{}, now: runStart.Time}
	s.merge = s.repo.Clone().Write("plan.yaml", "x\n").Push("Merge: migrate the shop")
	key := s.bot.identity(t)
	s.config = keyed(t, server, s.repo, func() (map[string][]byte, error) { return key, nil })
	s.config.Spec.Ledger.Signers = []spec.TrustedKey{s.bot.TrustedKey}
	s.l = acquired(t, s.config, "a") // commit 0
	one := s.begin("shop", spec.RunStage)
	s.push() // 1
	s.logs(one, "copying\n")
	s.push() // 2
	s.end(one, spec.RunSucceeded, "Succeeded", "")
	s.push() // 3
	two, three := s.begin("shop", spec.RunMigrate), s.begin("web", spec.RunStage)
	s.push() // 4
	s.logs(two, "stopping\n")
	s.logs(three, "copying\n")
	s.push() // 5
	s.end(three, spec.RunFailed, "CopyStalled", "step upload: nothing moved for 10 minutes")
	s.push() // 6
	s.end(two, spec.RunSucceeded, "Migrated", "")
	s.record(reconciler.Change{Daemon: &spec.DaemonStatus{Accepted: s.merge}, Message: "observe", Trailers: map[string]string{"Source-Commit": s.merge}})
	s.push() // 7
	return s
}

// copy is the same story in a repository of its own.
func (s *story) copy(t testing.TB) *story {
	t.Helper()
	c := *s
	c.t, c.repo = t, s.server.Repo(strings.ReplaceAll(strings.ToLower(t.Name()), "/", "-")+".git")
	must(t, exec.Command("cp", "-rT", s.repo.Dir, c.repo.Dir).Run())
	c.config.Spec.Source.URL = c.repo.URL
	return &c
}

func (s *story) record(c reconciler.Change) {
	s.t.Helper()
	must(s.t, s.l.Record(testContext(s.t), c))
}

func (s *story) push() { s.t.Helper(); must(s.t, s.l.Push(testContext(s.t))) }

func (s *story) begin(plan string, kind spec.RunKind) *spec.Run {
	s.t.Helper()
	st := s.status[plan]
	if st == nil {
		st = &spec.PlanStatus{Metadata: spec.Metadata{Name: plan}}
	}
	s.now = s.now.Add(time.Hour)
	o := reconciler.Order{Kind: kind, Plan: plan, Closure: &spec.Closure{}, Commit: s.merge, Epoch: s.l.Epoch()}
	o.Closure.Plan.Metadata.Name = plan
	o.Closure.Source.Metadata.Name, o.Closure.Target.Metadata.Name = "old", "new"
	if kind != spec.RunStage {
		o.Approval = &spec.Approval{Commit: s.merge, Author: "Ada <ada@example.com>", Committer: "Grace <grace@example.com>", Time: metav1.NewTime(s.now), Subject: "Merge: migrate the shop"}
	}
	run := reconciler.Freeze(s.now, o, st)
	s.status[plan] = reconciler.Started(st, run)
	s.record(reconciler.Change{Runs: runs(run), Plans: plans(s.status[plan]), Message: run.Metadata.Name + ": frozen", Trailers: s.trailers(run)})
	return run
}

func (s *story) trailers(run *spec.Run) map[string]string {
	return map[string]string{"Migration-Plan": run.Spec.Plan, "Migration-Run": run.Metadata.Name, "Source-Commit": run.Spec.Commit, "Plan-Digest": run.Spec.Digest, "Prev-Record": run.Spec.Previous}
}

func (s *story) logs(run *spec.Run, text string) {
	s.t.Helper()
	s.record(reconciler.Change{Logs: []reconciler.Log{{Plan: run.Spec.Plan, Run: run.Metadata.Name, Name: "upload.log", Text: text}}})
}

func (s *story) end(run *spec.Run, phase spec.RunPhase, reason, message string) {
	s.t.Helper()
	run, plan := clonedRun(run), run.Spec.Plan
	s.now = s.now.Add(time.Minute)
	ended := metav1.NewMicroTime(s.now)
	run.Status.Phase, run.Status.Reason, run.Status.Message, run.Status.Ended = phase, reason, message, &ended
	if run.Spec.Kind == spec.RunMigrate {
		run.Status.StopSeconds = 9.5
	}
	s.status[plan] = reconciler.Ended(s.status[plan], run, spec.RunPath(run))
	s.record(reconciler.Change{Runs: runs(run), Plans: plans(s.status[plan]), Message: run.Metadata.Name + ": " + string(phase), Trailers: s.trailers(run),
		Logs: []reconciler.Log{{Plan: plan, Run: run.Metadata.Name, Name: "upload.log", Text: "done\n"}}})
}

func (s *story) audit(o AuditOptions) *AuditReport {
	s.t.Helper()
	rep, err := Audit(testContext(s.t), s.config, o)
	must(s.t, err)
	return rep
}

// line is the ledger's commits, oldest first.
func (s *story) line() []string {
	return strings.Fields(s.repo.Git("rev-list", "--first-parent", "--reverse", ledgerRef))
}

// forged is one commit as a forger with C git makes it.
type forged struct {
	tree, message string
	parents       []string
	drop          bool
}

// forge makes the commits from number at on anew, without the bot's key, each as
// change leaves it, and moves the branch there.
func (s *story) forge(at int, change func(k int, c *forged)) {
	s.t.Helper()
	line := s.line()
	parent := ""
	if at > 0 {
		parent = line[at-1]
	}
	for k := at; k < len(line); k++ {
		raw, err := exec.Command("git", "-C", s.repo.Dir, "cat-file", "commit", line[k]).Output()
		must(s.t, err)
		payload, _, err := splitCommit(raw)
		must(s.t, err)
		head, message, _ := strings.Cut(string(payload), "\n\n")
		c := &forged{tree: s.repo.Git("rev-parse", line[k]+"^{tree}"), message: message}
		if parent != "" {
			c.parents = []string{parent}
		}
		if change != nil {
			change(k, c)
		}
		if c.drop {
			continue
		}
		text := "tree " + c.tree + "\n"
		for _, p := range c.parents {
			text += "parent " + p + "\n"
		}
		text += head[strings.Index(head, "author "):] + "\n\n" + c.message
		parent = s.repo.Input(text, "hash-object", "-t", "commit", "-w", "--stdin")
	}
	s.repo.Git("update-ref", ledgerRef, parent)
}

// edit is a tree with one file changed; nil removes it.
func (s *story) edit(tree, path string, change func(string) *string) string {
	s.t.Helper()
	index := filepath.Join(s.t.TempDir(), "index")
	git := func(in string, args ...string) string {
		c := exec.Command("git", append([]string{"-C", s.repo.Dir}, args...)...)
		c.Env, c.Stdin = append(os.Environ(), "GIT_INDEX_FILE="+index), strings.NewReader(in)
		out, err := c.Output()
		must(s.t, err)
		return string(out)
	}
	git("", "read-tree", tree)
	old, _ := exec.Command("git", "-C", s.repo.Dir, "cat-file", "blob", tree+":"+path).Output()
	if text := change(string(old)); text == nil {
		git("0 "+strings.Repeat("0", 40)+"\t"+path+"\n", "update-index", "--index-info")
	} else {
		blob := strings.TrimSpace(git(*text, "hash-object", "-w", "--stdin"))
		git("", "update-index", "--add", "--cacheinfo", "100644,"+blob+","+path)
	}
	return strings.TrimSpace(git("", "write-tree"))
}

func replace(old, new string) func(string) *string {
	return func(s string) *string { s = strings.Replace(s, old, new, 1); return &s }
}

func gone(string) *string { return nil }

// everAfter edits a file in commit at and all later ones that have it.
func (s *story) everAfter(at int, path string, change func(string) *string) {
	s.t.Helper()
	s.forge(at, func(_ int, c *forged) {
		if exec.Command("git", "-C", s.repo.Dir, "cat-file", "-e", c.tree+":"+path).Run() == nil || change("") != nil {
			c.tree = s.edit(c.tree, path, change)
		}
	})
}

const (
	stageFile   = "runs/2026/11/shop-%s/stage-1.yaml"
	migrateFile = "runs/2026/11/shop-%s/migrate-1.yaml"
	stageLog    = "logs/2026/11/shop-%s/stage-1/upload.log"
)

func shop(path string) string { return strings.Replace(path, "shop-%s", spec.ShortName("shop"), 1) }

func TestAnUntouchedLedgerIsClean(t *testing.T) {
	s := tell(t)
	ledgerSound(t, s.repo)
	rep := s.audit(AuditOptions{})
	if len(rep.Findings) > 0 || len(rep.Notes) > 0 {
		t.Errorf("findings %+v, notes %q", rep.Findings, rep.Notes)
	}
	if rep.Commits != 8 || rep.Plans != 2 || rep.Runs != 3 || rep.Epoch != 1 || rep.Signed["bot"] != 8 || !strings.HasPrefix(rep.Checkpoint, "3 sha256:") {
		t.Errorf("%+v", rep)
	}
	// The same from a clone, bare or not, with what an auditor has kept.
	w := s.repo.Clone()
	for _, dir := range []string{w.Dir, s.repo.Dir} {
		again := s.audit(AuditOptions{Dir: dir, Known: []string{rep.Checkpoint, rep.Tip[:12]}})
		if len(again.Findings) > 0 || len(again.Notes) > 0 || again.Checkpoint != rep.Checkpoint || again.Tip != rep.Tip {
			t.Errorf("%s: %+v", dir, again)
		}
	}
	shallow := t.TempDir()
	must(t, exec.Command("git", "clone", "-q", "--depth=1", "-b", "tranship/ledger", "file://"+s.repo.Dir, shallow).Run())
	if _, err := Audit(testContext(t), s.config, AuditOptions{Dir: shallow}); !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "--unshallow") {
		t.Errorf("%v", err)
	}
	s.config.Spec.Ledger.Signers = nil
	if rep := s.audit(AuditOptions{}); len(rep.Findings) > 0 || len(rep.Notes) != 1 {
		t.Errorf("%+v", rep)
	}
}

// Every way to tamper with a ledger is found and named; the signatures are left
// out where the content tells already.
func TestTamperingIsFoundAndNamed(t *testing.T) {
	nl := func(text string) func(string) *string { return func(s string) *string { s += text; return &s } }
	base := tell(t)
	for name, c := range map[string]struct {
		do     func(s *story)
		signed bool
		path   string
		want   string // of "what; it should be: want"
	}{
		"a finished record is changed": {func(s *story) {
			s.everAfter(5, shop(stageFile), replace("Succeeded", "Failed"))
		}, false, shop(stageFile), "the record was changed after its run had ended; as it was"},
		"a finished record is changed where it ended": {func(s *story) {
			s.everAfter(3, shop(stageFile), replace("reason: Succeeded", "reason: Superb"))
		}, false, "status/", "recorded.lastDigest is"},
		"a record is deleted":                {func(s *story) { s.everAfter(6, shop(stageFile), gone) }, false, shop(stageFile), "the record was deleted"},
		"a frozen run is changed":            {func(s *story) { s.everAfter(5, shop(migrateFile), replace("attempt: 1", "attempt: 2")) }, false, shop(migrateFile), "what the run was started with was changed"},
		"an approver is replaced on the way": {func(s *story) { s.everAfter(7, shop(migrateFile), replace("Grace", "Mallory")) }, false, shop(migrateFile), "what the run was started with was changed"},
		"the chain is broken": {func(s *story) {
			s.everAfter(4, shop(migrateFile), func(text string) *string {
				_, rest, _ := strings.Cut(text, "previous: sha256:")
				return replace(rest[:64], strings.Repeat("0", 64))(text)
			})
		}, false, shop(migrateFile), "the chain is broken: spec.previous is \"sha256:0000"},
		"a number is skipped": {func(s *story) {
			s.everAfter(4, "status/x", gone)
			s.forge(4, func(_ int, c *forged) {
				two := strings.Replace(shop(migrateFile), "-1.yaml", "-2.yaml", 1)
				text := s.repo.Git("cat-file", "blob", c.tree+":"+shop(migrateFile)) + "\n"
				text = strings.NewReplacer("number: 1", "number: 2", "shop-migrate-1", "shop-migrate-2").Replace(text)
				c.tree = s.edit(s.edit(c.tree, shop(migrateFile), gone), two, func(string) *string { return &text })
				c.message = strings.ReplaceAll(c.message, "shop-migrate-1", "shop-migrate-2")
			})
		}, false, "migrate-2.yaml", "the number of this migrate run is 2; 1: runs of plan shop are numbered without a gap"},
		"a log is rewritten":              {func(s *story) { s.everAfter(3, shop(stageLog), replace("copying", "resting")) }, false, shop(stageLog), "what the log said before was changed"},
		"a log goes on after the end":     {func(s *story) { s.everAfter(5, shop(stageLog), nl("all was well\n")) }, false, shop(stageLog), "the log was changed after its run had ended"},
		"a log is deleted":                {func(s *story) { s.everAfter(5, shop(stageLog), gone) }, false, shop(stageLog), "the log was deleted"},
		"a log is changed where it ended": {func(s *story) { s.everAfter(3, shop(stageLog), nl("all was well\n")) }, false, checkpointFile, "which the records and logs add up to"},
		"a log of nothing":                {func(s *story) { s.everAfter(5, "logs/2026/11/ghost/stage-1/x.log", nl("boo\n")) }, false, "logs/2026/11/ghost", "the log belongs to no run"},
		"a status names another open run": {func(s *story) {
			s.everAfter(7, statusPath("web"), replace("lastRun:", "openRun: web-stage-7\n  lastRun:"))
		}, false, statusPath("web"), "recorded.openRun is \"web-stage-7\""},
		"a status counts otherwise": {func(s *story) { s.everAfter(7, statusPath("shop"), replace("migrate: 1", "migrate: 4")) }, false, statusPath("shop"), "recorded.numbers.migrate is 4; 1"},
		"a status claims a cutover": {func(s *story) {
			s.everAfter(7, statusPath("web"), replace("lastRun:", "cutoverPath: runs/x\n  lastRun:"))
		}, false, statusPath("web"), "recorded.cutoverPath is runs/x"},
		"a status is deleted": {func(s *story) { s.everAfter(7, statusPath("web"), gone) }, false, statusPath("web"), "the status was deleted"},
		"a status lies elsewhere": {func(s *story) {
			s.everAfter(7, "status/00/web.yaml", func(string) *string {
				t := "apiVersion: " + spec.APIVersion + "\nkind: PlanStatus\nmetadata:\n  name: web\nrecorded: {}\n"
				return &t
			})
		}, false, "status/00/web.yaml", "lies at a path that is not its own"},
		"the daemon's status is changed": {func(s *story) { s.everAfter(7, daemonFile, replace("epoch: 1", "epoch: 9")) }, false, daemonFile, "its epoch is 9; that of the commit's trailer, 1"},
		"a checkpoint is changed":        {func(s *story) { s.everAfter(6, checkpointFile, replace("records: 2", "records: 3")) }, false, checkpointFile, "which the records and logs add up to"},
		"the checkpoints are removed":    {func(s *story) { s.everAfter(5, checkpointFile, gone) }, false, checkpointFile, "which the records and logs add up to"},
		"a foreign file":                 {func(s *story) { s.everAfter(5, "evil.sh", nl("x")) }, false, "evil.sh", "none of a ledger's"},
		"the format is changed":          {func(s *story) { s.everAfter(5, formatFile, nl("# 2\n")) }, false, formatFile, "the file was changed"},
		"the epoch goes down": {func(s *story) {
			s.forge(3, func(k int, c *forged) {
				c.message = strings.Replace(c.message, epochTrailer+": 1", fmt.Sprintf("%s: %d", epochTrailer, 10-k), 1)
			})
		}, false, "", "its epoch is 6; 7 or more"},
		"a commit by hand": {func(s *story) { foreignCommit(s.repo, "README.md", "hello") }, false, "", "by Grace <grace@example.com> and not by a daemon: \"edit by hand\""},
		"a run without its trailer": {func(s *story) {
			s.forge(3, func(_ int, c *forged) {
				c.message = strings.Replace(c.message, "Migration-Run: shop-stage-1", "Migration-Run: shop-stage-9", 1)
			})
		}, false, shop(stageFile), "a run that it does not name"},
		"an approval that never was": {func(s *story) {
			s.forge(3, func(_ int, c *forged) {
				c.message = strings.Replace(c.message, "Source-Commit: "+s.merge, "Source-Commit: "+strings.Repeat("d", 40), 1)
			})
		}, false, "", "Source-Commit dddd"},
		"the plans' branch is another one": {func(s *story) {
			s.repo.Git("update-ref", "refs/heads/main", s.repo.Git("commit-tree", "-m", "x", "main^{tree}"))
		}, false, shop(stageFile), "is not on the plans' branch"},
		"a merge": {func(s *story) { s.forge(5, func(k int, c *forged) { c.parents = append(c.parents, s.merge) }) }, false, "", "the commit has 2 parents"},
		"commits change places": {func(s *story) {
			seqs := []string{":1\n", ":2\n"}
			s.forge(1, func(k int, c *forged) {
				if k <= 2 {
					c.message = strings.Replace(c.message, seqs[k-1], seqs[2-k], 1)
				}
			})
		}, false, "", "it is entry 1 of journal"},
		"a link": {func(s *story) {
			link := s.repo.Input("format.yaml", "hash-object", "-w", "--stdin")
			s.forge(7, func(_ int, c *forged) {
				c.tree = s.repo.Input(s.repo.Git("ls-tree", c.tree)+"\n120000 blob "+link+"\tlink\n", "mktree")
			})
		}, false, "link", "its mode is"},
		"an adoption that changes": {func(s *story) {
			s.forge(7, func(_ int, c *forged) {
				c.message = "Adopt\n\n" + epochTrailer + ": 1\n" + adoptTrailer + ": " + c.parents[0] + "\n"
			})
		}, false, "", "the adoption changes files"},
		"signatures are gone": {func(s *story) { s.forge(5, nil) }, true, "", "it is not signed; so it is with the 3 commits from here to"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := base.copy(t)
			if !c.signed {
				s.config.Spec.Ledger.Signers = nil
			}
			c.do(s)
			rep := s.audit(AuditOptions{})
			for _, f := range rep.Findings {
				if strings.HasPrefix(f.Path, c.path) || c.path != "" && strings.HasSuffix(f.Path, c.path) {
					if f.Commit != "" && strings.Contains(f.What+"; "+f.Want, c.want) {
						return
					}
				}
			}
			t.Errorf("not found in %+v", rep.Findings)
		})
	}
}

// A rewrite that leaves no trace in the ledger itself shows by what was kept.
func TestKeptCheckpointsShowARewrite(t *testing.T) {
	s := tell(t)
	s.config.Spec.Ledger.Signers = nil
	before := s.audit(AuditOptions{})
	s.repo.Git("update-ref", ledgerRef, ledgerRef+"~3") // the last two runs never were
	for _, kept := range []string{before.Checkpoint, before.Tip, before.Tip[:10]} {
		rep := s.audit(AuditOptions{Known: []string{kept}})
		if len(rep.Findings) != 1 || !strings.Contains(rep.Findings[0].What, kept) {
			t.Errorf("%s: %+v", kept, rep.Findings)
		}
	}
	if rep := s.audit(AuditOptions{}); len(rep.Findings) > 0 {
		t.Errorf("nobody kept anything, and still: %+v", rep.Findings)
	}
	for _, bad := range []string{"", "xyz", "12 sha256:ab"} {
		if _, err := Audit(testContext(t), s.config, AuditOptions{Known: []string{bad}}); !errors.Is(err, ErrMisconfigured) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestAdoptionsAreListed(t *testing.T) {
	s := tell(t)
	edited := foreignCommit(s.repo, statusPath("new"), edited(t, status("new", "by hand")))
	must(t, s.l.Adopt(testContext(t)))
	load(t, s.l)
	s.status["new"] = &spec.PlanStatus{Metadata: spec.Metadata{Name: "new"}}
	s.record(reconciler.Change{Plans: plans(s.status["new"])})
	s.push()
	rep := s.audit(AuditOptions{})
	if len(rep.Adoptions) != 1 || rep.Adoptions[0].Accepts != edited || rep.Adoptions[0].By != "Tranship <tranship@localhost>" || len(rep.Findings) == 0 {
		t.Fatalf("%+v", rep)
	}
	looked := s.audit(AuditOptions{From: rep.Adoptions[0].Commit[:8]})
	if len(looked.Findings) > 0 || len(looked.Before) != len(rep.Findings) {
		t.Errorf("%+v", looked)
	}
	if _, err := Audit(testContext(t), s.config, AuditOptions{From: strings.Repeat("e", 40)}); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("%v", err)
	}
}

func TestAKeyOfAnotherIsNamed(t *testing.T) {
	s := tell(t)
	s.config.Spec.Ledger.Signers = []spec.TrustedKey{sshSigner(t, "other", "Other").TrustedKey}
	rep := s.audit(AuditOptions{})
	if len(rep.Findings) != 1 || !strings.Contains(rep.Findings[0].What, "8 commits") || !strings.Contains(rep.Findings[0].What, "SHA256:") {
		t.Errorf("%+v", rep.Findings)
	}
}

// Whatever one thing a forger without the bot's key changes, cuts off or adds, it
// is found, where the signers and the newest commit are known.
func TestAnySingleMutationIsFound(t *testing.T) {
	s := tell(t)
	tip := s.repo.Git("rev-parse", ledgerRef)
	line := s.line()
	rapid.Check(t, func(rt *rapid.T) {
		s.repo.Git("update-ref", ledgerRef, tip)
		at := rapid.IntRange(0, len(line)-1).Draw(rt, "commit")
		later := rapid.Bool().Draw(rt, "in later commits too")
		files := strings.Split(s.repo.Git("ls-tree", "-r", "--name-only", line[at]), "\n")
		file := rapid.SampledFrom(files).Draw(rt, "file")
		place := rapid.IntRange(0, 1<<20).Draw(rt, "byte")
		edit := func(text string) *string {
			if text == "" {
				return nil
			}
			b := []byte(text)
			b[place%len(b)] ^= 1
			text = string(b)
			return &text
		}
		whole := func(change func(string) *string) func(int, *forged) {
			return func(k int, c *forged) {
				if k == at || later {
					c.tree = s.edit(c.tree, file, change)
				}
			}
		}
		kinds := map[string]func(){
			"byte":    func() { s.forge(at, whole(edit)) },
			"file":    func() { s.forge(at, whole(gone)) },
			"message": func() { s.forge(at, func(k int, c *forged) { c.message = *replaceIf(k == at, edit, c.message) }) },
			"cut off": func() { s.repo.Git("update-ref", ledgerRef, line[max(0, at-1)]) },
			"drop":    func() { s.forge(at, func(k int, c *forged) { c.drop = k == at && at > 0 }) },
			"add":     func() { foreignCommit(s.repo, file, "x") },
		}
		kind := rapid.SampledFrom([]string{"byte", "file", "message", "cut off", "drop", "add"}).Draw(rt, "kind")
		kinds[kind]()
		if s.repo.Git("rev-parse", ledgerRef) == tip {
			return // nothing was changed
		}
		rep, err := Audit(testContext(t), s.config, AuditOptions{Dir: s.repo.Dir, Known: []string{tip}})
		if err == nil && len(rep.Findings) == 0 {
			rt.Fatalf("not found")
		}
	})
}

func replaceIf(ok bool, change func(string) *string, text string) *string {
	if ok {
		return change(text)
	}
	return &text
}

// Logs that grow by any pieces, through their cut, extend each other; a log that
// says something else before does not.
func TestLogsExtend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var old, now []byte
		for i := range rapid.IntRange(1, 8).Draw(t, "pieces") {
			n := rapid.SampledFrom([]int{1, 5000, 60_000, 150_000}).Draw(t, "size")
			line := strings.Repeat(fmt.Sprintf("%c", 'a'+i), rapid.SampledFrom([]int{10, 100, 70_000}).Draw(t, "line")) + "\n"
			old, now = now, appendLog(now, strings.Repeat(line, n/len(line)+1))
			if !extends(old, now) {
				t.Fatalf("piece %d: %d bytes do not extend %d", i, len(now), len(old))
			}
		}
		if len(old) == 0 {
			return
		}
		head := len(now)
		if cut := bytes.Index(now, []byte("\n"+cutMark)); cut >= 0 {
			head = cut
		}
		at := rapid.IntRange(0, min(head, logHead)-1).Draw(t, "at")
		forged := bytes.Clone(now)
		forged[at] ^= 3
		if at < len(old) && extends(old, forged) {
			t.Fatalf("byte %d of %d was changed, of which %d were there before", at, len(now), len(old))
		}
	})
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// audited is a ledger on a real server, signed, with a run of plan shop, and the
// configuration that leads there.
type audited struct {
	t       *testing.T
	repo    *gittest.Repo
	config  string // file
	secrets string
	key     string // file of the public key
}

func newAudited(t *testing.T) *audited {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	server, dir := gittest.New(t), t.TempDir()
	a := &audited{t: t, repo: server.Repo("plans.git"), config: filepath.Join(dir, "config.yaml"), secrets: filepath.Join(dir, "secrets"), key: filepath.Join(dir, "bot.pub")}
	merge := a.repo.Clone().Write("plan.yaml", "x\n").Push("Merge: migrate the shop")
	must(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "bot")).Run())
	private, err := os.ReadFile(filepath.Join(dir, "bot"))
	must(err)
	for name, value := range map[string]string{"git/username": gittest.User, "git/password": gittest.Password, "signing/identity": string(private)} {
		file := filepath.Join(a.secrets, name)
		must(os.MkdirAll(filepath.Dir(file), 0o700))
		must(os.WriteFile(file, []byte(value), 0o600))
	}
	ca := "      " + strings.ReplaceAll(strings.TrimSpace(server.CA), "\n", "\n      ")
	must(os.WriteFile(a.config, []byte("apiVersion: "+spec.APIVersion+"\nkind: DaemonConfig\nmetadata: {name: test}\nspec:\n  source:\n    url: "+a.repo.URL+
		"\n    credentials: {from: git}\n    caBundle: |\n"+ca+"\n  ledger:\n    signingKey: {from: signing}\n  mover: {image: 'example.com/tranship:1'}\n"), 0o600))

	flags := configFlags{config: a.config, secretsDir: a.secrets}
	cfg, err := flags.load()
	must(err)
	secrets, err := flags.secrets(cfg)
	must(err)
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	l, err := gitsource.OpenLedger(gitConfig(cfg, t.TempDir(), secrets, nil))
	must(err)
	defer l.Close()
	_, err = l.Acquire(ctx, "a", false)
	must(err)
	run := reconciler.Freeze(time.Date(2026, 11, 3, 4, 5, 6, 0, time.UTC), reconciler.Order{Kind: spec.RunStage, Plan: "shop", Closure: &spec.Closure{}, Commit: merge, Epoch: 1}, &spec.PlanStatus{})
	st := reconciler.Started(&spec.PlanStatus{Metadata: spec.Metadata{Name: "shop"}}, run)
	end := metav1.NewMicroTime(run.Status.Started.Add(7 * time.Second))
	run.Status.Phase, run.Status.Ended = spec.RunSucceeded, &end
	must(l.Record(ctx, reconciler.Change{Runs: []*spec.Run{run}, Plans: []*spec.PlanStatus{reconciler.Ended(st, run, spec.RunPath(run))}, Message: "shop-stage-1: Succeeded",
		Trailers: map[string]string{"Migration-Run": "shop-stage-1", "Source-Commit": merge}}))
	must(l.Push(ctx))
	return a
}

// run executes a subcommand and returns what it prints and its exit status.
func (a *audited) run(c *cobra.Command, args ...string) (string, int) {
	a.t.Helper()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	c.SilenceUsage, c.SilenceErrors = true, true
	err := c.ExecuteContext(context.Background())
	var code exitError
	switch {
	case errors.As(err, &code):
		return out.String(), int(code)
	case err != nil:
		return err.Error(), 1
	}
	return out.String(), 0
}

func TestAuditVerifyAndHistory(t *testing.T) {
	a := newAudited(t)
	pub, err := os.ReadFile(a.key)
	if err != nil {
		t.Fatal(err)
	}
	allowed, clone := filepath.Join(t.TempDir(), "allowed"), a.repo.Clone()
	if err := os.WriteFile(allowed, append([]byte("bot@example.com "), pub...), 0o600); err != nil {
		t.Fatal(err)
	}
	from := []string{"--config", a.config, "--secrets-dir", a.secrets}
	url := append([]string{"verify", "--allowed-signers", allowed}, from...)
	dir := []string{"verify", "--allowed-signers", allowed, "--repository", clone.Dir}
	for _, args := range [][]string{url, dir} {
		out, code := a.run(auditCommand(), args...)
		if code != 0 || !strings.Contains(out, "walked      2 commits: 1 runs of 1 plans, epoch 1\nsigned      2 commits by bot@example.com\ncheckpoint  1 sha256:") ||
			!strings.HasSuffix(out, "result      nothing was tampered with, as far as this can show\n") {
			t.Errorf("exit %d: %s", code, out)
		}
	}
	if out, code := a.run(historyCommand(), append(from, "shop")...); code != 0 || !strings.Contains(out, "stage run shop-stage-1 succeeded in 7s") {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code := a.run(historyCommand(), append(from, "--all", "--since", "2026-11-04")...); code != 0 || !strings.Contains(out, "shop  Staged  0 ") {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, args := range [][]string{{}, {"shop", "--all"}, {"nobody"}, {"shop", "-o", "xml"}} {
		if out, code := a.run(historyCommand(), append(from, args...)...); code == 0 {
			t.Errorf("%v is accepted: %s", args, out)
		}
	}

	clone.Git("checkout", "-q", "tranship/ledger")
	edited := clone.Write("README.md", "all is well\n").Push("by hand")
	for _, args := range [][]string{url, dir} {
		out, code := a.run(auditCommand(), args...)
		if code != 1 || !strings.Contains(out, "finding     "+edited[:12]+": it is not signed; it should be signed with one of the allowed keys\n") ||
			!strings.Contains(out, "finding     "+edited[:12]+" README.md: the file was changed; it should be as the first commit wrote it\n") || !strings.HasSuffix(out, "result      3 findings: this is not what daemons wrote\n") {
			t.Errorf("exit %d: %s", code, out)
		}
	}
	out, code := a.run(auditCommand(), append(dir, "-o", "json", "--from", edited)...)
	var report gitsource.AuditReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 || len(report.Findings) != 0 || len(report.Before) != 3 || report.Before[0].Commit != edited {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	if out, code := a.run(ledgerCommand(), append(from, "adopt", "--by", "Olga of the platform team")...); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	adopted := a.repo.Git("rev-parse", "tranship/ledger")
	if out, code := a.run(auditCommand(), url...); code != 1 || !strings.Contains(out, "adopted     "+adopted[:12]+" by Olga of the platform team at ") || !strings.Contains(out, "accepts the ledger as it was at "+edited[:12]+"\n") {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, args := range [][]string{{"--repository", t.TempDir()}, {"--known", "x", "--repository", clone.Dir}, {"--allowed-signers", "/nonexistent", "--repository", clone.Dir},
		{"--openpgp-key", a.key, "--repository", clone.Dir}, {"--config", "/nonexistent"}, append(from, "--plans-repository", clone.Dir)} {
		if out, code := a.run(auditCommand(), append([]string{"verify"}, args...)...); code != 2 {
			t.Errorf("%v: exit %d: %s", args, code, out)
		}
	}
}

// What a new year of the ledger has no more is told from the year before.
func TestHistoryAndLogsGoOnInOlderYears(t *testing.T) {
	a := newAudited(t)
	const ledger = "refs/heads/tranship/ledger"
	old := a.repo.Git("rev-parse", ledger)
	year := a.repo.Input("apiVersion: "+spec.APIVersion+"\nkind: LedgerYear\nyear: 2027\nprevious:\n  branch: tranship/ledger-2026\n  commit: "+old+"\n", "hash-object", "-w", "--stdin")
	var entries []string
	for _, line := range strings.Split(a.repo.Git("ls-tree", ledger), "\n") {
		if !strings.HasSuffix(line, "\truns") && !strings.HasSuffix(line, "\tyear.yaml") {
			entries = append(entries, line)
		}
	}
	tree := a.repo.Input(strings.Join(append(entries, "100644 blob "+year+"\tyear.yaml"), "\n")+"\n", "mktree")
	a.repo.Git("update-ref", "refs/heads/tranship/ledger-2026", old)
	a.repo.Git("update-ref", ledger, a.repo.Git("commit-tree", "-m", "Begin the ledger of 2027", tree))
	from := []string{"--config", a.config, "--secrets-dir", a.secrets, "shop"}
	for want, c := range map[string]*cobra.Command{"stage run shop-stage-1 succeeded in 7s": historyCommand(), "run       shop-stage-1  Succeeded": logsCommand()} {
		if out, code := a.run(c, from...); code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit %d: %s", code, out)
		}
	}
	if out, code := a.run(logsCommand(), append(from, "shop-stage-9")...); code == 0 || !strings.Contains(out, "it has: runs/2026/11/") {
		t.Errorf("exit %d: %s", code, out)
	}
	a.repo.Git("update-ref", "-d", "refs/heads/tranship/ledger-2026")
	if out, code := a.run(historyCommand(), from...); code == 0 || !strings.Contains(out, "branch tranship/ledger-2026") {
		t.Errorf("exit %d: %s", code, out)
	}
}

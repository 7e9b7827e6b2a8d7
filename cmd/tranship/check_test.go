package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tranship/tranship/gitsource"
)

func TestCheckCommand(t *testing.T) {
	a := newAudited(t)
	args := []string{"--config", a.config, "--secrets-dir", a.secrets}
	before := a.repo.Git("for-each-ref")

	out, code := a.run(checkCommand(), args...)
	if code != 1 || !strings.Contains(out, "Fine     plans can be read: ") || !strings.Contains(out, "Fine     ledger can be pushed: ") ||
		!strings.Contains(out, "Missing  account of the source cannot change plans: ") || !strings.Contains(out, "Unknown  rules of the ledger's branch: the host was not asked") {
		t.Errorf("exit %d: %s", code, out)
	}

	// What a careful administrator has: a rule that keeps the account off main,
	// and the key in ledger.signers.
	a.repo.Hook("update", `test "$1" != refs/heads/main`)
	pub, err := os.ReadFile(a.key)
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(a.config)
	if err != nil {
		t.Fatal(err)
	}
	signers := "signingKey: {from: signing}\n    signers: [{name: bot, owner: bot, ssh: '" + strings.TrimSpace(string(pub)) + "'}]\n"
	if err := os.WriteFile(a.config, []byte(strings.Replace(string(config), "signingKey: {from: signing}\n", signers, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code = a.run(checkCommand(), args...); code != 2 {
		t.Errorf("the rules were not asked for, and that is no finding: exit %d: %s", code, out)
	}

	rules := map[string]string{"main": `{"rule_name": "main", "required_approvals": 1}`, "ledger": `{"rule_name": "tranship/ledger", "enable_push": true}`}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/repos/o/plans/branch_protections" || r.Header.Get("Authorization") != "token s3cret" {
			t.Errorf("%s with %q", r.URL, r.Header.Get("Authorization"))
		}
		_, _ = w.Write([]byte("[" + strings.Trim(rules["main"]+","+rules["ledger"], ",") + "]"))
	}))
	defer api.Close()
	// The server of the tests has no OWNER in its paths; this is the same repository.
	if err := os.Mkdir(filepath.Join(filepath.Dir(a.repo.Dir), "o"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(a.repo.Dir, filepath.Join(filepath.Dir(a.repo.Dir), "o", "plans.git")); err != nil {
		t.Fatal(err)
	}
	config, _ = os.ReadFile(a.config)
	if err := os.WriteFile(a.config, []byte(strings.Replace(string(config), "/plans.git", "/o/plans.git", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CHECK_TOKEN", "s3cret")
	asked := append(args, "--provider", "gitea", "--url", api.URL, "--token-env", "CHECK_TOKEN")
	if out, code = a.run(checkCommand(), asked...); code != 0 || !strings.Contains(out, "Fine     rules of the plans' branch: branch main of o/plans takes changes only with a review") {
		t.Errorf("all is fine: exit %d: %s", code, out)
	}
	rules["ledger"] = `{"rule_name": "tranship/ledger", "enable_push": true, "enable_force_push": true}`
	out, code = a.run(checkCommand(), append(asked, "-o", "json")...)
	var report struct {
		Verdict gitsource.Verdict
		Rights  []gitsource.Right
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 1 || report.Verdict != gitsource.Missing {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	if last := report.Rights[len(report.Rights)-1]; last.Verdict != gitsource.Missing || last.Text != "no rule says that branch tranship/ledger of o/plans takes no force push; docs/rulesets.md has one" {
		t.Error(last)
	}
	if now := a.repo.Git("for-each-ref"); now != before {
		t.Errorf("the check changed something:\n%s\n%s", before, now)
	}
	for _, wrong := range [][]string{{"-o", "xml"}, {"--provider", "gitea"}, {"--provider", "sourceforge", "--token-env", "CHECK_TOKEN"}, {"--config", "/nonexistent"}} {
		if out, code := a.run(checkCommand(), append(args, wrong...)...); code != 2 {
			t.Errorf("%v: exit %d: %s", wrong, code, out)
		}
	}
}

// The daemon says what is missing, and nothing about what is as it should be.
func TestDaemonSaysWhatRightsAreMissing(t *testing.T) {
	a := newAudited(t)
	flags := configFlags{config: a.config, secretsDir: a.secrets}
	cfg, err := flags.load()
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := flags.secrets(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	d := &daemon{log: slog.New(slog.NewTextHandler(&said, nil))}
	if err := d.checkRights(t.Context(), gitConfig(cfg, "", secrets, nil)); err != nil {
		t.Fatal(err)
	}
	if text := said.String(); strings.Count(text, "level=WARN") != 2 || !strings.Contains(text, "can change plans") || !strings.Contains(text, "ledger.signers is empty") {
		t.Error(text)
	}
}

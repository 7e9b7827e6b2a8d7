package gitea

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// written are the bodies of the calls in docs/rulesets.md, in their order.
func written(t *testing.T) (rules []map[string]any) {
	t.Helper()
	_, text, ok := strings.Cut(read(t, "../../docs/rulesets.md"), "## Gitea and Forgejo")
	text, _, ends := strings.Cut(text, "\n## ")
	if !ok || !ends || !strings.Contains(text, "/api/v1/repos/ORG/REPO/branch_protections") {
		t.Fatal("docs/rulesets.md has no calls for Gitea")
	}
	for _, found := range regexp.MustCompile(`(?s) -d '(.*?)'`).FindAllStringSubmatch(text, -1) {
		var body map[string]any
		must(t, json.Unmarshal([]byte(found[1]), &body))
		rules = append(rules, body)
	}
	if len(rules) != 2 {
		t.Fatalf("docs/rulesets.md has %d calls", len(rules))
	}
	return rules
}

// What docs/rulesets.md promises of its rules for Gitea.
func testRuleset(t *testing.T, s *Server) {
	bot := s.Account("tranship-bot", "write:repository")
	s.Account("dev", "write:repository")
	s.Account("reviewer", "write:repository")
	repository := s.Repository("ruled", map[string]string{"tranship-bot": "write", "dev": "write", "reviewer": "write"})
	boss, daemon, dev := NewPlace(t, s), NewPlace(t, s), NewPlace(t, s)
	boss.Clone(repository, "boss")
	boss.Git("push", "-q", "origin", "HEAD:refs/heads/tranship/ledger")
	daemon.Clone(repository, "tranship-bot")
	dev.Clone(repository, "dev")
	protect(s, repository, map[string]any{"rule_name": "**", "enable_push": true, "enable_force_push": true}) // of somebody before
	for _, rule := range written(t) {
		protect(s, repository, rule)
	}

	daemon.Configure(s.URL+"/"+repository+".git", s.URL+"/"+repository+".git", "")
	for _, name := range []string{"plans", "ledger"} {
		daemon.Secret(name, "tranship-bot", bot)
	}
	daemon.Write("token", s.admin)
	expect(t, daemon.check("--provider", "gitea", "--url", s.URL, "--token-file", filepath.Join(daemon.Dir, "token")), map[string]string{
		pushable: "Fine *", ofSource: "Fine *", forPlans: "Fine *takes no force push*\nFine *takes changes only with a review*", forOurs: "Fine *",
	})

	refused := func(p *Place, why string, args ...string) {
		t.Helper()
		if out, err := p.TryGit(append([]string{"push", "-q", "origin"}, args...)...); err == nil || !strings.Contains(out, why) {
			t.Errorf("git push %v is not refused because of %q: %s", args, why, out)
		}
	}
	for _, p := range []*Place{boss, daemon, dev} {
		p.Git("switch", "-q", "-c", "work", "origin/main")
		p.Commit("Change it", map[string]string{"plan.yaml": "x\n"})
		refused(p, "protected", "HEAD:main")
		refused(p, "protected from deletion", ":tranship/ledger")
	}
	daemon.Git("push", "-q", "origin", "HEAD:tranship/ledger")
	daemon.Git("commit", "-q", "--amend", "-m", "Change it otherwise")
	refused(daemon, "protected from force push", "+HEAD:tranship/ledger")
	for _, p := range []*Place{boss, dev} {
		p.Git("fetch", "-q", "origin")
		p.Git("reset", "-q", "--hard", "origin/tranship/ledger")
		p.Commit("Forge a record", map[string]string{"status.yaml": "x\n"})
		refused(p, "Not allowed to push to protected branch", "HEAD:tranship/ledger")
	}
	dev.Git("switch", "-q", "-C", "work", "origin/main")
	dev.Commit("Change it", map[string]string{"plan.yaml": "x\n"})
	reviewed(t, s, dev, repository)
}

// reviewed merges a pull request that needs an approval of somebody else, of what
// is in it now, also from an administrator.
func reviewed(t *testing.T, s *Server, dev *Place, repository string) {
	t.Helper()
	number := dev.PullRequest(repository, "reviewed")
	merge := func(account string, force bool) error {
		return s.merge(account, repository, number, map[string]any{"Do": "squash", "force_merge": force})
	}
	approve := func() {
		t.Helper()
		_, err := s.Ask("user:reviewer", http.MethodPost, fmt.Sprintf("/repos/%s/pulls/%d/reviews", repository, number), map[string]any{"event": "APPROVED", "body": "fine"}, nil)
		must(t, err)
	}
	kept := func(when string) {
		t.Helper()
		for _, account := range []string{"dev", "boss"} {
			for _, force := range []bool{false, true} {
				if err := merge(account, force); err == nil {
					t.Fatalf("%s, and %s could merge it (force %v)", when, account, force)
				}
			}
		}
	}
	kept("nobody has approved it")
	approve()
	dev.Commit("Change it again", map[string]string{"plan.yaml": "y\n"})
	dev.Git("push", "-q", "origin", "HEAD:reviewed")
	Eventually(t, time.Minute, func() error { // Gitea takes a moment
		var all []struct {
			Dismissed bool `json:"dismissed"`
		}
		s.Must(http.MethodGet, fmt.Sprintf("/repos/%s/pulls/%d/reviews", repository, number), nil, &all)
		if len(all) != 1 || !all[0].Dismissed {
			return fmt.Errorf("the approval of what is there no more stands: %+v", all)
		}
		return nil
	})
	kept("it was approved before it was changed")
	approve()
	if err := merge("dev", false); err != nil {
		t.Fatal(err)
	}
}

// merge tries again while Gitea still finds out whether there are conflicts.
func (s *Server) merge(account, repository string, number int, how map[string]any) (err error) {
	s.t.Helper()
	for range 50 {
		_, err = s.Ask("user:"+account, http.MethodPost, fmt.Sprintf("/repos/%s/pulls/%d/merge", repository, number), how, nil)
		if err == nil || !strings.Contains(err.Error(), "try again later") {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// Which branch a rule's name covers, and which of two rules holds, is what Gitea
// makes of it.
func testRuleNames(t *testing.T, s *Server) {
	repository := s.Repository("names", nil)
	branches := []string{"main", "tranship/ledger", "tranship/ledger-2026", "release-1.2"}
	for _, b := range branches[1:] {
		s.Must(http.MethodPost, "/repos/"+repository+"/branches", map[string]any{"new_branch_name": b, "old_branch_name": "main"}, nil)
	}
	p := NewPlace(t, s)
	p.Write("token", s.admin)
	p.Secret("plans", "boss", "not asked")
	p.Secret("ledger", "boss", "not asked")
	unclear := 0
	for _, names := range [][]string{
		{"main"}, {"Main"}, {"*"}, {"**"}, {"m?in"}, {"tranship?ledger"}, {"tranship/*"}, {"tranship/**"}, {"*/ledger"}, {"**/ledger"}, {"Tranship/*"},
		{"{main,release-*}"}, {"{tranship/{ledger,x},main}"}, {"a,b"}, {"release-1.2"}, {"release-1?2*"}, {"***"}, {"main*"}, {"[m]ain"}, {"rel[!x]ase-*"}, {`release-1\.2`},
		{"**", "main"}, {"main", "**"}, {"tranship/*", "**"}, {"**", "tranship/*"}, {"[m]ain", "main"},
	} {
		for i, name := range names { // the first allows force pushes, the second does not
			protect(s, repository, map[string]any{"rule_name": name, "enable_push": true, "enable_force_push": i == 0 && len(names) == 2})
		}
		for _, branch := range branches {
			want, item := gitea(s, repository, branch), forOurs
			if branch == "main" {
				branch, item = "tranship/ledger", forPlans
			}
			// Nothing listens there: only the API is asked.
			p.Configure("https://127.0.0.1:1/"+repository+".git", "https://127.0.0.1:1/"+repository+".git", "")
			p.Write("config.yaml", strings.Replace(read(t, filepath.Join(p.Dir, "config.yaml")), "batchInterval", fmt.Sprintf("branch: %q\n    batchInterval", branch), 1))
			got := p.check("--provider", "gitea", "--url", s.URL, "--token-file", filepath.Join(p.Dir, "token"))[item]
			verdict, _, _ := strings.Cut(got, " ")
			if verdict == "Unknown" && strings.ContainsAny(strings.Join(names, ""), `[\`) {
				unclear++ // versions differ
			} else if verdict != want {
				t.Errorf("rules %q, %s: Gitea says %s, the check says %s", names, branch, want, got)
			}
		}
		for _, name := range names {
			s.Must(http.MethodDelete, "/repos/"+repository+"/branch_protections/"+url.PathEscape(name), nil, nil)
		}
	}
	t.Logf("%d answers were left open", unclear)
}

// gitea is the verdict that follows from the rule that Gitea itself names for a branch.
func gitea(s *Server, repository, branch string) string {
	s.t.Helper()
	var is struct {
		Protected bool   `json:"protected"`
		Rule      string `json:"effective_branch_protection_name"`
	}
	s.Must(http.MethodGet, "/repos/"+repository+"/branches/"+url.PathEscape(branch), nil, &is)
	var rule struct {
		Force bool `json:"enable_force_push"`
	}
	if is.Protected {
		s.Must(http.MethodGet, "/repos/"+repository+"/branch_protections/"+url.PathEscape(is.Rule), nil, &rule)
	}
	if is.Protected && !rule.Force {
		return "Fine"
	}
	return "Missing"
}

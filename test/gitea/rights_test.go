package gitea

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// check runs tranship check and finds the verdict and the sentence of each item.
func (p *Place) check(more ...string) map[string]string {
	p.t.Helper()
	out, said, code := p.Run(append(append([]string{"check"}, p.flags()...), more...)...)
	if code > 2 || said != "" {
		p.t.Fatalf("exit %d: %s%s", code, out, said)
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		verdict, rest, _ := strings.Cut(line, " ")
		item, text, _ := strings.Cut(strings.TrimSpace(rest), ": ")
		found[item] = strings.TrimSpace(found[item] + "\n" + verdict + " " + strings.TrimSpace(text))
	}
	return found
}

const (
	readable, pushable = "plans can be read", "ledger can be pushed"
	ofSource, ofLedger = "account of the source cannot change plans", "account of the ledger cannot change plans"
	forPlans, forOurs  = "rules of the plans' branch", "rules of the ledger's branch"
)

// expect compares some items with the beginnings of their answers, which may
// have * for anything.
func expect(t *testing.T, got map[string]string, want map[string]string) {
	t.Helper()
	for item, pattern := range want {
		re := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, "[^\n]*"))
		if !re.MatchString(got[item]) {
			t.Errorf("%s: got\n%s\nwant\n%s", item, got[item], pattern)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// protect makes a branch protection as the administrator.
func protect(s *Server, repository string, rule map[string]any) {
	s.t.Helper()
	s.Must(http.MethodPost, "/repos/"+repository+"/branch_protections", rule, nil)
}

// What is missing is found out by pushing nothing, and by the API: one step after
// the other it is mended, until all is fine.
func testRights(t *testing.T, s *Server) {
	reader, writer := s.Account("reader", "read:repository"), s.Account("writer", "write:repository")
	plans := s.Repository("plans", map[string]string{"reader": "read"})
	ledger := s.Repository("ledger", map[string]string{"writer": "read"})
	p := NewPlace(t, s)
	p.Configure(s.URL+"/"+plans+".git", s.URL+"/"+ledger+".git", "")
	p.Secret("plans", "reader", reader)
	p.Secret("ledger", "writer", writer)
	p.Write("token", s.admin)
	check := func() map[string]string {
		t.Helper()
		return p.check("--provider", "gitea", "--url", s.URL, "--token-file", filepath.Join(p.Dir, "token"))
	}
	may := func(repository, account, permission string) {
		t.Helper()
		s.Must(http.MethodPut, "/repos/"+repository+"/collaborators/"+account, map[string]any{"permission": permission}, nil)
	}

	got := check()
	expect(t, got, map[string]string{
		readable: "Fine branch main of *", ofSource: "Fine it may not push to *", ofLedger: "Fine it may not push to *",
		pushable: "Unknown *branch tranship/ledger is not there yet*",
		forPlans: "Missing no rule says that branch main of boss/plans takes no force push; docs/rulesets.md has one\nMissing no rule says that branch main of boss/plans takes changes only with a review",
		forOurs:  "Missing no rule says that branch tranship/ledger of boss/ledger takes no force push",
	})
	c := NewPlace(t, s)
	c.Clone(ledger, "boss")
	c.Git("push", "-q", "origin", "HEAD:refs/heads/tranship/ledger")
	got = check()
	expect(t, got, map[string]string{pushable: "Missing *(the server says: User permission denied for writing.)"})
	may(ledger, "writer", "write")
	may(plans, "reader", "write")
	may(plans, "writer", "write")
	got = check()
	expect(t, got, map[string]string{pushable: "Fine *", ofLedger: `Missing *accepts its push to branch main: whoever has secret "ledger" can change plans`})
	// The reader's token has the scope to read only: its account may do more.
	expect(t, got, map[string]string{ofSource: "Fine it may not push to *"})
	p.Secret("plans", "reader", s.Token("reader", "write:repository"))
	expect(t, check(), map[string]string{ofSource: `Missing *accepts its push to branch main: whoever has secret "plans" can change plans`})

	protect(s, plans, map[string]any{"rule_name": "main", "enable_push": false, "required_approvals": 1})
	protect(s, ledger, map[string]any{"rule_name": "tranship/*", "enable_push": true, "enable_push_whitelist": true, "push_whitelist_usernames": []string{"boss"}})
	expect(t, check(), map[string]string{
		ofSource: "Fine *refuses its push to branch main", ofLedger: "Fine *refuses its push to branch main",
		pushable: "Missing *(the server says: Not allowed to push to protected branch tranship/ledger)",
		forPlans: "Fine *takes no force push*\nFine *takes changes only with a review*", forOurs: "Fine *takes no force push*",
	})
	s.Must(http.MethodPatch, "/repos/"+ledger+"/branch_protections/tranship%2F%2A", map[string]any{"push_whitelist_usernames": []string{"writer"}}, nil)
	expect(t, check(), map[string]string{pushable: "Fine *"})

	p.Write("token", s.Token("writer", "read:repository"))
	expect(t, check(), map[string]string{forPlans: "Unknown the host does not say which rules hold: *"})
	p.Secret("ledger", "writer", "not-a-token")
	expect(t, check(), map[string]string{pushable: "Missing *credentials*"})
	c.Git("fetch", "-q", "origin")
	if now := c.Git("rev-parse", "origin/main", "origin/tranship/ledger"); now != strings.Repeat(c.Git("rev-parse", "HEAD")+"\n", 2)[:81] {
		t.Errorf("the checks moved a branch: %s", now)
	}
}

// The same questions over SSH, with the keys of two accounts.
func testRightsOverSSH(t *testing.T, s *Server) {
	p := NewPlace(t, s)
	for name, secret := range map[string]string{"sshreader": "plans", "sshwriter": "ledger"} {
		s.Account(name, "read:user")
		key := filepath.Join(p.Dir, "secrets", secret, "identity")
		p.Write("secrets/"+secret+"/known_hosts", s.Hosts)
		must(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).Run())
		s.Must(http.MethodPost, "/admin/users/"+name+"/keys", map[string]any{"title": "bot", "key": read(t, key+".pub")}, nil)
		must(t, exec.Command("rm", key+".pub").Run())
	}
	plans := s.Repository("sshplans", map[string]string{"sshreader": "read"})
	ledger := s.Repository("sshledger", map[string]string{"sshwriter": "read"})
	p.Configure(s.SSH+"/"+plans+".git", s.SSH+"/"+ledger+".git", "")
	expect(t, p.check(), map[string]string{readable: "Fine branch main of *", ofSource: "Fine *", ofLedger: "Fine *", pushable: "Unknown *branch tranship/ledger is not there yet*"})

	c := NewPlace(t, s)
	c.Clone(ledger, "boss")
	c.Git("push", "-q", "origin", "HEAD:refs/heads/tranship/ledger")
	got := p.check()
	expect(t, got, map[string]string{pushable: "Missing *(the server says: User permission denied for writing.)"})
	s.Must(http.MethodPut, "/repos/"+ledger+"/collaborators/sshwriter", map[string]any{"permission": "write"}, nil)
	expect(t, p.check(), map[string]string{pushable: "Fine *"})
	protect(s, ledger, map[string]any{"rule_name": "tranship/ledger", "enable_push": false})
	expect(t, p.check(), map[string]string{pushable: "Missing *(the server says: Not allowed to push to protected branch tranship/ledger)"})
}

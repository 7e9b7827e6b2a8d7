package gitea

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGitea(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds Gitea where that was not done before, which takes minutes")
	}
	s := Start(t, "always")
	for name, test := range map[string]func(*testing.T, *Server){
		"PullRequest": testPullRequest, "Rights": testRights, "RightsOverSSH": testRightsOverSSH, "Ruleset": testRuleset,
		"RuleNames": testRuleNames, "Webhook": testWebhook, "SignedMerges": testSignedMerges,
	} {
		t.Run(name, func(t *testing.T) {
			within := *s
			within.t = t
			test(t, &within)
		})
	}
}

// examples copies the documents of the examples into the clone.
func (p *Place) examples() {
	p.t.Helper()
	for _, folder := range []string{"clusters", "hooks", "plans", "repositories"} {
		must(p.t, os.CopyFS(filepath.Join(p.Dir, "clone", folder), os.DirFS(filepath.Join("../../examples", folder))))
	}
}

// flip changes the state of a plan of the examples in the clone.
func (p *Place) flip(plan, to string) map[string]string {
	p.t.Helper()
	file := "plans/" + plan + ".yaml"
	text := read(p.t, filepath.Join(p.Dir, "clone", file))
	return map[string]string{file: strings.Replace(text, "state: Staged", "state: "+to, 1)}
}

// PullRequest pushes what is checked out to a branch, and opens a pull request.
func (p *Place) PullRequest(repository, branch string) (number int) {
	p.t.Helper()
	p.Git("push", "-q", "origin", "HEAD:refs/heads/"+branch)
	var made struct {
		Number int `json:"number"`
	}
	p.s.Must(http.MethodPost, "/repos/"+repository+"/pulls", map[string]any{"head": branch, "base": "main", "title": branch}, &made)
	return made.Number
}

type giteaComment struct {
	Body string `json:"body"`
	User struct {
		Login string `json:"login"`
	} `json:"user"`
}

// The whole way of docs/pull-requests.md: plan in a clone, one comment that is
// edited in place, and the statuses of the commit.
func testPullRequest(t *testing.T, s *Server) {
	token := s.Account("commenter", "read:user", "write:issue", "write:repository")
	repository := s.Repository("changes", map[string]string{"commenter": "write"})
	p := NewPlace(t, s)
	p.Clone(repository, "boss")
	p.examples()
	p.Commit("Plan the move", nil)
	p.Git("push", "-q", "origin", "main")
	commit := p.Commit("Move the website", p.flip("website", "Migrated"))
	number := p.PullRequest(repository, "change")
	for range 60 {
		s.Must(http.MethodPost, fmt.Sprintf("/repos/%s/issues/%d/comments", repository, number), map[string]any{"body": "<!-- tranship:plan -->\nnot ours"}, nil)
	}
	plan := func() {
		t.Helper()
		out, said, code := p.Run("plan", "--offline", "--against", "origin/main", "-o", "json")
		if code != 2 {
			t.Fatalf("exit %d: %s%s", code, out, said)
		}
		p.Write("plan.json", out)
	}
	comment := func(token string, more ...string) (string, string, int) {
		t.Helper()
		p.Write("token", token)
		return p.Run(append([]string{"comment", "--provider", "gitea", "--url", s.URL, "--repository", repository, "--pull-request", fmt.Sprint(number),
			"--report", filepath.Join(p.Dir, "plan.json"), "--token-file", filepath.Join(p.Dir, "token")}, more...)...)
	}
	plan()
	s.Account("onlooker", "all")
	s.Must(http.MethodPut, "/repos/"+repository+"/collaborators/onlooker", map[string]any{"permission": "read"}, nil)
	for who, test := range map[string]struct{ token, say string }{
		"nobody":                    {"0123456789012345678901234567890123456789", "401 Unauthorized (the token is not accepted)"},
		"a scope too few":           {s.Token("commenter", "read:user", "read:issue", "write:repository"), "403 Forbidden (the token may not do that)"},
		"who may not set statuses":  {s.Token("onlooker", "read:user", "write:issue", "write:repository"), "403 Forbidden (the token may not do that)"},
		"who may not see the scope": {s.Token("commenter", "write:issue", "write:repository"), "cannot find out whose token it is"},
	} {
		if out, said, code := comment(test.token); code != 1 || !strings.Contains(said, test.say) || strings.Contains(said, test.token) {
			t.Errorf("%s: exit %d: %s%s", who, code, out, said)
		}
	}
	for _, want := range []string{"comment   made\nstatuses  1 set on %.12s\n", "comment   unchanged\nstatuses  0 set on %.12s\n"} {
		if out, said, _ := comment(token); out != fmt.Sprintf(want, commit) {
			t.Fatalf("%s%s", out, said)
		}
	}
	commit = p.Commit("Move the shop, too", p.flip("shop", "Migrated"))
	p.Git("push", "-q", "origin", "HEAD:refs/heads/change")
	plan()
	if out, said, _ := comment(token); out != fmt.Sprintf("comment   edited\nstatuses  2 set on %.12s\n", commit) {
		t.Fatalf("%s%s", out, said)
	}
	if out, said, _ := comment(token, "--commit", commit); out != fmt.Sprintf("comment   unchanged\nstatuses  0 set on %.12s\n", commit) {
		t.Fatalf("%s%s", out, said)
	}
	seenOn(t, s, repository, number, commit)
}

// seenOn is what people see on the pull request.
func seenOn(t *testing.T, s *Server, repository string, number int, commit string) {
	t.Helper()
	var all []giteaComment
	s.Must(http.MethodGet, fmt.Sprintf("/repos/%s/issues/%d/comments", repository, number), nil, &all)
	ours := 0
	for _, c := range all {
		switch c.User.Login {
		case "onlooker": // whose statuses were refused
		case "commenter":
			ours++
			if !strings.HasPrefix(c.Body, "<!-- tranship:plan -->\n### Tranship") || !strings.Contains(c.Body, "website") || !strings.Contains(c.Body, "shop") {
				t.Errorf("the comment says %.300s", c.Body)
			}
		default:
			if c.Body != "<!-- tranship:plan -->\nnot ours" {
				t.Errorf("a comment of somebody else was touched: %.300s", c.Body)
			}
		}
	}
	var combined struct {
		State    string `json:"state"`
		Statuses []struct {
			Context string `json:"context"`
			Status  string `json:"status"`
		} `json:"statuses"`
	}
	s.Must(http.MethodGet, fmt.Sprintf("/repos/%s/commits/%s/status", repository, commit), nil, &combined)
	if ours != 1 || len(all) != 62 || combined.State != "success" || len(combined.Statuses) != 2 {
		t.Errorf("%d of %d comments are ours; the commit has %+v", ours, len(all), combined)
	}
}

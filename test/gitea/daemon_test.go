package gitea

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
)

// serve makes repositories for plans and ledger, an account that may read the one
// and write the other, and a clone of the first with the examples pushed.
func (p *Place) serve(name, extra string) (plans string) {
	p.t.Helper()
	bot := "bot-" + name
	token := p.s.Account(bot, "write:repository")
	plans = p.s.Repository(name+"-plans", map[string]string{bot: "read"})
	ledger := p.s.Repository(name+"-ledger", map[string]string{bot: "write"})
	p.Secret("plans", bot, token)
	p.Secret("ledger", bot, token)
	p.Configure(p.s.URL+"/"+plans+".git", p.s.URL+"/"+ledger+".git", extra)
	p.Clone(plans, "boss")
	p.examples()
	p.Commit("Plan the move", nil)
	p.Git("push", "-q", "origin", "main")
	return plans
}

// status is what the ledger says of a plan, by the command that people use.
func (p *Place) status(plan string) (*spec.PlanStatus, error) {
	out, said, code := p.Run(append([]string{"status", plan, "-o", "json"}, p.flags()...)...)
	if code != 0 {
		return nil, fmt.Errorf("exit %d: %s%s", code, out, said)
	}
	var story struct{ Status spec.PlanStatus }
	return &story.Status, json.Unmarshal([]byte(out), &story)
}

// A push to the plans reaches the daemon by a webhook of Gitea's and nothing else,
// and what it makes of it is in the ledger on Gitea.
func testWebhook(t *testing.T, s *Server) {
	const secret = "correct horse battery staple"
	p := NewPlace(t, s)
	p.Write("secrets/hook/token", secret)
	plans := p.serve("hook", "interval: 1h\nwebhooks: [{type: Gitea, secret: {from: hook}}]")
	listen := "127.0.0.1:" + freePort(t)
	said := p.Daemon(listen)
	Eventually(t, 3*time.Minute, func() error { _, err := p.status("website"); return err })

	sum := sha256.Sum256([]byte("Gitea:" + secret))
	at := "http://" + listen + "/hook/" + hex.EncodeToString(sum[:])
	for _, with := range []string{secret, "of somebody who knows the path only"} {
		s.Must(http.MethodPost, "/repos/"+plans+"/hooks", map[string]any{"type": "gitea", "active": true, "events": []string{"push"},
			"config": map[string]string{"url": at, "content_type": "json", "secret": with}}, nil)
	}
	p.Commit("Copy nothing", map[string]string{"plans/website.yaml": strings.Replace(read(t, filepath.Join(p.Dir, "clone/plans/website.yaml")), "sourceCluster: old", "suspend: {reason: not now}\n  sourceCluster: old", 1)})
	p.Git("push", "-q", "origin", "main")
	Eventually(t, 2*time.Minute, func() error {
		st, err := p.status("website")
		if err != nil {
			return err
		}
		if reason, message := reason(st); reason != "Suspended" {
			return fmt.Errorf("the ledger says %s: %s", reason, message)
		}
		return nil
	})
	Eventually(t, 2*time.Minute, func() error {
		res, err := http.Get("http://" + listen + "/metrics")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		for _, want := range []string{`tranship_webhook_requests_total{result="accepted",type="Gitea"} 1`, `tranship_webhook_requests_total{result="wrong signature",type="Gitea"} 1`} {
			if err == nil && !strings.Contains(string(text), want) {
				err = fmt.Errorf("the metrics lack %s", want)
			}
		}
		return err
	})
	if log := said(); strings.Contains(log, "can change plans") || strings.Contains(log, secret) {
		t.Errorf("the daemon complains about rights, or shows a secret:\n%s", log)
	}
}

// sshKey makes one in the place and returns its public half.
func (p *Place) sshKey(name string) string {
	p.t.Helper()
	file := filepath.Join(p.Dir, name)
	must(p.t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file).Run())
	return strings.TrimSpace(read(p.t, file+".pub"))
}

func testSignedMerges(t *testing.T, s *Server) {
	res, err := s.client.Get(s.URL + "/api/v1/signing-key.pub") // where docs/approvals.md says
	must(t, err)
	defer res.Body.Close()
	if key, err := io.ReadAll(res.Body); err != nil || string(key) != s.Signer {
		t.Fatalf("the server's key is %s, %v", key, err)
	}
	mergeEach(t, s, "is signed with the Git host's key gitea")
}

// Without a key of its own Gitea leaves what it merges unsigned.
func TestUnsignedMerges(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds Gitea where that was not done before, which takes minutes")
	}
	s := Start(t, "never")
	mergeEach(t, s, "is not signed")

	// Nor can it merge then what a rule wants signed.
	repository := s.Repository("ruled", nil)
	protect(s, repository, written(t)[0])
	s.Must(http.MethodPatch, "/repos/"+repository+"/branch_protections/main", map[string]any{"required_approvals": 0}, nil)
	p := NewPlace(t, s)
	p.Clone(repository, "boss")
	p.Commit("Change it", map[string]string{"plan.yaml": "x\n"})
	number := p.PullRequest(repository, "change")
	for _, do := range []string{"squash", "merge"} {
		if err := s.merge("boss", repository, number, map[string]any{"Do": do}); err == nil || !strings.Contains(err.Error(), "sign") {
			t.Errorf("%s: %v", do, err)
		}
	}
	s.Must(http.MethodPatch, "/repos/"+repository+"/branch_protections/main", map[string]any{"require_signed_commits": false}, nil)
	must(t, s.merge("boss", repository, number, map[string]any{"Do": "merge"}))
}

// ways are how Gitea merges, and whether what Ada signed on the branch counts
// afterwards: on a branch that is behind, and on one that is not.
var ways = []struct {
	do     string
	behind bool
	counts bool
}{
	{"merge", true, true}, {"squash", true, false}, {"rebase", true, false}, {"rebase-merge", true, false},
	{"fast-forward-only", false, true}, {"rebase", false, true}, {"squash", false, false},
}

// mergeEach merges a flip in every way that Gitea knows, from a branch that nobody
// signed and from one that Ada did. Only what she signed counts, and anything that
// Gitea has written anew is not that.
func mergeEach(t *testing.T, s *Server, why string) {
	p := NewPlace(t, s)
	ada := p.sshKey("ada")
	plans := p.serve("merges", fmt.Sprintf(`interval: 1s
trust:
  keys: [{name: ada, owner: Ada, ssh: %q}, {name: gitea, owner: Gitea, ssh: %q}]
  hostKeys: [gitea]
  policies: [{paths: ["**"], require: 1, countAuthor: true, keys: [ada], ways: [SignedCommits, MergeCommits]}]`, ada, strings.TrimSpace(s.Signer)))
	files, website := map[string]string{}, read(t, filepath.Join(p.Dir, "clone/plans/website.yaml"))
	for i := range 2 * len(ways) {
		files[fmt.Sprintf("plans/p%d.yaml", i)] = strings.ReplaceAll(website, "name: website", fmt.Sprintf("name: p%d", i))
	}
	p.Commit("Plan the moves", files)
	p.Git("push", "-q", "origin", "main")
	p.Daemon("")
	Eventually(t, 3*time.Minute, func() error { _, err := p.status("p0"); return err })
	for i, way := range ways {
		p.merged(plans, fmt.Sprintf("p%d", 2*i), way.do, way.behind)
		p.merged(plans, fmt.Sprintf("p%d", 2*i+1), way.do, way.behind, "-c", "gpg.format=ssh", "-c", "user.signingkey="+filepath.Join(p.Dir, "ada"), "-c", "commit.gpgsign=true")
	}
	for i, way := range ways {
		for signed, plan := range []string{fmt.Sprintf("p%d", 2*i), fmt.Sprintf("p%d", 2*i+1)} {
			st := p.judged(plan)
			reason, message := reason(st)
			approved := st.Recorded.Trust == nil || st.Recorded.Trust.Proposal == nil
			t.Logf("%+v, signed %d: %s: %s", way, signed, reason, message)
			if approved != (signed == 1 && way.counts) || !approved && (reason != "Unapproved" || !strings.Contains(message, "nobody whose signature counts")) {
				t.Errorf("%+v, signed %d: approved %v: %s: %s", way, signed, approved, reason, message)
			}
			if way.do == "squash" && !strings.Contains(message, why) {
				t.Errorf("%+v is refused without %q: %s", way, why, message)
			}
		}
	}
}

// merged flips a plan on a branch, which Gitea merges.
func (p *Place) merged(plans, plan, do string, behind bool, signing ...string) {
	p.t.Helper()
	p.Git("fetch", "-q", "origin")
	p.Git("switch", "-q", "-C", "other", "origin/main")
	p.Git("switch", "-q", "-C", plan, "origin/main")
	p.Commit("Move it", p.flip(plan, "Migrated"), signing...)
	number := p.PullRequest(plans, plan)
	if behind {
		p.Git("switch", "-q", "other")
		p.Commit("Write something else", map[string]string{"notes/" + plan: "x\n"})
		p.Git("push", "-q", "origin", "HEAD:main")
	}
	must(p.t, p.s.merge("boss", plans, number, map[string]any{"Do": do}))
}

// judged waits until the daemon has read a plan's flip.
func (p *Place) judged(plan string) (st *spec.PlanStatus) {
	p.t.Helper()
	Eventually(p.t, 3*time.Minute, func() (err error) {
		if st, err = p.status(plan); err == nil && st.Recorded.Flip == nil && (st.Recorded.Trust == nil || st.Recorded.Trust.Proposal == nil) {
			err = fmt.Errorf("the flip of %s is neither taken nor a proposal: %+v", plan, st)
		}
		return err
	})
	return st
}

func reason(st *spec.PlanStatus) (reason, message string) {
	if c := meta.FindStatusCondition(st.Conditions, "Ready"); c != nil {
		return c.Reason, c.Message
	}
	return "", ""
}

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/spec"
)

// keyFile makes a key of somebody: its file, and how a configuration names it.
func keyFile(t *testing.T, name, owner string) (string, spec.TrustedKey) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, spec.TrustedKey{Name: name, Owner: owner, SSH: string(ssh.MarshalAuthorizedKey(public))}
}

func TestStandingOfApprovals(t *testing.T) {
	byFile := spec.ApprovalPolicy{Paths: []string{"plans/**"}, Require: 2, Keys: []string{"ada", "grace"}, Ways: []spec.Way{spec.SignedCommits, spec.Signatures}}
	byCommit := spec.ApprovalPolicy{Paths: []string{"**"}, Require: 1, Keys: []string{"ada"}, Ways: []spec.Way{spec.SignedCommits}, CountAuthor: true}
	trust := spec.Trust{Policies: []spec.ApprovalPolicy{byFile, byCommit}}
	note := func(path string, p *spec.Proposal) *spec.TrustNote {
		return &spec.TrustNote{Paths: []string{path}, Digest: "sha256:aa", Attempt: 2, Proposal: p}
	}
	proposal := func(reason string) *spec.Proposal {
		return &spec.Proposal{To: spec.Migrated, Attempt: 3, Digest: "sha256:bb", From: spec.Staged, FromAttempt: 2, Reason: reason, Message: "who and what",
			Approval: spec.Approval{Commit: "0123456789abcdef", Signers: []spec.Signer{{Key: "ada", Owner: "Ada", Way: spec.Signatures, Fingerprint: "SHA256:x"}}}}
	}
	ready := []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Unapproved", Message: "the documents were changed"}}
	for _, c := range []struct {
		name string
		st   spec.PlanStatus
		says []string // lines
		not  string
	}{
		{"no policy", spec.PlanStatus{}, []string{"plan       shop, recorded as Staged", "asks for   nothing that needs an approval", "policy     none has held for it so far: whoever can merge can approve"}, "run "},
		{"unapproved", spec.PlanStatus{Recorded: spec.Recorded{Trust: note("plans/shop.yaml", proposal("Unapproved"))}}, []string{
			"asks for   Migrated with attempt 3, in 0123456789ab", "digest     sha256:bb", "unapproved who and what", "signed     by Ada with key ada (Signatures) SHA256:x",
			"policy     plans/**: 2 owners of the keys ada, grace, by SignedCommits or Signatures; the author does not count", "used       attempts up to 2",
			"run        tranship approve shop . --state Migrated --attempt 3"}, ""},
		{"by commits only", spec.PlanStatus{Recorded: spec.Recorded{Trust: note("shop.yaml", proposal("Unapproved"))}}, []string{
			"policy     **: 1 owners of the keys ada, by SignedCommits; the author counts"}, "run "},
		{"used", spec.PlanStatus{Recorded: spec.Recorded{Trust: note("plans/shop.yaml", proposal("ApprovalUsed"))}}, []string{"approvalused who and what"}, "run "},
		{"documents", spec.PlanStatus{Digest: "sha256:cc", Commit: "fedcba9876543210", Conditions: ready, Recorded: spec.Recorded{SeenState: spec.Staged, SeenAttempt: 1, Trust: note("plans/shop.yaml", nil)}}, []string{
			"asks for   Staged with attempt 1, in fedcba987654", "digest     sha256:cc", "run        tranship approve shop . --state Staged --attempt 1"}, ""},
		{"approved", spec.PlanStatus{Recorded: spec.Recorded{Trust: note("plans/shop.yaml", nil), Flip: &spec.Flip{To: spec.Migrated, Attempt: 3, Digest: "sha256:bb", Approval: proposal("").Approval}}}, []string{
			"approved   it is not served yet", "signed     by Ada with key ada (Signatures) SHA256:x"}, "run "},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.st.Metadata.Name = "shop"
			var out bytes.Buffer
			tellStanding(&out, standingOf(&c.st, trust))
			for _, line := range c.says {
				if !strings.Contains("\n"+out.String(), "\n"+line+"\n") {
					t.Errorf("no line %q in\n%s", line, out.String())
				}
			}
			if c.not != "" && strings.Contains("\n"+out.String(), "\n"+c.not) {
				t.Errorf("%q in\n%s", c.not, out.String())
			}
		})
	}
}

// A reviewer sees which approvals of his checkout the daemon would count.
func TestApprovalsOfACheckout(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "all.yaml"), []byte(approvable), 0o600); err != nil {
		t.Fatal(err)
	}
	ada, adas := keyFile(t, "ada", "Ada")
	eve, _ := keyFile(t, "eve", "Eve")
	hub, hubs := keyFile(t, "hub", "The host")
	sign := func(key, name string, attempt int) {
		if err := (&approveFlags{key: key, name: name, attempt: attempt}).approve(&bytes.Buffer{}, "shop", folder); err != nil {
			t.Fatal(err)
		}
	}
	sign(ada, "ada", 0)
	sign(ada, "ada-for-later", 4)
	sign(eve, "eve", 0)
	sign(hub, "hub", 0)
	closure, err := closureIn(folder, "shop")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(folder, spec.ApprovalDir("shop", closure.Digest()))
	if err := os.WriteFile(filepath.Join(dir, "huge.sig"), bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(ada, filepath.Join(dir, "link.sig")); err != nil {
		t.Fatal(err)
	}
	got, err := inCheckout(folder, "shop", spec.Trust{Keys: []spec.TrustedKey{adas, hubs}, HostKeys: []string{"hub"}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"ada.sig": "", "ada-for-later.sig": "signed something else", "eve.sig": "does not name", "hub.sig": "everyone's", "huge.sig": "no SSH signature"}
	for _, f := range got.Files {
		problem, known := want[f.File]
		if !known || (problem == "") != (f.Problem == "") || !strings.Contains(f.Problem, problem) {
			t.Errorf("%+v, not %q", f, problem)
		}
		delete(want, f.File)
	}
	if len(want) > 0 || got.State != spec.Migrated || got.Attempt != 3 {
		t.Errorf("%+v; not seen: %v", got, want)
	}
	var out bytes.Buffer
	s := standing{Plan: "shop", Asked: &asked{State: spec.Migrated, Attempt: 3, Digest: got.Digest}, Checkout: got}
	tellStanding(&out, s)
	s.Asked.Attempt = 4
	tellStanding(&out, s)
	for _, want := range []string{": what is asked for\n", ": not what is asked for on the branch", "  ada.sig by Ada with key ada\n", "  eve.sig does not count: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestApprovalsCommand(t *testing.T) {
	a := newAudited(t)
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "all.yaml"), []byte(approvable), 0o600); err != nil {
		t.Fatal(err)
	}
	from := []string{"--config", a.config, "--secrets-dir", a.secrets}
	out, code := a.run(approvalsCommand(), append(from, "shop", folder, "-o", "json")...)
	var s standing
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 || s.Plan != "shop" || s.Asked != nil || s.Checkout == nil || s.Checkout.Attempt != 3 {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	for _, wrong := range [][]string{{"nobody"}, {"shop", "-o", "xml"}, {"shop", t.TempDir()}} {
		if out, code := a.run(approvalsCommand(), append(from, wrong...)...); code == 0 {
			t.Errorf("%v: %s", wrong, out)
		}
	}
}

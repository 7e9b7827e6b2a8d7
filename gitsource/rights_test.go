package gitsource

import (
	"context"
	curve "crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// rights are the verdicts of a check, with all of its sentences.
func rights(t *testing.T, c Config) (map[string]Verdict, string) {
	t.Helper()
	found, said := map[string]Verdict{}, ""
	for _, r := range CheckRights(testContext(t), c) {
		if v, twice := found[r.Item]; !twice || v == Fine {
			found[r.Item] = r.Verdict
		}
		said += fmt.Sprintf("%s: %s: %s\n", r.Item, r.Verdict, r.Text)
	}
	return found, said
}

const (
	readable, pushable      = "plans can be read", "ledger can be pushed"
	ofSource, ofLedger      = "account of the source cannot change plans", "account of the ledger cannot change plans"
	signable, keysOfTheRing = "ledger can be signed", "keys of approvals"
)

// withSecrets adds secrets to those that testConfig knows.
func withSecrets(c Config, more map[string]map[string][]byte) Config {
	before := c.Secrets
	c.Secrets = func(ctx context.Context, from string) (map[string][]byte, error) {
		if s, ok := more[from]; ok {
			return s, nil
		}
		return before(ctx, from)
	}
	return c
}

// separateRepositories is the arrangement that docs/rulesets.md asks for: the
// source's account reads only, the ledger's has a repository of its own, and
// the plans' one takes no push at all.
func separateRepositories(t *testing.T, s *gittest.Server) (c Config, plans, ledger *gittest.Repo) {
	t.Helper()
	s.LetRead("only-for-reading")
	plans, ledger = s.Repo("plans.git"), s.Repo("ledger.git")
	plans.Clone().Write("a.yaml", "x\n").Push("one")
	ledger.Git("update-ref", ledgerRef, bareCommit(t, ledger))
	c = withSecrets(testConfig(t, s, plans), map[string]map[string][]byte{"reader": {"username": []byte(gittest.Reader), "password": []byte("only-for-reading")}})
	c.Spec.Source.Credentials = &spec.SecretRef{From: "reader"}
	c.Spec.Ledger.Repository = spec.Repository{URL: ledger.URL, CABundle: s.CA, Credentials: &spec.SecretRef{From: "git"}}
	return c, plans, ledger
}

// bareCommit makes a commit in a bare repository and returns it.
func bareCommit(t *testing.T, r *gittest.Repo) string {
	t.Helper()
	tree := r.Input("", "hash-object", "-w", "-t", "tree", "--stdin")
	return r.Git("commit-tree", tree, "-m", "ledger")
}

// Separate identities: the check tells accounts that could change plans from
// those that cannot, and leaves every reference where it was.
func TestRightsOfSeparateIdentities(t *testing.T) {
	s := gittest.New(t)
	c, plans, ledger := separateRepositories(t, s)
	refs := func() string {
		return plans.Git("for-each-ref") + ledger.Git("for-each-ref") + plans.Git("count-objects") + ledger.Git("count-objects")
	}
	before := refs()

	got, said := rights(t, c)
	if got[readable] != Fine || got[pushable] != Fine || got[ofSource] != Fine || got[ofLedger] != Missing {
		t.Errorf("the ledger's account can push to the plans, and that is all: %s", said)
	}
	if !strings.Contains(said, `whoever has secret "git" can change plans`) {
		t.Error(said)
	}
	plans.Git("config", "http.receivepack", "false")
	if got, said = rights(t, c); got[ofLedger] != Fine || got[ofSource] != Fine {
		t.Errorf("nobody can push to the plans: %s", said)
	}
	if now := refs(); now != before {
		t.Errorf("the check changed something:\n%s\n%s", before, now)
	}
}

// One account for both is a finding, until a rule of the server keeps it off
// the branch of the plans.
func TestRightsWithARuleOfTheServer(t *testing.T) {
	s := gittest.New(t)
	repo := s.Repo("plans.git")
	repo.Clone().Write("a.yaml", "x\n").Push("one")
	c := testConfig(t, s, repo)

	got, said := rights(t, c)
	if got[ofSource] != Missing || got[pushable] != Unknown {
		t.Errorf("one account may push everywhere, and there is no ledger yet: %s", said)
	}
	if _, twice := got[ofLedger]; twice {
		t.Errorf("the same account is asked about twice: %s", said)
	}
	repo.Git("update-ref", ledgerRef, bareCommit(t, repo))
	repo.Hook("update", `test "$1" != refs/heads/main || { echo "main is protected" >&2; exit 1; }`)
	if got, said = rights(t, c); got[ofSource] != Fine || got[pushable] != Fine {
		t.Errorf("main is protected: %s", said)
	}
	repo.Hook("update", `test "$1" = refs/heads/main || { printf 'error:\nerror: ledger is protected\nerror:\n' >&2; exit 1; }`)
	if got, said = rights(t, c); got[ofSource] != Missing || got[pushable] != Missing || !strings.Contains(said, "(the server says: ledger is protected hook") {
		t.Errorf("the ledger is protected from us: %s", said)
	}
}

// An account that may only read cannot keep a ledger; a server that does not
// answer says nothing about rights.
func TestRightsThatAreMissing(t *testing.T) {
	s := gittest.New(t)
	c, _, ledger := separateRepositories(t, s)
	c.Spec.Ledger.Credentials = &spec.SecretRef{From: "reader"}
	got, said := rights(t, c)
	if got[pushable] != Missing || got[ofSource] != Fine || !strings.Contains(said, "may not push; give their account write access to branch tranship/ledger") {
		t.Error(said)
	}
	c.Spec.Source.Branch = "gone"
	if got, said = rights(t, c); got[readable] != Missing || !strings.Contains(said, "cannot find branch gone") {
		t.Error(said)
	}
	c.Spec.Ledger.URL = "https://git.example.com/ledger.git"
	c.Spec.Ledger.Credentials = &spec.SecretRef{From: "git"}
	c.Spec.Ledger.Timeout = c.Spec.Source.Timeout
	if got := c.separate(testContext(t)); len(got) != 2 || got[1].Verdict != Unknown {
		t.Errorf("credentials of another server are not tried here: %v", got)
	}
	c.Spec.Ledger.URL = ledger.URL
	s.SetDown(true)
	got, said = rights(t, c)
	for _, item := range []string{readable, pushable, ofSource, ofLedger} {
		if got[item] != Unknown {
			t.Errorf("%s is not Unknown: %s", item, said)
		}
	}
}

// A refusal counts only where it is about the branch and comes again: a push of
// somebody else's at the same time, or a pack that was not read, says nothing.
func TestRightsAreNotReadFromChance(t *testing.T) {
	s := gittest.New(t)
	repo := s.Repo("plans.git")
	w := repo.Clone().Write("a.yaml", "x\n")
	w.Push("one")
	c := testConfig(t, s, repo)
	repo.Hook("update", `test -e refused || { touch refused; exit 1; }`)
	if got, said := rights(t, c); got[ofSource] != Missing {
		t.Errorf("refused once: %s", said)
	}
	moves := 0
	move := gittest.Before(func() { moves++; w.Push(fmt.Sprint("move ", moves)) })
	s.Inject("git-receive-pack", 1, move)
	if got, said := rights(t, c); got[ofSource] != Missing || moves != 1 {
		t.Errorf("moved once: %s", said)
	}
	s.Inject("git-receive-pack", 100, move)
	if got, said := rights(t, c); got[ofSource] != Unknown || moves < 3 {
		t.Errorf("moved at each push (%d): %s", moves, said)
	}
	s.Heal()
	repo.Git("config", "receive.maxInputSize", "1")
	if got, said := rights(t, c); got[ofSource] != Unknown {
		t.Errorf("the server reads no pack: %s", said)
	}
}

// A tag, or the newest of a range, is where the plans are read as well.
func TestRightsOnTags(t *testing.T) {
	s := gittest.New(t)
	repo := s.Repo("plans.git")
	w := repo.Clone().Write("a.yaml", "x\n")
	w.Push("one")
	w.Git("tag", "-a", "-m", "v1", "v1.0.0")
	w.Git("push", "-q", "origin", "v1.0.0")
	c := testConfig(t, s, repo)
	c.Spec.Source.SemVer = ">=1.0.0"
	if got, said := rights(t, c); got[readable] != Fine || got[ofSource] != Missing {
		t.Error(said)
	}
	repo.Hook("update", `test "$1" != refs/tags/v1.0.0`)
	if got, said := rights(t, c); got[ofSource] != Fine {
		t.Error(said)
	}
}

func TestRightsOverSSH(t *testing.T) {
	s := gittest.New(t)
	repo := s.Repo("plans.git")
	repo.Clone().Write("a.yaml", "x\n").Push("one")
	repo.Git("update-ref", ledgerRef, bareCommit(t, repo))
	identity, signer := keyPair(t)
	x := s.SSH(signer.PublicKey())
	c := withSecrets(testConfig(t, s, repo), map[string]map[string][]byte{"ssh": {"identity": identity, "known_hosts": []byte(x.KnownHosts)}})
	c.Spec.Source = spec.Repository{URL: x.URL("plans.git"), Credentials: &spec.SecretRef{From: "ssh"}, Timeout: c.Spec.Source.Timeout}
	if got, said := rights(t, c); got[readable] != Fine || got[pushable] != Fine || got[ofSource] != Missing {
		t.Error(said)
	}
	x.Allow()
	if got, said := rights(t, c); got[readable] != Missing || got[pushable] != Missing {
		t.Error(said)
	}
}

func keyPair(t *testing.T) (private []byte, s ssh.Signer) {
	t.Helper()
	_, key, err := curve.GenerateKey(rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	must(t, err)
	s, err = ssh.NewSignerFromKey(key)
	must(t, err)
	return pem.EncodeToMemory(block), s
}

// The keys: the one that signs the ledger, and those of the people who approve.
func TestRightsOfKeys(t *testing.T) {
	s := gittest.New(t)
	repo := s.Repo("plans.git")
	private, signer := keyPair(t)
	public := string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	_, other := keyPair(t)
	c := withSecrets(testConfig(t, s, repo), map[string]map[string][]byte{"signing": {"identity": private}, "empty": {}})
	key := func(name, line string) spec.TrustedKey {
		return spec.TrustedKey{Name: name, Owner: name, SSH: line}
	}
	policies := []spec.ApprovalPolicy{{Paths: []string{"**"}, Require: 1, Keys: []string{"ada"}, Ways: []spec.Way{spec.Signatures}}}
	trust := spec.Trust{Keys: []spec.TrustedKey{key("ada", public)}, Policies: policies}
	for name, test := range map[string]struct {
		change func(*spec.DaemonConfigSpec)
		item   string
		want   Verdict
		says   string
	}{
		"not asked for": {func(*spec.DaemonConfigSpec) {}, signable, Fine, "ledger.signingKey is not set"},
		"no key":        {func(d *spec.DaemonConfigSpec) { d.Ledger.SigningKey = &spec.SecretRef{From: "empty"} }, signable, Missing, "neither entry identity"},
		"nobody demands it": {func(d *spec.DaemonConfigSpec) { d.Ledger.SigningKey = &spec.SecretRef{From: "signing"} },
			signable, Missing, "ledger.signers is empty"},
		"another's": {func(d *spec.DaemonConfigSpec) {
			d.Ledger.SigningKey = &spec.SecretRef{From: "signing"}
			d.Ledger.Signers = []spec.TrustedKey{key("bot", string(ssh.MarshalAuthorizedKey(other.PublicKey())))}
		}, signable, Missing, "add its public key to ledger.signers"},
		"good": {func(d *spec.DaemonConfigSpec) {
			d.Ledger.SigningKey = &spec.SecretRef{From: "signing"}
			d.Ledger.Signers = []spec.TrustedKey{key("bot", public)}
		}, signable, Fine, "holds key bot"},
		"approvals without it": {func(d *spec.DaemonConfigSpec) { d.Trust = trust }, signable, Missing, "write an approval into it"},
		"policy":               {func(d *spec.DaemonConfigSpec) { d.Trust = trust }, keysOfTheRing, Fine, "1 can be used"},
		"broken key": {func(d *spec.DaemonConfigSpec) {
			d.Trust = spec.Trust{Keys: []spec.TrustedKey{key("ada", "ssh-ed25519 AAAA")}, Policies: policies}
		}, keysOfTheRing, Missing, `cannot use key "ada"`},
	} {
		t.Run(name, func(t *testing.T) {
			c := c
			test.change(&c.Spec)
			if got, said := rights(t, c); got[test.item] != test.want || !strings.Contains(said, test.says) {
				t.Errorf("%s, not %s with %q: %s", got[test.item], test.want, test.says, said)
			}
		})
	}
}

func TestBranchesOnTheirHosts(t *testing.T) {
	for _, test := range []struct {
		spec          spec.DaemonConfigSpec
		plans, ledger BranchOf
	}{
		{spec.DaemonConfigSpec{Source: spec.Repository{URL: "https://github.com/o/plans.git"}},
			BranchOf{"github.com", "o/plans", "main"}, BranchOf{"github.com", "o/plans", "tranship/ledger"}},
		{spec.DaemonConfigSpec{Source: spec.Repository{URL: "git@gitlab.com:o/group/plans.git", Tag: "v1"}, Ledger: spec.Ledger{Repository: spec.Repository{URL: "ssh://git@example.com:22/o/l", Branch: "x"}}},
			BranchOf{"gitlab.com", "o/group/plans", ""}, BranchOf{"example.com", "o/l", "x"}},
	} {
		c := Config{Spec: test.spec}
		if plans, ledger := c.Branches(); plans != test.plans || ledger != test.ledger {
			t.Errorf("%v, %v", plans, ledger)
		}
	}
}

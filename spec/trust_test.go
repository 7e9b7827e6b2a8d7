package spec

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPolicyFor(t *testing.T) {
	policies := []ApprovalPolicy{{Paths: []string{"prod/**/shop-*.yaml", "prod/db.yaml"}}, {Paths: []string{"prod/**"}}, {Paths: []string{"*.yaml"}}}
	for file, want := range map[string]int{
		"prod/shop-1.yaml": 0, "prod/eu/west/shop-1.yaml": 0, "prod/db.yaml": 0, "prod/eu/db.yaml": 1, "prod/x.yml": 1, "prod": 1,
		"top.yaml": 2, "a/top.yaml": -1, "product/x.yaml": -1, "": -1,
	} {
		if got := PolicyFor(policies, file); got != want {
			t.Errorf("%q has policy %d, want %d", file, got, want)
		}
	}
	if got := PolicyFor([]ApprovalPolicy{{Paths: []string{"**"}}}, "a/b/c.yaml"); got != 0 {
		t.Errorf("** does not match everything: %d", got)
	}
}

// One text is one approval: what differs in anything has another text, and
// another folder where the digest or the plan differs.
func TestApprovalTextIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type ask struct {
			plan    string
			state   State
			attempt int
			digest  string
		}
		draw := func(name string) ask {
			return ask{rapid.SampledFrom([]string{"shop", "shop-2", "sho"}).Draw(t, name), rapid.SampledFrom([]State{Staged, Migrated, RolledBack, Closed}).Draw(t, name),
				rapid.IntRange(1, 12).Draw(t, name), rapid.SampledFrom([]string{"sha256:aa", "sha256:ab"}).Draw(t, name)}
		}
		a, b := draw("a"), draw("b")
		text := func(x ask) string { return string(ApprovalText(x.plan, x.state, x.attempt, x.digest)) }
		if (a == b) != (text(a) == text(b)) {
			t.Fatalf("%v and %v have the texts %q and %q", a, b, text(a), text(b))
		}
		if same := a.plan == b.plan && a.digest == b.digest; same != (ApprovalDir(a.plan, a.digest) == ApprovalDir(b.plan, b.digest)) {
			t.Fatalf("%v and %v lie in %s and %s", a, b, ApprovalDir(a.plan, a.digest), ApprovalDir(b.plan, b.digest))
		}
	})
	if dir := ApprovalDir("shop", "sha256:../../x"); strings.Contains(dir, "..") {
		t.Errorf("a digest leads to %s", dir)
	}
}

const trustYAML = `{keys: [{name: ada, owner: Ada, ssh: x}, {name: ada-2, owner: Ada, openPGP: x}, {name: hub, owner: Host, openPGP: x}], hostKeys: [hub],
  policies: [{paths: ["**"], require: 1, keys: [ada, ada-2], ways: [Signatures]}]}`

func TestTrustRules(t *testing.T) {
	if _, problems := DecodeConfig("config.yaml", []byte(with(t, configYAML, "spec.trust", trustYAML))); len(problems) > 0 {
		t.Errorf("a good policy: %s", lines(problems))
	}
	for _, c := range []struct{ old, new, path, say string }{
		{"name: ada-2", "name: ada", "spec.trust.keys[1].name", "already taken"},
		{"name: ada-2", "name: Ada 2", "spec.trust.keys[1].name", "name must be"},
		{"owner: Host, ", "", "spec.trust.keys[2].owner", "the person who holds the key"},
		{"ssh: x", "ssh: x, openPGP: y", "spec.trust.keys[0]", "one of the two"},
		{"ssh: x", "ssh: ''", "spec.trust.keys[0]", "one of the two"},
		{"hostKeys: [hub]", "hostKeys: [hug]", "spec.trust.hostKeys[0]", `no key "hug"`},
		{"keys: [ada, ada-2]", "keys: [ada, hub]", "spec.trust.policies[0].keys[1]", "signs for everybody"},
		{"keys: [ada, ada-2]", "keys: [grace]", "spec.trust.policies[0].keys[0]", `no key "grace"`},
		{"keys: [ada, ada-2]", "keys: []", "spec.trust.policies[0].keys", "the names of the keys that count"},
		{`paths: ["**"]`, "paths: [/plans/x]", "spec.trust.policies[0].paths[0]", "is no pattern"},
		{`paths: ["**"]`, `paths: ["plans/**.yaml"]`, "spec.trust.policies[0].paths[0]", "is no pattern"},
		{`paths: ["**"]`, `paths: ["plans/[a"]`, "spec.trust.policies[0].paths[0]", "is no pattern"},
		{`paths: ["**"], `, "", "spec.trust.policies[0].paths", "patterns over the files"},
		{"require: 1", "require: 0", "spec.trust.policies[0].require", "at least 1"},
		{"require: 1", "require: 2", "spec.trust.policies[0].require", "at most the 1 different owners"},
		{"ways: [Signatures]", "ways: [Comments]", "spec.trust.policies[0].ways[0]", "MergeCommits"},
		{"ways: [Signatures]", "ways: []", "spec.trust.policies[0].ways", "SignedCommits, Signatures"},
		{"ways: [Signatures]", "ways: [SignedCommits]", "spec.trust.policies[0].countAuthor", "add Signatures to ways, or set countAuthor"},
	} {
		_, problems := DecodeConfig("config.yaml", []byte(with(t, configYAML, "spec.trust", strings.Replace(trustYAML, c.old, c.new, 1))))
		found := false
		for _, p := range problems {
			found = found || p.Path == c.path && strings.Contains(p.Message, c.say)
		}
		if !found {
			t.Errorf("%s for %s: %s", c.new, c.old, lines(problems))
		}
	}
}

// Records that were written before there were policies read as before, and
// those with approvals keep them.
func TestRecordsKeepApprovals(t *testing.T) {
	run := &Run{Spec: RunSpec{ApprovedBy: &Approval{Commit: "b", Asked: "a", Changer: "Ada", Signers: []Signer{{Key: "grace", Owner: "Grace", Way: Signatures}}}}}
	data, err := EncodeRun(run)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "v1alpha1/run-approved.yaml", string(data))
	back, err := DecodeRun(data)
	if err != nil || len(back.Spec.ApprovedBy.Signers) != 1 || back.Spec.ApprovedBy.Asked != "a" {
		t.Errorf("%v, %+v", err, back)
	}
	st := &PlanStatus{Recorded: Recorded{Trust: &TrustNote{Paths: []string{"plans/shop.yaml"}, Digest: "sha256:aa", Attempt: 2,
		Proposal: &Proposal{To: RolledBack, Attempt: 3, Digest: "sha256:aa", From: Migrated, FromAttempt: 2, Approval: *run.Spec.ApprovedBy, Reason: "Unapproved", Message: "who, how many, what to do"}}}}
	if data, err = EncodeStatus(st); err != nil {
		t.Fatal(err)
	}
	golden(t, "v1alpha1/status-unapproved.yaml", string(data))
	if again, err := DecodeStatus(data); err != nil || again.Recorded.Trust.Proposal.From != Migrated {
		t.Errorf("%v, %+v", err, again)
	}
}

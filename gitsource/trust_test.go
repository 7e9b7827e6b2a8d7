package gitsource

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/crypto/ssh"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// estate is a repository with a policy, its daemon's core and the people with keys.
type estate struct {
	*gittest.Work
	t       *testing.T
	src     *Source
	rec     *reconciler.Recorded
	want    *reconciler.Desired
	now     time.Time
	conf    spec.Trust
	cutover *spec.Run
	people
}

// people are those with keys: two of Ada's, the host's, an expired one, and
// one that nobody has named.
type people struct{ ada, ada2, grace, hub, old, eve *signer }

func meet(t *testing.T) people {
	t.Helper()
	return people{ada: sshSigner(t, "ada", "Ada"), ada2: pgpSigner(t, "ada2", "Ada", ed25519), grace: sshSigner(t, "grace", "Grace"), hub: pgpSigner(t, "hub", "The host", ed25519),
		old: pgpSigner(t, "old", "Olga", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 600, Time: func() time.Time { return time.Now().Add(-time.Hour) }}),
		eve: sshSigner(t, "eve", "Eve")}
}

// found is a repository with a staged plan, signed by ada, that a policy covers.
func found(t *testing.T, who people, p spec.ApprovalPolicy) *estate {
	t.Helper()
	s := gittest.New(t)
	r := s.Repo("plans.git")
	e := &estate{Work: r.Clone(), t: t, now: time.Now(), rec: &reconciler.Recorded{Plans: map[string]*spec.PlanStatus{}, Open: map[string]*spec.Run{}}, people: who}
	p.Paths = []string{"plans/**"}
	if p.Keys == nil {
		p.Keys = []string{"ada", "ada2", "grace", "old"}
	}
	p.Require = max(p.Require, 1)
	e.conf = spec.Trust{HostKeys: []string{"hub"}, Policies: []spec.ApprovalPolicy{p}}
	for _, k := range []*signer{e.ada, e.ada2, e.grace, e.hub, e.old} {
		e.conf.Keys = append(e.conf.Keys, k.TrustedKey)
	}
	e.put("common.yaml", commonYAML).put("plans/shop.yaml", planYAML("shop", spec.Staged)).put("plans/web.yaml", planYAML("web", spec.Staged)).Push("first")
	c := testConfig(t, s, r)
	c.Spec.Trust = e.conf
	e.src = openSource(t, c)
	e.step()
	return e
}

// step is what the daemon does about the plan shop at a poll.
func (e *estate) step() reconciler.PlanDecision {
	e.t.Helper()
	e.want = read(e.t, e.src, e.rec.Daemon.Accepted)
	statuses, daemon := reconciler.AcceptAll(e.now, e.rec, e.want)
	e.rec.Daemon = *daemon
	for _, st := range statuses {
		e.rec.Plans[st.Metadata.Name] = st
	}
	dec := reconciler.Decide(reconciler.PlanInput{Now: e.now, Plan: "shop", Closure: e.want.Closures["shop"], Problems: e.want.Problems["shop"], Status: e.rec.Plans["shop"],
		Hold: daemon.Hold, Commit: e.want.Commit, Approval: &e.want.Approval, Trust: e.want.Trust, Open: e.rec.Open[e.rec.Plans["shop"].Recorded.OpenRun]})
	e.rec.Plans["shop"] = dec.Status
	return dec
}

// run serves a decision to the end.
func (e *estate) run(dec reconciler.PlanDecision) *spec.Run {
	e.t.Helper()
	o := *dec.Start
	o.Undoes = e.cutover
	run := reconciler.Freeze(e.now, o, dec.Status)
	st := reconciler.Started(dec.Status, run)
	run.Status.Phase = spec.RunSucceeded
	e.rec.Plans["shop"] = reconciler.Ended(st, run, "runs/x")
	if run.Spec.Kind == spec.RunMigrate {
		e.cutover = run
	}
	return run
}

func (e *estate) say(state spec.State, attempt int) *estate {
	text := planYAML("shop", state)
	if attempt > 1 {
		text = strings.Replace(text, "spec: {", fmt.Sprintf("spec: {cutover: {attempt: %d}, ", attempt), 1)
	}
	e.put("plans/shop.yaml", strings.Replace(text, "spec: {", "spec: {rollback: {targetWrites: Discard}, ", 1))
	return e
}

func (e *estate) put(path, text string) *estate {
	e.Write(path, text)
	return e
}

// by commits as somebody, or as nobody, and pushes.
func (e *estate) by(s *signer) *estate {
	if s == nil {
		e.Commit("change")
	} else {
		s.commitAs(e.Work, "change")
	}
	e.Git("push", "-q", "-f", "origin", "HEAD")
	return e
}

// branch commits as somebody on a branch, and merges that as somebody else.
// evil is done between the merge and its commit.
func (e *estate) branch(on, merger *signer, evil func()) *estate {
	main := e.Git("rev-parse", "--abbrev-ref", "HEAD")
	e.Git("checkout", "-q", "-B", "change")
	if on == nil {
		e.Commit("change")
	} else {
		on.commitAs(e.Work, "change")
	}
	e.Git("checkout", "-q", main)
	e.Git("merge", "-q", "--no-ff", "--no-commit", "change")
	if evil != nil {
		evil()
	}
	return e.by(merger)
}

// approve writes what `tranship approve` writes.
func (e *estate) approve(s *signer, plan string, state spec.State, attempt int) *estate {
	e.t.Helper()
	e.step()
	digest := e.want.Closures["shop"].Digest()
	data, err := os.ReadFile(s.file)
	must(e.t, err)
	key, err := ssh.ParsePrivateKey(data)
	must(e.t, err)
	sig, err := SignSSH(key, spec.ApprovalNamespace, spec.ApprovalText(plan, state, attempt, digest))
	must(e.t, err)
	e.put(path.Join(spec.ApprovalDir("shop", digest), s.Name+".sig"), string(sig))
	return e
}

func (e *estate) reason() (reason, message string) {
	for _, c := range e.rec.Plans["shop"].Conditions {
		if c.Type == "Ready" {
			return c.Reason, c.Message
		}
	}
	return "", ""
}

var (
	signed    = spec.ApprovalPolicy{Ways: []spec.Way{spec.SignedCommits}, CountAuthor: true}
	merged    = spec.ApprovalPolicy{Ways: []spec.Way{spec.MergeCommits}, CountAuthor: true}
	fourEyes  = spec.ApprovalPolicy{Ways: []spec.Way{spec.SignedCommits, spec.MergeCommits}}
	files     = spec.ApprovalPolicy{Ways: []spec.Way{spec.Signatures}, CountAuthor: true}
	twoFiles  = spec.ApprovalPolicy{Ways: []spec.Way{spec.Signatures}, CountAuthor: true, Require: 2}
	filesOnly = spec.ApprovalPolicy{Ways: []spec.Way{spec.Signatures}}
	evilEdit  = strings.Replace(planYAML("shop", spec.Migrated), "namespaces: [{name: shop}]", "namespaces: [{name: shop}, {name: bank}]", 1)
	ourServer = strings.Replace(commonYAML, "api.new.example.com", "api.evil.example.com", 1)
)

// Every way to approve, and every way in which it is not enough.
func TestApprovals(t *testing.T) {
	who := meet(t)
	migrated := func(e *estate) *estate { return e.say(spec.Migrated, 1) }
	for _, c := range []struct {
		name   string
		policy spec.ApprovalPolicy
		do     func(e *estate)
		keys   string // that approved the cutover which starts; "" when none does
		want   string // part of the condition's message
	}{
		{"signed commit", signed, func(e *estate) { migrated(e).by(e.ada) }, "ada", ""},
		{"signed commit, OpenPGP", signed, func(e *estate) { migrated(e).by(e.ada2) }, "ada2", ""},
		{"unsigned commit", signed, func(e *estate) { migrated(e).by(nil) }, "", "it is not signed"},
		{"unknown key", signed, func(e *estate) { migrated(e).by(e.eve) }, "", "which the configuration does not name"},
		{"expired key", signed, func(e *estate) { migrated(e).by(e.expired()) }, "", "is expired"},
		{"host key", signed, func(e *estate) { migrated(e).by(e.hub) }, "", "the Git host's key hub, which is everyone's: web edits, squash and rebase merges carry it"},
		{"unsigned edit in between, one poll", signed, func(e *estate) { e.put("common.yaml", ourServer).by(e.nobody()); migrated(e).by(e.ada) }, "", "an earlier commit changed the plan"},
		{"unsigned edit in between, two polls", signed, func(e *estate) {
			e.put("common.yaml", ourServer).by(e.nobody())
			e.step()
			migrated(e).by(e.ada)
		}, "", "an earlier commit changed the plan"},
		{"unsigned edit taken back", signed, func(e *estate) {
			e.put("common.yaml", ourServer).by(e.nobody()).put("common.yaml", commonYAML).by(e.nobody())
			e.say(spec.Staged, 1).by(e.ada)
			migrated(e).by(e.ada)
		}, "ada", ""},
		{"unsigned edit of another plan", signed, func(e *estate) {
			e.put("plans/web.yaml", planYAML("web", spec.Migrated)).by(e.nobody())
			migrated(e).by(e.ada)
		}, "ada", ""},
		{"signed merge of the branch into somebody else's work", signed, func(e *estate) {
			base := e.Git("rev-parse", "HEAD")
			e.put("README.md", "text").by(nil).step()
			main := e.Git("rev-parse", "HEAD")
			e.Git("reset", "-q", "--hard", base)
			e.put("plans/shop.yaml", planYAML("shop", spec.Migrated)).Commit("flip")
			e.Git("merge", "-q", "--no-ff", "--no-commit", main)
			e.by(e.ada)
		}, "", "not made on top of the branch"},
		{"merge of a signed branch", merged, func(e *estate) { migrated(e).branch(e.grace, nil, nil) }, "grace", ""},
		{"merge of a signed branch by the host", merged, func(e *estate) { migrated(e).branch(e.grace, e.hub, nil) }, "grace", ""},
		{"merge of an unsigned branch", merged, func(e *estate) { migrated(e).branch(nil, e.ada, nil) }, "", "merged commit"},
		{"evil merge", merged, func(e *estate) {
			migrated(e).branch(e.grace, nil, func() { e.put("plans/shop.yaml", evilEdit) })
		}, "", "changed the plan against the merged commit"},
		{"evil merge of a cluster", merged, func(e *estate) {
			migrated(e).branch(e.grace, nil, func() { e.put("common.yaml", ourServer) })
		}, "", "changed the plan against the merged commit"},
		{"old signed branch on top of an unapproved flip", merged, func(e *estate) {
			e.say(spec.Staged, 1).branch(e.ada, nil, nil)
			migrated(e).by(nil).put("README.md", "text").by(e.ada)
			old := e.Git("rev-parse", "HEAD")
			e.say(spec.Staged, 1).by(nil).step()
			migrated(e).Git("add", "-A")
			e.Git("reset", "-q", "--soft", e.Git("commit-tree", "-m", "merge", "-p", "HEAD", "-p", old, e.Git("write-tree")))
			e.Git("push", "-q", "origin", "HEAD")
		}, "", "was asked for before without enough approvals"},
		{"squash merge", merged, func(e *estate) { migrated(e).by(e.hub) }, "", "squash and rebase merges carry it"},
		{"author and merger", fourEyes, func(e *estate) { migrated(e).branch(e.grace, e.ada, nil) }, "ada", ""},
		{"author merges", fourEyes, func(e *estate) { migrated(e).branch(e.ada2, e.ada, nil) }, "", "1 more must"},
		{"signed merge of an unsigned branch", fourEyes, func(e *estate) { migrated(e).branch(nil, e.ada, nil) }, "", "approved by Ada (key ada, SignedCommits), 1 more must"},
		{"file in a later commit", files, func(e *estate) { migrated(e).by(nil).approve(e.ada, "shop", spec.Migrated, 1).by(nil) }, "ada", ""},
		{"file in the same commit", files, func(e *estate) {
			e.say(spec.Staged, 1).by(nil).approve(e.ada, "shop", spec.Migrated, 1).say(spec.Migrated, 1).by(nil)
		}, "ada", ""},
		{"file of another plan", files, func(e *estate) { migrated(e).by(nil).approve(e.ada, "web", spec.Migrated, 1).by(nil) }, "", "signed something else"},
		{"file of another state", files, func(e *estate) { migrated(e).by(nil).approve(e.ada, "shop", spec.Closed, 1).by(nil) }, "", "signed something else"},
		{"file of another attempt", files, func(e *estate) { migrated(e).by(nil).approve(e.ada, "shop", spec.Migrated, 2).by(nil) }, "", "signed something else"},
		{"file of another digest", files, func(e *estate) {
			e.say(spec.Migrated, 1).approve(e.ada, "shop", spec.Migrated, 1).by(nil)
			e.put("common.yaml", ourServer).by(nil)
		}, "", "nobody whose signature counts"},
		{"file of an unknown key", files, func(e *estate) { migrated(e).by(nil).approve(e.eve, "shop", spec.Migrated, 1).by(nil) }, "", "which the configuration does not name"},
		{"two keys of one owner", twoFiles, func(e *estate) {
			migrated(e).by(nil).approve(e.ada, "shop", spec.Migrated, 1).approve(e.secondKey(), "shop", spec.Migrated, 1).by(nil)
		}, "", "approved by Ada (key ada, Signatures), 1 more must"},
		{"two owners, one after the other", twoFiles, func(e *estate) {
			migrated(e).by(nil).approve(e.ada, "shop", spec.Migrated, 1).by(nil).approve(e.grace, "shop", spec.Migrated, 1).by(nil)
		}, "ada grace", ""},
		{"author's own file", filesOnly, func(e *estate) { migrated(e).by(e.ada).approve(e.ada, "shop", spec.Migrated, 1).by(nil) }, "", "1 more must"},
		{"another's file", filesOnly, func(e *estate) { migrated(e).by(e.ada).approve(e.grace, "shop", spec.Migrated, 1).by(nil) }, "grace", ""},
		{"one file, author unknown", filesOnly, func(e *estate) { migrated(e).by(nil).approve(e.grace, "shop", spec.Migrated, 1).by(nil) }, "", "no signature tells who made the change"},
		{"plan moved out of the folder", signed, func(e *estate) {
			e.Git("mv", "plans/shop.yaml", "shop.yaml")
			e.by(nil).put("shop.yaml", planYAML("shop", spec.Migrated)).by(e.nobody())
		}, "", "it is not signed"},
		{"plan moved into the folder by nobody", signed, func(e *estate) {
			e.rec.Plans["shop"].Recorded.Trust = nil // as if it had been outside from the start
			e.Git("mv", "plans/shop.yaml", "shop.yaml")
			e.by(nil).step()
			e.rec.Plans["shop"].Recorded.Trust = nil
			e.Git("mv", "shop.yaml", "plans/shop.yaml")
			e.by(nil)
			migrated(e).by(e.ada)
		}, "", "an earlier commit changed the plan"},
		{"plan moved into the folder by Ada", signed, func(e *estate) {
			e.rec.Plans["shop"].Recorded.Trust = nil
			e.Git("mv", "plans/shop.yaml", "shop.yaml")
			e.by(nil).step()
			e.rec.Plans["shop"].Recorded.Trust = nil
			e.say(spec.Staged, 1).put("shop.yaml", "").by(e.ada)
			migrated(e).by(e.ada)
		}, "ada", ""},
		{"plan moved and flipped at once", signed, func(e *estate) {
			e.put("plans/shop.yaml", "").put("shop.yaml", planYAML("shop", spec.Migrated)).by(e.nobody())
		}, "", "it is not signed"},
		{"plan removed and written elsewhere", signed, func(e *estate) {
			e.put("plans/shop.yaml", "").by(e.nobody()).put("shop.yaml", planYAML("shop", spec.Staged)).by(e.nobody()).put("shop.yaml", planYAML("shop", spec.Migrated)).by(e.nobody())
		}, "", "it is not signed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := found(t, who, c.policy)
			c.do(e)
			dec := e.step()
			reason, message := e.reason()
			if c.keys == "" {
				if dec.Start != nil || reason != "Unapproved" || !strings.Contains(message, c.want) {
					t.Errorf("start %v, reason %s: %s; want %q", dec.Start, reason, message, c.want)
				}
				return
			}
			if dec.Start == nil || dec.Start.Kind != spec.RunMigrate {
				t.Fatalf("no cutover: %s: %s", reason, message)
			}
			var keys []string
			for _, s := range dec.Start.Approval.Signers {
				keys = append(keys, s.Key)
			}
			if slices.Sort(keys); strings.Join(keys, " ") != c.keys {
				t.Errorf("approved by %v, want %s", keys, c.keys)
			}
			e.run(dec)
			if dec = e.step(); dec.Start != nil {
				t.Error("one approval started two runs")
			}
		})
	}
}

func (e *estate) nobody() *signer { return nil }

// expired signs as Olga did while her key was good.
func (e *estate) expired() *signer {
	return &signer{TrustedKey: e.old.TrustedKey, pgp: e.old.pgp, at: time.Now().Add(-55 * time.Minute)}
}

// secondKey is an SSH key of Ada's beside the one that she has.
func (e *estate) secondKey() *signer {
	k := sshSigner(e.t, "ada3", "Ada")
	e.conf.Keys = append(e.conf.Keys, k.TrustedKey)
	e.conf.Policies[0].Keys = append(e.conf.Policies[0].Keys, "ada3")
	must(e.t, e.src.SetTrust(e.conf))
	return k
}

// The commit that completes an approval and the one that asked are both named.
func TestApprovalThatCameLater(t *testing.T) {
	e := found(t, meet(t), files)
	e.say(spec.Migrated, 1).by(nil)
	asked := e.Git("rev-parse", "HEAD")
	e.approve(e.ada, "shop", spec.Migrated, 1).by(nil)
	dec := e.step()
	if a := dec.Start.Approval; a.Asked != asked || a.Commit != e.Git("rev-parse", "HEAD") || dec.Start.Commit != a.Commit {
		t.Errorf("asked in %s, approved in %s: %+v", asked, e.Git("rev-parse", "HEAD"), a)
	}
}

// A file that ssh-keygen wrote by hand is an approval like any other.
func TestApprovalBySSHKeygen(t *testing.T) {
	e := found(t, meet(t), files)
	e.say(spec.Migrated, 1).by(nil).step()
	digest := e.want.Closures["shop"].Digest()
	c := exec.Command("ssh-keygen", "-q", "-Y", "sign", "-n", spec.ApprovalNamespace, "-f", e.ada.file)
	c.Stdin = strings.NewReader(string(spec.ApprovalText("shop", spec.Migrated, 1, digest)))
	sig, err := c.Output()
	must(t, err)
	e.put(path.Join(spec.ApprovalDir("shop", digest), "any-name.sig"), string(sig)).Push("approve")
	if dec := e.step(); dec.Start == nil {
		t.Error(e.reason())
	}
}

// What was approved before goes on while a change is not.
func TestUnapprovedChangesLeaveWhatIs(t *testing.T) {
	e := found(t, meet(t), files)
	e.say(spec.Migrated, 1).by(nil).approve(e.ada, "shop", spec.Migrated, 1).by(nil)
	e.run(e.step())
	for _, state := range []spec.State{spec.RolledBack, spec.Closed} {
		e.say(state, 1).by(nil)
		dec := e.step()
		if reason, _ := e.reason(); dec.Start != nil || reason != "Unapproved" || dec.Status.Recorded.State != spec.Migrated {
			t.Fatalf("%s without approval: start %v, reason %s", state, dec.Start, reason)
		}
	}
	e.say(spec.RolledBack, 1).by(nil).approve(e.ada, "shop", spec.RolledBack, 1).by(nil)
	e.step()
	if reason, message := e.reason(); reason != "ApprovalUsed" || !strings.Contains(message, "set cutover.attempt to 2") {
		t.Fatalf("the attempt of the cutover again: %s: %s", reason, message)
	}
	e.say(spec.RolledBack, 2).by(nil).approve(e.ada, "shop", spec.RolledBack, 2).by(nil)
	dec := e.step()
	if dec.Start == nil || dec.Start.Kind != spec.RunRollback {
		t.Fatal(e.reason())
	}
	e.run(dec)
	e.say(spec.Migrated, 1).by(nil).approve(e.ada, "shop", spec.Migrated, 1).by(nil)
	dec = e.step()
	if reason, _ := e.reason(); dec.Start != nil || reason != "ApprovalUsed" {
		t.Fatalf("the first approval shown again: start %v, %s", dec.Start, reason)
	}
	e.say(spec.Staged, 1).by(nil) // never gated
	if dec = e.step(); dec.Status.Recorded.State != spec.Staged || dec.Status.Recorded.Trust.Proposal != nil {
		t.Errorf("back to Staged: %+v", dec.Status.Recorded)
	}
}

// A stage run goes on beside an unapproved flip, but never to a cluster that
// nobody approved: its server would be given the data and the token.
func TestStageRunsUseApprovedDocuments(t *testing.T) {
	for _, c := range []struct {
		name   string
		stages *bool
		start  bool
	}{{"default", nil, false}, {"stages: false", new(bool), true}} {
		t.Run(c.name, func(t *testing.T) {
			p := signed
			p.Stages = c.stages
			e := found(t, meet(t), p)
			staged := func(text string) string {
				return strings.Replace(text, "spec: {", "spec: {stage: {requestedAt: \"2026-01-01T00:00:00Z\"}, ", 1)
			}
			e.put("plans/shop.yaml", staged(planYAML("shop", spec.Migrated))).by(nil)
			dec := e.step()
			if dec.Start == nil || dec.Start.Kind != spec.RunStage || dec.Untrusted {
				t.Fatalf("the stage run beside an unapproved flip: %v", dec.Start)
			}
			e.rec.Plans["shop"].Recorded.HandledRequest = nil
			e.put("common.yaml", ourServer).put("plans/shop.yaml", staged(planYAML("shop", spec.Staged))).by(nil)
			dec = e.step()
			reason, message := e.reason()
			if (dec.Start != nil) != c.start || dec.Untrusted == c.start || !c.start && (reason != "Unapproved" || !strings.Contains(message, "nothing is copied")) {
				t.Errorf("with somebody else's server: start %v, %s: %s", dec.Start, reason, message)
			}
		})
	}
}

// An approval that is none any more starts nothing, and stops what has not
// stopped the application yet.
func TestApprovalIsAskedAgain(t *testing.T) {
	e := found(t, meet(t), files)
	e.say(spec.Migrated, 1).by(nil).approve(e.ada, "shop", spec.Migrated, 1).by(nil)
	dec := e.step()
	run := reconciler.Freeze(e.now, *dec.Start, dec.Status)
	if g := reconciler.JudgeGate(e.now, run, e.want, dec.Status, nil); !g.Open {
		t.Fatalf("as it was approved: %+v", g)
	}
	e.conf.Policies[0].Keys = []string{"grace"}
	must(t, e.src.SetTrust(e.conf))
	dec = e.step()
	if reason, _ := e.reason(); dec.Start != nil || reason != "Unapproved" {
		t.Errorf("without Ada's key: start %v, %s", dec.Start, reason)
	}
	if g := reconciler.JudgeGate(e.now, run, e.want, dec.Status, nil); g.Open || !g.Cancel || g.Reason != "Unapproved" {
		t.Errorf("without Ada's key: %+v", g)
	}
}

// A key that was replaced under its old name takes away what it had approved; the
// same key under a new name does not. Records from before fingerprints were
// written name the key only.
func TestAReplacedKeyApprovesNoMore(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(e *estate, run *spec.Run, f *spec.Approval)
		open   bool
	}{
		{"as it was", func(*estate, *spec.Run, *spec.Approval) {}, true},
		{"another key under its name", func(e *estate, _ *spec.Run, _ *spec.Approval) { e.conf.Keys[0].SSH = e.eve.SSH }, false},
		{"the same key under another name", func(e *estate, _ *spec.Run, _ *spec.Approval) {
			e.conf.Keys[0].Name, e.conf.Policies[0].Keys = "ada-old", []string{"ada-old", "grace"}
		}, true},
		{"another key under its name, and an old record", func(e *estate, run *spec.Run, f *spec.Approval) {
			e.conf.Keys[0].SSH = e.eve.SSH
			run.Spec.ApprovedBy.Signers[0].Fingerprint, f.Signers[0].Fingerprint = "", ""
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := found(t, meet(t), files)
			e.say(spec.Migrated, 1).by(nil).approve(e.ada, "shop", spec.Migrated, 1).by(nil)
			dec := e.step()
			run := reconciler.Freeze(e.now, *dec.Start, dec.Status)
			if got := run.Spec.ApprovedBy.Signers; len(got) != 1 || !strings.HasPrefix(got[0].Fingerprint, "SHA256:") {
				t.Fatalf("recorded: %+v", got)
			}
			by := *run.Spec.ApprovedBy
			by.Signers = slices.Clone(by.Signers)
			run.Spec.ApprovedBy = &by
			c.change(e, run, &e.rec.Plans["shop"].Recorded.Flip.Approval)
			must(t, e.src.SetTrust(e.conf))
			dec = e.step()
			if reason, say := e.reason(); (dec.Start != nil) != c.open || !c.open && reason != "Unapproved" {
				t.Errorf("start %v, %s: %s", dec.Start, reason, say)
			}
			if g := reconciler.JudgeGate(e.now, run, e.want, dec.Status, nil); g.Open != c.open {
				t.Errorf("right before the stop: %+v", g)
			}
		})
	}
}

// What waits for one more signature loses those of a key that was replaced.
func TestAProposalLosesAReplacedKey(t *testing.T) {
	e := found(t, meet(t), spec.ApprovalPolicy{Require: 2, Ways: []spec.Way{spec.SignedCommits, spec.Signatures}, CountAuthor: true})
	if dec := e.say(spec.Migrated, 1).by(e.ada).step(); dec.Start != nil {
		t.Fatal("one is enough")
	}
	e.conf.Keys[0].SSH = e.eve.SSH
	must(t, e.src.SetTrust(e.conf))
	dec := e.approve(e.grace, "shop", spec.Migrated, 1).by(nil).step()
	if reason, say := e.reason(); dec.Start != nil || reason != "Unapproved" || !strings.Contains(say, "approved by Grace (key grace, Signatures), 1 more must") {
		t.Errorf("start %v, %s: %s", dec.Start, reason, say)
	}
}

// Canceling a cutover is never gated.
func TestCancelNeedsNoApproval(t *testing.T) {
	for _, state := range []spec.State{spec.Staged, spec.RolledBack} {
		e := found(t, meet(t), files)
		e.say(spec.Migrated, 1).by(nil).approve(e.ada, "shop", spec.Migrated, 1).by(nil)
		dec := e.step()
		run := reconciler.Freeze(e.now, *dec.Start, dec.Status)
		e.rec.Open[run.Metadata.Name] = run
		e.rec.Plans["shop"] = reconciler.Started(dec.Status, run)
		if dec = e.say(state, 1).by(nil).step(); dec.Cancel == "" {
			t.Errorf("%s does not cancel: %v", state, dec)
		}
	}
}

func TestDaemonStatusNamesWhatNoPolicyCovers(t *testing.T) {
	e := found(t, meet(t), signed)
	if say := e.rec.Daemon.Trust; !strings.Contains(say, "key old of Olga is expired") || strings.Contains(say, "shop") {
		t.Errorf("covered plans: %q", say)
	}
	e.put("other/free.yaml", planYAML("free", spec.Staged)).by(nil).step()
	if say := e.rec.Daemon.Trust; !strings.Contains(say, "no approval policy covers free: whoever can merge can approve") {
		t.Errorf("an uncovered plan: %q", say)
	}
	must(t, e.src.SetTrust(spec.Trust{}))
	e.step()
	if say := e.rec.Daemon.Trust; !strings.Contains(say, "no approval policy is configured") {
		t.Errorf("no policy: %q", say)
	}
}

// A policy that begins takes over what stands there. A plan whose commits were
// never read is no such plan.
func TestPolicyTakesOverOnlyWhatWasRead(t *testing.T) {
	who := meet(t)
	for _, c := range []struct {
		name     string
		do       func(e *estate, r *spec.Recorded)
		approved bool
		attempt  int
	}{
		{"policy begins", func(*estate, *spec.Recorded) {}, true, 0},
		{"policy begins after a cutover", func(_ *estate, r *spec.Recorded) { r.Approvals, r.SeenAttempt = []string{"abc"}, 2 }, true, 2},
		{"it could not be read before", func(_ *estate, r *spec.Recorded) { *r = spec.Recorded{} }, false, 0},
		{"acknowledged rewrite", func(e *estate, _ *spec.Recorded) {
			e.step()
			e.rec.Plans["shop"].Recorded.Trust = nil
			e.Git("commit", "-q", "--amend", "-m", "another history")
			e.put("common.yaml", ourServer).by(nil)
			e.rec.Daemon.Acknowledged = e.Git("rev-parse", "HEAD")
		}, false, 0},
	} {
		e := found(t, who, signed)
		r := &e.rec.Plans["shop"].Recorded
		r.Trust = nil // as if there had been no policy
		e.put("README.md", "text").by(nil)
		c.do(e, r)
		e.step()
		note := e.rec.Plans["shop"].Recorded.Trust
		if note == nil || (note.Digest == e.want.Closures["shop"].Digest()) != c.approved || note.Attempt != c.attempt {
			t.Errorf("%s: %+v", c.name, note)
		}
	}
}

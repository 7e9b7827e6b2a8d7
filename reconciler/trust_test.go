package reconciler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// guarded is a policy over plans/ whose keys are named after their owners.
func guarded(require int, countAuthor bool, ways ...spec.Way) *Trust {
	t := &Trust{Keys: map[string]Key{"other": {Owner: "other"}}}
	p := spec.ApprovalPolicy{Paths: []string{"plans/*"}, Require: require, Ways: ways, CountAuthor: countAuthor}
	for _, owner := range []string{"ada", "grace", "linus"} {
		for _, key := range []string{owner, owner + "-2"} {
			t.Keys[key] = Key{Owner: owner, Fingerprint: "of " + key}
			p.Keys = append(p.Keys, key)
		}
	}
	p.Keys = append(p.Keys, "expired") // has no owner: it does not count now
	t.Policies = []spec.ApprovalPolicy{p}
	return t
}

// guard puts a story under a policy, with enough approvals until proof is taken away.
func (s *story) guard() {
	s.trust = guarded(1, true, spec.MergeCommits)
	s.proof = &spec.Proof{Author: "ada", Signers: []spec.Signer{{Key: "ada", Owner: "ada", Way: spec.MergeCommits}}}
}

func TestCounting(t *testing.T) {
	by := func(keys ...string) (out []spec.Signer) {
		for _, k := range keys {
			out = append(out, spec.Signer{Key: k, Owner: "whoever the file says", Way: spec.Signatures})
		}
		return out
	}
	for _, c := range []struct {
		name    string
		require int
		author  bool
		signers []spec.Signer
		changer string
		missing int
	}{
		{"none", 1, true, nil, "", 1},
		{"one", 1, true, by("ada"), "ada", 0},
		{"two keys of one owner", 2, true, by("ada", "ada-2"), "ada", 1},
		{"two owners", 2, true, by("ada", "grace-2"), "ada", 0},
		{"the author does not count", 1, false, by("ada", "ada-2"), "ada", 1},
		{"another than the author", 1, false, by("ada", "grace"), "ada", 0},
		{"nobody knows the author", 1, false, by("grace"), "", 1},
		{"nobody knows the author, one more", 1, false, by("grace", "linus"), "", 0},
		{"keys that do not count", 1, true, by("expired", "other", "unknown"), "", 1},
		{"a key with its fingerprint", 1, true, []spec.Signer{{Key: "ada", Way: spec.Signatures, Fingerprint: "of ada"}}, "ada", 0},
		{"a key that was replaced", 1, true, []spec.Signer{{Key: "ada", Way: spec.Signatures, Fingerprint: "of the stolen one"}}, "ada", 1},
		{"a key that was renamed", 2, true, []spec.Signer{{Key: "ada-1", Way: spec.Signatures, Fingerprint: "of ada"}, {Key: "ada", Way: spec.Signatures, Fingerprint: "of grace"}}, "ada", 0},
		{"one key under two names", 2, true, []spec.Signer{{Key: "ada-1", Way: spec.Signatures, Fingerprint: "of ada"}, {Key: "grace", Way: spec.Signatures, Fingerprint: "of ada"}}, "ada", 1},
		{"another way", 1, true, []spec.Signer{{Key: "ada", Way: spec.SignedCommits}}, "", 1},
	} {
		trust := guarded(c.require, c.author, spec.Signatures)
		if got := trust.count(&trust.Policies[0], c.signers, c.changer); got.missing != c.missing {
			t.Errorf("%s: %d missing, want %d", c.name, got.missing, c.missing)
		}
	}
}

// file is an approval as it lies in the repository.
type file struct {
	key     string
	state   spec.State
	attempt int
	digest  string
}

// walker plays random commits with random signatures against the core.
type walker struct {
	story
	trust   *Trust
	keys    []string
	files   map[file]bool
	ever    map[file]bool // approvals that have ever been on the branch
	edits   int
	started []*spec.Run
	writers []map[string]bool // authors of what each of started served
	first   string            // digest of what was there first, which is approved
	authors map[string]bool   // owners who changed what is not approved, or asked for it
	own     map[string]bool   // commits that changed state or attempt and were signed with a key that counts
}

// vouched holds the digest that counts as approved against what was signed. It
// goes on only in a signed commit, from the approved documents or back to them,
// whatever was removed in between.
func (w *walker) vouched(t *rapid.T, before *spec.TrustNote, was, is string, signed bool) {
	now := w.st.Recorded.Trust.Digest
	if before == nil || now == before.Digest || slices.Contains(w.trust.Policies[0].Ways, spec.Signatures) {
		return
	}
	if now != is || !signed || was != before.Digest && is != before.Digest {
		t.Fatalf("commit%d: %.12s counts as approved after %.12s; signed: %v, documents %.12s before and %.12s now", w.n, now, before.Digest, signed, was, is)
	}
}

// wrote notes who stands behind the change that is to be approved. It begins
// anew with a new question about approved documents.
func (w *walker) wrote(was *spec.Closure, author string) {
	asks := was.Plan.Spec.State != w.c.Plan.Spec.State || was.Plan.Spec.Cutover.Attempt != w.c.Plan.Spec.Cutover.Attempt
	note := w.st.Recorded.Trust
	if note != nil && was.Digest() == note.Digest && (asks || note.Proposal == nil) {
		w.authors = map[string]bool{}
	}
	if asks || was.Digest() != w.c.Digest() {
		w.authors[author] = true
	}
}

// commit changes some of the plan, signs it as somebody or nobody, and adds or
// removes approvals.
func (w *walker) commit(t *rapid.T) {
	w.n++
	states := []spec.State{spec.Staged, spec.Migrated, spec.Migrated, spec.RolledBack, spec.Closed}
	was := w.c
	state, attempt, edits := was.Plan.Spec.State, was.Plan.Spec.Cutover.Attempt, w.edits
	if rapid.Bool().Draw(t, "state?") {
		state = rapid.SampledFrom(states).Draw(t, "state")
	}
	if rapid.IntRange(0, 2).Draw(t, "attempt?") == 0 {
		attempt = rapid.IntRange(1, 4).Draw(t, "attempt")
	}
	if rapid.IntRange(0, 3).Draw(t, "edit?") == 0 {
		edits = rapid.IntRange(0, 2).Draw(t, "edit")
	}
	w.edits = edits
	w.c = closureIn(state, attempt, discard, func(p *spec.PlanSpec) { p.TargetCluster = fmt.Sprint("new", edits) })
	w.c.Plan.Spec.Stage.RequestedAt = &metav1.Time{Time: w.at}
	for range rapid.IntRange(0, 2).Draw(t, "approvals") {
		f := file{rapid.SampledFrom(w.keys).Draw(t, "by"), rapid.SampledFrom([]spec.State{state, spec.Migrated, spec.Closed}).Draw(t, "of"), rapid.SampledFrom([]int{attempt, 1, 2}).Draw(t, "for"), w.c.Digest()}
		w.files[f], w.ever[f] = true, true
	}
	proof := &spec.Proof{}
	for f := range w.files {
		if f.state == state && f.attempt == attempt && f.digest == w.c.Digest() {
			proof.Signers = append(proof.Signers, spec.Signer{Key: f.key, Way: spec.Signatures})
		}
	}
	if rapid.Bool().Draw(t, "signed?") {
		key := rapid.SampledFrom(w.keys).Draw(t, "committer")
		proof.Author = w.trust.Keys[key].Owner
		proof.Signers = append(proof.Signers, spec.Signer{Key: key, Way: rapid.SampledFrom([]spec.Way{spec.SignedCommits, spec.MergeCommits}).Draw(t, "way")})
		w.own[fmt.Sprint("commit", w.n)] = proof.Author != "" && (state != was.Plan.Spec.State || attempt != was.Plan.Spec.Cutover.Attempt)
	}
	path := rapid.SampledFrom([]string{"plans/shop.yaml", "plans/shop.yaml", "free.yaml"}).Draw(t, "path")
	w.wrote(was, proof.Author)
	f := PlanFlip{State: state, Attempt: attempt, Digest: w.c.Digest(), Was: was.Digest(), Path: path, WasPath: "plans/shop.yaml", Proof: proof}
	if rapid.IntRange(0, 11).Draw(t, "removed before?") == 0 {
		Remove(w.st)
		f.Was, f.WasPath, f.Appeared = "", "", true
	}
	before := w.st.Recorded.Trust
	defer func() { w.vouched(t, before, was.Digest(), f.Digest, proof.Author != "") }()
	Accept(w.st, f,
		spec.Approval{Commit: fmt.Sprint("commit", w.n), Time: metav1.NewTime(w.at)}, false, w.trust)
}

func (w *walker) decide(t *rapid.T) {
	writers := maps.Clone(w.authors)
	d := Decide(PlanInput{Now: w.at, Plan: "shop", Closure: w.c, Status: w.st, Open: w.open, Commit: "tip", Approval: &spec.Approval{Commit: "tip"}, Trust: w.trust})
	w.st = d.Status
	switch {
	case d.Start != nil:
		d.Start.Undoes = &spec.Run{Steps: []spec.Step{{Name: "stop", Undo: "workload.start-source"}}}
		w.open = Freeze(w.at, *d.Start, w.st)
		w.st = Started(w.st, w.open)
		w.started, w.writers = append(w.started, w.open), append(w.writers, writers)
	case w.open != nil && rapid.Bool().Draw(t, "ends"):
		w.end(rapid.SampledFrom([]spec.RunPhase{spec.RunSucceeded, spec.RunSucceeded, spec.RunFailed}).Draw(t, "result"))
	}
}

func walk(t *rapid.T, trust *Trust, keys []string) *walker {
	w := &walker{trust: trust, keys: keys, files: map[file]bool{}, ever: map[file]bool{}, own: map[string]bool{}, authors: map[string]bool{}}
	w.st, w.at = newStatus("shop"), noon
	w.c = closureIn(spec.Staged, 1, discard, func(p *spec.PlanSpec) { p.TargetCluster = "new0" })
	w.first = w.c.Digest()
	proof := &spec.Proof{Author: "root"} // what is there first is approved, or no commit's signature would ever count
	for _, way := range trust.Policies[0].Ways {
		proof.Signers = append(proof.Signers, spec.Signer{Key: "linus", Way: way}, spec.Signer{Key: "grace", Way: way})
	}
	Accept(w.st, PlanFlip{State: spec.Staged, Attempt: 1, Digest: w.c.Digest(), Appeared: true, Path: "plans/shop.yaml", Proof: proof}, spec.Approval{Commit: "first", Time: metav1.NewTime(noon)}, false, trust)
	for range rapid.IntRange(1, 25).Draw(t, "commits") {
		w.commit(t)
		for range rapid.IntRange(0, 2).Draw(t, "decisions") {
			w.decide(t)
		}
	}
	return w
}

// No sequence of commits without enough signatures ever starts a cutover, a
// rollback or a close: whatever one owner signs, two are needed.
func TestNothingStartsWithoutEnoughSignatures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ways := rapid.SliceOfNDistinct(rapid.SampledFrom([]spec.Way{spec.SignedCommits, spec.Signatures, spec.MergeCommits}), 1, 3, rapid.ID[spec.Way]).Draw(t, "ways")
		author := rapid.Bool().Draw(t, "author counts")
		require := 2
		if !author {
			require = 1 // besides the author, whoever that is
		}
		w := walk(t, guarded(require, author, ways...), []string{"ada", "ada-2", "expired", "unknown"})
		for _, run := range w.started {
			if run.Spec.Kind == spec.RunStage && run.Spec.Digest == w.first {
				continue // two signed for what was there first
			}
			t.Fatalf("%s started on the signatures of one owner, approved by %+v", run.Metadata.Name, run.Spec.ApprovedBy)
		}
	})
}

// What starts was signed by enough owners for exactly its plan, state, attempt
// and digest, and no attempt serves two runs.
func TestWhatStartsIsWhatWasSigned(t *testing.T) {
	asked := map[spec.RunKind]spec.State{spec.RunMigrate: spec.Migrated, spec.RunRollback: spec.RolledBack, spec.RunClose: spec.Closed}
	started := map[spec.RunKind]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := walk(t, guarded(2, true, spec.Signatures), []string{"ada", "ada-2", "grace", "linus", "expired"})
		last := 0
		for _, run := range w.started {
			state, gated := asked[run.Spec.Kind]
			if !gated {
				continue
			}
			started[run.Spec.Kind]++
			owners := map[string]bool{}
			for f := range w.ever {
				if f.state == state && f.attempt == run.Spec.Attempt && f.digest == run.Spec.Digest && w.trust.Keys[f.key].Owner != "" {
					owners[w.trust.Keys[f.key].Owner] = true
				}
			}
			if len(owners) < 2 {
				t.Fatalf("%s was signed for by %v only", run.Metadata.Name, owners)
			}
			if run.Spec.Attempt <= last {
				t.Fatalf("%s has attempt %d, and one before it had %d", run.Metadata.Name, run.Spec.Attempt, last)
			}
			last = run.Spec.Attempt
		}
	})
	if started[spec.RunMigrate] == 0 && !testing.Short() { // a short check walks 20 times only
		t.Errorf("the walks started %v: the property was never asked", started)
	}
}

// Who signs a commit has approved what that commit changes, and nothing that
// somebody else wrote before.
func TestSignedCommitsAnswerForTheirChange(t *testing.T) {
	started := 0
	rapid.Check(t, func(t *rapid.T) {
		w := walk(t, guarded(1, true, spec.SignedCommits, spec.MergeCommits), []string{"ada", "grace", "expired"})
		for _, run := range w.started {
			if run.Spec.Kind == spec.RunStage {
				continue
			}
			started++
			if by := run.Spec.ApprovedBy; !w.own[by.Commit] {
				t.Fatalf("%s started on the signature of %s, which asked for nothing", run.Metadata.Name, by.Commit)
			}
		}
	})
	if started == 0 && !testing.Short() { // a short check walks 20 times only
		t.Error("nothing started: the property was never asked")
	}
}

// Where the author does not count, no run has only an author of the change
// behind it, however many commits of other people lie in between.
func TestNoAuthorApprovesAlone(t *testing.T) {
	started := 0
	rapid.Check(t, func(t *rapid.T) {
		w := walk(t, guarded(1, false, spec.Signatures), []string{"ada", "grace"})
		for i, run := range w.started {
			if run.Spec.Kind == spec.RunStage {
				continue
			}
			started++
			if by := run.Spec.ApprovedBy.Signers; len(by) == 1 && w.writers[i][by[0].Owner] {
				t.Fatalf("%s started on the signature of %s alone, who is one of its authors %v", run.Metadata.Name, by[0].Owner, w.writers[i])
			}
		}
	})
	if started == 0 && !testing.Short() { // a short check walks 20 times only
		t.Error("nothing started: the property was never asked")
	}
}

// A cluster that nobody approved is not even looked at: that would send it the
// token of the one in whose place it was written.
func TestNoClusterIsAskedWithoutApproval(t *testing.T) {
	b, m, c := &branch{trust: guarded(1, true, spec.SignedCommits)}, newMemory(), &cluster{made: map[string]int{}}
	b.proof = &spec.Proof{Author: "ada", Signers: []spec.Signer{{Key: "ada", Way: spec.SignedCommits}}}
	b.commit(closureIn(spec.Staged, 1))
	stop := daemon(t, b, m, c)
	asked := func() []string {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.Clone(c.asked)
	}
	eventually(t, "a look at the approved cluster", func() bool { return len(asked()) > 0 })
	b.mu.Lock()
	b.proof = nil
	b.mu.Unlock()
	b.commit(closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.TargetCluster = "evil" }))
	eventually(t, "Unapproved", func() bool { return m.reason("shop") == "Unapproved" })
	b.mu.Lock()
	b.proof = &spec.Proof{Author: "ada", Signers: []spec.Signer{{Key: "ada", Way: spec.SignedCommits}}}
	b.mu.Unlock()
	b.commit(closureIn(spec.Staged, 1)) // as it was; decided after what came before
	eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := asked(); slices.Contains(got, "evil") {
		t.Errorf("asked %v", got)
	}
}

// The sentence says who has signed, how many are missing, why others do not
// count, and what to do.
func TestUnapprovedSentence(t *testing.T) {
	s := &story{st: newStatus("shop"), at: noon, trust: guarded(2, false, spec.Signatures)}
	s.proof = &spec.Proof{Author: "linus", Signers: []spec.Signer{{Key: "ada", Way: spec.Signatures}, {Key: "grace", Way: spec.Signatures}}}
	s.commit(closureIn(spec.Staged, 1))
	s.proof = &spec.Proof{Author: "linus", Signers: []spec.Signer{{Key: "ada", Way: spec.Signatures}}, Notes: []string{"commit abc: it is signed by nobody"}}
	s.commit(closureIn(spec.Migrated, 1))
	say := find(s.decide().Status, "Ready").Message
	for _, part := range []string{"Migrated with attempt 1 in ", "approved by ada (key ada, Signatures), 1 more must", "run `tranship approve shop .`", "ada, ada-2, grace", "What does not count: ", "commit abc: it is signed by nobody"} {
		if !strings.Contains(say, part) {
			t.Errorf("%q is not in %q", part, say)
		}
	}
	if !slices.Contains([]spec.State{spec.Staged}, s.st.Recorded.Trust.Proposal.From) {
		t.Errorf("from %s", s.st.Recorded.Trust.Proposal.From)
	}
}

// ask is one commit of a history: what it makes of the plan shop, and who
// shows what. Files lie there until they are taken away.
type ask struct {
	state   spec.State
	attempt int
	edit    string // the target cluster; everything else is equal
	signed  string // owner who signed the commit; "" for nobody
	way     spec.Way
	files   []string // owners whose files name exactly this
	gone    bool     // the plan is not there
}

// play accepts a history under a policy, from a staged plan that was signed.
func play(trust *Trust, asks ...ask) *spec.PlanStatus {
	st, was, first := newStatus("shop"), "", spec.SignedCommits
	if trust != nil {
		first = trust.Policies[0].Ways[0]
	}
	asks = append([]ask{{state: spec.Staged, attempt: 1, signed: "ada", way: first, files: []string{"ada", "grace", "linus"}}}, asks...)
	for i, a := range asks {
		if a.gone {
			Remove(st)
			was = ""
			continue
		}
		c := closureIn(a.state, a.attempt, discard, func(p *spec.PlanSpec) { p.TargetCluster = "new" + a.edit })
		proof := &spec.Proof{Author: a.signed}
		if a.signed != "" {
			way := a.way
			if way == "" {
				way = spec.SignedCommits
			}
			proof.Signers = append(proof.Signers, spec.Signer{Key: a.signed, Owner: a.signed, Way: way})
		}
		for _, who := range a.files {
			proof.Signers = append(proof.Signers, spec.Signer{Key: who, Owner: who, Way: spec.Signatures})
		}
		f := PlanFlip{State: a.state, Attempt: a.attempt, Digest: c.Digest(), Was: was, Appeared: was == "", Path: "plans/shop.yaml", Proof: proof}
		if was != "" {
			f.WasPath = f.Path
		}
		Accept(st, f, spec.Approval{Commit: fmt.Sprint("commit", i), Time: metav1.NewTime(noon)}, false, trust)
		was = c.Digest()
	}
	return st
}

// Histories in which somebody's signature stands near a change that it is not for.
func TestSignatureIsForItsOwnChange(t *testing.T) {
	commits, branches := guarded(1, true, spec.SignedCommits), guarded(1, true, spec.MergeCommits)
	others := guarded(1, false, spec.Signatures)
	digest := func(edit string) string {
		return closureIn(spec.Staged, 1, discard, func(p *spec.PlanSpec) { p.TargetCluster = "new" + edit }).Digest()
	}
	for _, c := range []struct {
		name    string
		trust   *Trust
		asks    []ask
		flips   bool
		vouched string // the edit that is approved
	}{
		{"signed edit on an unsigned flip", commits, []ask{{state: spec.Migrated, attempt: 1}, {state: spec.Migrated, attempt: 1, edit: "1", signed: "ada"}}, false, "1"},
		{"signed edit on an unsigned flip, twice", commits, []ask{{state: spec.Migrated, attempt: 1}, {state: spec.Migrated, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, edit: "2", signed: "ada"}}, false, "2"},
		{"signed edit, then a signed flip", commits, []ask{{state: spec.Staged, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, edit: "1", signed: "ada"}}, true, "1"},
		{"signed flip with its edit", commits, []ask{{state: spec.Migrated, attempt: 1, edit: "1", signed: "ada"}}, true, "1"},
		{"a higher attempt is its signer's", commits, []ask{{state: spec.Migrated, attempt: 1}, {state: spec.Migrated, attempt: 2, edit: "1", signed: "ada"}}, true, "1"},
		{"edit with a file", guarded(1, true, spec.SignedCommits, spec.Signatures), []ask{{state: spec.Migrated, attempt: 1}, {state: spec.Migrated, attempt: 1, edit: "1", files: []string{"ada"}}}, true, "1"},
		{"the rest of the signatures comes as a file", guarded(2, true, spec.SignedCommits, spec.Signatures), []ask{{state: spec.Migrated, attempt: 1, signed: "ada"}, {state: spec.Migrated, attempt: 1, files: []string{"grace"}}}, true, ""},
		{"a removed plan comes back with what nobody approved", commits, []ask{{state: spec.Staged, attempt: 1, edit: "1"}, {gone: true}, {state: spec.Staged, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, edit: "1", signed: "ada"}}, false, ""},
		{"a removed plan comes back as it was", commits, []ask{{gone: true}, {state: spec.Staged, attempt: 1}, {state: spec.Staged, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, edit: "1", signed: "ada"}}, true, "1"},
		{"the author's own file after somebody else's signature", others, []ask{{state: spec.Staged, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, edit: "1", signed: "grace", files: []string{"ada"}}}, false, ""},
		{"two files where several people wrote", others, []ask{{state: spec.Staged, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, edit: "1", signed: "grace", files: []string{"ada", "linus"}}}, true, "1"},
		{"another's file for an author's change", others, []ask{{state: spec.Migrated, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, edit: "1", files: []string{"grace"}}}, true, "1"},
		{"an old signed branch is shown for a flip that was taken back", branches, []ask{{state: spec.Migrated, attempt: 1}, {state: spec.Staged, attempt: 1}, {state: spec.Migrated, attempt: 1, signed: "ada", way: spec.MergeCommits}}, false, ""},
		{"an old signed branch is shown for a flip that went on", branches, []ask{{state: spec.Migrated, attempt: 3}, {state: spec.Migrated, attempt: 2}, {state: spec.Migrated, attempt: 3, signed: "ada", way: spec.MergeCommits}}, false, ""},
		{"an old signed branch is shown for what appeared", branches, []ask{{gone: true}, {state: spec.Migrated, attempt: 1}, {state: spec.Staged, attempt: 1}, {state: spec.Migrated, attempt: 1, signed: "ada", way: spec.MergeCommits}}, false, ""},
		{"a signed branch that asks anew", branches, []ask{{state: spec.Migrated, attempt: 1}, {state: spec.Staged, attempt: 1}, {state: spec.Migrated, attempt: 2, signed: "ada", way: spec.MergeCommits}}, true, ""},
		{"a file for a flip that was taken back", guarded(1, true, spec.Signatures), []ask{{state: spec.Migrated, attempt: 1}, {state: spec.Staged, attempt: 1}, {state: spec.Migrated, attempt: 1, files: []string{"ada"}}}, true, ""},
		{"a used file brings old documents back", guarded(1, true, spec.Signatures, spec.SignedCommits), []ask{{state: spec.Migrated, attempt: 1, files: []string{"ada"}}, {state: spec.Migrated, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, files: []string{"ada"}}}, true, "1"},
		{"a used file asks again with old documents", guarded(1, true, spec.Signatures, spec.SignedCommits), []ask{{state: spec.Migrated, attempt: 1, files: []string{"ada"}}, {state: spec.Staged, attempt: 1, edit: "1", signed: "ada"}, {state: spec.Migrated, attempt: 1, files: []string{"ada"}}}, false, "1"},
	} {
		r := play(c.trust, c.asks...).Recorded
		if (r.Flip != nil) != c.flips || r.Trust.Digest != digest(c.vouched) {
			t.Errorf("%s: flip %+v, digest of %q approved: %v", c.name, r.Flip, c.vouched, r.Trust.Digest == digest(c.vouched))
		}
	}
}

// An attempt that was used before the policy began is used when it begins with
// the commit that asks for it again.
func TestPolicyBeginsWithACommit(t *testing.T) {
	st := play(nil, ask{state: spec.Migrated, attempt: 1}, ask{state: spec.Staged, attempt: 1})
	st.Recorded.Approvals = []string{"commit1"}
	c := closureIn(spec.Migrated, 1, discard, func(p *spec.PlanSpec) { p.TargetCluster = "new" })
	proof := &spec.Proof{Signers: []spec.Signer{{Key: "ada", Way: spec.Signatures}}}
	f := PlanFlip{State: spec.Migrated, Attempt: 1, Digest: c.Digest(), Was: c.Digest(), Path: "plans/shop.yaml", WasPath: "plans/shop.yaml", Proof: proof}
	Accept(st, f, spec.Approval{Commit: "again"}, false, guarded(1, true, spec.Signatures))
	if r := st.Recorded; r.Flip != nil || r.Trust.Proposal == nil || r.Trust.Proposal.Reason != reasonApprovalUsed {
		t.Errorf("flip %+v, note %+v", r.Flip, r.Trust)
	}
}

// An acknowledgement is for one acceptance: somebody who forces the branch back
// there later is held like anybody.
func TestAcknowledgementIsUsedUp(t *testing.T) {
	rec := &Recorded{Plans: map[string]*spec.PlanStatus{}, Daemon: spec.DaemonStatus{Accepted: "a", Acknowledged: "b"}}
	accept := func(commit string, rewritten bool) *spec.DaemonStatus {
		_, d := AcceptAll(noon, rec, &Desired{Commit: commit, Rewritten: rewritten})
		rec.Daemon = *d
		return d
	}
	if d := accept("b", true); d.Hold != nil || d.Accepted != "b" {
		t.Fatalf("acknowledged: %+v", d)
	}
	if d := accept("b", true); d.Hold != nil { // the same reading again
		t.Fatalf("accepted already: %+v", d.Hold)
	}
	accept("c", false)
	if d := accept("b", true); d.Hold == nil || d.Accepted != "c" {
		t.Errorf("forced back: %+v", d)
	}
}

// A ledger that was deleted and adopted anew approves nothing: what the daemon
// still knows of approvals holds.
func TestAdoptedLedgerApprovesNothing(t *testing.T) {
	trust := guarded(1, true, spec.Signatures)
	st := play(trust, ask{state: spec.Staged, attempt: 1, edit: "evil"})
	evil := closureIn(spec.Staged, 1, discard, func(p *spec.PlanSpec) { p.TargetCluster = "newevil" })
	rec := &Recorded{Plans: map[string]*spec.PlanStatus{}, Open: map[string]*spec.Run{}}
	rec.keepTrust(&Recorded{Plans: map[string]*spec.PlanStatus{"shop": st}})
	out, _ := AcceptAll(noon, rec, &Desired{Commit: "tip", Trust: trust, Closures: map[string]*spec.Closure{"shop": evil}})
	if len(out) != 1 || out[0].Recorded.SeenState != spec.Staged {
		t.Fatalf("the plan was not taken over: %+v", out)
	}
	if note := out[0].Recorded.Trust; note == nil || note.Digest == evil.Digest() || note.Digest != st.Recorded.Trust.Digest {
		t.Errorf("note %+v", note)
	}
}

// The daemon holds a deleted and adopted ledger against what it knew.
func TestDaemonKeepsTrustAcrossAnAdoptedLedger(t *testing.T) {
	b, m, c := &branch{trust: guarded(1, true, spec.SignedCommits)}, newMemory(), &cluster{made: map[string]int{}}
	b.commit(closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.TargetCluster = "evil" }))
	stop := daemon(t, b, m, c)
	eventually(t, "Unapproved", func() bool { return m.reason("shop") == "Unapproved" })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	st := copyStatus(m.plans["shop"])
	st.Recorded.Trust = &spec.TrustNote{Paths: []string{"plans/shop.yaml"}, Attempt: 7}
	m.plans["shop"] = st
	m.spoil()
	stop = daemon(t, b, m, c)
	eventually(t, "LedgerChanged", func() bool { return m.reason("shop") == "LedgerChanged" })
	m.mu.Lock()
	m.strange, m.pushed, m.daemon = "", nil, spec.DaemonStatus{}
	clear(m.plans)
	m.mu.Unlock()
	eventually(t, "a new record", func() bool { return m.reason("shop") != "" })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if note := m.plans["shop"].Recorded.Trust; note == nil || note.Attempt != 7 {
		t.Errorf("after the adoption: %+v", note)
	}
}

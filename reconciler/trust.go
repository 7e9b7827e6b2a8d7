package reconciler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tranship/tranship/spec"
)

// Trust is what the daemon's configuration demands of approvals now. nil: it
// demands nothing, and whoever can merge can approve.
type Trust struct {
	Policies []spec.ApprovalPolicy
	Keys     map[string]Key // those that count now, by name
	Problems []string       // a sentence about each key that does not count
}

// Key is one that counts. No two have the same fingerprint.
type Key struct{ Owner, Fingerprint string }

// key finds the key that a signature was made with, among those that count now.
// A name is the configuration's, and may stand for another key today. Records
// from before fingerprints were written have nothing else.
func (t *Trust) key(s spec.Signer) (name, owner string, ok bool) {
	if s.Fingerprint == "" {
		k, ok := t.Keys[s.Key]
		return s.Key, k.Owner, ok
	}
	for name, k := range t.Keys {
		if k.Fingerprint == s.Fingerprint {
			return name, k.Owner, true
		}
	}
	return "", "", false
}

// Reasons of a change that Git asks for and that is not served.
const (
	reasonUnapproved   = "Unapproved"
	reasonApprovalUsed = "ApprovalUsed"
)

// holding lists the policies of some files, each once. A plan needs all of
// them: that of where it is, and those of where it has been, because nobody
// who signs its digest has signed where its file lies.
func (t *Trust) holding(files ...string) []*spec.ApprovalPolicy {
	if t == nil {
		return nil
	}
	var out []*spec.ApprovalPolicy
	for _, f := range files {
		if f == "" {
			continue
		}
		if i := spec.PolicyFor(t.Policies, f); i >= 0 && !slices.Contains(out, &t.Policies[i]) {
			out = append(out, &t.Policies[i])
		}
	}
	return out
}

// of lists the policies that hold for a plan whose file is the given one.
func (t *Trust) of(r *spec.Recorded, file string) []*spec.ApprovalPolicy {
	if r.Trust == nil {
		return t.holding(file)
	}
	return t.holding(append(slices.Clone(r.Trust.Paths), file)...)
}

// tally is how far the signatures go for one policy.
type tally struct {
	policy  *spec.ApprovalPolicy
	counted []spec.Signer // the first signature of each owner that counts
	missing int
	unknown bool // nobody can tell who made the change
}

// count weighs signatures. Whether the commit that carries them had only
// approved changes before it was asked already.
func (t *Trust) count(p *spec.ApprovalPolicy, signers []spec.Signer, changer string) tally {
	out := tally{policy: p, unknown: changer == ""}
	owners := map[string]bool{}
	for _, s := range signers {
		name, owner, usable := t.key(s)
		if !usable || owners[owner] || !slices.Contains(p.Keys, name) || !slices.Contains(p.Ways, s.Way) || owner == changer && !p.CountAuthor {
			continue
		}
		owners[owner] = true
		s.Key, s.Owner = name, owner
		out.counted = append(out.counted, s)
	}
	need := p.Require
	if !p.CountAuthor && changer == "" {
		need++ // one of those who signed may be the author
	}
	out.missing = max(need-len(out.counted), 0)
	return out
}

// weigh counts for every policy; met says that none lacks a signature.
func (t *Trust) weigh(policies []*spec.ApprovalPolicy, signers []spec.Signer, changer string) (met bool, tallies []tally) {
	met = true
	for _, p := range policies {
		n := t.count(p, signers, changer)
		met = met && n.missing == 0
		tallies = append(tallies, n)
	}
	return met, tallies
}

// stillApproved says whether an approval that was given would be one today: keys
// that were taken out of the configuration, or expired, count no more.
func (t *Trust) stillApproved(policies []*spec.ApprovalPolicy, by *spec.Approval) (bool, []tally) {
	if by == nil {
		by = &spec.Approval{}
	}
	return t.weigh(policies, by.Signers, by.Changer)
}

// ruling is what a commit means for a plan that a policy holds for.
type ruling struct {
	policies []*spec.ApprovalPolicy // none: nothing is demanded
	approved bool
	by       spec.Approval // with the signatures that count
	tallies  []tally
	notes    []string
}

// judge weighs what a commit shows, and notes how far the plan's closure is
// the work of approved changes. Signatures of commits count only while it is:
// they say nothing about what somebody else changed before.
func (t *Trust) judge(r *spec.Recorded, f *PlanFlip, by spec.Approval, appeared bool) ruling {
	// A plan that comes to where a policy holds is new there. One that was there
	// when the policy began is taken as it was.
	known := r.Trust != nil
	enters := !known && len(t.holding(f.WasPath)) == 0
	t.remember(r, f, enters)
	j := ruling{policies: t.of(r, f.Path), by: by}
	if len(j.policies) == 0 {
		return j
	}
	// One that comes back was somewhere before: only what was approved then comes
	// back approved, or a removal would wash off what nobody had signed.
	clean := appeared && (!known || f.Digest == r.Trust.Digest) || enters || f.Was != "" && f.Was == r.Trust.Digest
	proof := f.Proof
	if proof == nil {
		proof = &spec.Proof{}
	}
	p := r.Trust.Proposal
	signers, changer := evidence(p, f, proof, clean)
	j.notes = proof.Notes
	if !clean {
		j.notes = append([]string{"an earlier commit changed the plan, or a document that it uses, without enough approvals, so that signed commits do not count before somebody approves with `tranship approve` or takes that change back"}, j.notes...)
	}
	j.by.Signers, j.by.Changer = signers, changer
	if p != nil && p.Approval.Commit != by.Commit && sameAsk(p, f) {
		j.by.Asked = p.Approval.Commit
	}
	j.approved, j.tallies = t.weigh(j.policies, signers, changer)
	vouched := j.approved
	if f.State != spec.Staged && f.Attempt <= r.Trust.Attempt { // files and branches of a used attempt can be shown again
		fresh := slices.DeleteFunc(slices.Clone(signers), func(s spec.Signer) bool { return s.Way != spec.SignedCommits })
		vouched, _ = t.weigh(j.policies, fresh, changer)
	}
	if vouched {
		r.Trust.Digest = f.Digest
	}
	if own := j.ofFlip(r.Trust, f); !own {
		j.approved, j.tallies = t.weigh(j.policies, j.by.Signers, j.by.Changer)
	}
	if j.approved {
		j.by.Signers = counted(j.tallies)
	}
	return j
}

// remember notes the policies that hold for a plan from now on. The note is
// made anew: records are shared.
func (t *Trust) remember(r *spec.Recorded, f *PlanFlip, enters bool) {
	note := spec.TrustNote{Digest: f.Was, Attempt: usedBefore(r)}
	if enters {
		note.Digest = ""
	}
	if r.Trust != nil {
		note = *r.Trust
		note.Paths = slices.Clone(note.Paths)
	}
	for _, path := range []string{f.WasPath, f.Path} {
		if len(t.holding(append(slices.Clone(note.Paths), path)...)) > len(t.holding(note.Paths...)) {
			note.Paths = append(note.Paths, path)
		}
	}
	if r.Trust != nil || len(note.Paths) > 0 {
		r.Trust = &note
	}
}

func sameAsk(p *spec.Proposal, f *PlanFlip) bool {
	return p.To == f.State && p.Attempt == f.Attempt && p.Digest == f.Digest
}

// ofFlip takes from the evidence what is not about a flip, and says whether all
// is. A commit that edits something else vouches for its edit only: the flip is
// somebody else's, from before. A signed branch can be shown again: its owner
// may have written it on top of a flip that was asked for and not approved.
func (j *ruling) ofFlip(note *spec.TrustNote, f *PlanFlip) (own bool) {
	p := note.Proposal
	pending := p != nil && p.To == f.State && p.Attempt == f.Attempt
	if onlyBrings(p, f) || !pending && f.Attempt > note.Asked {
		return true
	}
	var left []spec.Signer
	for _, s := range j.by.Signers {
		switch {
		case s.Way == spec.Signatures || s.Way == spec.SignedCommits && !pending:
			left = append(left, s)
		default:
			j.by.Changer = "" // somebody else made the flip
		}
	}
	if pending && j.by.Changer != p.Approval.Changer {
		j.by.Changer = ""
	}
	if len(left) < len(j.by.Signers) {
		j.by.Signers = left
		j.notes = append([]string{fmt.Sprintf("%s with attempt %d was asked for before without enough approvals, so that a signature of a later commit does not approve it: raise cutover.attempt", f.State, f.Attempt)}, j.notes...)
	}
	return false
}

// onlyBrings says that a commit changes nothing of what is proposed: all that it
// can do is bring approvals.
func onlyBrings(p *spec.Proposal, f *PlanFlip) bool {
	return p != nil && sameAsk(p, f) && f.Was == f.Digest
}

// evidence gathers the signatures behind (state, attempt, digest) as of a
// commit: files that are there now, and the commit's own. Where the commit
// only brought files, the own ones are those of the commit that asked.
func evidence(p *spec.Proposal, f *PlanFlip, proof *spec.Proof, clean bool) (signers []spec.Signer, changer string) {
	own, changer := proof.Signers, proof.Author
	if !clean {
		changer = "" // not the only one
	}
	if onlyBrings(p, f) {
		own, changer, clean = p.Approval.Signers, p.Approval.Changer, true
	}
	for _, s := range own {
		if s.Way != spec.Signatures && clean {
			signers = append(signers, s)
		}
	}
	for _, s := range proof.Signers {
		if s.Way == spec.Signatures {
			signers = append(signers, s)
		}
	}
	return signers, changer
}

// counted joins what counts for each policy, each key once.
func counted(tallies []tally) []spec.Signer {
	var out []spec.Signer
	for _, n := range tallies {
		for _, s := range n.counted {
			if !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// used says whether signatures that could be shown again were used up by an
// attempt that is not lower.
func (j *ruling) used(r *spec.Recorded, f *PlanFlip) bool {
	again := slices.ContainsFunc(j.policies, func(p *spec.ApprovalPolicy) bool {
		return slices.Contains(p.Ways, spec.Signatures) || slices.Contains(p.Ways, spec.MergeCommits)
	})
	return again && r.Trust != nil && f.Attempt <= r.Trust.Attempt
}

// propose notes what Git asks for without enough approvals. from goes on.
func (j *ruling) propose(plan string, r *spec.Recorded, f *PlanFlip, from spec.Proposal) {
	p := spec.Proposal{To: f.State, Attempt: f.Attempt, Digest: f.Digest, From: from.From, FromAttempt: from.FromAttempt, Approval: j.by}
	if before := r.Trust.Proposal; before != nil && sameAsk(before, f) { // this commit asks for nothing new
		p.Approval = before.Approval
		p.Approval.Signers = j.by.Signers
	}
	if j.approved { // it was, once
		p.Reason = reasonApprovalUsed
		p.Message = fmt.Sprintf("%s with attempt %d in %.12s: attempt %d was approved before, and an approval counts once; set cutover.attempt to %d and approve that",
			f.State, f.Attempt, p.Approval.Commit, r.Trust.Attempt, r.Trust.Attempt+1)
	} else {
		p.Reason = reasonUnapproved
		p.Message = fmt.Sprintf("%s with attempt %d in %.12s: %s", f.State, f.Attempt, p.Approval.Commit, lacking(plan, j.tallies, j.notes))
	}
	r.Trust.Proposal = &p
	j.asked(r, f)
}

// asked notes an attempt that was not approved when it was asked for.
func (j *ruling) asked(r *spec.Recorded, f *PlanFlip) {
	if len(j.policies) > 0 && !j.approved && f.State != spec.Staged {
		r.Trust.Asked = max(r.Trust.Asked, f.Attempt)
	}
}

// lacking says who has signed, how many are missing and what to do.
func lacking(plan string, tallies []tally, notes []string) string {
	i := slices.IndexFunc(tallies, func(n tally) bool { return n.missing > 0 })
	if i < 0 {
		return "it is approved"
	}
	n := tallies[i]
	have := "nobody whose signature counts has approved"
	if len(n.counted) > 0 {
		var who []string
		for _, s := range n.counted {
			who = append(who, fmt.Sprintf("%s (key %s, %s)", s.Owner, s.Key, s.Way))
		}
		have = "approved by " + strings.Join(who, ", ")
	}
	say := fmt.Sprintf("%s, %d more must; %s", have, n.missing, remedy(plan, n.policy))
	if n.unknown && !n.policy.CountAuthor {
		say += " (no signature tells who made the change, so that one more is needed)"
	}
	if len(notes) > 0 {
		say += ". What does not count: " + strings.Join(notes[:min(len(notes), 5)], "; ")
	}
	return say
}

func remedy(plan string, p *spec.ApprovalPolicy) string {
	keys := strings.Join(p.Keys, ", ")
	if slices.Contains(p.Ways, spec.Signatures) {
		return fmt.Sprintf("run `tranship approve %s .` in a checkout, with one of the keys %s, and merge the file that it writes", plan, keys)
	}
	return fmt.Sprintf("raise cutover.attempt in a commit that is signed by one of the keys %s and not by the Git host", keys)
}

// adopt begins the notes of plans that a policy holds for from now on. What
// stands there when it begins counts as approved, or nothing ever could be. A
// plan of which nobody has read a commit does not: it could not be read before,
// or the branch was rewritten.
func (t *Trust) adopt(want *Desired, rec *Recorded, of func(string) *spec.PlanStatus) {
	if t == nil {
		return
	}
	for plan, c := range want.Closures {
		if st := rec.Plans[plan]; st == nil || st.Recorded.Trust != nil || len(t.holding(c.File())) == 0 {
			continue
		}
		r := &of(plan).Recorded
		if r.Trust != nil {
			continue
		}
		r.Trust = &spec.TrustNote{Paths: []string{c.File()}, Attempt: usedBefore(r)}
		if r.SeenState != "" && !acknowledged(rec, want) {
			r.Trust.Digest = c.Digest()
		}
	}
}

// usedBefore is the attempt that counts as used when a policy begins.
func usedBefore(r *spec.Recorded) int {
	if len(r.Approvals) == 0 {
		return 0
	}
	return r.SeenAttempt
}

// say is the sentence about what this configuration leaves open, for the
// daemon's status.
func (t *Trust) say(want *Desired) string {
	if t == nil {
		return "no approval policy is configured (spec.trust): whoever can merge can approve"
	}
	var open []string
	for _, plan := range slices.Sorted(maps.Keys(want.Closures)) {
		if spec.PolicyFor(t.Policies, want.Closures[plan].File()) < 0 {
			open = append(open, plan)
		}
	}
	parts := slices.Clone(t.Problems)
	if n := len(open); n > 0 {
		more := ""
		if n > 5 {
			open, more = open[:5], fmt.Sprintf(" and %d more", n-5)
		}
		parts = append([]string{fmt.Sprintf("no approval policy covers %s%s: whoever can merge can approve", strings.Join(open, ", "), more)}, parts...)
	}
	return strings.Join(parts, "; ")
}

package reconciler

import (
	"slices"

	"github.com/tranship/tranship/spec"
)

// Accept notes what one newly accepted first-parent commit means for a plan:
// it is the only place where a merge becomes an approval. A flip is recorded,
// not served; Decide serves it if the tip still says the same. Where a policy
// holds and asks for more signatures than there are, the change becomes a
// proposal instead, and a later commit that brings them makes it the flip.
// Going back to Staged is never gated.
//
// A document that appears in another state than Staged starts nothing
// (Unrecorded), nor do the states found when a ledger begins; raising
// cutover.attempt, or `tranship ledger adopt`, makes it count. The time of the
// first commit is kept: of two plans that meet, the older one goes on.
func Accept(st *spec.PlanStatus, f PlanFlip, by spec.Approval, origin bool, trust *Trust) {
	r := &st.Recorded
	known := r.SeenState != ""
	stateChanged := f.State != r.SeenState
	raised := known && f.Attempt > r.SeenAttempt
	from := goesOn(r)
	r.Removed = false
	if !known && r.Since == nil && !by.Time.IsZero() {
		r.Since = &by.Time
	}
	j := trust.judge(r, &f, by, !known)
	r.SeenState, r.SeenAttempt = f.State, f.Attempt
	if !known || origin {
		r.Unrecorded = f.State != spec.Staged && f.State != r.State
		j.asked(r, &f)
		return
	}
	if r.Trust != nil && r.Trust.Proposal != nil {
		if f.State == from.From && f.Attempt == from.FromAttempt { // it was taken back
			r.Trust.Proposal = nil
			return
		}
		if len(j.policies) == 0 && !stateChanged && !raised {
			return // the policy is gone; that alone starts nothing
		}
	} else if !stateChanged && !raised || r.Unrecorded && !raised && f.State != spec.Staged {
		return
	}
	if f.State != spec.Staged && len(j.policies) > 0 {
		if !j.approved || j.used(r, &f) {
			r.Flip = nil
			j.propose(st.Metadata.Name, r, &f, from)
			return
		}
		r.Trust.Attempt = max(r.Trust.Attempt, f.Attempt)
	}
	if r.Trust != nil {
		r.Trust.Proposal = nil
	}
	r.Unrecorded = false
	r.Flip = nil
	if slices.Contains(r.Approvals, by.Commit) {
		return // one approval starts at most one cutover, for ever
	}
	r.Flip = &spec.Flip{To: f.State, Attempt: f.Attempt, Approval: j.by, Digest: f.Digest}
	if f.State == spec.Migrated {
		st.ApprovedScope = st.Scope
	}
}

// goesOn is what an unapproved change leaves as it is: what Git said before it,
// unless that was never served.
func goesOn(r *spec.Recorded) spec.Proposal {
	if r.Trust != nil && r.Trust.Proposal != nil {
		return *r.Trust.Proposal
	}
	if r.Flip != nil || r.Unrecorded {
		return spec.Proposal{From: done(r), FromAttempt: r.SeenAttempt}
	}
	return spec.Proposal{From: r.SeenState, FromAttempt: r.SeenAttempt}
}

// Remove notes that a document is gone in an accepted commit. Nothing is put
// back or deleted on either cluster; a later document of that name continues
// the record, and its approval policy.
func Remove(st *spec.PlanStatus) {
	r := &st.Recorded
	r.Removed = true
	r.Flip = nil
	r.SeenState, r.SeenAttempt = "", 0
	if r.Trust != nil {
		note := *r.Trust
		note.Proposal = nil
		r.Trust = &note
	}
}

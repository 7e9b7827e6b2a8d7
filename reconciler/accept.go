package reconciler

import (
	"slices"

	"github.com/tranship/tranship/spec"
)

// Accept notes what one newly accepted first-parent commit means for a plan:
// it is the only place where a merge becomes an approval. A flip is recorded,
// not served; Decide serves it if the tip still says the same.
//
// A document that appears in another state than Staged starts nothing
// (Unrecorded), nor do the states found when a ledger begins; raising
// cutover.attempt, or `tranship ledger adopt`, makes it count. The time of the
// first commit is kept: of two plans that meet, the older one goes on.
func Accept(st *spec.PlanStatus, f PlanFlip, by spec.Approval, origin bool) {
	r := &st.Recorded
	known := r.SeenState != ""
	stateChanged := f.State != r.SeenState
	raised := known && f.Attempt > r.SeenAttempt
	r.SeenState, r.SeenAttempt = f.State, f.Attempt
	r.Removed = false
	if !known && r.Since == nil && !by.Time.IsZero() {
		r.Since = &by.Time
	}
	if !known || origin {
		r.Unrecorded = f.State != spec.Staged && f.State != r.State
		return
	}
	if !stateChanged && !raised {
		return
	}
	if r.Unrecorded && !raised && f.State != spec.Staged {
		return
	}
	r.Unrecorded = false
	r.Flip = nil
	if slices.Contains(r.Approvals, by.Commit) {
		return // one approval starts at most one cutover, for ever
	}
	r.Flip = &spec.Flip{To: f.State, Attempt: f.Attempt, Approval: by, Digest: f.Digest}
}

// Remove notes that a document is gone in an accepted commit. Nothing is put
// back or deleted on either cluster; a later document of that name continues
// the record.
func Remove(st *spec.PlanStatus) {
	st.Recorded.Removed = true
	st.Recorded.Flip = nil
	st.Recorded.SeenState, st.Recorded.SeenAttempt = "", 0
}

package reconciler

import (
	"fmt"

	"github.com/tranship/tranship/spec"
)

// pending answers for a plan for which Git asks more than was approved: what
// was approved before goes on.
func pending(in *PlanInput) (verdict, bool) {
	r := &in.Status.Recorded
	in.withdraw()
	if r.Trust == nil || r.Trust.Proposal == nil {
		return verdict{}, false
	}
	p := r.Trust.Proposal
	if p.To == spec.RolledBack && r.State != spec.Migrated {
		return verdict{}, false // there is nothing to roll back, which needs no approval
	}
	before := *in
	c := *in.Closure
	c.Plan.Spec.State, c.Plan.Spec.Cutover.Attempt = p.From, p.FromAttempt
	before.Closure = &c
	for _, ask := range []func(*PlanInput) (verdict, bool){unrecorded, settled, mayNotStart, stageDue} {
		if v, ok := ask(&before); ok {
			if v.start == nil {
				v.cond = stalled(p.Reason, p.Message)
			}
			v.drop = false
			return v, true
		}
	}
	return verdict{cond: stalled(p.Reason, p.Message)}, true
}

// withdraw turns an approval that is none any more, because the policy or the
// keys have changed since, into a proposal.
func (in *PlanInput) withdraw() {
	r := &in.Status.Recorded
	f := r.Flip
	if f == nil || f.To == spec.Staged {
		return
	}
	policies := in.Trust.of(r, in.Closure.File())
	met, tallies := in.Trust.stillApproved(policies, &f.Approval)
	if met {
		return
	}
	note := spec.TrustNote{Paths: []string{in.Closure.File()}}
	if r.Trust != nil {
		note = *r.Trust
	}
	r.Trust, r.Flip = &note, nil
	j := ruling{policies: policies, by: f.Approval, tallies: tallies}
	j.propose(in.Plan, r, &PlanFlip{State: f.To, Attempt: f.Attempt, Digest: f.Digest}, spec.Proposal{From: done(r), FromAttempt: f.Attempt})
}

// done is the state that has been reached.
func done(r *spec.Recorded) spec.State {
	if r.State == "" {
		return spec.Staged
	}
	return r.State
}

// untrusted keeps a plan away from the clusters while its documents hold what
// nobody approved: a stage run would copy the data to whatever cluster they
// name now, and even a look sends that cluster's credentials there.
func untrusted(in *PlanInput) (verdict, bool) {
	r := &in.Status.Recorded
	for _, p := range in.Trust.of(r, in.Closure.File()) {
		if p.StagesOrDefault() && (r.Trust == nil || r.Trust.Digest != in.Closure.Digest()) {
			do := remedy(in.Plan, p)
			if s := &in.Closure.Plan.Spec; r.Trust != nil && s.State != spec.Staged && s.Cutover.AttemptOrDefault() <= r.Trust.Attempt {
				do += fmt.Sprintf(" (with a cutover.attempt above %d, which is used up)", r.Trust.Attempt)
			}
			return verdict{cond: stalled(reasonUnapproved, fmt.Sprintf("the plan, or a document that it uses, was changed without enough approvals, so that nothing is copied and no cluster is asked: %s, or take the change back", do))}, true
		}
	}
	return verdict{}, false
}

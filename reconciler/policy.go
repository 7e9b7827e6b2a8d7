package reconciler

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// JudgeGate says whether the approval of a cutover still stands, right before
// the stop: an approval that is gone cancels; a tip that
// cannot be judged waits with the application running.
func JudgeGate(now time.Time, run *spec.Run, want *Desired, st *spec.PlanStatus, hold *spec.Waiting) Gate {
	c := want.Closures[run.Spec.Plan]
	switch {
	case hold != nil:
		return Gate{Reason: hold.Reason, Say: hold.Message}
	case st != nil && st.Recorded.Removed:
		return Gate{Cancel: true, Reason: "Removed", Say: "the plan's document is gone, or belongs to another shard now"}
	case c == nil:
		return Gate{Reason: "InvalidDocuments", Say: "the plan's documents at the tip cannot be read"}
	case c.Plan.Spec.State != spec.Migrated:
		return Gate{Cancel: true, Reason: "StateChanged", Say: fmt.Sprintf("Git says %s", c.Plan.Spec.State)}
	case c.Plan.Spec.Cutover.AttemptOrDefault() != run.Spec.Attempt:
		return Gate{Cancel: true, Reason: "AttemptChanged", Say: "cutover.attempt was raised after this run began"}
	case c.Digest() != run.Spec.Digest:
		return Gate{Cancel: true, Reason: "ApprovalOutdated", Say: "the plan or a document that it uses was changed after its approval"}
	}
	if st != nil {
		policies := want.Trust.of(&st.Recorded, c.File())
		if met, tallies := want.Trust.stillApproved(policies, run.Spec.ApprovedBy); !met {
			return Gate{Cancel: true, Reason: reasonUnapproved, Say: lacking(run.Spec.Plan, tallies, nil)}
		}
	}
	if v, waits := lapsed(&PlanInput{Now: now, Closure: c, Status: st}, &spec.Flip{Approval: *run.Spec.ApprovedBy}); waits {
		return Gate{Cancel: true, Reason: v.cond.reason, Say: v.cond.message}
	}
	if v, waits := suspended(&PlanInput{Now: now, Closure: c, Status: st}); waits {
		return Gate{Reason: v.cond.reason, Say: v.cond.message}
	}
	if g, closed := windowGate(&PlanInput{Now: now, Closure: c, Status: st}); closed {
		return g
	}
	return Gate{Open: true}
}

// AcceptAll notes what a newly read state of the branch means for every plan.
// It returns the statuses that changed and the daemon's new status. A
// rewritten branch, or three or more plans and over 20 % gone at once, hold
// everything until `tranship acknowledge`.
func AcceptAll(now time.Time, rec *Recorded, want *Desired) ([]*spec.PlanStatus, *spec.DaemonStatus) {
	d := rec.Daemon
	d.TypeMeta = spec.TypeMeta{APIVersion: spec.APIVersion, Kind: "DaemonStatus"}
	d.Commit, d.Time, d.Problems, d.Documents = want.Commit, metav1.NewTime(now), want.Other, want.Documents
	d.Trust = want.Trust.say(want)
	if d.Hold = holdFor(now, rec, want); d.Hold != nil {
		return nil, &d
	}
	changed := map[string]*spec.PlanStatus{}
	of := func(plan string) *spec.PlanStatus {
		if changed[plan] == nil {
			if old := rec.Plans[plan]; old != nil {
				changed[plan] = copyStatus(old)
			} else {
				changed[plan] = newStatus(plan)
			}
		}
		return changed[plan]
	}
	origin := rec.Daemon.Accepted == ""
	for _, c := range want.Commits {
		for plan, f := range c.Plans {
			Accept(of(plan), f, c.Approval, origin, want.Trust)
		}
		for _, plan := range c.Removed {
			if rec.Plans[plan] != nil || changed[plan] != nil {
				Remove(of(plan))
			}
		}
	}
	for plan := range want.Closures { // nothing may be missed: a plan without a record gets one
		if st := rec.Plans[plan]; (st == nil || origin && st.Recorded.SeenState == "") && changed[plan] == nil {
			p := want.Closures[plan]
			f := PlanFlip{State: p.Plan.Spec.State, Attempt: p.Plan.Spec.Cutover.AttemptOrDefault(), Digest: p.Digest(), Appeared: true, Path: p.File()}
			if origin { // what is there when a ledger begins counts as approved
				f.Was, f.WasPath = f.Digest, f.Path
			}
			Accept(of(plan), f, want.Approval, true, want.Trust)
		}
	}
	for plan := range want.Problems {
		if rec.Plans[plan] == nil && changed[plan] == nil {
			of(plan)
		}
	}
	want.Trust.adopt(want, rec, of)
	settleTip(rec, want, of)
	d.Accepted, d.Acknowledged = want.Commit, "" // an acknowledgement serves once
	names := make([]string, 0, len(changed))
	for plan := range changed {
		names = append(names, plan)
	}
	slices.Sort(names)
	out := make([]*spec.PlanStatus, 0, len(names))
	for _, n := range names {
		out = append(out, changed[n])
	}
	return out, &d
}

// settleTip compares the records with the tip itself: commits that were never
// walked (an acknowledged rewrite) or could not be read must not leave a plan
// that is gone as if it were there, nor a flip that nobody merged.
func settleTip(rec *Recorded, want *Desired, of func(string) *spec.PlanStatus) {
	unwalked := acknowledged(rec, want)
	for plan, st := range rec.Plans {
		c := want.Closures[plan]
		switch {
		case c == nil && want.Problems[plan] == nil && !st.Recorded.Removed && !want.Partial && !spec.Hides(want.Other, plan):
			Remove(of(plan))
		case c != nil && unwalked:
			r := &of(plan).Recorded
			r.SeenState, r.SeenAttempt, r.Flip = c.Plan.Spec.State, c.Plan.Spec.Cutover.AttemptOrDefault(), nil
			if r.Trust != nil {
				note := *r.Trust
				note.Proposal = nil
				r.Trust = &note
			}
		}
	}
}

// acknowledged says that somebody lets a tip be accepted whose commits were not
// all read.
func acknowledged(rec *Recorded, want *Desired) bool {
	return rec.Daemon.Acknowledged != "" && rec.Daemon.Acknowledged == want.Commit && rec.Daemon.Accepted != want.Commit
}

func newStatus(plan string) *spec.PlanStatus {
	return &spec.PlanStatus{TypeMeta: spec.TypeMeta{APIVersion: spec.APIVersion, Kind: spec.KindPlanStatus}, Metadata: spec.Metadata{Name: plan}}
}

func holdFor(now time.Time, rec *Recorded, want *Desired) *spec.Waiting {
	live, accepted := 0, rec.Daemon.Accepted == want.Commit
	for _, st := range rec.Plans {
		if !st.Recorded.Removed {
			live++
		}
	}
	switch {
	case rec.Daemon.Acknowledged == want.Commit:
		return nil
	case want.Rewritten && !accepted:
		return &spec.Waiting{Reason: "HistoryRewritten", Since: metav1.NewTime(now),
			Message: fmt.Sprintf("the accepted commit %.12s is not an ancestor of the branch's tip %.12s: run `tranship acknowledge %s` if that is meant", rec.Daemon.Accepted, want.Commit, want.Commit)}
	case want.NoFolder != "" && live > 0: // commits that removed it would have removed these
		return &spec.Waiting{Reason: "SourcePathMissing", Since: metav1.NewTime(now),
			Message: fmt.Sprintf("there is no folder %q in %.12s, and %d plans are recorded: correct source.path of the daemon's configuration, or run `tranship acknowledge %s` if they are to be removed", want.NoFolder, want.Commit, live, want.Commit)}
	}
	if n, unread := gone(rec, want); n >= 3 && n*5 > live {
		why := ""
		if unread > 0 {
			why = fmt.Sprintf("no commit has removed %d of them, so that it is the daemon's configuration which does not read them any more: correct its shard, source.path or source.ignore, or ", unread)
		}
		return &spec.Waiting{Reason: "ManyPlansRemoved", Since: metav1.NewTime(now),
			Message: fmt.Sprintf("%d of %d plans are gone at once in %.12s: %srun `tranship acknowledge %s` if that is meant", n, live, want.Commit, why, want.Commit)}
	}
	return nil
}

// gone counts the plans that would be removed, and how many of them no commit has
// removed: what is read of the repository has become less.
func gone(rec *Recorded, want *Desired) (n, unread int) {
	missing := func(plan string) bool { return want.Closures[plan] == nil && want.Problems[plan] == nil }
	removed := map[string]bool{}
	for _, c := range want.Commits {
		for _, plan := range c.Removed {
			if rec.Plans[plan] != nil && missing(plan) { // it did not come back since
				removed[plan] = true
			}
		}
	}
	for plan, st := range rec.Plans {
		if !removed[plan] && !st.Recorded.Removed && !want.Partial && missing(plan) && !spec.Hides(want.Other, plan) {
			unread++
		}
	}
	return len(removed) + unread, unread
}

func same(a, b *spec.PlanStatus) bool { return reflect.DeepEqual(a, b) }

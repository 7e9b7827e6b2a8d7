package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// flip serves an accepted change of (state, attempt). It counts only while
// the tip still has that state, attempt and closure digest.
func flip(in *PlanInput) (verdict, bool) {
	f, p := in.Status.Recorded.Flip, &in.Closure.Plan.Spec
	if f == nil {
		return settled(in)
	}
	if p.State != f.To || p.Cutover.AttemptOrDefault() != f.Attempt {
		in.Status.Recorded.Flip = nil // a later commit said something else, and was accepted itself
		return settled(in)
	}
	// A rollback runs on the closure of the cutover that it undoes; only what
	// becomes of the target's writes is taken from here.
	exact := f.To != spec.RolledBack || len(in.Trust.of(&in.Status.Recorded, in.Closure.File())) > 0
	if d := in.Closure.Digest(); d != f.Digest && exact {
		return verdict{drop: true, cond: stalled("ApprovalOutdated", fmt.Sprintf("the plan or a document that it uses was changed after the approval in %.12s: approve what it says now by raising cutover.attempt", f.Approval.Commit))}, true
	}
	return flips[f.To](in, f)
}

// flips answers an accepted flip to a state.
var flips = map[spec.State]func(in *PlanInput, f *spec.Flip) (verdict, bool){
	spec.Staged:     toStaged,
	spec.Migrated:   toMigrated,
	spec.RolledBack: toRolledBack,
	spec.Closed:     toClosed,
}

// settled speaks for a desired state without a pending flip.
func settled(in *PlanInput) (verdict, bool) {
	want, rec := in.Closure.Plan.Spec.State, &in.Status.Recorded
	switch {
	case want == spec.Staged && rec.State == spec.Migrated:
		return refuseStaged(), true
	case want == spec.Migrated && rec.State == spec.Migrated && rec.RollbackFailed:
		return halfBack(in), true
	case want == spec.Migrated && rec.State == spec.Migrated:
		if d := in.Closure.Digest(); rec.Cutover != "" && d != in.Status.CutoverDigest() {
			return verdict{cond: ready("ChangedAfterCutover", "the plan was changed after its cutover; the change has no effect")}, true
		}
		return verdict{cond: ready("Migrated", "the application lives on the target")}, true
	case want == spec.Migrated:
		return verdict{cond: stalled("CutoverNotDone", lastWord(in.Status, "no cutover is running; raise cutover.attempt to try again, or go back to Staged"))}, true
	case want == spec.RolledBack && rec.State == spec.RolledBack:
		return verdict{cond: ready("RolledBack", "the application is back on the source"+stays(in.Status)+cameBack(in))}, true
	case want == spec.RolledBack && rec.State == spec.Migrated:
		return verdict{cond: stalled("RollbackNotDone", lastWord(in.Status, "no rollback is running; raise cutover.attempt to ask for it again"))}, true
	case want == spec.Closed:
		return verdict{cond: stalled("CloseNotDone", lastWord(in.Status, "the plan is not closed; raise cutover.attempt to ask for it again"))}, true
	case want == spec.RolledBack:
		return verdict{cond: stalled("NothingToRollBack", "no finished cutover is recorded; say Staged, or Migrated with a higher cutover.attempt")}, true
	}
	return verdict{}, false
}

// stays names what a rollback could not take back: a moved volume is the same
// on both clusters.
func stays(st *spec.PlanStatus) string {
	var moved []string
	for _, v := range st.Volumes {
		if v.Action == "move" {
			moved = append(moved, v.Namespace+"/"+v.Claim)
		}
	}
	if len(moved) == 0 {
		return ""
	}
	return "; what it wrote on the target stays on the moved volumes " + strings.Join(moved, ", ")
}

// cameBack says what a rollback has copied back, and that another word changes
// nothing about it: by now the source has written to its volumes itself.
func cameBack(in *PlanInput) string {
	say := broughtBack(in.Status.Volumes)
	if say == "" {
		return ""
	}
	if in.Closure.Plan.Spec.Rollback.TargetWrites == "Discard" {
		say += "; rollback.targetWrites: Discard comes after that and changes nothing"
	}
	return fmt.Sprintf("; %s; `tranship kept %s` fetches what is kept", say, in.Plan)
}

// lastWord keeps what a failed run said, so that the sentence people need
// does not vanish with the next look.
func lastWord(st *spec.PlanStatus, otherwise string) string {
	if c := find(st, "Ready"); c != nil && slices.Contains([]string{"CutoverNotDone", "RollbackNotDone", "CloseNotDone", "ApprovalOutdated", "ApprovalLapsed"}, c.Reason) {
		return c.Message
	}
	if st.LastFailure != "" {
		return st.LastFailure + "; " + otherwise
	}
	return otherwise
}

// halfBack: a rollback ended somewhere on its way, so that Migrated is not true
// any more, and only another rollback leads out.
func halfBack(in *PlanInput) verdict {
	return verdict{cond: stalled("RollbackNotDone", lastWord(in.Status, "say RolledBack with a higher cutover.attempt to go on with the rollback"))}
}

func refuseStaged() verdict {
	return verdict{drop: true, cond: stalled("StagedAfterCutover", "the cutover is finished: RolledBack is the word that undoes it (with rollback.targetWrites)")}
}

func toStaged(in *PlanInput, _ *spec.Flip) (verdict, bool) {
	if in.Status.Recorded.State == spec.Migrated {
		return refuseStaged(), true
	}
	in.Status.Recorded.Flip = nil
	if in.Status.Recorded.State == spec.RolledBack {
		in.Status.Recorded.State = spec.Staged
	}
	return verdict{}, false
}

func toMigrated(in *PlanInput, f *spec.Flip) (verdict, bool) {
	p := &in.Closure.Plan.Spec
	if in.Status.Recorded.State == spec.Migrated {
		in.Status.Recorded.Flip = nil
		if in.Status.Recorded.RollbackFailed {
			return halfBack(in), true
		}
		return verdict{cond: ready("Migrated", "the application lives on the target")}, true
	}
	if v, waits := lapsed(in, f); waits {
		return v, true
	}
	if v, waits := mayNotStart(in); waits {
		return v.by(approvalEnd(in, f)), true
	}
	if nb := p.Cutover.NotBefore; nb != nil && in.Now.Before(nb.Time) {
		return verdict{cond: reconciling("NotBefore", "the cutover waits until "+stamp(nb.Time)), wake: nb.Time}.by(approvalEnd(in, f)), true
	}
	if v, waits := heldUp(in, spec.WindowCutover); waits {
		end := approvalEnd(in, f)
		if v.wake.After(end) {
			v.cond = stalled(v.cond.reason, fmt.Sprintf("%s; the approval in %.12s ends before that, at %s: set cutover.notAfter and approve again", v.cond.message, f.Approval.Commit, stamp(end)))
		}
		return v.by(end), true
	}
	o := order(in, spec.RunMigrate, nil)
	o.Commit, o.Approval = f.Approval.Commit, &f.Approval
	return verdict{start: o, cond: reconciling("CuttingOver", "the cutover was approved in "+fmt.Sprintf("%.12s", f.Approval.Commit))}, true
}

// approvalEnd is when an approval lapses.
func approvalEnd(in *PlanInput, f *spec.Flip) time.Time {
	if na := in.Closure.Plan.Spec.Cutover.NotAfter; na != nil {
		return na.Time
	}
	return f.Approval.Time.Add(notAfterDefault)
}

// lapsed refuses an approval that is too old.
func lapsed(in *PlanInput, f *spec.Flip) (verdict, bool) {
	end := approvalEnd(in, f)
	if in.Now.Before(end) {
		return verdict{}, false
	}
	return verdict{drop: true, cond: stalled("ApprovalLapsed", fmt.Sprintf("the approval in %.12s ended at %s: raise cutover.attempt to approve again", f.Approval.Commit, stamp(end)))}, true
}

func toRolledBack(in *PlanInput, f *spec.Flip) (verdict, bool) {
	if in.Status.Recorded.State != spec.Migrated {
		in.Status.Recorded.Flip = nil
		return settled(in)
	}
	if in.Status.Recorded.CutoverPath == "" { // it was adopted: no run did it
		return verdict{cond: stalled("NothingToRollBack", "the cutover was taken as done by `tranship ledger adopt`, so that no record says what it did: put the source back by hand, then close the plan")}, true
	}
	switch in.Closure.Plan.Spec.Rollback.TargetWrites {
	case "":
		return verdict{cond: stalled("TargetWritesRequired", askTargetWrites(in.Status))}, true
	case "CopyBack":
		if why := noCopyBack(in.Status.Volumes); why != "" {
			return verdict{cond: stalled("CopyBackNotPossible", why)}, true
		}
	}
	o := order(in, spec.RunRollback, nil)
	o.Commit, o.Approval = f.Approval.Commit, &f.Approval
	return verdict{start: o, cond: reconciling("RollingBack", "the rollback was approved")}, true
}

// askTargetWrites asks what a rollback does with what was written since the cutover.
// Only a copy back reads the target's volumes: before it nobody knows how much that is.
func askTargetWrites(st *spec.PlanStatus) string {
	since := "the cutover"
	if live := st.Recorded.Live; live != nil {
		since = stamp(live.Time) + ", when the target became live"
	}
	return "say what becomes of data written on the target since " + since + ": rollback.targetWrites: Discard loses it, CopyBack brings it back. How much it is, is not known: CopyBack counts it"
}

func toClosed(in *PlanInput, f *spec.Flip) (verdict, bool) {
	o := order(in, spec.RunClose, nil)
	o.Commit, o.Approval = f.Approval.Commit, &f.Approval
	return verdict{start: o, cond: reconciling("Closing", "the plan is being closed")}, true
}

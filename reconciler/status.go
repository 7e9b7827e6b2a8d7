package reconciler

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// condition is a verdict on a plan in kstatus's terms: exactly one of the
// three kinds holds.
type condition struct {
	kind    string // Ready | Reconciling | Stalled
	reason  string
	message string
}

func ready(reason, message string) *condition { return &condition{"Ready", reason, message} }
func reconciling(reason, message string) *condition {
	return &condition{"Reconciling", reason, message}
}
func stalled(reason, message string) *condition { return &condition{"Stalled", reason, message} }

// summarize writes the kstatus conditions: Ready always, Reconciling and
// Stalled only while they are true.
func summarize(st *spec.PlanStatus, in *PlanInput, c *condition) {
	if c == nil {
		c = ready("Staged", "waiting for the next stage run or for the approval of the cutover")
	}
	status := metav1.ConditionFalse
	if c.kind == "Ready" {
		status = metav1.ConditionTrue
	}
	now := metav1.NewTime(in.Now)
	meta.SetStatusCondition(&st.Conditions, metav1.Condition{Type: "Ready", Status: status, Reason: c.reason, Message: c.message, LastTransitionTime: now})
	for _, t := range []string{"Reconciling", "Stalled"} {
		if t == c.kind {
			meta.SetStatusCondition(&st.Conditions, metav1.Condition{Type: t, Status: metav1.ConditionTrue, Reason: c.reason, Message: c.message, LastTransitionTime: now})
		} else {
			meta.RemoveStatusCondition(&st.Conditions, t)
		}
	}
	if c.kind == "Ready" || in.Open == nil {
		st.WaitsFor = nil
	}
}

func setCondition(st *spec.PlanStatus, c metav1.Condition) {
	meta.SetStatusCondition(&st.Conditions, c)
}

func reasonOf(st *spec.PlanStatus) string {
	if c := find(st, "Ready"); c != nil {
		return c.Reason
	}
	return "new"
}

func find(st *spec.PlanStatus, kind string) *metav1.Condition {
	return meta.FindStatusCondition(st.Conditions, kind)
}

// progress speaks for a running run. The steps are in its record: a status
// that changed with each of them would be a commit a step.
func progress(run *spec.Run) *condition {
	say := "the run " + run.Metadata.Name + " is going on"
	if since := liveSince(run); since != "" {
		say += "; " + since
	}
	return reconciling("Running", say)
}

func copyStatus(st *spec.PlanStatus) *spec.PlanStatus {
	c := *st
	c.Conditions = slices.Clone(st.Conditions)
	c.Missed = slices.Clone(st.Missed)
	c.Recorded.Approvals = slices.Clone(st.Recorded.Approvals)
	c.Recorded.Numbers = maps.Clone(st.Recorded.Numbers)
	return &c
}

// Started notes a run that is about to be recorded. The approval is used up
// with it, for ever.
func Started(st *spec.PlanStatus, run *spec.Run) *spec.PlanStatus {
	c := copyStatus(st)
	r := &c.Recorded
	if r.Numbers == nil {
		r.Numbers = map[spec.RunKind]int{}
	}
	r.Numbers[run.Spec.Kind] = run.Spec.Number
	r.OpenRun = run.Metadata.Name
	if run.Spec.Kind != spec.RunClose {
		c.Covers = coveredBy(&run.Spec.Closure)
	}
	if run.Spec.Kind != spec.RunStage {
		r.Approvals = append(r.Approvals, run.Spec.ApprovedBy.Commit)
		r.Flip = nil
	}
	return c
}

// Ended notes a finished run. path is that of its record; its digest is the
// ledger's to say, which knows what is written.
func Ended(st *spec.PlanStatus, run *spec.Run, path string) *spec.PlanStatus {
	c := copyStatus(st)
	r, ok := &c.Recorded, run.Status.Phase == spec.RunSucceeded
	r.OpenRun, r.LastRun, r.LastRunPath, r.LastDigest = "", run.Metadata.Name, path, ""
	c.WaitsFor = nil
	c.Volumes = run.Facts.Volumes
	c.LastFailure = ""
	noteVerifyErrors(c, run)
	if !ok {
		c.LastFailure = fmt.Sprintf("%s %s: %s: %s", run.Metadata.Name, run.Status.Phase, run.Status.Reason, run.Status.Message)
	}
	switch run.Spec.Kind {
	case spec.RunStage:
		c.LastStage = stageNote(run)
		if run.Facts.Estimate != nil {
			c.Estimate = run.Facts.Estimate
		}
	case spec.RunMigrate:
		r.CutoverFailed = !ok
		if ok {
			r.State, r.Cutover, r.CutoverPath = spec.Migrated, run.Metadata.Name, path
			r.LastBackPath, r.SourceWritten, r.Live = "", false, nil
			for _, t := range wentLive(run) {
				r.Live = &metav1.Time{Time: t.Time.Time}
			}
			c.Migrated = run.Spec.Digest
		}
	case spec.RunRollback:
		r.RollbackFailed = !ok && !returned(run)
		r.LastBackPath, r.SourceWritten = path, r.SourceWritten || wroteSource(run)
		if ok {
			r.State, r.Cutover, r.CutoverPath, r.LastBackPath, r.SourceWritten, r.Live = spec.RolledBack, "", "", "", false, nil
		}
	case spec.RunClose:
		if ok {
			r.State = spec.Closed
		}
	}
	return c
}

// verifyErrors is the condition of a plan with a copy that differs.
const verifyErrors = "VerifyErrors"

// noteVerifyErrors says for as long as it is so that a copy differs from its source.
func noteVerifyErrors(st *spec.PlanStatus, run *spec.Run) {
	meta.RemoveStatusCondition(&st.Conditions, verifyErrors)
	for _, v := range st.Volumes {
		if p := v.Verified; p != nil && p.Errors > 0 {
			setCondition(st, metav1.Condition{Type: verifyErrors, Status: metav1.ConditionTrue, Reason: "CopyDiffers", LastTransitionTime: metav1.NewTime(run.Status.Ended.Time),
				Message: fmt.Sprintf("volume %s/%s, run %s: %s", v.Namespace, v.Claim, p.Run, differs(p))})
			return
		}
	}
}

func stageNote(run *spec.Run) *spec.StageNote {
	n := &spec.StageNote{Run: run.Metadata.Name, Ended: metav1.NewTime(run.Status.Ended.Time), Result: run.Status.Phase}
	n.Seconds = run.Status.Ended.Sub(run.Status.Started.Time).Seconds()
	for _, v := range run.Facts.Volumes {
		n.ChangedBytes += v.ChangedBytes
	}
	return n
}

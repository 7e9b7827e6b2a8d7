package reconciler

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of instants in Facts.Times.
const (
	TimeStop    = "stop"    // the first workload of the source is told to stop
	TimeDrained = "drained" // the last pod of the source is gone
	TimeStart   = "start"   // the first workload of the target is told to start
	TimeHealthy = "healthy" // every workload of the target is ready
)

// finish sums the run up.
func finish(defs []StepDef, in Input) Decision {
	run := clone(in.Run)
	now := metav1.NewMicroTime(in.Now)
	run.Status.Ended = &now
	failed, warnings := firstFailure(defs, run)
	st := &run.Status
	if run.Spec.Kind == spec.RunMigrate && !failing(defs, run) && !run.Spec.Closure.Plan.Spec.Cutover.QuiesceOrDefault() {
		warnings = append(warnings, notStopped(run))
	}
	st.Warnings = warnings
	switch back := failing(defs, run); {
	case back && st.Cancel != "":
		st.Phase, st.Reason, st.Message = spec.RunCanceled, "Canceled", st.Cancel
	case back:
		st.Phase, st.Reason, st.Message = spec.RunFailed, failed.Reason, fmt.Sprintf("step %s: %s", failed.Name, failed.Message)
		if run.Spec.Kind == spec.RunRollback && returned(run) {
			st.Message += "; the application runs on the target as before"
		}
	case len(warnings) > 0:
		st.Phase, st.Reason, st.Message = spec.RunSucceeded, "SucceededWithWarnings", "see the warnings"
	default:
		st.Phase, st.Reason, st.Message = spec.RunSucceeded, "Succeeded", ""
	}
	if run.Spec.Kind == spec.RunMigrate && st.Phase == spec.RunSucceeded {
		st.Reason = "Migrated"
		if len(warnings) > 0 {
			st.Reason = "MigratedWithWarnings"
		}
		st.StopSeconds, st.OwnSeconds = stopTime(run.Facts.Times)
		run.Facts.Estimate = judged(run.Facts.Estimate, st.StopSeconds)
	}
	if run.Spec.Kind == spec.RunRollback && st.Phase == spec.RunSucceeded {
		if say := broughtBack(run.Facts.Volumes); say != "" && run.Spec.Closure.Plan.Spec.Rollback.TargetWrites == "CopyBack" {
			st.Message, st.StopSeconds = say+"; "+liveSince(run), downTime(run)
		} else if since := liveSince(run); since != "" && run.Spec.Closure.Plan.Spec.Rollback.TargetWrites == "Discard" {
			st.Message = since + "; what was written there is not on the source"
		}
	}
	return Decision{Kind: Finish, Run: run}
}

// notStopped says what cutover.quiesce: false means for the data.
func notStopped(run *spec.Run) string {
	return fmt.Sprintf("the application was not stopped (cutover.quiesce: false): it still runs on cluster %s, what it wrote since the last copy began is not on cluster %s, and files that it changed meanwhile may be there half written",
		run.Spec.Closure.Source.Metadata.Name, run.Spec.Closure.Target.Metadata.Name)
}

// judged is an estimate with its error, where the application was stopped.
func judged(e *spec.Estimate, stop float64) *spec.Estimate {
	if e == nil || stop == 0 {
		return e
	}
	c, off := *e, stop-e.StopSeconds
	c.ErrorSeconds = &off
	return &c
}

// firstFailure is the step that turned the run round, and what went wrong
// without turning it round.
func firstFailure(defs []StepDef, run *spec.Run) (spec.Step, []string) {
	var first spec.Step
	var warnings []string
	turned := failing(defs, run)
	for i, s := range run.Steps {
		// An undone step keeps the reason of its failure.
		bad := s.Reason != "" && s.Ended != nil && s.State != spec.StepDone
		if bad && first.Name == "" && !defs[i].Soft {
			first = s
		}
		if s.State == spec.StepFailed && (defs[i].Soft || !turned) {
			warnings = append(warnings, fmt.Sprintf("step %s: %s: %s", s.Name, s.Reason, s.Message))
		}
		if s.State == spec.StepDone && incomplete[s.Reason] { // of a rollback, whose steps are undos
			warnings = append(warnings, fmt.Sprintf("step %s: %s: %s", s.Name, s.Reason, s.Message))
		}
		if s.State == spec.StepUndone && incomplete[s.Undid.Reason] {
			warnings = append(warnings, fmt.Sprintf("the undo of step %s: %s", s.Name, s.Undid.Message))
		}
		if s.State == spec.StepUndoFail {
			warnings = append(warnings, fmt.Sprintf("the undo of step %s: %s: %s", s.Name, s.Undid.Reason, s.Undid.Message))
		}
	}
	for _, v := range run.Facts.Volumes {
		for _, w := range v.Warnings {
			warnings = append(warnings, fmt.Sprintf("volume %s/%s: %s", v.Namespace, v.Claim, w))
		}
		if p := v.Verified; p != nil && p.Errors > 0 && p.Run == run.Metadata.Name {
			warnings = append(warnings, fmt.Sprintf("volume %s/%s: %s", v.Namespace, v.Claim, differs(p)))
		}
	}
	return first, warnings
}

// differs tells what a verification has found.
func differs(p *spec.Verified) string {
	return fmt.Sprintf("the copy was read back and differs from snapshot %s in %d entries, the first: %s", p.Snapshot, p.Errors, strings.Join(p.First[:min(1, len(p.First))], ""))
}

// stopTime is how long the application was down, and the part of it that the
// application itself took to stop and to start, in seconds.
func stopTime(times []spec.NamedTime) (stop, own float64) {
	at := map[string]metav1.MicroTime{}
	for _, t := range times {
		at[t.Name] = t.Time
	}
	span := func(from, to string) float64 {
		a, b := at[from], at[to]
		if a.IsZero() || b.IsZero() || b.Before(&a) {
			return 0
		}
		return b.Sub(a.Time).Seconds()
	}
	return span(TimeStop, TimeHealthy), span(TimeStop, TimeDrained) + span(TimeStart, TimeHealthy)
}

// mergeFacts replaces each field of into that from sets, and says whether
// anything changed.
func mergeFacts(into *spec.Facts, from *spec.Facts) bool {
	if from == nil {
		return false
	}
	changed := false
	a, b := reflect.ValueOf(into).Elem(), reflect.ValueOf(from).Elem()
	for i := 0; i < b.NumField(); i++ {
		if !b.Field(i).IsZero() && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			a.Field(i).Set(b.Field(i))
			changed = true
		}
	}
	return changed
}

// clone copies a run so that a decision never changes its input. Facts are
// replaced as wholes, hence shared.
func clone(r *spec.Run) *spec.Run {
	c := *r
	c.Steps = append([]spec.Step(nil), r.Steps...)
	c.Status.Warnings = append([]string(nil), r.Status.Warnings...)
	return &c
}

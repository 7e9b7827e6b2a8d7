package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// TimeLive in Facts.Times of a rollback is when the target went live.
const TimeLive = "live"

// Names of steps of a rollback that others go by.
const (
	StepLastUploadTarget = "last-upload-target"
	StepWriteSource      = "write-source"
)

// ReasonWorkloadMissing says that a workload that is to be started is not there. The
// restart on the target that a failed copy back does goes on without it.
const ReasonWorkloadMissing = "WorkloadMissing"

// What an undo has given up about custom resources and pods without a controller, so
// that the rest of the application runs (ADR 20, 39).
const (
	ReasonNotPutBack       = "NotPutBack"       // on the source it is not as it was
	ReasonOperandsNotReady = "OperandsNotReady" // pods below it are missing on the source
	ReasonKeptObjectGone   = "KeptObjectGone"   // what it was is lost
	ReasonNotRemoved       = "NotRemoved"       // it is still on the target, and nothing of it runs there
	ReasonMadeAgain        = "MadeAgain"        // a pod that the stop has deleted was made by somebody else, and is left so
	ReasonPodNotReady      = "PodNotReady"      // a pod was put back, and is not ready as it was
)

// incomplete are reasons with which a step or an undo ends well, and has not done
// everything.
var incomplete = map[string]bool{ReasonWorkloadMissing: true, ReasonNotPutBack: true, ReasonOperandsNotReady: true, ReasonKeptObjectGone: true, ReasonNotRemoved: true,
	ReasonMadeAgain: true, ReasonPodNotReady: true}

// copyBackSteps are what a rollback with targetWrites: CopyBack does beside the
// undo of the cutover (ADR 21). The first ones need no stop; the source is down
// since the cutover, so that what it holds does not change.
var copyBackSteps = []StepDef{
	{Name: "keep-source", Verb: "mover.keep-source", Undo: "mover.stop-upload", UndoBefore: true, UndoLate: true, Timeout: copying, Retries: 2,
		Help: "Takes a snapshot of what the source's claims hold, so that it can be had again."},
	{Name: "upload-target", Verb: "mover.upload-target", Undo: "mover.stop-restore", UndoBefore: true, UndoTarget: true, Timeout: copying, Retries: 2,
		Help: "Copies the target's volumes into the repository while the application still runs there."},
}

// copyBackAfterStop comes when the target is proven stopped, and before
// anything else is undone. A failure starts the target again.
var copyBackAfterStop = []StepDef{
	{Name: StepLastUploadTarget, Verb: "mover.upload-target", Undo: "mover.stop-restore", UndoBefore: true, UndoTarget: true, Timeout: copying, Retries: 2,
		Help: "Copies the last changes of the application that was stopped on the target."},
	{Name: StepWriteSource, Verb: "mover.write-source", Undo: "mover.stop-upload", UndoBefore: true, UndoLate: true, Push: true, PushTimeout: outage, Timeout: copying, Retries: 2,
		Help: "Writes what differs into the source's claims, marked until they hold it completely."},
}

// putSourceBack ends a copy back that failed half way. A rollback that discards
// begins with it, whatever is on record of earlier ones: the claims themselves say
// whether there is anything to do, and the target still runs if it cannot be done.
var putSourceBack = StepDef{Name: "put-source-back", Verb: "mover.put-source-back", Undo: "mover.stop-upload", UndoBefore: true, UndoLate: true, Timeout: copying, Retries: undoAttempts,
	Help: "Gives claims of the source that a copy back has left half written what they held before it."}

// copiesBack says that the rollback brings back what the target's volumes hold.
func copiesBack(o *Order) bool {
	return o.Closure.Plan.Spec.Rollback.TargetWrites == "CopyBack" && hasCopies(o.Undoes.Facts.Volumes)
}

// hasCopies says that at least one volume is copied.
func hasCopies(volumes []spec.Volume) bool {
	return slices.ContainsFunc(volumes, func(v spec.Volume) bool { return v.Action == "copy" })
}

// overwritten says that a copy back has failed and may have left a claim of the
// source with something else than at the cutover, which still stands. The volumes
// alone do not say it: the source may have gone away with the first claim marked.
func overwritten(o *Order, st *spec.PlanStatus) bool {
	return o.Kind == spec.RunClose && o.Undoes != nil && (st.Recorded.SourceWritten || slices.ContainsFunc(o.Volumes, func(v spec.Volume) bool {
		return v.Back != nil && v.Back.Cutover == o.Undoes.Metadata.Name && v.Back.Mark != spec.MarkNone
	}))
}

// wroteSource says that a rollback has begun to write into the source's claims.
func wroteSource(run *spec.Run) bool {
	return slices.ContainsFunc(run.Steps, func(s spec.Step) bool { return s.Name == StepWriteSource && s.Started != nil })
}

// copiedBack says that a run was to take a cutover back, and to copy back.
func copiedBack(run, cutover *spec.Run) bool {
	return run.Spec.Kind == spec.RunRollback && run.Spec.Undoes == cutover.Metadata.Name &&
		slices.ContainsFunc(run.Steps, func(s spec.Step) bool { return s.Name == StepWriteSource || s.Name == putSourceBack.Name })
}

// frozenSteps are rows as a run has them.
func frozenSteps(defs ...StepDef) (steps []spec.Step) {
	for _, d := range defs {
		steps = append(steps, spec.Step{Name: d.Name, Verb: d.Verb, Undo: d.Undo})
	}
	return steps
}

// RollbackRows are the steps of a rollback that copies back, of a cutover with
// every step that there is. One that discards has putSourceBack instead.
func RollbackRows() (rows []StepDef) {
	all := &spec.Run{Steps: frozenSteps(migrateSteps...), Facts: spec.Facts{Volumes: []spec.Volume{{Action: "copy"}}}}
	o := Order{Closure: &spec.Closure{}, Undoes: all}
	o.Closure.Plan.Spec.Rollback.TargetWrites = "CopyBack"
	for _, s := range rollbackSteps(&o) {
		rows = append(rows, stepTable(spec.RunRollback)[s.Name])
	}
	return rows
}

// returned says that a rollback failed and took itself back: the application
// runs on the target as before.
func returned(run *spec.Run) bool {
	undone := false
	for _, s := range run.Steps {
		if s.State == spec.StepUndoFail {
			return false
		}
		undone = undone || s.State == spec.StepUndone
	}
	return undone
}

// noCopyBack says why the volumes cannot be copied back, "" when they can.
func noCopyBack(volumes []spec.Volume) string {
	for _, v := range volumes {
		if v.Action == "copy" && v.VolumeMode == corev1.PersistentVolumeBlock {
			return fmt.Sprintf("claim %s/%s is a raw block device, which is not copied back: bring its content back by hand and say rollback.targetWrites: Discard", v.Namespace, v.Claim)
		}
	}
	return ""
}

// broughtBack sums up what a rollback has copied back, "" when it has not.
func broughtBack(volumes []spec.Volume) string {
	var files, bytes, gone int64
	var kept []string
	by := ""
	for _, v := range volumes {
		b := v.Back
		if b == nil || b.Mark != spec.MarkClean || len(b.Kept) == 0 {
			continue
		}
		files, bytes, gone = files+b.ChangedFiles, bytes+b.WrittenBytes, gone+b.DeletedEntries
		if b.Continued {
			by = " by the last try, beside what those before it had written"
		}
		kept = append(kept, fmt.Sprintf("%s of %s/%s", b.Kept[len(b.Kept)-1], v.Namespace, v.Claim))
	}
	if len(kept) == 0 {
		return ""
	}
	return fmt.Sprintf("%d files and %d bytes that were otherwise on the target were written into its volumes, %d entries deleted there%s; what they held before stays in the repository until the plan is closed: snapshot %s",
		files, bytes, gone, by, strings.Join(kept, ", "))
}

// onlyKept are the volumes of a new cutover: of earlier copies back nothing
// counts any more but what is kept.
func onlyKept(volumes []spec.Volume) []spec.Volume {
	volumes = slices.Clone(volumes)
	for i := range volumes {
		if b := volumes[i].Back; b != nil && len(b.Kept) > 0 {
			volumes[i].Back = &spec.CopiedBack{Kept: b.Kept}
		} else {
			volumes[i].Back = nil
		}
	}
	return volumes
}

// liveSince says for people since when the target of a cutover is live.
func liveSince(run *spec.Run) string {
	for _, t := range run.Facts.Times {
		if t.Name == TimeLive && run.Spec.Kind == spec.RunRollback {
			return "the target is live since " + stamp(t.Time.Time)
		}
	}
	return ""
}

// wentLive is the instant at which a cutover gave the target its volumes.
func wentLive(cutover *spec.Run) []spec.NamedTime {
	for _, s := range cutover.Steps {
		if s.Name == "live" && s.Ended != nil {
			return []spec.NamedTime{{Name: TimeLive, Time: *s.Ended}}
		}
	}
	return nil
}

// downTime is how long nothing ran in a rollback, in seconds: from the stop of
// the target until the source was proven healthy.
func downTime(run *spec.Run) float64 {
	var from, to time.Time
	for _, s := range run.Steps {
		if s.Name == undoName("start") && s.Started != nil {
			from = s.Started.Time
		}
		if s.Name == undoName("stop") && s.Ended != nil {
			to = s.Ended.Time
		}
	}
	if from.IsZero() || to.Before(from) {
		return 0
	}
	return to.Sub(from).Seconds()
}

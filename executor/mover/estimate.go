package mover

import (
	"context"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
)

// The estimate of how long a cutover will stop the application:
//
//	stop = fixed + files / walkRate + changed bytes / rate
//
// fixed is what the steps after the stop take when nothing has changed: ending
// the pods, starting the two movers, handing over and starting the target's
// pods. walkRate is how many files a second are found unchanged. rate is what
// this run reached from the first byte read to the last byte written, if it
// moved enough to tell, and plainRate otherwise. The cutover is assumed to find
// as much changed as this run did. A volume of method snapshot is restored
// whole, whatever has changed of it. With PreRestore hooks the objects are
// restored after the stop too, which adds lateRestore.
const (
	fixedSeconds       = 8.0
	lateRestoreSeconds = 5.0
	walkRate           = 20_000.0   // files a second
	plainRate          = 50e6       // bytes a second
	tellingBytes       = 32_000_000 // below it a run's time is mostly overhead
	overheadSeconds    = 4.0        // of an upload and a restore together
	// movementSeconds is what Velero takes for a small volume of method snapshot,
	// into the repository and out of it; its node agents take one after the other.
	movementSeconds = 25.0
)

// thinkEstimate only reads the run.
func thinkEstimate(_ context.Context, e *kube.Env) (thought, error) {
	est := estimate(e.Run)
	return thought{seen: succeeded(&spec.Facts{Estimate: &est}, "the cutover is expected to stop the application for %.0f seconds", est.StopSeconds)}, nil
}

func estimate(r *spec.Run) spec.Estimate {
	var files, changed int64
	for i := range r.Facts.Volumes {
		v := &r.Facts.Volumes[i]
		if copied(v) {
			files, changed = files+v.Files, changed+v.ChangedBytes
		}
	}
	stop := fixedSeconds + float64(files)/walkRate + float64(changed)/rate(r, changed) + movementTime(r.Facts.Volumes)
	for _, h := range r.Spec.Closure.Plan.Spec.Hooks {
		if h.Phase == spec.PreRestore {
			return spec.Estimate{StopSeconds: stop + lateRestoreSeconds, ChangedBytes: changed}
		}
	}
	return spec.Estimate{StopSeconds: stop, ChangedBytes: changed}
}

// movementTime is what the volumes of method snapshot take.
func movementTime(volumes []spec.Volume) (seconds float64) {
	for i := range volumes {
		if v := &volumes[i]; snapshotted(v) {
			seconds += movementSeconds + float64(v.Bytes)/plainRate
		}
	}
	return seconds
}

// rate is bytes a second through upload and restore of this run.
func rate(r *spec.Run, changed int64) float64 {
	var took time.Duration
	for _, s := range r.Steps {
		if (s.Verb == "mover.upload" || s.Verb == "mover.direct" || s.Verb == "mover.restore") && s.Started != nil && s.Ended != nil {
			took += s.Ended.Sub(s.Started.Time)
		}
	}
	if changed < tellingBytes || took.Seconds() <= overheadSeconds {
		return plainRate
	}
	return float64(changed) / (took.Seconds() - overheadSeconds)
}

package mover

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// reasonVerifyErrors is given when a copy differs from what was read on the source.
const reasonVerifyErrors = "VerifyErrors"

// verification is how much of a copy this step reads back (F-061). A stage run
// reads back what it has written. A cutover reads everything back once, while
// the application still runs; the last restore adds what it writes itself, so
// that the stop is not longer for it than it must be.
func (r *restoreView) verification(w *writing) engine.Verify {
	switch {
	case !verified(r.e.Plan(), w.v):
		return engine.VerifyNothing
	case r.e.Run.Spec.Kind == spec.RunStage, r.proven(w):
		return engine.VerifyChanged
	}
	return engine.VerifyAll
}

// proven says that this run has read back all that the claim holds now.
func (r *restoreView) proven(w *writing) bool {
	p := w.v.Verified
	return p != nil && p.Run == r.e.Run.Metadata.Name && p.Complete && p.Errors == 0 && w.mark.holds(p.Snapshot)
}

// note keeps what a finished Job has found. Only what was proven before is
// verified in part in a cutover: together that is everything.
func (r *restoreView) note(w *writing, vr engine.VolumeResult) {
	if vr.Verified == nil {
		return
	}
	found := &spec.Verified{
		Run: r.e.Run.Metadata.Name, Snapshot: vr.Snapshot,
		Complete: vr.Verified.Complete || r.e.Run.Spec.Kind != spec.RunStage,
		Files:    vr.Verified.Files, Bytes: vr.Verified.Bytes, Errors: vr.Verified.Errors, First: vr.Verified.First,
	}
	if p := w.v.Verified; p != nil && p.Run == found.Run && p.Complete && p.Errors == 0 && !vr.Verified.Complete {
		if p.Snapshot == vr.Snapshot {
			return // noted at an earlier look
		}
		found.Files, found.Bytes = found.Files+p.Files, found.Bytes+p.Bytes
	}
	w.v.Verified = found
}

// tolerated says that the step goes on with a copy that differs.
func (r *restoreView) tolerated(v *spec.Volume) bool {
	plan := r.e.Plan()
	return cmp.Or(overrideOf(plan, v.Namespace, v.Claim).OnVerifyError, plan.Volumes.Defaults.OnVerifyError) == "Warn"
}

// refuted says that what the Job wrote differs and must not be relied on: the
// claim stays marked as being written, and another attempt compares it all.
func (r *restoreView) refuted(w *writing, vr engine.VolumeResult) bool {
	return vr.Verified != nil && vr.Verified.Errors > 0 && !r.tolerated(w.v)
}

// differs tells of the first claim of a group whose copy was refuted.
func (r *restoreView) differs(g *writeGroup, written map[string]engine.VolumeResult) *reconciler.Observation {
	for _, w := range g.writes {
		vr, ok := written[key(w.v)]
		if !ok || !r.refuted(w, vr) {
			continue
		}
		o := broken(false, reasonVerifyErrors, claimAt(w.claim), "claim %s/%s of cluster %s was read back and differs from snapshot %s of %s in %d entries, the first: %s; another attempt compares every file and writes what differs; if it fails too, look at the storage of volume %s",
			w.claim.Namespace, w.claim.Name, r.e.Target.Name, vr.Snapshot, key(w.v), vr.Verified.Errors, strings.Join(vr.Verified.First[:min(3, len(vr.Verified.First))], "; "), w.claim.Spec.VolumeName)
		return &o
	}
	return nil
}

// verifiedLine is what the log says of a verification.
func verifiedLine(v *engine.Verified) string {
	return fmt.Sprintf("  verified: %d files, %d bytes read back in %d ms, %d differ", v.Files, v.Bytes, v.DurationMS, v.Errors)
}

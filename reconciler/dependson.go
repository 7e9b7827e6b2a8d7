package reconciler

import (
	"fmt"

	"github.com/tranship/tranship/spec"
)

// Dependency is a plan that another one names in dependsOn.
type Dependency struct {
	Plan   string
	Status *spec.PlanStatus // nil: nothing is recorded of it
	Open   *spec.Run        // that is going on
	// Stages: its documents ask for stage runs.
	Stages bool
}

// arrived: the application lives on the target, and nothing is about to take
// it back. A plan that was closed after its cutover has arrived for ever.
func (d *Dependency) arrived() bool {
	if d.Status == nil {
		return false
	}
	r := &d.Status.Recorded
	if r.State == spec.Closed {
		return r.Cutover != ""
	}
	back := d.Open != nil && d.Open.Spec.Kind == spec.RunRollback || r.Flip != nil && r.Flip.To == spec.RolledBack
	return r.State == spec.Migrated && !r.RollbackFailed && !back
}

// copied: a stage run has brought its volumes over once, or it has none to wait for.
func (d *Dependency) copied() bool {
	if !d.Stages || d.arrived() {
		return true
	}
	st := d.Status
	return st != nil && st.LastStage != nil && (st.LastStage.Result == spec.RunSucceeded || st.Estimate != nil)
}

// dependsOn holds a cutover until every plan that it names is migrated, and a
// stage run until each of them was staged once: what is copied ahead of time
// needs nothing on the target, but the order of first copies is the user's. The
// reason changes with the records of those plans only.
func dependsOn(in *PlanInput, what string) (verdict, bool) {
	for i := range in.Depends {
		d := &in.Depends[i]
		done, need := d.arrived(), "Migrated"
		if what == spec.WindowStage {
			done, need = d.copied(), "staged once"
		}
		if done {
			continue
		}
		wait := fmt.Sprintf("%s waits for plan %s (dependsOn)", activity[what], d.Plan)
		switch {
		case d.Status == nil:
			return verdict{cond: reconciling(reasonDependsOn, wait+", of which nothing is recorded yet")}, true
		case d.Status.Recorded.State == spec.Closed:
			return verdict{cond: stalled(reasonDependsOn, wait+", which was closed without a cutover and will never be "+need+": remove the reference")}, true
		}
		return verdict{cond: reconciling(reasonDependsOn, wait+" until it is "+need+"; it is "+whereItIs(d))}, true
	}
	return verdict{}, false
}

const reasonDependsOn = "DependsOn"

// whereItIs says how far a plan is, for the people who wait for it.
func whereItIs(d *Dependency) string {
	r := &d.Status.Recorded
	switch {
	case d.Open != nil:
		return "in its run " + d.Open.Metadata.Name
	case r.RollbackFailed:
		return "half rolled back"
	case r.Removed:
		return "removed from Git"
	case r.State == "":
		return string(spec.Staged)
	}
	return string(r.State)
}

// heldUp asks what may keep a stage run or a cutover that is wanted now from
// starting: other plans and windows.
func heldUp(in *PlanInput, what string) (verdict, bool) {
	if v, held := dependsOn(in, what); held {
		return v, true
	}
	return outside(in, what)
}

package kube

import (
	"time"

	"github.com/tranship/tranship/spec"
)

// TargetPatience is how long an undo waits for a target that was never live. A
// short outage is not worth leaving something there.
const TargetPatience = time.Minute

// TargetDispensable says that an undo may do without the target's answer, so
// that the source can be started: nothing that we made there was ever to run, or
// somebody has said that the target is gone for good.
func (e *Env) TargetDispensable() bool {
	if e.Run.Status.TargetDead != "" {
		return e.Undo || e.Run.Spec.Kind == spec.RunRollback
	}
	u := e.Step.Undid
	return !e.Begun("mover.live") && u != nil && u.Started != nil && (e.Step.Attempt > 1 || time.Since(u.Started.Time) > TargetPatience)
}

// Begun says that a step with that verb may have had its effect; a rollback is
// of a cutover that did everything.
func (e *Env) Begun(verb string) bool {
	if e.Run.Spec.Kind == spec.RunRollback {
		return true
	}
	for _, s := range e.Run.Steps {
		if s.Verb == verb && s.Started != nil {
			return true
		}
	}
	return false
}

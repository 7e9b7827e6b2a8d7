// Package workload holds the verbs that stop and start applications: keep
// the volumes, scale to zero on the source, prove that nothing uses a claim
// any more, start on the target, prove health, and put everything back.
//
// It covers the kinds of the table in kinds.go. What a verb changes it
// remembers on the object itself, in the same patch, so that it can be put
// back even when journal and ledger are lost.
package workload

import (
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
)

// FieldManager is the name under which workloads and volumes are patched.
const FieldManager = "tranship"

// Annotations that carry the instants of a stop and of a start.
const (
	AnnotationStoppedAt = "tranship.dev/stopped-at"
	AnnotationStartedAt = "tranship.dev/started-at"
)

// poll is how long a Look may rest when no watch wakes it.
const poll = 5 * time.Second

// Verbs returns the registry of this package.
func Verbs() map[string]kube.Verb {
	source, target := []spec.Side{spec.Source}, []spec.Side{spec.Target}
	return map[string]kube.Verb{
		"workload.retain":        {Look: lookRetain, Ensure: ensureRetain, Needs: source},
		"workload.retain-undo":   {Look: lookRetainUndo, Ensure: ensureRetainUndo, Needs: source},
		"workload.stop":          {Look: lookStop, Ensure: ensureStop, Needs: source},
		"workload.start-source":  {Look: lookStartSource, Ensure: ensureStartSource, Needs: source},
		"workload.drained":       {Look: lookDrained, Needs: source},
		"workload.still-stopped": {Look: lookStillStopped, Needs: source},
		"workload.start":         {Look: lookStart, Ensure: ensureStart, Needs: target},
		"workload.stop-target":   {Look: lookStopTarget, Ensure: ensureStopTarget, Needs: target},
		"workload.health":        {Look: lookHealth, Needs: target},
	}
}

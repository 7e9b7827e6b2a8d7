package executor

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/preflight"
	"github.com/tranship/tranship/spec"
)

// Inspection is what the clusters say of a plan before anything is done.
type Inspection struct {
	Findings []preflight.Finding // of the preflight, as the run would have them
	// Volumes and Counts are nil where the findings make the question meaningless.
	Volumes []spec.Volume
	Counts  []spec.Count // of the objects on the source, by kind
	Scope   *spec.Scope
}

// Inspect asks both clusters all that a run would ask before it begins, taking
// over what recorded knows of the volumes. It changes nothing. A cluster that
// cannot be used is a finding.
func (x *Executor) Inspect(ctx context.Context, closure *spec.Closure, recorded []spec.Volume) (Inspection, error) {
	e, err := x.env(ctx, question(closure, recorded), kube.Verb{})
	if a, ok := kube.IsAccessError(err); ok {
		return Inspection{Findings: []preflight.Finding{{Reason: a.Reason, Message: a.Message}}}, nil
	}
	if err != nil {
		return Inspection{}, err
	}
	all, err := preflight.Inspect(ctx, e)
	if err != nil {
		return Inspection{}, fmt.Errorf("the clusters of plan %s cannot be asked: %w", e.Run.Spec.Plan, err)
	}
	out := Inspection{Findings: all.Findings}
	if all.Volumes != nil {
		out.Volumes = all.Volumes.Volumes
		out.Counts = kube.CountSource(all.Covered, out.Volumes)
		out.Scope = spec.NewScope(out.Volumes, kube.Names(all.Covered))
	}
	return out, nil
}

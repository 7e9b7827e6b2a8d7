package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/tranship/tranship/spec"
)

// Labels and annotations of everything that Tranship makes or changes.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedBy      = "tranship"
	LabelPlan      = "tranship.dev/plan" // the short name
	LabelRun       = "tranship.dev/run"
	LabelStep      = "tranship.dev/step"
	LabelAttempt   = "tranship.dev/attempt"
	LabelUndoes    = "tranship.dev/undoes" // of a Job: the place in the plan of the hook that it takes back

	AnnotationPlan     = "tranship.dev/plan-name" // in full
	AnnotationEpoch    = "tranship.dev/epoch"
	AnnotationMark     = "tranship.dev/mark"     // of a claim, see spec.Mark
	AnnotationHeld     = "tranship.dev/held"     // snapshot that a claim holds
	AnnotationKept     = "tranship.dev/kept"     // of a source claim that a copy back overwrites: "<cutover> <snapshot of what it held>"
	AnnotationNudged   = "tranship.dev/nudged"   // of a claim: the version of its volume at which its binding was asked for again
	AnnotationPrevious = "tranship.dev/previous" // JSON of what we changed, to put it back
	AnnotationRun      = "tranship.dev/changed-by"
	AnnotationByHand   = "tranship.dev/done-by-hand" // of a Job that undoes a hook: who says that it was done by hand, and why
	AnnotationMoved    = "tranship.dev/moved-to"     // of a source volume: "<cluster>/<volume>" that uses its storage
)

// Short is a plan's name cut to what fits in labels, paths and object names:
// up to 40 characters and 10 hex digits of its SHA-256.
func Short(plan string) string { return spec.ShortName(plan) }

// Labels of an object that belongs to the call.
func (e *Env) Labels() map[string]string {
	return map[string]string{
		LabelManagedBy: ManagedBy,
		LabelPlan:      Short(e.Run.Spec.Plan),
		LabelRun:       e.RunLabel(),
		LabelStep:      e.Step.Name,
		LabelAttempt:   strconv.Itoa(e.Step.Attempt),
	}
}

// RunLabel is the run's name as a label value (63 characters at most).
func (e *Env) RunLabel() string {
	return fmt.Sprintf("%s-%s-%d", Short(e.Run.Spec.Plan), e.Run.Spec.Kind, e.Run.Spec.Number)
}

// Origin is the label of the run whose effects are at hand: this run, or the
// cutover that a rollback takes back.
func (e *Env) Origin() string {
	undoes, plan := e.Run.Spec.Undoes, e.Run.Spec.Plan
	if undoes == "" {
		return e.RunLabel()
	}
	return Short(plan) + strings.TrimPrefix(undoes, plan)
}

// ObjectName is the deterministic name of the object that this call makes,
// one a suffix: the same run, step and attempt always give the same name, so
// AlreadyExists means that it is ours. It never exceeds 63 characters.
func (e *Env) ObjectName(suffix string) string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%s/%s/%d/%s/%d/%s", e.Run.Spec.Plan, e.Run.Spec.Kind, e.Run.Spec.Number, e.Step.Name, e.Step.Attempt, suffix)))
	plan := Short(e.Run.Spec.Plan)
	if len(plan) > 20 {
		plan = plan[:20]
	}
	return fmt.Sprintf("tr-%s-%s-%d-%s", plan, e.Run.Spec.Kind, e.Run.Spec.Number, hex.EncodeToString(sum[:5]))
}

// PlanObjectName is the deterministic name of an object that belongs to the
// plan as a whole and outlives its runs, such as a backup location.
func (e *Env) PlanObjectName(suffix string) string {
	sum := sha256.Sum256([]byte(e.Run.Spec.Plan + "/" + suffix))
	plan := Short(e.Run.Spec.Plan)
	if len(plan) > 30 {
		plan = plan[:30]
	}
	return fmt.Sprintf("tr-%s-%s", plan, hex.EncodeToString(sum[:5]))
}

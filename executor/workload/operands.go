package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// operandGrace is how long what hangs below a custom resource may take, after the
// hook that stops it and before the step fails, until it begins to end.
const operandGrace = time.Minute

// operands are verdicts on the pods of the source that hang below custom resources
// of the plan: a PreBackup hook is to have stopped them, and here it is proven
// that it has. One that is not ending after the grace will not end by waiting.
func operands(ctx context.Context, e *kube.Env, grace time.Duration) ([]verdict, error) {
	var roots []spec.Object
	for _, c := range e.Run.Facts.Custom {
		if !kube.IsPod(c.Object) {
			roots = append(roots, c.Object)
		}
	}
	pods, err := kube.Below(ctx, e.Source, e.Namespaces(spec.Source), roots)
	if err != nil {
		return nil, err
	}
	late := e.Step.Started == nil || time.Since(e.Step.Started.Time) > grace
	var found []verdict
	for _, c := range e.Run.Facts.Custom {
		below := pods[types.UID(c.UID)]
		for n := range below {
			found = append(found, operandVerdict(kube.Describe(c.Object), &below[n], late))
		}
	}
	for n := range pods[kube.Orphans] {
		found = append(found, operandVerdict("something that is gone, perhaps a custom resource", &pods[kube.Orphans][n], late))
	}
	return found, nil
}

func operandVerdict(root string, p *corev1.Pod, late bool) verdict {
	object := podObject(spec.Source, p)
	what := fmt.Sprintf("%s of %s", kube.Describe(object), root)
	if by := metav1.GetControllerOf(p); by != nil {
		what += fmt.Sprintf(" (made by %s %s)", by.Kind, by.Name)
	}
	switch {
	case p.DeletionTimestamp != nil:
		return verdict{reconciler.Working, "OperandEnds", what + " is ending", object, false}
	case !late:
		return verdict{reconciler.Working, "OperandRuns", what + " still runs; the PreBackup hook is to have stopped it", object, false}
	}
	return verdict{reconciler.Broken, "OperandRuns", what + " runs, though the PreBackup hook is over; let the hook stop it through the custom resource or its operator, and wait until it has gone", object, true}
}

// operandsThere are verdicts on the custom resources of the target below which
// fewer pods are ready than were on the source, and on pods without a controller that
// were ready there.
func operandsThere(ctx context.Context, e *kube.Env) ([]verdict, error) {
	lacking, err := kube.Lacking(ctx, e, e.Target, e.Run.Facts.Custom)
	if err != nil {
		return nil, err
	}
	var found []verdict
	for _, l := range lacking {
		found = append(found, verdict{reconciler.Working, "OperandsNotReady", l.Message, l.Object, false})
	}
	return found, nil
}

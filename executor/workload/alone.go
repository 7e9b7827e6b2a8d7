package workload

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// alone are verdicts on the covered pods without a controller that still run.
// Such a pod cannot be stopped without being deleted, and nothing of the source
// is deleted: preflight lets it pass only where a PreBackup hook is to remove
// it, and here it is proven that the hook has. Its author keeps its manifest;
// Tranship does not make one on the target.
func alone(ctx context.Context, e *kube.Env) ([]verdict, error) {
	if !slices.ContainsFunc(e.Plan().Hooks, kube.MayStop) {
		return nil, nil
	}
	sel, err := e.Selector()
	if err != nil {
		return nil, err
	}
	var found []verdict
	for _, ns := range e.Namespaces(spec.Source) {
		pods, err := e.Source.Kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: sel})
		if err != nil {
			return nil, e.Source.Errorf(err, "list pods in namespace %s", ns)
		}
		for _, p := range pods.Items {
			if done(&p) || p.DeletionTimestamp != nil || metav1.GetControllerOf(&p) != nil || kube.Ours(&p) {
				continue
			}
			object := podObject(spec.Source, &p)
			found = append(found, verdict{reconciler.Broken, "PodStillRuns", fmt.Sprintf(
				"%s has no controller, and no PreBackup hook has removed it; nothing of the source is deleted, so let the hook do it, or leave the pod out with spec.labelSelector", kube.Describe(object)), object, true})
		}
	}
	return found, nil
}

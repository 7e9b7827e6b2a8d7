package hook

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// found is a hook's Job of the plan, wherever one may be.
type found struct {
	on  *kube.Cluster
	job *batchv1.Job
}

// every lists the Jobs in the places of those of the plan's hooks, of any run and
// attempt: a daemon that remembers nothing must find them too. Those of a target
// that does not answer are left there where an undo may do without it.
func every(ctx context.Context, e *kube.Env, of func(spec.PlanHook) bool) ([]found, error) {
	var list []found
	seen := map[string]bool{}
	selector := fmt.Sprintf("%s=%s,%s=%s", kube.LabelManagedBy, kube.ManagedBy, kube.LabelPlan, kube.Short(e.Run.Spec.Plan))
	for _, h := range e.Plan().Hooks {
		place := string(h.Side()) + "/" + h.Namespace
		if seen[place] || !of(h) {
			continue
		}
		seen[place] = true
		jobs, err := jobsIn(ctx, e, h, selector)
		if err != nil && h.Side() == spec.Target && e.TargetDispensable() {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range jobs {
			list = append(list, found{e.On(h.Side()), &jobs[i]})
		}
	}
	return list, nil
}

func jobsIn(ctx context.Context, e *kube.Env, h spec.PlanHook, selector string) ([]batchv1.Job, error) {
	c := e.On(h.Side())
	if c == nil {
		return nil, fmt.Errorf("cluster %s does not answer, and Jobs of hooks may be there", e.Run.Spec.Closure.Target.Metadata.Name)
	}
	jobs, err := c.Kube.BatchV1().Jobs(h.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, c.Errorf(err, "list the Jobs of hooks in namespace %s", h.Namespace)
	}
	return jobs.Items, nil
}

// cleanable lists what a clean-up removes: all, but for the Jobs that are left to
// another undo of the run, to which they show that their hook was started.
func cleanable(ctx context.Context, e *kube.Env) ([]found, error) {
	left, err := every(ctx, e, func(spec.PlanHook) bool { return true })
	return slices.DeleteFunc(left, func(f found) bool {
		return e.Undo && slices.ContainsFunc(e.Run.Steps, func(s spec.Step) bool {
			return s.Undo == undoVerb && s.Name == f.job.Labels[kube.LabelStep]
		})
	}), err
}

// lookCleanUp: Succeeded once no Job of a hook, running or finished, is left.
func lookCleanUp(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	left, err := cleanable(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	return lookGone(left), nil
}

func lookGone(left []found) reconciler.Observation {
	o := reconciler.Observation{Seen: reconciler.Succeeded, Message: "no Job of a hook is left"}
	for _, f := range left {
		o = reconciler.Observation{Seen: reconciler.Working, Reason: "HookRemoving", Object: fmt.Sprintf("%s Job %s/%s", f.on.Side, f.job.Namespace, f.job.Name),
			Message: "waiting until the pods of a hook are gone"}
		if f.job.DeletionTimestamp == nil {
			o.Seen, o.Message = reconciler.Absent, "the Job of a hook is to be removed"
			return o
		}
	}
	return o
}

func ensureCleanUp(ctx context.Context, e *kube.Env) error {
	left, err := cleanable(ctx, e)
	if err != nil {
		return err
	}
	return remove(ctx, e, left)
}

func remove(ctx context.Context, e *kube.Env, left []found) error {
	for _, f := range left {
		if f.on.Side == spec.Target { // the verb needs the source alone, whose epoch was asked for
			if err := f.on.Guard(ctx, &e.Settings); err != nil {
				return err
			}
		}
		o := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID(f.job.UID))}, PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}
		err := f.on.Kube.BatchV1().Jobs(f.job.Namespace).Delete(ctx, f.job.Name, o)
		if err != nil && !apierrors.IsNotFound(err) {
			return f.on.Errorf(err, "remove Job %s/%s of a hook", f.job.Namespace, f.job.Name)
		}
	}
	return nil
}

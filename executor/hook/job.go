package hook

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Defaults of a hook's Job; CAM's.
const (
	BackoffLimit   int32 = 6
	ActiveDeadline       = 30 * time.Minute
)

// task is one hook of a plan in one run.
type task struct {
	spec.PlanHook
	index int        // in the plan's list
	hook  *spec.Hook // nil: the closure has none of that name
	undo  bool       // PlanHook.Hook is the one that takes back what the plan's has done
}

// tasks of a phase in the order of the plan.
func tasks(e *kube.Env, phase spec.Phase) []task {
	var list []task
	for n, h := range e.Plan().Hooks {
		if h.Phase != phase || !h.RunsIn(e.Run.Spec.Kind) {
			continue
		}
		list = append(list, newTask(e, n, h))
	}
	return list
}

func newTask(e *kube.Env, n int, h spec.PlanHook) task {
	t := task{PlanHook: h, index: n}
	for m := range e.Run.Spec.Closure.Hooks {
		if e.Run.Spec.Closure.Hooks[m].Metadata.Name == h.Hook {
			t.hook = &e.Run.Spec.Closure.Hooks[m]
		}
	}
	return t
}

func (t task) account() string {
	if t.ServiceAccountName != "" {
		return t.ServiceAccountName
	}
	return "default"
}

// jobName is the same for every look at the same attempt.
func (t task) jobName(e *kube.Env) string {
	suffix := t.Hook + "/" + strconv.Itoa(t.index)
	if t.undo {
		suffix = "undo/" + suffix
	}
	return e.ObjectName(suffix)
}

func (t task) object(e *kube.Env, uid string) spec.Object {
	return spec.Object{Side: t.Side(), APIVersion: "batch/v1", Kind: "Job", Resource: "jobs", Namespace: t.Namespace, Name: t.jobName(e), UID: uid}
}

// job builds the Job of a hook. It has no TTL: the record and the logs are
// read from it, and the run's clean-up removes it.
func (t task) job(e *kube.Env) *batchv1.Job {
	limit, deadline := BackoffLimit, ActiveDeadline
	if t.hook.Spec.BackoffLimit != nil {
		limit = *t.hook.Spec.BackoffLimit
	}
	if d := t.hook.Spec.ActiveDeadline; d != nil {
		deadline = d.Duration
	}
	seconds := max(int64(deadline/time.Second), 1)
	head := metav1.ObjectMeta{
		Labels: e.Labels(),
		Annotations: map[string]string{
			kube.AnnotationPlan:  e.Run.Spec.Plan,
			kube.AnnotationRun:   e.RunLabel(),
			kube.AnnotationEpoch: strconv.FormatInt(e.Settings.Epoch, 10),
		},
	}
	if t.undo {
		head.Labels[kube.LabelUndoes] = strconv.Itoa(t.index)
	}
	job := &batchv1.Job{ObjectMeta: *head.DeepCopy()}
	job.Namespace, job.Name = t.Namespace, t.jobName(e)
	job.Spec = batchv1.JobSpec{
		BackoffLimit:          &limit,
		ActiveDeadlineSeconds: &seconds,
		Template: corev1.PodTemplateSpec{
			ObjectMeta: head,
			Spec: corev1.PodSpec{
				// With Never each try is a pod of its own, whose logs stay.
				RestartPolicy:      corev1.RestartPolicyNever,
				ServiceAccountName: t.account(),
				Containers: []corev1.Container{{
					Name:    "hook",
					Image:   t.hook.Spec.Image,
					Command: t.hook.Spec.Command,
					Args:    t.hook.Spec.Args,
					Env:     t.env(e),
				}},
			},
		},
	}
	return job
}

// env is what CAM's hooks get, and the run and phase besides.
func (t task) env(e *kube.Env) []corev1.EnvVar {
	return []corev1.EnvVar{
		{Name: "MIGRATION_PLAN_NAME", Value: e.Run.Spec.Plan},
		{Name: "MIGRATION_NAMESPACES", Value: strings.Join(e.Namespaces(t.Side()), ",")},
		{Name: "MIGRATION_RUN", Value: e.Run.Metadata.Name},
		{Name: "MIGRATION_PHASE", Value: string(t.Phase)},
	}
}

// refusal is why a hook cannot run at all, "" when it can.
func (t task) refusal() (reason, message string) {
	path := fmt.Sprintf("spec.hooks[%d].hook", t.index)
	if t.undo {
		path = fmt.Sprintf("spec.hooks[%d].undo", t.index)
	}
	switch {
	case t.hook == nil:
		return "HookMissing", fmt.Sprintf("%s: the frozen plan has no Hook %q; merge the document and start a new run", path, t.Hook)
	case t.hook.Spec.Playbook != "":
		return "NotSupported", fmt.Sprintf("%s: Hook %q has spec.playbook, which this version does not run; use an image with a command", path, t.Hook)
	case t.hook.Spec.Image == "":
		return "HookInvalid", fmt.Sprintf("%s: Hook %q has no spec.image", path, t.Hook)
	}
	return "", ""
}

// outcome of a Job by its conditions: all of them are read, in any order.
func outcome(j *batchv1.Job) (done, failed bool, reason, message string) {
	for _, c := range j.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			return true, false, "", ""
		case batchv1.JobFailed:
			return true, true, c.Reason, c.Message
		}
	}
	return false, false, "", ""
}

// failing says whether a Job has failed and only waits for its pods to go:
// the last moment at which their logs can be read.
func failing(j *batchv1.Job) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobFailureTarget && c.Status == corev1.ConditionTrue
	})
}

// endsAt is the Job's deadline; zero before it has started.
func endsAt(j *batchv1.Job) time.Time {
	if j.Status.StartTime == nil || j.Spec.ActiveDeadlineSeconds == nil {
		return time.Time{}
	}
	return j.Status.StartTime.Add(time.Duration(*j.Spec.ActiveDeadlineSeconds) * time.Second)
}

package hook

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/workload"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const poll = 5 * time.Second

var jobsResource = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}

// state is what the cluster has of a phase's hooks.
type state struct {
	tasks []task
	jobs  []*batchv1.Job // beside tasks; nil where there is none
	// next is the task that the phase is at: the newest whose Job exists and
	// has not completed, or the first that comes after; len(tasks) at the end.
	// A Job that is gone counts as completed when a later one exists, for it
	// was made after the earlier had ended.
	next int
}

func read(ctx context.Context, e *kube.Env, phase spec.Phase) (*state, error) {
	s := &state{tasks: tasks(e, phase)}
	s.jobs = make([]*batchv1.Job, len(s.tasks))
	for n, t := range s.tasks {
		c := e.On(t.Side())
		j, err := c.Kube.BatchV1().Jobs(t.Namespace).Get(ctx, t.jobName(e), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, c.Errorf(err, "read Job %s/%s of hook %s", t.Namespace, t.jobName(e), t.Hook)
		}
		s.jobs[n], s.next = j, n
		if done, failed, _, _ := outcome(j); done && !failed {
			s.next = n + 1
		}
	}
	return s, nil
}

// facts adds the phase's Jobs to those that the run knows.
func (s *state) facts(e *kube.Env) *spec.Facts {
	jobs := slices.Clone(e.Run.Facts.Jobs)
	for n, j := range s.jobs {
		if j == nil {
			continue
		}
		o := s.tasks[n].object(e, string(j.UID))
		if !slices.Contains(jobs, o) {
			jobs = append(jobs, o)
		}
	}
	return &spec.Facts{Jobs: jobs}
}

func look(ctx context.Context, e *kube.Env, k *keeper, phase spec.Phase) (reconciler.Observation, error) {
	s, err := read(ctx, e, phase)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if s.next == len(s.tasks) {
		return reconciler.Observation{
			Seen: reconciler.Succeeded, Facts: s.facts(e), Log: s.logs(ctx, e, k),
			Message: fmt.Sprintf("%d hooks of phase %s have completed", len(s.tasks), phase),
		}, nil
	}
	t, j := s.tasks[s.next], s.jobs[s.next]
	if j == nil {
		o, err := lookBefore(ctx, e, t)
		if o.Seen == reconciler.Broken {
			o.Facts, o.Log = s.facts(e), s.logs(ctx, e, k)
		}
		return o, err
	}
	o := reconciler.Observation{Facts: s.facts(e), Object: kube.Describe(t.object(e, ""))}
	if done, _, reason, message := outcome(j); done {
		o.Seen, o.Final, o.Reason, o.Log = reconciler.Broken, true, reason, s.logs(ctx, e, k)
		o.Message = fmt.Sprintf("hook %s failed: %s (%s of %s): %s; its output is in the run's log", t.Hook, reason, kube.Describe(t.object(e, "")), e.On(t.Side()).Name, message)
		return o, nil
	}
	running(ctx, e, k, t, j, &o)
	return o, nil
}

// running tells what a Job that has not ended is doing, and when to look again.
func running(ctx context.Context, e *kube.Env, k *keeper, t task, j *batchv1.Job, o *reconciler.Observation) {
	o.Seen, o.Poll = reconciler.Working, poll
	if end := endsAt(j); failing(j) || !end.IsZero() && time.Until(end) < lastLook {
		k.keep(ctx, e.On(t.Side()), j)
		o.Poll = time.Second
	} else if !end.IsZero() {
		o.Poll = min(poll, time.Until(end)-lastLook+time.Millisecond)
	}
	o.Reason, o.Message = progress(ctx, e, t, j)
	o.Wake = wake(ctx, e, t, j)
}

// lookBefore says whether a hook that has no Job yet can have one.
func lookBefore(ctx context.Context, e *kube.Env, t task) (reconciler.Observation, error) {
	c, object := e.On(t.Side()), kube.Describe(t.object(e, ""))
	broken := func(reason, message string) reconciler.Observation {
		return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: reason, Message: message, Object: object}
	}
	if reason, message := t.refusal(); reason != "" {
		return broken(reason, message), nil
	}
	_, err := c.Kube.CoreV1().ServiceAccounts(t.Namespace).Get(ctx, t.account(), metav1.GetOptions{})
	if err == nil {
		return reconciler.Observation{Seen: reconciler.Absent, Object: object}, nil
	}
	if !apierrors.IsNotFound(err) {
		return reconciler.Observation{}, c.Errorf(err, "read ServiceAccount %s/%s of hook %s", t.Namespace, t.account(), t.Hook)
	}
	_, err = c.Kube.CoreV1().Namespaces().Get(ctx, t.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return broken("NamespaceMissing", fmt.Sprintf("hook %s cannot run: namespace %s does not exist on the %s cluster %s; correct spec.hooks[%d].namespace", t.Hook, t.Namespace, t.Side(), c.Name, t.index)), nil
	case err == nil && t.account() == "default":
		// Every namespace gets this one by itself, moments after it is made.
		return reconciler.Observation{Seen: reconciler.Working, Reason: "WaitsForServiceAccount", Object: object, Poll: time.Second,
			Message: fmt.Sprintf("hook %s waits for ServiceAccount default of namespace %s on cluster %s", t.Hook, t.Namespace, c.Name)}, nil
	}
	return broken("ServiceAccountMissing", fmt.Sprintf("hook %s cannot run: ServiceAccount %s/%s does not exist on the %s cluster %s; create it, or correct spec.hooks[%d].serviceAccountName", t.Hook, t.Namespace, t.account(), t.Side(), c.Name, t.index)), nil
}

// progress says in one sentence what the Job's newest pod is doing.
func progress(ctx context.Context, e *kube.Env, t task, j *batchv1.Job) (reason, message string) {
	c := e.On(t.Side())
	head := fmt.Sprintf("hook %s (%d failed tries)", t.Hook, j.Status.Failed)
	pod := newest(podsOf(ctx, c, j))
	if pod == nil {
		message = head + ": no pod yet"
		if ev := workload.LastWarning(ctx, c, j.Namespace, j.UID); ev != "" {
			message += "; last event: " + ev
		}
		return "HookRunning", message
	}
	if ready(pod) {
		return "HookRunning", fmt.Sprintf("%s: pod %s/%s is running", head, pod.Namespace, pod.Name)
	}
	reason, message = workload.PodTrouble(pod)
	message = fmt.Sprintf("%s: pod %s/%s: %s", head, pod.Namespace, pod.Name, message)
	if ev := workload.PodWarning(ctx, c, pod); ev != "" {
		message += "; last event: " + ev
	}
	return reason, message
}

func ready(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil
}

func wake(ctx context.Context, e *kube.Env, t task, j *batchv1.Job) <-chan struct{} {
	ch, err := e.On(t.Side()).Wake(ctx, jobsResource, j.Namespace, metav1.ListOptions{
		ResourceVersion: j.ResourceVersion,
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", j.Name).String(),
	})
	if err != nil {
		if e.Log != nil {
			e.Log.Debug("no watch, looking again after the poll interval", "job", j.Name, "error", err)
		}
		return nil
	}
	return ch
}

// ensure makes the one Job that the phase is at.
func ensure(ctx context.Context, e *kube.Env, phase spec.Phase) error {
	s, err := read(ctx, e, phase)
	if err != nil || s.next == len(s.tasks) || s.jobs[s.next] != nil {
		return err
	}
	return s.tasks[s.next].create(ctx, e)
}

func (t task) create(ctx context.Context, e *kube.Env) error {
	if reason, message := t.refusal(); reason != "" {
		return fmt.Errorf("%s: %s", reason, message)
	}
	c := e.On(t.Side())
	_, err := c.Kube.BatchV1().Jobs(t.Namespace).Create(ctx, t.job(e), metav1.CreateOptions{FieldManager: workload.FieldManager})
	if apierrors.IsAlreadyExists(err) {
		return nil // an earlier call of ours: the name is this attempt's
	}
	if err != nil {
		return c.Errorf(err, "create Job %s/%s of hook %s", t.Namespace, t.jobName(e), t.Hook)
	}
	return nil
}

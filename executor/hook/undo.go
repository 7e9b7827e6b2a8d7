package hook

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/workload"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// undoVerb takes back what hooks have done.
const undoVerb = "hook.undo"

// loggedTries is of how many failed tries the whole output is kept; the last
// lines of each are in its message.
const loggedTries = 5

// undo is the taking back of one hook.
type undo struct {
	task            // of the Hook that takes back
	of       string // the hook that is taken back
	forward  *batchv1.Job
	tries    []*batchv1.Job // of the undo in this run, of whatever attempt
	complete *batchv1.Job   // one of them that has completed, or that a person has done by hand
	begun    bool           // the hook may have had an effect
	noted    bool           // the run's facts say that it is undone
}

// undos are the plan's hooks that have an undo, with what the cluster shows of
// them, and every Job of hooks in their namespaces.
func undos(ctx context.Context, e *kube.Env) (all []*undo, left []found, err error) {
	left, err = every(ctx, e, func(h spec.PlanHook) bool { return h.Undo != "" })
	if err != nil {
		return nil, nil, err
	}
	first := *e // a step of hooks has one attempt: all retrying is the Job's own
	first.Step.Attempt = 1
	for n, h := range e.Plan().Hooks {
		if h.Undo == "" {
			continue
		}
		name := newTask(e, n, h).jobName(&first)
		u := &undo{of: h.Hook}
		h.Hook = h.Undo
		u.task = newTask(e, n, h)
		u.task.undo = true
		for _, f := range left {
			u.sort(e, f.job, name)
		}
		// A cutover that is rolled back has done everything, and its Jobs are gone.
		u.begun = e.Run.Spec.Kind == spec.RunRollback || u.forward != nil || len(u.tries) > 0 ||
			slices.ContainsFunc(e.Run.Facts.Jobs, func(o spec.Object) bool { return o.Namespace == h.Namespace && o.Name == name })
		u.noted = slices.ContainsFunc(e.Run.Facts.Times, func(t spec.NamedTime) bool { return t.Name == u.note() || strings.HasPrefix(t.Name, u.note()+byHand) })
		all = append(all, u)
	}
	return all, left, nil
}

func (u *undo) sort(e *kube.Env, j *batchv1.Job, forward string) {
	switch undoes := j.Labels[kube.LabelUndoes]; {
	case j.Namespace != u.Namespace:
	case undoes == "" && j.Name == forward:
		u.forward = j
	case undoes == strconv.Itoa(u.index) && j.Labels[kube.LabelRun] == e.RunLabel():
		u.tries = append(u.tries, j)
		if done, failed, _, _ := outcome(j); done && !failed || j.Annotations[kube.AnnotationByHand] != "" {
			u.complete = j
		}
	}
}

const (
	// byHand follows in a note whoever says that it was done by hand.
	byHand = ", by hand: "
	// longestWord bounds, in bytes, what is recorded of that.
	longestWord = 200
)

// note is the name of the instant at which the hook was undone.
func (u *undo) note() string { return fmt.Sprintf("undone %s of spec.hooks[%d]", u.of, u.index) }

// lookUndo: Succeeded once every hook that was started is undone, the last one
// first, and no Job of theirs is left. What was undone is on record before the Jobs
// that show it go; those that show what was started go first.
func lookUndo(ctx context.Context, e *kube.Env, k *keeper) (reconciler.Observation, error) {
	all, left, err := undos(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	var said []string
	for _, u := range slices.Backward(all) {
		var o reconciler.Observation
		switch {
		case !u.begun:
			continue
		case u.noted:
			said = append(said, u.of)
			continue
		case u.complete != nil:
			o = u.completed(ctx, e, k)
		default:
			if o, err = u.look(ctx, e, k); err != nil {
				return o, err
			}
		}
		if o.Facts == nil {
			o.Facts = u.facts(e)
		}
		return o, nil
	}
	o := lookGone(forwardFirst(left))
	if o.Seen == reconciler.Succeeded && len(said) > 0 {
		o.Message = "undone: " + strings.Join(said, ", ")
	}
	return o, nil
}

// completed brings on record that the hook is undone.
func (u *undo) completed(ctx context.Context, e *kube.Env, k *keeper) reconciler.Observation {
	o := u.done(e, u.complete.Annotations[kube.AnnotationByHand])
	o.Log = u.log(ctx, e, k, u.complete)
	return o
}

// done brings on record that the hook is undone, and who says so, where a person does.
func (u *undo) done(e *kube.Env, who string) reconciler.Observation {
	t := spec.NamedTime{Name: u.note(), Time: metav1.NowMicro()}
	if who != "" {
		t.Name += byHand + strings.Join(strings.Fields(strings.ToValidUTF8(who[:min(len(who), longestWord)], "")), " ")
	}
	facts := u.facts(e)
	facts.Times = append(slices.Clone(e.Run.Facts.Times), t)
	return reconciler.Observation{Seen: reconciler.Absent, Facts: facts, Object: kube.Describe(u.object(e, "")), Message: "the Jobs of hooks are to be removed"}
}

// look says what is next: the end of the hook, or a try of its undo.
func (u *undo) look(ctx context.Context, e *kube.Env, k *keeper) (reconciler.Observation, error) {
	if o, err := u.lookForward(ctx, e); err != nil || o.Seen != reconciler.Succeeded {
		return o, err
	}
	for _, j := range u.tries {
		if done, _, _, _ := outcome(j); !done {
			o := reconciler.Observation{Object: fmt.Sprintf("%s Job %s/%s", u.Side(), j.Namespace, j.Name)}
			running(ctx, e, k, u.task, j, &o)
			o.Message += ", which undoes hook " + u.of
			return o, nil
		}
	}
	if j := u.current(e); j != nil {
		return u.failed(ctx, e, k, j), nil
	}
	if who, err := u.word(ctx, e); err != nil || who != "" {
		return u.done(e, who), err
	}
	o, err := lookBefore(ctx, e, u.task)
	if o.Message != "" {
		o.Message += "; " + u.wayOut(e)
	}
	return o, err
}

// wordName names a ConfigMap of our namespace, by which a person says that what no Job
// can undo was done by hand: there is no Job yet to say it on.
func (u *undo) wordName(e *kube.Env) string {
	first := *e
	first.Step.Attempt = 1
	return u.jobName(&first) + "-by-hand"
}

const wordKey = "who"

// word is what the person says; "" when nobody has said anything.
func (u *undo) word(ctx context.Context, e *kube.Env) (string, error) {
	m, err := e.Source.Kube.CoreV1().ConfigMaps(e.Settings.Namespace).Get(ctx, u.wordName(e), metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return "", nil
	}
	if err != nil {
		return "", e.Source.Errorf(err, "read ConfigMap %s/%s", e.Settings.Namespace, u.wordName(e))
	}
	return strings.TrimSpace(m.Data[wordKey]), nil
}

func (u *undo) wayOut(e *kube.Env) string {
	return fmt.Sprintf("hook %s is tried again until it succeeds. If it never will, do by hand what it does, and say so: kubectl -n %s create configmap %s --from-literal=%s='WHO AND WHY'", u.Hook, e.Settings.Namespace, u.wordName(e), wordKey)
}

// current is the Job of this attempt.
func (u *undo) current(e *kube.Env) *batchv1.Job {
	for _, j := range u.tries {
		if j.Name == u.jobName(e) {
			return j
		}
	}
	return nil
}

// failed tells why, and how a person can end what can never succeed.
func (u *undo) failed(ctx context.Context, e *kube.Env, k *keeper, j *batchv1.Job) reconciler.Observation {
	_, _, reason, message := outcome(j)
	o := reconciler.Observation{Seen: reconciler.Broken, Reason: reason, Object: fmt.Sprintf("%s Job %s/%s", u.Side(), j.Namespace, j.Name)}
	o.Message = fmt.Sprintf("hook %s, which undoes hook %s, failed: %s (%s): %s", u.Hook, u.of, reason, o.Object, message)
	if p := newest(podsOf(ctx, e.Source, j)); p != nil {
		if words := workload.LastWords(ctx, e.Source, p); words != "" {
			o.Message += "; its last lines: " + words
		}
	}
	o.Message += fmt.Sprintf("; it is tried again until it succeeds. If it never will, do by hand what it does, and say so: kubectl -n %s annotate job %s %s='WHO AND WHY'", j.Namespace, j.Name, kube.AnnotationByHand)
	if e.Step.Attempt <= loggedTries {
		o.Log = u.log(ctx, e, k, j)
	}
	return o
}

func (u *undo) log(ctx context.Context, e *kube.Env, k *keeper, j *batchv1.Job) string {
	return fmt.Sprintf("--- hook %s, undo of %s, %s Job %s/%s\n", u.Hook, u.of, u.Side(), j.Namespace, j.Name) + k.read(ctx, e.Source, j)
}

// lookForward: Succeeded once nothing of the hook runs any more and nothing will.
// Its Job stays: it shows that the hook was started.
func (u *undo) lookForward(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	if u.toSuspend() {
		return reconciler.Observation{Seen: reconciler.Absent, Message: "the Job of the hook is to be stopped"}, nil
	}
	pods, err := e.Source.Kube.CoreV1().Pods(u.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: fmt.Sprintf("%s=%s,%s=%s,!%s", kube.LabelPlan, kube.Short(e.Run.Spec.Plan), kube.LabelRun, e.Origin(), kube.LabelUndoes)})
	if err != nil {
		return reconciler.Observation{}, e.Source.Errorf(err, "list the pods of hook %s in namespace %s", u.of, u.Namespace)
	}
	for _, p := range pods.Items {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return reconciler.Observation{Seen: reconciler.Working, Reason: "HookStopping", Object: fmt.Sprintf("source Pod %s/%s", p.Namespace, p.Name),
				Message: fmt.Sprintf("waits until pod %s/%s of hook %s is gone from node %s, before hook %s undoes it", p.Namespace, p.Name, u.of, p.Spec.NodeName, u.Hook)}, nil
		}
	}
	if j := u.forward; j != nil && !ended(j) && !suspended(j) {
		return reconciler.Observation{Seen: reconciler.Working, Reason: "HookStopping", Object: fmt.Sprintf("source Job %s/%s", j.Namespace, j.Name),
			Message: fmt.Sprintf("waits until the Job of hook %s is suspended, before hook %s undoes it", u.of, u.Hook), Wake: wake(ctx, e, u.task, j)}, nil
	}
	return reconciler.Observation{Seen: reconciler.Succeeded}, nil
}

func (u *undo) toSuspend() bool {
	return u.forward != nil && !ended(u.forward) && !ptr.Deref(u.forward.Spec.Suspend, false)
}

func ended(j *batchv1.Job) bool {
	done, _, _, _ := outcome(j)
	return done
}

// suspended says that the Job's controller has seen that it is to make no pods.
func suspended(j *batchv1.Job) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue
	})
}

// facts adds the Jobs of the hook and of its undo to those that the run knows.
func (u *undo) facts(e *kube.Env) *spec.Facts {
	jobs := slices.Clone(e.Run.Facts.Jobs)
	for _, j := range append(slices.Clone(u.tries), u.forward) {
		if j == nil {
			continue
		}
		o := u.object(e, string(j.UID))
		if o.Name = j.Name; !slices.Contains(jobs, o) {
			jobs = append(jobs, o)
		}
	}
	return &spec.Facts{Jobs: jobs}
}

// forwardFirst are the Jobs that are to go next: as long as one shows that a hook
// was started, those stay that show that it is undone.
func forwardFirst(left []found) []found {
	forward := slices.DeleteFunc(slices.Clone(left), func(f found) bool { return f.job.Labels[kube.LabelUndoes] != "" })
	if len(forward) > 0 {
		return forward
	}
	return left
}

// ensureUndo does the one thing that is next.
func ensureUndo(ctx context.Context, e *kube.Env) error {
	all, left, err := undos(ctx, e)
	if err != nil {
		return err
	}
	for _, u := range slices.Backward(all) {
		if !u.begun || u.noted {
			continue
		}
		if u.complete != nil {
			return nil // it is to be on record first
		}
		return u.ensure(ctx, e)
	}
	return remove(ctx, e, forwardFirst(left))
}

func (u *undo) ensure(ctx context.Context, e *kube.Env) error {
	if u.toSuspend() {
		j := u.forward
		patch := fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q},"spec":{"suspend":true}}`, j.UID, j.ResourceVersion)
		_, err := e.Source.Kube.BatchV1().Jobs(j.Namespace).Patch(ctx, j.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: workload.FieldManager})
		if err != nil {
			return e.Source.Errorf(err, "suspend Job %s/%s of hook %s", j.Namespace, j.Name, u.of)
		}
		return nil
	}
	if o, err := u.lookForward(ctx, e); err != nil || o.Seen != reconciler.Succeeded {
		return err
	}
	if u.current(e) != nil || slices.ContainsFunc(u.tries, func(j *batchv1.Job) bool { return !ended(j) }) {
		return nil
	}
	if err := u.create(ctx, e); err != nil {
		return fmt.Errorf("%w; %s", err, u.wayOut(e))
	}
	return u.removeFailed(ctx, e)
}

// removeFailed removes the tries before this one, but for those that somebody has
// just written on.
func (u *undo) removeFailed(ctx context.Context, e *kube.Env) error {
	for _, j := range u.tries {
		o := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &j.UID, ResourceVersion: &j.ResourceVersion}, PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}
		if err := e.Source.Kube.BatchV1().Jobs(j.Namespace).Delete(ctx, j.Name, o); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return e.Source.Errorf(err, "remove Job %s/%s, an earlier try of hook %s", j.Namespace, j.Name, u.Hook)
		}
	}
	return nil
}

package hook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

// stage is a run with hooks that have undos, and a cluster that plays the
// controller of Jobs.
type stage struct {
	t      *testing.T
	e      *kube.Env
	client *kubefake.Clientset
	made   []string        // undos, in the order in which their Jobs were made
	fails  int             // so many tries of an undo fail
	bad    map[string]bool // names of failed tries
}

// newStage has started the first n of two hooks.
func newStage(t *testing.T, n int) *stage {
	hooks := []spec.PlanHook{before("freeze", ""), before("lock", "hooks")}
	hooks[0].Undo, hooks[1].Undo = "thaw", "unlock"
	e, client := fakeEnv(spec.RunMigrate, hooks...)
	for _, name := range []string{"lock", "thaw", "unlock"} {
		e.Run.Spec.Closure.Hooks = append(e.Run.Spec.Closure.Hooks, spec.Hook{Metadata: spec.Metadata{Name: name}, Spec: spec.HookSpec{Image: "x", Command: []string{"x"}}})
	}
	s := &stage{t: t, e: e, client: client, bad: map[string]bool{}}
	e.Step.Name = "hooks-with-undo"
	e.Run.Steps = []spec.Step{{Name: "hooks-with-undo", Undo: undoVerb}, {Name: "post-backup-hooks", Undo: "hook.clean-up"}}
	verb := Verbs()["hook.pre-backup"]
	for i := range n {
		if err := verb.Ensure(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		finish(t, client, tasks(e, spec.PreBackup)[i].jobName(e), condition(batchv1.JobComplete, ""))
	}
	client.PrependReactor("create", "jobs", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if j := a.(clienttesting.CreateAction).GetObject().(*batchv1.Job); j.Labels[kube.LabelUndoes] != "" {
			s.made = append(s.made, "undo of "+j.Labels[kube.LabelUndoes]+" by "+j.Spec.Template.Spec.ServiceAccountName)
		}
		return false, nil, nil
	})
	e.Step.Verb, e.Undo = undoVerb, true
	return s
}

func (s *stage) look() reconciler.Observation {
	s.t.Helper()
	o, err := Verbs()[undoVerb].Look(s.t.Context(), s.e)
	if err != nil {
		s.t.Fatal(err)
	}
	return o
}

func (s *stage) jobs() []batchv1.Job {
	s.t.Helper()
	list, err := s.client.BatchV1().Jobs("shop").List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// controller does what the cluster's would: it ends what was made.
func (s *stage) controller() {
	for _, j := range s.jobs() {
		switch {
		case ended(&j):
		case ptr.Deref(j.Spec.Suspend, false):
			finish(s.t, s.client, j.Name, condition(batchv1.JobSuspended, ""))
		case j.Labels[kube.LabelUndoes] == "":
		case s.fails > 0:
			s.fails--
			s.bad[j.Name] = true
			finish(s.t, s.client, j.Name, condition(batchv1.JobFailed, "BackoffLimitExceeded"))
		default:
			finish(s.t, s.client, j.Name, condition(batchv1.JobComplete, ""))
		}
	}
}

// turn does what the core does with one look; forget is a daemon that has lost
// its journal.
func (s *stage) turn(forget bool) (done bool) {
	o := s.look()
	if forget {
		s.e.Run.Facts, s.e.Step.Attempt = spec.Facts{}, 1
	} else if f := o.Facts; f != nil {
		changed := len(f.Jobs) != len(s.e.Run.Facts.Jobs) || len(f.Times) > len(s.e.Run.Facts.Times)
		s.e.Run.Facts.Jobs = f.Jobs
		if f.Times != nil {
			s.e.Run.Facts.Times = f.Times
		}
		if changed {
			return false // saved, and nothing else in this turn
		}
	}
	switch o.Seen {
	case reconciler.Succeeded:
		return true
	case reconciler.Broken:
		s.e.Step.Attempt++
	case reconciler.Absent:
		_ = Verbs()[undoVerb].Ensure(s.t.Context(), s.e) // an error is tried again
	case reconciler.Working:
		s.controller()
	}
	return false
}

// run drives to the end; at the turn of that number everything is forgotten.
func (s *stage) run(forget int) {
	s.t.Helper()
	for n := range 100 {
		if s.turn(n == forget) {
			return
		}
	}
	s.t.Fatalf("no end: %+v", s.look())
}

// Only what was started is undone, the last one first, with the account of the
// hook, and nothing is left.
func TestUndoOfHooks(t *testing.T) {
	for n, want := range [][]string{nil, {"undo of 0 by default"}, {"undo of 1 by hooks", "undo of 0 by default"}} {
		s := newStage(t, n)
		s.run(-1)
		if !slices.Equal(s.made, want) || len(s.jobs()) > 0 || len(s.e.Run.Facts.Times) != n {
			t.Errorf("%d hooks: %v, want %v; left %d, %v", n, s.made, want, len(s.jobs()), s.e.Run.Facts.Times)
		}
		if o := s.look(); n == 2 && o.Message != "undone: lock, freeze" {
			t.Error(o.Message)
		}
	}
}

// A daemon that forgets everything at any instant, or whose call to the cluster is
// lost at any instant, runs each undo once all the same. The one exception is what
// is forgotten when the last Job that shows it is gone.
func TestUndoOfHooksKilledAtEveryInstant(t *testing.T) {
	want := []string{"undo of 1 by hooks", "undo of 0 by default"}
	for k := range 30 {
		s := newStage(t, 2)
		s.run(k)
		got := s.made
		if len(s.e.Run.Facts.Times) < 2 { // forgotten afterwards
			continue
		}
		if !slices.Equal(got, want) || len(s.jobs()) > 0 {
			t.Errorf("forgotten at %d: %v", k, got)
		}
	}
	for k := range 12 {
		for _, after := range []bool{false, true} {
			s := newStage(t, 2)
			writes := 0
			s.client.PrependReactor("*", "jobs", func(a clienttesting.Action) (bool, runtime.Object, error) {
				verb := a.GetVerb()
				if a.GetSubresource() != "" || verb != "create" && verb != "delete" && verb != "patch" {
					return false, nil, nil
				}
				if writes++; writes != k+1 {
					return false, nil, nil
				}
				if c, ok := a.(clienttesting.CreateAction); ok && after {
					s.made = append(s.made, "undo of "+c.GetObject().(*batchv1.Job).Labels[kube.LabelUndoes]+" by "+c.GetObject().(*batchv1.Job).Spec.Template.Spec.ServiceAccountName)
					_ = s.client.Tracker().Create(a.GetResource(), c.GetObject(), a.GetNamespace())
				}
				if d, ok := a.(clienttesting.DeleteAction); ok && after {
					_ = s.client.Tracker().Delete(a.GetResource(), a.GetNamespace(), d.GetName())
				}
				return true, nil, errors.New("the answer is lost")
			})
			s.run(-1)
			if !slices.Equal(s.made, want) || len(s.jobs()) > 0 {
				t.Errorf("call %d lost, after=%t: %v, %d Jobs left", k, after, s.made, len(s.jobs()))
			}
		}
	}
}

// What the hook still does ends first: its Job makes no pod any more, and none
// of them runs. The Job stays, for it shows that the hook was started.
func TestARunningHookEndsBeforeItsUndo(t *testing.T) {
	s := newStage(t, 1)
	verb := Verbs()["hook.pre-backup"]
	s.e.Step.Verb, s.e.Undo = "hook.pre-backup", false
	if err := verb.Ensure(t.Context(), s.e); err != nil {
		t.Fatal(err)
	}
	s.e.Step.Verb, s.e.Undo = undoVerb, true
	forward := tasks(s.e, spec.PreBackup)[1].jobName(s.e)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "lock-1", Labels: s.e.Labels()}, Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	if _, err := s.client.CoreV1().Pods("shop").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		s.turn(false)
	}
	if o := s.look(); o.Seen != reconciler.Working || o.Reason != "HookStopping" || !strings.Contains(o.Message, "shop/lock-1 of hook lock is gone from node n1") || len(s.made) > 0 {
		t.Fatalf("%+v, made %v", o, s.made)
	}
	if j, err := s.client.BatchV1().Jobs("shop").Get(t.Context(), forward, metav1.GetOptions{}); err != nil || !ptr.Deref(j.Spec.Suspend, false) {
		t.Fatalf("%+v %v", j, err)
	}
	if err := s.client.CoreV1().Pods("shop").Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	finish(t, s.client, forward) // its controller has not seen the order
	if o := s.look(); o.Seen != reconciler.Working || o.Reason != "HookStopping" {
		t.Fatalf("%+v", o)
	}
	s.run(-1)
	if !slices.Equal(s.made, []string{"undo of 1 by hooks", "undo of 0 by default"}) || len(s.jobs()) > 0 {
		t.Errorf("%v", s.made)
	}
}

// A try that fails is told and followed by another, of another name, for as long
// as it takes; while one runs there is no second one, whatever the attempt.
func TestAnUndoThatFails(t *testing.T) {
	s := newStage(t, 1)
	s.fails = 7
	for s.look().Seen != reconciler.Broken {
		s.turn(false)
	}
	o := s.look()
	if o.Reason != "BackoffLimitExceeded" || !strings.Contains(o.Message, "hook thaw, which undoes hook freeze, failed") || !strings.Contains(o.Message, "annotate job "+s.jobs()[1].Name) && !strings.Contains(o.Message, "annotate job "+s.jobs()[0].Name) || !strings.Contains(o.Log, "undo of freeze") {
		t.Errorf("%+v", o)
	}
	for s.e.Step.Attempt <= loggedTries || s.look().Seen != reconciler.Broken {
		s.turn(false)
	}
	if o := s.look(); o.Log != "" || len(s.jobs()) > 2 {
		t.Errorf("of every try a log and a Job: %d Jobs, %+v", len(s.jobs()), o)
	}
	s.run(-1)
	if len(s.made) != 8 || len(s.bad) != 7 || len(s.jobs()) > 0 {
		t.Errorf("%d tries, %d of them failed, %d left", len(s.made), len(s.bad), len(s.jobs()))
	}
	s = newStage(t, 1)
	for len(s.made) == 0 {
		s.turn(false)
	}
	s.e.Step.Attempt++ // the time of the attempt is over, and its Job runs on
	if o := s.look(); o.Seen != reconciler.Working || !strings.Contains(o.Message, "undoes hook freeze") {
		t.Errorf("%+v", o)
	}
	if err := Verbs()[undoVerb].Ensure(t.Context(), s.e); err != nil || len(s.made) != 1 {
		t.Errorf("%v, made %v", err, s.made)
	}
}

// Who has done by hand what an undo hook cannot do says so, and it is on record.
func TestAnUndoByHand(t *testing.T) {
	for _, running := range []bool{true, false} {
		s := newStage(t, 1)
		s.fails = 1000
		for len(s.made) == 0 || !running && s.look().Seen != reconciler.Broken {
			s.turn(false)
		}
		for _, j := range s.jobs() {
			if j.Labels[kube.LabelUndoes] != "" {
				j.Annotations[kube.AnnotationByHand] = "ada,\nticket 7" + strings.Repeat(" ", 300) + "x"
				if _, err := s.client.BatchV1().Jobs("shop").Update(t.Context(), &j, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.run(-1)
		if times := s.e.Run.Facts.Times; len(s.made) != 1 || len(s.jobs()) > 0 || len(times) != 1 || times[0].Name != "undone freeze of spec.hooks[0], by hand: ada, ticket 7" {
			t.Errorf("made %v, left %d, %+v", s.made, len(s.jobs()), s.e.Run.Facts.Times)
		}
	}
}

func TestAnUndoThatCannotRun(t *testing.T) {
	s := newStage(t, 1)
	if err := s.client.CoreV1().ServiceAccounts("shop").Delete(t.Context(), "hooks", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.e.Plan().Hooks[0].ServiceAccountName = "hooks"
	if o := s.look(); o.Seen != reconciler.Broken || o.Reason != "ServiceAccountMissing" || !strings.Contains(o.Message, "hook thaw cannot run") {
		t.Errorf("%+v", o)
	}
	s.e.Plan().Hooks[0].ServiceAccountName = ""
	s.e.Run.Spec.Closure.Hooks = slices.DeleteFunc(s.e.Run.Spec.Closure.Hooks, func(h spec.Hook) bool { return h.Metadata.Name == "thaw" })
	if o := s.look(); o.Seen != reconciler.Broken || !strings.Contains(o.Message, "spec.hooks[0].undo") {
		t.Errorf("%+v", o)
	}
}

// Clean-ups of other hooks come before: they leave what shows that a hook with an
// undo was started. Those at the end of a cutover that has succeeded do not.
func TestCleanUpLeavesWhatIsToBeUndone(t *testing.T) {
	for _, undoing := range []bool{true, false} {
		s := newStage(t, 1)
		e := *s.e
		e.Step, e.Undo = spec.Step{Name: "post-backup-hooks", Verb: "hook.clean-up", Attempt: 1}, undoing
		verb := Verbs()["hook.clean-up"]
		if err := verb.Ensure(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
		o, err := verb.Look(t.Context(), &e)
		if err != nil || o.Seen != reconciler.Succeeded || undoing != (len(s.jobs()) == 1) {
			t.Errorf("undoing %t: %+v %v, %d Jobs", undoing, o, err, len(s.jobs()))
		}
	}
}

// A rollback finds no Job of the cutover any more, and undoes its hooks all the same.
func TestUndoOfHooksInARollback(t *testing.T) {
	s := newStage(t, 0)
	s.e.Run.Spec.Kind, s.e.Run.Spec.Undoes, s.e.Run.Spec.Number, s.e.Undo = spec.RunRollback, "shop-migrate-3", 1, false
	s.e.Step = spec.Step{Name: "undo-hooks-with-undo", Verb: undoVerb, State: spec.StepRunning, Attempt: 1}
	s.fails = 1
	s.run(-1)
	if fmt.Sprint(s.made) != "[undo of 1 by hooks undo of 1 by hooks undo of 0 by default]" || len(s.jobs()) > 0 {
		t.Errorf("%v", s.made)
	}
	if slices.Contains(Verbs()[undoVerb].Needs, spec.Target) || len(Verbs()[undoVerb].Needs) == 0 {
		t.Error("it cannot do without the target")
	}
}

// An undo whose Job cannot even be made names a way out that needs no Job.
func TestAnUndoThatNeverHadAJobIsDoneByHand(t *testing.T) {
	for name, refuse := range map[string]func(s *stage){
		"no Job may be made": func(s *stage) {
			s.client.PrependReactor("create", "jobs", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, errors.New("exceeded quota")
			})
		},
		"no account": func(s *stage) {
			s.client.PrependReactor("get", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewNotFound(corev1.Resource("serviceaccounts"), "hooks")
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 2)
			s.e.Settings.Namespace = "ours"
			refuse(s)
			o := s.look()
			say := o.Message
			if o.Seen == reconciler.Absent {
				if err := Verbs()[undoVerb].Ensure(t.Context(), s.e); err == nil {
					t.Fatal("the Job was made")
				} else {
					say = err.Error()
				}
			}
			_, command, found := strings.Cut(say, "kubectl -n ours create configmap ")
			name, _, _ := strings.Cut(command, " ")
			if !found || len(name) > 253 {
				t.Fatalf("no way out: %s", say)
			}
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ours", Name: name}, Data: map[string]string{"who": "ada, by\nscaling"}}
			if _, err := s.client.CoreV1().ConfigMaps("ours").Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			o = s.look()
			if o.Facts == nil || !slices.ContainsFunc(o.Facts.Times, func(n spec.NamedTime) bool { return n.Name == "undone lock of spec.hooks[1], by hand: ada, by scaling" }) {
				t.Errorf("%+v", o)
			}
		})
	}
}

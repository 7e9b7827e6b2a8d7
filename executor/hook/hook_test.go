package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
)

func testEnv(kind spec.RunKind, ns string, hooks ...spec.PlanHook) *kube.Env {
	run := &spec.Run{Metadata: spec.Metadata{Name: "shop-migrate-3"}}
	run.Spec.Plan, run.Spec.Kind, run.Spec.Number = "shop", kind, 3
	plan := &run.Spec.Closure.Plan.Spec
	plan.Namespaces = []spec.NamespaceMapping{{Name: ns}, {Name: "db", TargetName: "data"}}
	plan.Hooks = hooks
	run.Spec.Closure.Hooks = []spec.Hook{
		{Metadata: spec.Metadata{Name: "freeze"}, Spec: spec.HookSpec{Image: "localhost/bed/busybox:1", Command: []string{"sh", "-c"}, Args: []string{"echo frozen by $MIGRATION_RUN in $MIGRATION_PHASE of $MIGRATION_PLAN_NAME: $MIGRATION_NAMESPACES"}}},
		{Metadata: spec.Metadata{Name: "play"}, Spec: spec.HookSpec{Playbook: "hooks/a.yml"}},
	}
	return &kube.Env{
		Call:     reconciler.Call{Run: run, Step: spec.Step{Name: "pre-backup-hooks", Verb: "hook.pre-backup", State: spec.StepRunning, Attempt: 1}},
		Settings: kube.Settings{Epoch: 7},
	}
}

func fakeEnv(kind spec.RunKind, hooks ...spec.PlanHook) (*kube.Env, *kubefake.Clientset) {
	e := testEnv(kind, "shop", hooks...)
	client := kubefake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "default"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "hooks"}},
	)
	dyn := dynamicfake.NewSimpleDynamicClient(runtime.NewScheme())
	e.Source = &kube.Cluster{Side: spec.Source, Name: "old", Kube: client, Dynamic: dyn}
	e.Target = &kube.Cluster{Side: spec.Target, Name: "new", Kube: client, Dynamic: dyn}
	return e, client
}

func finish(t *testing.T, c *kubefake.Clientset, name string, conditions ...batchv1.JobCondition) {
	t.Helper()
	j, err := c.BatchV1().Jobs("shop").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j.Status.Conditions = conditions
	if _, err := c.BatchV1().Jobs("shop").UpdateStatus(t.Context(), j, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func condition(kind batchv1.JobConditionType, reason string) batchv1.JobCondition {
	return batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: "for a reason"}
}

func before(hook, account string, runs ...string) spec.PlanHook {
	return spec.PlanHook{Hook: hook, Phase: spec.PreBackup, Namespace: "shop", ServiceAccountName: account, Runs: runs}
}

func TestTasksOfARun(t *testing.T) {
	hooks := []spec.PlanHook{before("a", ""), before("b", "", "Stage"), {Hook: "c", Phase: spec.PostRestore}, before("d", "", "Stage", "Cutover")}
	for kind, want := range map[spec.RunKind]string{spec.RunMigrate: "a0 d3 ", spec.RunStage: "b1 d3 ", spec.RunRollback: ""} {
		got := ""
		for _, task := range tasks(testEnv(kind, "shop", hooks...), spec.PreBackup) {
			got += fmt.Sprint(task.Hook, task.index, " ")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}

func TestJobOfAHook(t *testing.T) {
	e := testEnv(spec.RunMigrate, "shop", before("freeze", "hooks"))
	j := tasks(e, spec.PreBackup)[0].job(e)
	if *j.Spec.BackoffLimit != 6 || *j.Spec.ActiveDeadlineSeconds != 1800 || j.Spec.TTLSecondsAfterFinished != nil || j.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyNever || j.Spec.Template.Spec.ServiceAccountName != "hooks" {
		t.Errorf("%+v", j.Spec)
	}
	if j.Labels[kube.LabelStep] != "pre-backup-hooks" || j.Spec.Template.Labels[kube.LabelRun] != e.RunLabel() || j.Name != tasks(e, spec.PreBackup)[0].jobName(e) {
		t.Errorf("%+v", j.ObjectMeta)
	}
	zero := int32(0)
	e.Run.Spec.Closure.Hooks[0].Spec.BackoffLimit = &zero
	e.Run.Spec.Closure.Hooks[0].Spec.ActiveDeadline = &metav1.Duration{Duration: 90 * time.Second}
	if j := tasks(e, spec.PreBackup)[0].job(e); *j.Spec.BackoffLimit != 0 || *j.Spec.ActiveDeadlineSeconds != 90 {
		t.Errorf("%+v", j.Spec)
	}
	target := spec.PlanHook{Hook: "freeze", Phase: spec.PostRestore, Namespace: "data"}
	e.Run.Spec.Closure.Plan.Spec.Hooks = []spec.PlanHook{target}
	env := tasks(e, spec.PostRestore)[0].env(e)
	if env[1].Value != "shop,data" || env[3].Value != "PostRestore" {
		t.Errorf("%+v", env)
	}
}

// In the plan's order, one Job at a time; a daemon that remembers nothing
// never runs a hook twice, even when somebody has deleted a finished Job.
func TestHooksRunInOrderAndOnce(t *testing.T) {
	e, client := fakeEnv(spec.RunMigrate, before("freeze", ""), before("freeze", "hooks"))
	verb := Verbs()["hook.pre-backup"]
	look := func() reconciler.Observation {
		t.Helper()
		o, err := verb.Look(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	ensure := func() int {
		t.Helper()
		if err := verb.Ensure(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		list, err := client.BatchV1().Jobs("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	if o := look(); o.Seen != reconciler.Absent {
		t.Fatalf("%+v", o)
	}
	if ensure() != 1 || ensure() != 1 || look().Seen != reconciler.Working {
		t.Fatal("the first hook does not run alone")
	}
	names := []string{tasks(e, spec.PreBackup)[0].jobName(e), tasks(e, spec.PreBackup)[1].jobName(e)}
	// Conditions in any order: SuccessCriteriaMet comes first on newer clusters.
	finish(t, client, names[0], condition(batchv1.JobSuccessCriteriaMet, ""), condition(batchv1.JobComplete, ""))
	if look().Seen != reconciler.Absent || ensure() != 2 || look().Seen != reconciler.Working {
		t.Fatal("the second hook does not follow")
	}
	if err := client.BatchV1().Jobs("shop").Delete(t.Context(), names[0], metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if look().Seen != reconciler.Working || ensure() != 1 {
		t.Fatal("the first hook would run again")
	}
	finish(t, client, names[1], condition(batchv1.JobComplete, ""))
	o := look()
	if o.Seen != reconciler.Succeeded || !slices.ContainsFunc(o.Facts.Jobs, func(j spec.Object) bool { return j.Name == names[1] }) || !strings.Contains(o.Log, "hook freeze") {
		t.Errorf("%+v", o)
	}
}

// mig-controller polled for ever when DeadlineExceeded was not the first
// condition in the list.
func TestFailedHookEndsTheStep(t *testing.T) {
	for _, reason := range []string{"DeadlineExceeded", "BackoffLimitExceeded"} {
		e, client := fakeEnv(spec.RunMigrate, before("freeze", ""))
		verb := Verbs()["hook.pre-backup"]
		if err := verb.Ensure(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		name := tasks(e, spec.PreBackup)[0].jobName(e)
		finish(t, client, name, condition(batchv1.JobSuspended, "Resumed"), condition(batchv1.JobFailureTarget, reason))
		if o, err := verb.Look(t.Context(), e); err != nil || o.Seen != reconciler.Working {
			t.Errorf("pods are still ending: %+v %v", o, err)
		}
		finish(t, client, name, condition(batchv1.JobSuspended, "Resumed"), condition(batchv1.JobFailureTarget, reason), condition(batchv1.JobFailed, reason))
		o, err := verb.Look(t.Context(), e)
		if err != nil || o.Seen != reconciler.Broken || !o.Final || o.Reason != reason || !strings.Contains(o.Message, "hook freeze failed") || len(o.Facts.Jobs) != 1 {
			t.Errorf("%+v %v", o, err)
		}
	}
}

func TestHooksThatCannotRun(t *testing.T) {
	elsewhere := before("freeze", "hooks")
	elsewhere.Namespace = "nowhere"
	cases := map[string]struct {
		hook    spec.PlanHook
		reason  string
		message string
	}{
		"no account":   {before("freeze", "nobody"), "ServiceAccountMissing", "ServiceAccount shop/nobody does not exist on the source cluster old; create it, or correct spec.hooks[0].serviceAccountName"},
		"no namespace": {elsewhere, "NamespaceMissing", "namespace nowhere does not exist"},
		"no document":  {before("none", ""), "HookMissing", `no Hook "none"`},
		"playbook":     {before("play", ""), "NotSupported", "spec.playbook"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e, _ := fakeEnv(spec.RunMigrate, c.hook)
			o, err := Verbs()["hook.pre-backup"].Look(t.Context(), e)
			if err != nil || o.Seen != reconciler.Broken || !o.Final || o.Reason != c.reason || !strings.Contains(o.Message, c.message) {
				t.Errorf("%+v %v", o, err)
			}
		})
	}
}

func TestTail(t *testing.T) {
	if got := tail([]byte("abcdef"), 4); got != "(2 bytes cut)\ncdef\n" {
		t.Errorf("%q", got)
	}
	if got := tail([]byte("ab\n"), 4); got != "ab\n" {
		t.Errorf("%q", got)
	}
	if got := tail([]byte("xé"), 1); strings.ContainsRune(got, 0xA9) || !strings.Contains(got, "\uFFFD") {
		t.Errorf("%q is not UTF-8", got)
	}
}

// On real clusters: output of a hook that completes, fails and hangs.
func TestLiveHooks(t *testing.T) {
	path := os.Getenv("TRANSHIP_BED")
	if path == "" {
		t.Skip("TRANSHIP_BED names no bed.json")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var bed struct {
		Source struct{ Server, CAFile, TokenFile string }
	}
	if err := json.Unmarshal(text, &bed); err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: bed.Source.Server, BearerTokenFile: bed.Source.TokenFile, TLSClientConfig: rest.TLSClientConfig{CAFile: bed.Source.CAFile}, QPS: 100, Burst: 200}
	cluster := &kube.Cluster{Side: spec.Source, Name: "source", Kube: kubernetes.NewForConfigOrDie(config), Dynamic: dynamic.NewForConfigOrDie(config)}
	ns := fmt.Sprintf("hook-%x", time.Now().UnixNano()&0xffffffff)
	if _, err := cluster.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cluster.Kube.CoreV1().Namespaces().Delete(context.Background(), ns, metav1.DeleteOptions{})
	})
	zero := int32(0)
	cases := []struct {
		name   string
		args   string
		seen   reconciler.Seen
		reason string
		log    string
	}{
		{"completes", "echo frozen by $MIGRATION_RUN in $MIGRATION_PHASE of $MIGRATION_PLAN_NAME: $MIGRATION_NAMESPACES", reconciler.Succeeded, "", "frozen by shop-migrate-3 in PreBackup of shop: " + ns + ",db"},
		{"fails", "echo cannot freeze; exit 3", reconciler.Broken, "BackoffLimitExceeded", "cannot freeze"},
		{"hangs", "echo half frozen; sleep 1000", reconciler.Broken, "DeadlineExceeded", "half frozen"},
	}
	for n, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := testEnv(spec.RunMigrate, ns, spec.PlanHook{Hook: "freeze", Phase: spec.PreBackup, Namespace: ns})
			e.Source, e.Target, e.Run.Spec.Number = cluster, cluster, n
			hook := &e.Run.Spec.Closure.Hooks[0].Spec
			hook.Args, hook.BackoffLimit, hook.ActiveDeadline = []string{c.args}, &zero, &metav1.Duration{Duration: bedtest.Patience}
			o := drive(t, e, func() {
				if c.reason == "DeadlineExceeded" {
					hasten(t, e, c.log)
				}
			})
			if o.Seen != c.seen || o.Reason != c.reason || !strings.Contains(o.Log, c.log) {
				t.Errorf("%+v", o)
			}
			t.Log(o.Message, "\n"+o.Log)
		})
	}
}

// hasten brings the deadline of a hook's Job near once the hook has said
// something: how long the node needs to start its pod says nothing about hooks.
func hasten(t *testing.T, e *kube.Env, said string) {
	t.Helper()
	h := tasks(e, spec.PreBackup)[0]
	jobs := e.Source.Kube.BatchV1().Jobs(h.Namespace)
	j, err := jobs.Get(t.Context(), h.jobName(e), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if time.Until(endsAt(j)) < time.Minute || !strings.Contains(podLog(t.Context(), e.Source, j).text, said) {
		return
	}
	near := fmt.Sprintf(`{"spec":{"activeDeadlineSeconds":%d}}`, int(time.Since(j.Status.StartTime.Time).Seconds())+10)
	if _, err := jobs.Patch(t.Context(), j.Name, types.MergePatchType, []byte(near), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// drive does what the loop does, and calls working with every look that waits.
func drive(t *testing.T, e *kube.Env, working func()) reconciler.Observation {
	t.Helper()
	verb, said := Verbs()["hook.pre-backup"], ""
	ctx, cancel := context.WithTimeout(t.Context(), bedtest.Patience)
	defer cancel()
	for ctx.Err() == nil {
		turn, stop := context.WithCancel(ctx)
		o, err := verb.Look(turn, e)
		if err == nil && o.Seen == reconciler.Absent {
			err = verb.Ensure(turn, e)
		}
		if err != nil { // the loop tries again, too
			stop()
			bedtest.Again(t, e.Step.Verb, err)
			continue
		}
		switch o.Seen {
		case reconciler.Succeeded, reconciler.Broken:
			stop()
			return o
		case reconciler.Working:
			working()
			if o.Message != said {
				t.Log(o.Reason, o.Message)
			}
			said = o.Message
			select {
			case <-o.Wake:
			case <-time.After(o.Poll):
			}
		}
		stop()
	}
	t.Fatalf("it did not end in %s: %s", bedtest.Patience, said)
	return reconciler.Observation{}
}

// A target that does not answer keeps no source down: hooks of the source alone
// do not ask it, and those of the target are left there once nothing was ever
// live on it for a minute, or somebody has said that it is gone for good.
func TestCleanUpWithoutTheTarget(t *testing.T) {
	long, now := metav1.NewMicroTime(time.Now().Add(-2*kube.TargetPatience)), metav1.NewMicroTime(time.Now())
	live := []spec.Step{{Name: "live", Verb: "mover.live", Started: &long}}
	after := spec.PlanHook{Hook: "freeze", Phase: spec.PostRestore, Namespace: "data"}
	for name, c := range map[string]struct {
		hooks []spec.PlanHook
		kind  spec.RunKind
		since metav1.MicroTime
		steps []spec.Step
		dead  string
		done  bool
	}{
		"hooks of the source":        {hooks: []spec.PlanHook{before("freeze", "")}, since: now, steps: live, done: true},
		"an outage of a moment":      {hooks: []spec.PlanHook{before("freeze", ""), after}, since: now},
		"for long, never live":       {hooks: []spec.PlanHook{before("freeze", ""), after}, since: long, done: true},
		"for long, and live":         {hooks: []spec.PlanHook{before("freeze", ""), after}, since: long, steps: live},
		"live, and said to be dead":  {hooks: []spec.PlanHook{before("freeze", ""), after}, since: now, steps: live, dead: "ada said so", done: true},
		"a rollback":                 {hooks: []spec.PlanHook{before("freeze", ""), after}, kind: spec.RunRollback, since: long},
		"a rollback, and it is dead": {hooks: []spec.PlanHook{before("freeze", ""), after}, kind: spec.RunRollback, since: long, dead: "ada said so", done: true},
	} {
		t.Run(name, func(t *testing.T) {
			e, client := fakeEnv(spec.RunMigrate, c.hooks...)
			if err := Verbs()["hook.pre-backup"].Ensure(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			e.Target, e.Run.Steps, e.Run.Status.TargetDead = nil, c.steps, c.dead
			e.Step = spec.Step{Name: "pre-backup-hooks", Verb: "hook.clean-up", Attempt: 1, Undid: &spec.Undid{Started: &c.since}}
			if e.Undo = c.kind == ""; !e.Undo {
				e.Run.Spec.Kind, e.Step.Undid = c.kind, nil
			}
			verb := Verbs()["hook.clean-up"]
			if slices.Contains(verb.Needs, spec.Target) || len(verb.Needs) == 0 {
				t.Fatal("it cannot do without the target")
			}
			err := verb.Ensure(t.Context(), e)
			o, looked := verb.Look(t.Context(), e)
			if (err == nil) != c.done || (looked == nil) != c.done || c.done != (o.Seen == reconciler.Succeeded) {
				t.Fatalf("%+v, %v, %v", o, err, looked)
			}
			jobs, err := client.BatchV1().Jobs("shop").List(t.Context(), metav1.ListOptions{})
			if err != nil || c.done != (len(jobs.Items) == 0) {
				t.Fatalf("%d Jobs left on the source, %v", len(jobs.Items), err)
			}
		})
	}
}

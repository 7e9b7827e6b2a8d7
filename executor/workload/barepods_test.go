package workload

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/restmapper"
	clienttesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"
)

// fataler is what tests and properties have in common.
type fataler interface{ Fatalf(string, ...any) }

func bare(name string, phase corev1.PodPhase, ready bool) *unstructured.Unstructured {
	status := map[string]any{"phase": string(phase)}
	if ready {
		status["conditions"] = []any{map[string]any{"type": "Ready", "status": "True"}}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"namespace": "shop", "name": name, "uid": "uid-" + name, "labels": map[string]any{"app": name}},
		"spec":     map[string]any{"restartPolicy": "Always", "containers": []any{map[string]any{"name": "c", "image": "of-" + name}}},
		"status":   status,
	}}
}

// bareEnv is fakeEnv whose two clients are of one server, as far as Secrets go, and
// whose pods get a UID of their own. faults are asked before every write.
func bareEnv(fault func() int, objects ...runtime.Object) (*kube.Env, *dynamicfake.FakeDynamicClient) {
	e, client := fakeEnv(objects)
	typed := e.Source.Kube.(*kubefake.Clientset)
	for _, l := range typed.Resources {
		if l.GroupVersion == "v1" {
			l.APIResources = append(l.APIResources, metav1.APIResource{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: metav1.Verbs{"list"}})
		}
	}
	disco := memory.NewMemCacheClient(typed.Discovery())
	e.Source.Discovery, e.Source.Mapper = disco, restmapper.NewDeferredDiscoveryRESTMapper(disco)
	made := 0
	withFaults := func(tracker clienttesting.ObjectTracker, do func(clienttesting.Action) (bool, runtime.Object, error)) clienttesting.ReactionFunc {
		return func(a clienttesting.Action) (bool, runtime.Object, error) {
			f := fault()
			if f == 1 {
				return true, nil, errors.New("connection refused")
			}
			handled, o, err := do(a)
			if !handled && err == nil {
				handled, o, err = clienttesting.ObjectReaction(tracker)(a)
			}
			if f == 2 {
				return true, nil, errors.Join(errors.New("connection reset"), err)
			}
			return handled, o, err
		}
	}
	dynamic := func(a clienttesting.Action) (bool, runtime.Object, error) {
		switch a := a.(type) {
		case clienttesting.DeleteActionImpl:
			if a.GetResource().Resource == "secrets" {
				return true, nil, typed.Tracker().Delete(a.GetResource(), a.GetNamespace(), a.GetName())
			}
			have, err := client.Tracker().Get(a.GetResource(), a.GetNamespace(), a.GetName())
			if p := a.GetDeleteOptions().Preconditions; err == nil && have.(metav1.Object).GetUID() != *p.UID {
				return true, nil, apierrors.NewConflict(a.GetResource().GroupResource(), a.GetName(), errors.New("another UID"))
			}
		case clienttesting.CreateAction:
			made++
			a.GetObject().(metav1.Object).SetUID(types.UID(fmt.Sprintf("made-%d", made)))
		}
		return false, nil, nil
	}
	for _, verb := range []string{"create", "delete"} {
		client.PrependReactor(verb, "*", withFaults(client.Tracker(), dynamic))
	}
	for _, verb := range []string{"create", "update"} {
		typed.PrependReactor(verb, "secrets", withFaults(typed.Tracker(), func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.GetVerb() == "create" {
				a.(clienttesting.CreateAction).GetObject().(metav1.Object).SetUID("a-secret")
			}
			return false, nil, nil
		}))
	}
	return e, client
}

// runBare runs a verb as the loop does, at most so many turns, with a kubelet that
// makes ready what it finds.
func runBare(t fataler, e *kube.Env, client *dynamicfake.FakeDynamicClient, verb string, most int) reconciler.Observation {
	v, ok := Verbs()[verb]
	if !ok {
		v = kube.Verbs()[verb]
	}
	for range most {
		o, err := v.Look(t2ctx(), e)
		if err != nil {
			continue
		}
		(&lab{env: e}).merge(o.Facts)
		if o.Facts != nil && o.Facts.Custom != nil {
			e.Run.Facts.Custom = o.Facts.Custom
		}
		if o.Seen == reconciler.Succeeded || o.Seen == reconciler.Broken {
			return o
		}
		if o.Seen == reconciler.Absent {
			_ = v.Ensure(t2ctx(), e)
		}
		l, err := client.Resource(podsResource).Namespace("shop").List(t2ctx(), metav1.ListOptions{})
		if err != nil {
			t.Fatalf("%v", err)
		}
		for n := range l.Items {
			if l.Items[n].Object["status"] == nil {
				l.Items[n].Object["status"] = bare("x", corev1.PodRunning, true).Object["status"]
				_, _ = client.Resource(podsResource).Namespace("shop").Update(t2ctx(), &l.Items[n], metav1.UpdateOptions{})
			}
		}
	}
	if most > 20 {
		t.Fatalf("%s does not end", verb)
	}
	return reconciler.Observation{}
}

func undoing(e *kube.Env) {
	now := metav1.NewMicroTime(time.Now())
	e.Undo, e.Step = true, spec.Step{Name: "stop", Verb: "workload.stop", Attempt: 1, State: spec.StepUndoing, Undid: &spec.Undid{Started: &now}}
}

func keeping(e *kube.Env) {
	e.Undo, e.Step = false, spec.Step{Name: "keep-custom-resources", Verb: "kube.keep", Attempt: 1, State: spec.StepRunning}
}

func podNow(client *dynamicfake.FakeDynamicClient, name string) *unstructured.Unstructured {
	u, err := client.Resource(podsResource).Namespace("shop").Get(t2ctx(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return u
}

// However often a call fails before or after its effect, and wherever the stop is
// given up: every pod that ran is there again as it was, once; what a hook removed or
// what has ended stays so, and nothing is left (safety properties 2, 5, 8).
func TestBarePodsThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		faults := rapid.SliceOfN(rapid.IntRange(0, 2), 0, 16).Draw(t, "faults")
		var mu sync.Mutex // two clients ask
		next := func() (f int) {
			mu.Lock()
			defer mu.Unlock()
			if len(faults) > 0 {
				f, faults = faults[0], faults[1:]
			}
			return f
		}
		var objects []runtime.Object
		how := map[string]string{}
		for _, name := range []string{"a", "b", "c"} {
			how[name] = rapid.SampledFrom([]string{"runs", "not ready", "ended", "removed by a hook", "ends before the stop"}).Draw(t, name)
			phase := corev1.PodRunning
			if how[name] == "ended" {
				phase = corev1.PodSucceeded
			}
			objects = append(objects, bare(name, phase, how[name] == "runs"))
		}
		objects = append(objects, made("Deployment", "web", 2, nil).Unstructured)
		e, client := bareEnv(next, objects...)
		for _, h := range how {
			if h == "removed by a hook" || h == "ends before the stop" {
				e.Run.Spec.Closure.Plan.Spec.Hooks = []spec.PlanHook{{Hook: "remove", Phase: spec.PreBackup}}
			}
		}
		keeping(e)
		runBare(t, e, client, "kube.keep", 60)
		for name, h := range how {
			switch h {
			case "removed by a hook":
				_ = client.Tracker().Delete(podsResource, "shop", name)
			case "ends before the stop":
				_ = client.Tracker().Update(podsResource, bare(name, corev1.PodFailed, false), "shop")
			}
		}
		pendFake(e, "workload.stop")
		turns := rapid.SampledFrom([]int{0, 1, 2, 3, 60}).Draw(t, "turns")
		o := runBare(t, e, client, "workload.stop", turns)
		if turns == 60 {
			if d, err := lookDrained(t2ctx(), e); o.Seen != reconciler.Succeeded || err != nil || d.Seen != reconciler.Succeeded {
				t.Fatalf("%+v, %+v %v", o, d, err)
			}
		}
		for name, h := range how {
			if gone := podNow(client, name) == nil; turns == 60 && gone != (h != "ended" && h != "ends before the stop") {
				t.Fatalf("%s (%s): gone is %v", name, h, gone)
			}
		}
		for _, verb := range []string{"kube.keep-undo", "workload.start-source"} {
			undoing(e)
			if o := runBare(t, e, client, verb, 60); o.Seen != reconciler.Succeeded || o.Reason != "" {
				t.Fatalf("%s: %+v", verb, o)
			}
		}
		for name, h := range how {
			now, was := podNow(client, name), bare(name, corev1.PodRunning, true)
			switch {
			case h == "removed by a hook":
				if now != nil {
					t.Fatalf("%s was removed by a hook, and is back", name)
				}
			case now == nil || !reflect.DeepEqual(now.Object["spec"], was.Object["spec"]) || !reflect.DeepEqual(now.GetLabels(), was.GetLabels()) || len(now.GetAnnotations()) > 0:
				t.Fatalf("%s (%s) is %v", name, h, now)
			case h == "ended" && now.GetUID() != was.GetUID():
				t.Fatalf("%s had ended, and was made anew", name)
			}
		}
		if l, err := e.Source.Kube.CoreV1().Secrets("tranship-system").List(t2ctx(), metav1.ListOptions{}); err != nil || len(l.Items) > 0 {
			t.Fatalf("%d Secrets are left (%v)", len(l.Items), err)
		}
	})
}

func noFault() int { return 0 }

// stoppedBare is a run that has deleted pod a.
func stoppedBare(t *testing.T, ready bool) (*kube.Env, *dynamicfake.FakeDynamicClient) {
	t.Helper()
	e, client := bareEnv(noFault, bare("a", corev1.PodRunning, ready))
	keeping(e)
	runBare(t, e, client, "kube.keep", 60)
	pendFake(e, "workload.stop")
	if o := runBare(t, e, client, "workload.stop", 60); o.Seen != reconciler.Succeeded || podNow(client, "a") != nil || o.Facts == nil || len(o.Facts.Times) == 0 {
		t.Fatalf("%+v", o)
	}
	return e, client
}

// A pod that comes back by itself is named with who made it, before the last copy;
// going back, it is left alone, and told.
func TestABarePodThatComesBack(t *testing.T) {
	e, client := stoppedBare(t, true)
	script := bare("a", corev1.PodRunning, true)
	script.SetUID("scripts")
	script.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "nightly-script", Operation: metav1.ManagedFieldsOperationUpdate}})
	if err := client.Tracker().Add(script); err != nil {
		t.Fatal(err)
	}
	for name, look := range map[string]func() (reconciler.Observation, error){
		"stop":          func() (reconciler.Observation, error) { return lookStop(t.Context(), e) },
		"drained":       func() (reconciler.Observation, error) { return lookDrained(t.Context(), e) },
		"still-stopped": func() (reconciler.Observation, error) { return lookStillStopped(t.Context(), e) },
	} {
		o, err := look()
		if err != nil || o.Seen != reconciler.Broken || !o.Final || o.Reason != "ScaledBackUp" || !strings.Contains(o.Message, `shop/a was deleted by the stop and made anew by "nightly-script"`) {
			t.Errorf("%s: %+v %v", name, o, err)
		}
	}
	for range 2 { // also after a daemon that died between the two
		undoing(e)
		if o := runBare(t, e, client, "workload.start-source", 60); o.Seen != reconciler.Succeeded || o.Reason != reconciler.ReasonMadeAgain || !strings.Contains(o.Message, "shop/a") {
			t.Errorf("%+v", o)
		}
	}
	if podNow(client, "a").GetUID() != "scripts" {
		t.Error("it was made anew")
	}
}

// What nobody kept is not deleted, and what was made anew since is not what was kept.
func TestTheStopDeletesOnlyWhatIsKept(t *testing.T) {
	for reason, spoil := range map[string]func(e *kube.Env, client *dynamicfake.FakeDynamicClient){
		"NewWorkload": func(_ *kube.Env, client *dynamicfake.FakeDynamicClient) {
			_ = client.Tracker().Add(bare("b", corev1.PodRunning, true))
		},
		"WorkloadGone": func(_ *kube.Env, client *dynamicfake.FakeDynamicClient) { // somebody takes it out of the plan
			other := bare("a", corev1.PodRunning, true)
			other.SetLabels(map[string]string{"part": "no"})
			_ = client.Tracker().Update(podsResource, other, "shop")
		},
		"WorkloadGone, deleted": func(_ *kube.Env, client *dynamicfake.FakeDynamicClient) {
			_ = client.Tracker().Delete(podsResource, "shop", "a")
		},
		"WorkloadGone, evicted": func(_ *kube.Env, client *dynamicfake.FakeDynamicClient) {
			_ = client.Tracker().Update(podsResource, bare("a", corev1.PodFailed, false), "shop")
		},
		"WorkloadReplaced": func(_ *kube.Env, client *dynamicfake.FakeDynamicClient) {
			other := bare("a", corev1.PodRunning, true)
			other.SetUID("other")
			_ = client.Tracker().Update(podsResource, other, "shop")
		},
	} {
		e, client := bareEnv(noFault, bare("a", corev1.PodRunning, true), made("Deployment", "web", 2, nil).Unstructured)
		e.Run.Spec.Closure.Plan.Spec.LabelSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "part", Operator: metav1.LabelSelectorOpDoesNotExist}}}
		keeping(e)
		runBare(t, e, client, "kube.keep", 60)
		spoil(e, client)
		pendFake(e, "workload.stop")
		o := runBare(t, e, client, "workload.stop", 60)
		if o.Seen != reconciler.Broken || !o.Final || o.Reason != strings.Split(reason, ",")[0] || !fetch(client, "web").runs() || podNow(client, "a") == nil && !strings.HasSuffix(reason, "deleted") {
			t.Errorf("%s: %+v", reason, o)
		}
	}
	// Kept, and not on record: the record is pushed before the stop acts.
	e, client := bareEnv(noFault, bare("a", corev1.PodRunning, true))
	keeping(e)
	runBare(t, e, client, "kube.keep", 60)
	e.Run.Facts.Custom = nil
	pendFake(e, "workload.stop")
	if o := runBare(t, e, client, "workload.stop", 60); o.Seen != reconciler.Broken || podNow(client, "a") == nil {
		t.Errorf("%+v", o)
	}
}

// One that cannot be made again, or is never ready, is given up after five minutes:
// the rest of the application runs, and a warning names it.
func TestABarePodThatIsNeverReady(t *testing.T) {
	long := metav1.NewMicroTime(time.Now().Add(-time.Hour))
	late := func(e *kube.Env) { // the first try was long ago
		l, err := e.Source.Kube.CoreV1().Secrets("tranship-system").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(l.Items) != 1 {
			t.Fatalf("%d Secrets (%v)", len(l.Items), err)
		}
		s := &l.Items[0]
		if s.Annotations["tranship.dev/put-back-tried"] == "" {
			t.Fatal("it was not tried")
		}
		s.Annotations["tranship.dev/put-back-tried"] = e.RunLabel() + " " + long.UTC().Format(time.RFC3339Nano)
		if _, err := e.Source.Kube.CoreV1().Secrets(s.Namespace).Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for reason, spoil := range map[string]clienttesting.ReactionFunc{
		reconciler.ReasonNotPutBack: func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewInternalError(errors.New("failed calling webhook"))
		},
		reconciler.ReasonPodNotReady: func(a clienttesting.Action) (bool, runtime.Object, error) {
			a.(clienttesting.CreateAction).GetObject().(*unstructured.Unstructured).Object["status"] = map[string]any{"phase": "Pending"}
			return false, nil, nil
		},
	} {
		e, client := stoppedBare(t, true)
		client.PrependReactor("create", "pods", spoil)
		undoing(e)
		e.Step.Undid.Started = &long // the daemon was away
		if o := runBare(t, e, client, "workload.start-source", 5); o.Seen == reconciler.Succeeded {
			t.Fatalf("%s: it was not waited for: %+v", reason, o)
		}
		late(e)
		if o := runBare(t, e, client, "workload.start-source", 60); o.Seen != reconciler.Succeeded || o.Reason != reason || !strings.Contains(o.Message, "shop/a") {
			t.Errorf("%s: %+v", reason, o)
		}
	}
	// Who was not ready before is not waited for.
	e, client := stoppedBare(t, false)
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		a.(clienttesting.CreateAction).GetObject().(*unstructured.Unstructured).Object["status"] = map[string]any{"phase": "Pending"}
		return false, nil, nil
	})
	undoing(e)
	if o := runBare(t, e, client, "workload.start-source", 60); o.Seen != reconciler.Succeeded || o.Reason != "" || podNow(client, "a") == nil {
		t.Errorf("%+v", o)
	}
}

// What is being deleted is waited for: there is never a second one, and the target
// does not start while it runs.
func TestABarePodThatEndsSlowly(t *testing.T) {
	e, client := bareEnv(noFault, bare("a", corev1.PodRunning, true))
	keeping(e)
	runBare(t, e, client, "kube.keep", 60)
	client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		now, slow := metav1.Now(), bare("a", corev1.PodRunning, true)
		slow.SetDeletionTimestamp(&now)
		return true, nil, client.Tracker().Update(podsResource, slow, "shop")
	})
	pendFake(e, "workload.stop")
	if o := runBare(t, e, client, "workload.stop", 60); o.Seen != reconciler.Succeeded {
		t.Fatalf("%+v", o)
	}
	if o, err := lookDrained(t.Context(), e); err != nil || o.Seen != reconciler.Working || o.Reason != "PodTerminating" || !strings.Contains(o.Message, "shop/a") {
		t.Errorf("%+v %v", o, err)
	}
	undoing(e)
	if o, err := lookStartSource(t.Context(), e); err != nil || o.Seen != reconciler.Working || o.Reason != "PodTerminating" {
		t.Errorf("%+v %v", o, err)
	}
	// It has a grace of its own, however long ago the undo began; after that five minutes.
	long := metav1.NewMicroTime(time.Now().Add(-time.Hour))
	e.Step.Undid.Started = &long
	for in, want := range map[time.Duration]reconciler.Seen{time.Hour: reconciler.Working, -time.Minute: reconciler.Working, -time.Hour: reconciler.Succeeded} {
		due, slow := metav1.NewTime(time.Now().Add(in)), podNow(client, "a")
		slow.SetDeletionTimestamp(&due)
		if err := client.Tracker().Update(podsResource, slow, "shop"); err != nil {
			t.Fatal(err)
		}
		if o, err := lookStartSource(t.Context(), e); err != nil || o.Seen != want {
			t.Errorf("due in %s: %+v %v", in, o, err)
		}
	}
	undoing(e)
	if err := client.Tracker().Delete(podsResource, "shop", "a"); err != nil {
		t.Fatal(err)
	}
	if o := runBare(t, e, client, "workload.start-source", 60); o.Seen != reconciler.Succeeded || podNow(client, "a") == nil {
		t.Errorf("%+v", o)
	}
}

// A Secret that is gone is told, where its pod is gone too.
func TestABarePodThatNobodyKeeps(t *testing.T) {
	e, client := stoppedBare(t, true)
	l, err := e.Source.Kube.CoreV1().Secrets("tranship-system").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(l.Items) != 1 {
		t.Fatalf("%v %v", l, err)
	}
	if err := e.Source.Kube.CoreV1().Secrets("tranship-system").Delete(t.Context(), l.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	undoing(e)
	if o := runBare(t, e, client, "workload.start-source", 60); o.Seen != reconciler.Succeeded || o.Reason != reconciler.ReasonKeptObjectGone || !strings.Contains(o.Message, "shop/a") {
		t.Errorf("%+v", o)
	}
}

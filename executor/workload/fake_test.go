package workload

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"
)

// made builds a workload as the API server would return it: healthy, seen by
// its controller.
func made(kind, name string, replicas int64, more func(o map[string]any)) item {
	o := map[string]any{
		"apiVersion": kindNamed(kind).apiVersion, "kind": kind,
		"metadata": map[string]any{"namespace": "shop", "name": name, "uid": "uid-" + name, "resourceVersion": "5", "generation": int64(2)},
		"spec":     map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": name}}},
		"status":   map[string]any{"observedGeneration": int64(2)},
	}
	shapes[kindNamed(kind).brake](o, replicas)
	if more != nil {
		more(o)
	}
	return item{kindNamed(kind), &unstructured.Unstructured{Object: o}}
}

// shapes are what a kind says of its pods; of those without replicas, none
// means that the author has stopped them.
var shapes = map[*brake]func(o map[string]any, n int64){
	byReplicas: func(o map[string]any, n int64) {
		field(o, "spec/replicas", n)
		field(o, "status", map[string]any{"observedGeneration": int64(2), "replicas": n, "readyReplicas": n, "updatedReplicas": n,
			"conditions": []any{map[string]any{"type": "Available", "status": "True"}}})
	},
	byNodeSelector: func(o map[string]any, n int64) {
		field(o, "spec/template/spec", map[string]any{"serviceAccountName": "app"})
		for _, f := range []string{"desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled"} {
			field(o, "status/"+f, n)
		}
	},
	byPausing: func(o map[string]any, n int64) {
		switch n { // of the four ways to say it
		case 0:
			annotate(o, kube.AnnotationPaused, "true")
		case 1:
			annotate(o, kube.AnnotationPaused, "false")
			annotate(o, kube.AnnotationPausedReplicas, "5")
		case 2:
			annotate(o, kube.AnnotationPausedReplicas, "0")
		}
		confirmPause(o)
	},
	byPausingJobs: func(o map[string]any, n int64) {
		if n < 2 {
			annotate(o, kube.AnnotationPaused, []string{"yes", "false"}[n])
		}
		confirmPause(o)
	},
	bySuspension: func(o map[string]any, n int64) {
		field(o, "spec/suspend", n == 0)
		if o["kind"] == "Job" {
			field(o, "spec/parallelism", max(n, 1))
			field(o, "status", map[string]any{"active": n, "ready": n})
			suspendJob(o)
		}
	},
}

// suspendJob does to a Job's status what its controller does.
func suspendJob(o map[string]any) {
	var conditions []any
	if s, _, _ := unstructured.NestedBool(o, "spec", "suspend"); s {
		conditions = []any{map[string]any{"type": "Suspended", "status": "True"}}
	}
	field(o, "status/conditions", conditions)
}

func field(o map[string]any, path string, value any) {
	fields := strings.Split(path, "/")
	if err := unstructured.SetNestedField(o, value, fields...); err != nil {
		panic(err)
	}
}

func annotate(o map[string]any, key, value string) {
	u := unstructured.Unstructured{Object: o}
	a := u.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	a[key] = value
	u.SetAnnotations(a)
}

func volumeNamed(name, policy, claim string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": map[string]any{"name": name, "uid": "uid-" + name, "resourceVersion": "9"},
		"spec":     map[string]any{"persistentVolumeReclaimPolicy": policy, "claimRef": map[string]any{"namespace": "shop", "name": claim, "uid": "uid-" + claim}},
	}}
}

func claimNamed(name, volume string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volume},
	}
}

// fakeEnv has the objects on a source that is only a tracker: it shows what
// the verbs send and lets faults be injected; what clusters do with it is
// tried on the bed.
func fakeEnv(dynamics []runtime.Object, typed ...runtime.Object) (*kube.Env, *dynamicfake.FakeDynamicClient) {
	lists := map[schema.GroupVersionResource]string{volumeKind.gvr: "PersistentVolumeList", podsResource: "PodList",
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}: "CustomResourceDefinitionList"}
	for _, k := range kinds {
		lists[k.gvr] = k.name + "List"
	}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, dynamics...)
	e := testEnv("shop")
	clientset := kubefake.NewClientset(typed...)
	for _, k := range kinds {
		clientset.Resources = append(clientset.Resources, &metav1.APIResourceList{GroupVersion: k.gvr.GroupVersion().String(), APIResources: []metav1.APIResource{{Name: k.gvr.Resource, Kind: k.name, Namespaced: true}}})
	}
	served := memory.NewMemCacheClient(clientset.Discovery())
	e.Source = &kube.Cluster{Side: spec.Source, Name: "old", Dynamic: client, Kube: clientset, Discovery: served}
	e.Target = &kube.Cluster{Side: spec.Target, Name: "new", Dynamic: client, Kube: clientset, Discovery: served}
	return e, client
}

// turns runs a verb as the loop does: errors are transient, facts recorded.
func turns(t interface{ Fatalf(string, ...any) }, e *kube.Env, verb string, forget func()) reconciler.Observation {
	v := Verbs()[verb]
	l := &lab{env: e}
	for range 60 {
		o, err := v.Look(t2ctx(), e)
		if err != nil {
			continue
		}
		l.merge(o.Facts)
		if o.Seen == reconciler.Succeeded || o.Seen == reconciler.Broken {
			return o
		}
		if o.Seen == reconciler.Absent {
			_ = v.Ensure(t2ctx(), e)
			control(e, "Job", suspendJob)
			control(e, "ScaledObject", confirmPause)
			control(e, "ScaledJob", confirmPause)
			if forget != nil {
				forget()
			}
		}
	}
	t.Fatalf("%s does not end", verb)
	return reconciler.Observation{}
}

// control stands in for the controller of a kind.
func control(e *kube.Env, kind string, act func(o map[string]any)) {
	objects := e.Source.Dynamic.Resource(kindNamed(kind).gvr).Namespace("shop")
	list, err := objects.List(t2ctx(), metav1.ListOptions{})
	if err != nil {
		return
	}
	for n := range list.Items {
		act(list.Items[n].Object)
		_, _ = objects.Update(t2ctx(), &list.Items[n], metav1.UpdateOptions{})
	}
}

// confirmPause does to the status of KEDA's objects what KEDA does.
func confirmPause(o map[string]any) {
	paused := "False"
	if pausesAll((&unstructured.Unstructured{Object: o}).GetAnnotations()) {
		paused = "True"
	}
	field(o, "status/conditions", []any{map[string]any{"type": "Paused", "status": paused}})
}

// Whatever was there before, whatever is lost on the way and however often a
// call fails before or after its effect: there and back leaves every object
// as it was (safety property 5).
func TestThereAndBackChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var objects []runtime.Object
		before := map[string]map[string]any{}
		policy := rapid.SampledFrom([]string{"Retain", "Delete"})
		for _, name := range []string{"a", "b", "c"} {
			k := rapid.SampledFrom(kinds).Draw(t, "kind").name
			i := made(k, name, rapid.Int64Range(0, 3).Draw(t, "replicas"), func(o map[string]any) {
				switch k {
				case "StatefulSet":
					field(o, "spec/persistentVolumeClaimRetentionPolicy", map[string]any{"whenScaled": policy.Draw(t, "scaled"), "whenDeleted": policy.Draw(t, "deleted")})
				case "DaemonSet":
					if s := rapid.MapOf(rapid.SampledFrom([]string{"disk", "zone"}), rapid.SampledFrom([]any{"a", "b"})).Draw(t, "nodes"); len(s) > 0 {
						field(o, "spec/template/spec/nodeSelector", s)
					}
				case "Deployment", "DeploymentConfig":
					if rapid.Bool().Draw(t, "paused") {
						field(o, "spec/paused", true)
					}
				}
				if rapid.Bool().Draw(t, "annotated") {
					annotate(o, "example.com/own", "stays")
				}
			})
			objects = append(objects, i.Unstructured)
			before[name] = i.DeepCopy().Object
		}
		pv := volumeNamed("pv", policy.Draw(t, "reclaim"), "data")
		objects = append(objects, pv)
		before["pv"] = pv.DeepCopy().Object
		e, client := fakeEnv(objects, claimNamed("data", "pv"))
		e.Run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data", Action: "copy"}}
		withRetain := rapid.Bool().Draw(t, "retain")
		if !withRetain {
			e.Run.Steps = e.Run.Steps[1:]
		}
		faults := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 12).Draw(t, "faults")
		inject(client, func() (fault int) {
			if len(faults) > 0 {
				fault, faults = faults[0], faults[1:]
			}
			return fault
		})
		if withRetain {
			pendFake(e, "workload.retain")
			turns(t, e, "workload.retain", nil)
		}
		pendFake(e, "workload.stop")
		turns(t, e, "workload.stop", nil)
		for name := range before {
			if i := fetch(client, name); i.kind != volumeKind && (i.runs() || !i.retains() && before[name]["spec"].(map[string]any)["replicas"] != int64(0)) {
				t.Fatalf("%s is not stopped and safe: %v", name, i.Object)
			}
		}
		lose := func() {
			if rapid.Bool().Draw(t, "lost") {
				e.Run.Facts = spec.Facts{Volumes: []spec.Volume{{Namespace: "shop", Claim: "data", Action: "copy"}}}
			}
		}
		lose()
		turns(t, e, "workload.start-source", lose)
		if withRetain {
			turns(t, e, "workload.retain-undo", lose)
		}
		for name, want := range before {
			if got := fetch(client, name).Object; !reflect.DeepEqual(normal(got), normal(want)) {
				t.Fatalf("%s: got  %v\nwant %v", name, normal(got), normal(want))
			}
		}
	})
}

// inject makes patches fail: 1 before the effect, 2 after it, 3 as a conflict.
func inject(client *dynamicfake.FakeDynamicClient, next func() int) {
	client.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		fault := next()
		gr := a.GetResource().GroupResource()
		switch fault {
		case 1:
			return true, nil, errors.New("connection refused")
		case 2:
			_, _, err := clienttesting.ObjectReaction(client.Tracker())(a)
			return true, nil, errors.Join(errors.New("connection reset"), err)
		case 3:
			return true, nil, apierrors.NewConflict(gr, "x", errors.New("changed"))
		}
		return false, nil, nil
	})
}

func fetch(client *dynamicfake.FakeDynamicClient, name string) item {
	for _, k := range append([]*kind{volumeKind}, kinds...) {
		ns := "shop"
		if k == volumeKind {
			ns = ""
		}
		if u, err := client.Resource(k.gvr).Namespace(ns).Get(t2ctx(), name, metav1.GetOptions{}); err == nil {
			return item{k, u}
		}
	}
	panic("no " + name)
}

// normal drops what the server owns, and tells numbers by value.
func normal(o map[string]any) map[string]any {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var n map[string]any
	if err := json.Unmarshal(text, &n); err != nil {
		panic(err)
	}
	m := n["metadata"].(map[string]any)
	delete(m, "managedFields")
	if a, ok := m["annotations"].(map[string]any); ok && len(a) == 0 {
		delete(m, "annotations")
	}
	return n
}

func pendFake(e *kube.Env, verb string) {
	e.Step = spec.Step{Name: verb, Verb: verb, Attempt: 1}
	o, err := Verbs()[verb].Look(t2ctx(), e)
	if err != nil {
		panic(err)
	}
	(&lab{env: e}).merge(o.Facts)
	e.Step.State = spec.StepRunning
}

// Defect 5 of mig-controller: one API error ended the migration. Here it is
// an error to be retried, never a verdict; and a patch states its conditions.
func TestTransientErrorsAreErrors(t *testing.T) {
	e, client := fakeEnv([]runtime.Object{made("Deployment", "web", 2, nil).Unstructured})
	pendFake(e, "workload.stop")
	inject(client, func() int { return 1 })
	if err := ensureStop(t.Context(), e); err == nil || !strings.Contains(err.Error(), "source Deployment shop/web") || !strings.Contains(err.Error(), "old") {
		t.Errorf("error %v", err)
	}
	client.PrependReactor("list", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("timeout")
	})
	if _, err := lookStop(t.Context(), e); err == nil {
		t.Error("a failed list became a verdict")
	}
	for _, a := range client.Actions() {
		if p, ok := a.(clienttesting.PatchAction); ok && (!strings.Contains(string(p.GetPatch()), `"uid":"uid-web"`) || !strings.Contains(string(p.GetPatch()), `"resourceVersion":"5"`)) {
			t.Errorf("patch without preconditions: %s", p.GetPatch())
		}
	}
}

// Without a watch the loop looks again after Poll, and nothing fails.
func TestNoWatchIsNoError(t *testing.T) {
	e, client := fakeEnv([]runtime.Object{made("Deployment", "web", 0, func(o map[string]any) { field(o, "metadata/generation", int64(3)) }).Unstructured})
	client.PrependWatchReactor("*", clienttesting.DefaultWatchReactor(nil, errors.New("forbidden")))
	pendFake(e, "workload.stop")
	o, err := lookStop(t.Context(), e)
	if err != nil || o.Seen != reconciler.Working || o.Wake != nil || o.Poll == 0 {
		t.Errorf("%+v %v", o, err)
	}
}

// Between the list and the stop the world may change: nothing that is not
// what was recorded is scaled.
func TestStopRefusesWhatItDidNotList(t *testing.T) {
	cases := map[string]struct {
		now    item
		reason string
	}{
		"replaced": {made("Deployment", "web", 2, func(o map[string]any) { field(o, "metadata/uid", "other") }), "WorkloadReplaced"},
		"new":      {made("Deployment", "new", 1, nil), "NewWorkload"},
		"foreign": {made("Deployment", "web", 2, func(o map[string]any) {
			annotate(o, kube.AnnotationPrevious, `{"replicas":9}`)
			annotate(o, kube.AnnotationRun, "other-0123456789-migrate-1")
		}), "ChangedByOtherPlan"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e, client := fakeEnv([]runtime.Object{c.now.Unstructured})
			if name != "new" {
				e.Run.Facts.Workloads = []spec.Workload{{Object: made("Deployment", "web", 2, nil).object(spec.Source), Replicas: 2}}
			}
			e.Step.State = spec.StepRunning
			if err := ensureStop(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			o, err := lookStop(t.Context(), e)
			if err != nil || o.Seen != reconciler.Broken || !o.Final || o.Reason != c.reason {
				t.Errorf("%+v %v", o, err)
			}
			for _, a := range client.Actions() {
				if a.GetVerb() == "patch" {
					t.Errorf("it was patched: %v", a)
				}
			}
		})
	}
}

// What a newer daemon has changed is not touched.
func TestSupersededDaemonChangesNothing(t *testing.T) {
	e, client := fakeEnv([]runtime.Object{made("Deployment", "web", 2, func(o map[string]any) { annotate(o, kube.AnnotationEpoch, "8") }).Unstructured})
	pendFake(e, "workload.stop")
	if err := ensureStop(t.Context(), e); !errors.Is(err, reconciler.ErrSuperseded) {
		t.Errorf("error %v", err)
	}
	if n := fetch(client, "web").replicas(); n != 2 {
		t.Errorf("scaled to %d", n)
	}
}

// Defects 4 and 11 of mig-controller: volumes to be moved and pods without a
// claim were not waited for, and claims were told by name without namespace.
func TestDrainedWaitsFor(t *testing.T) {
	pod := func(ns, name, claim string, phase corev1.PodPhase, owner *metav1.OwnerReference) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": "web"}}, Status: corev1.PodStatus{Phase: phase}}
		if claim != "" {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
		}
		if owner != nil {
			p.OwnerReferences = []metav1.OwnerReference{*owner}
		}
		return p
	}
	yes := true
	by := func(kind, uid string) *metav1.OwnerReference {
		return &metav1.OwnerReference{Kind: kind, Name: uid, UID: types.UID(uid), Controller: &yes}
	}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "rs", UID: "rs", OwnerReferences: []metav1.OwnerReference{*by("Deployment", "uid-web")}}}
	cases := map[string]struct {
		pod   *corev1.Pod
		waits bool
	}{
		"claim to be moved":             {pod("shop", "p", "media", "Running", nil), true},
		"claim, node lost":              {pod("shop", "p", "media", "Unknown", by("DaemonSet", "x")), true},
		"claim, not scheduled":          {pod("shop", "p", "media", "Pending", nil), true},
		"stateless, of the Deployment":  {pod("shop", "p", "", "Running", by("ReplicaSet", "rs")), true},
		"its ReplicaSet is gone":        {pod("shop", "p", "", "Running", by("ReplicaSet", "gone")), true},
		"ended":                         {pod("shop", "p", "media", "Failed", by("ReplicaSet", "rs")), false},
		"same claim name elsewhere":     {pod("other", "p", "media", "Running", nil), false},
		"skipped claim":                 {pod("shop", "p", "cache", "Running", nil), false},
		"stateless, of somebody else's": {pod("shop", "p", "", "Running", by("StatefulSet", "x")), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e, _ := fakeEnv([]runtime.Object{made("Deployment", "web", 0, nil).Unstructured}, c.pod, rs, claimNamed("media", ""), claimNamed("cache", ""))
			e.Run.Spec.Closure.Plan.Spec.Namespaces = append(e.Plan().Namespaces, spec.NamespaceMapping{Name: "other"})
			e.Run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "media", Action: "move"}, {Namespace: "shop", Claim: "cache", Action: "skip"}}
			pendFake(e, "workload.stop")
			o, err := lookDrained(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			if waits := o.Seen == reconciler.Working; waits != c.waits || waits && !strings.Contains(o.Message, "shop/p") {
				t.Errorf("%+v", o)
			}
		})
	}
}

// A volume that another cluster may use keeps Retain, whatever is undone; once
// the note of the move is gone it gets its own policy back.
func TestAMovedVolumeStaysAtRetain(t *testing.T) {
	e, client := fakeEnv([]runtime.Object{volumeNamed("pv", "Delete", "media")}, claimNamed("media", "pv"))
	e.Run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "media", Action: "move"}}
	pendFake(e, "workload.retain")
	turns(t, e, "workload.retain", nil)
	if v := e.Run.Facts.Volumes[0]; v.SourcePV != "pv" || v.SourcePolicy != "Delete" || fetch(client, "pv").reclaimPolicy() != retain {
		t.Fatalf("%+v, the volume is at %s", v, fetch(client, "pv").reclaimPolicy())
	}
	note := func(value any) {
		patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{kube.AnnotationMoved: value}}})
		if _, err := client.Resource(volumeKind.gvr).Patch(t.Context(), "pv", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	note("new/tr-shop")
	pendFake(e, "workload.retain-undo")
	o := turns(t, e, "workload.retain-undo", nil)
	if o.Seen != reconciler.Broken || o.Reason != "StillMoved" || !o.Final || !strings.Contains(o.Message, "new/tr-shop") {
		t.Fatalf("%+v", o)
	}
	if err := ensureRetainUndo(t.Context(), e); err != nil || fetch(client, "pv").reclaimPolicy() != retain {
		t.Fatalf("%v, the volume is at %s", err, fetch(client, "pv").reclaimPolicy())
	}
	note(nil)
	if o := turns(t, e, "workload.retain-undo", nil); o.Seen != reconciler.Succeeded || fetch(client, "pv").reclaimPolicy() != "Delete" {
		t.Fatalf("%+v, the volume is at %s", o, fetch(client, "pv").reclaimPolicy())
	}
}

// nothingMore is the discovery of a cluster that has what every cluster has.
func nothingMore() discovery.CachedDiscoveryInterface {
	clientset := kubefake.NewClientset()
	for _, k := range kinds {
		if !k.extension {
			clientset.Resources = append(clientset.Resources, &metav1.APIResourceList{GroupVersion: k.gvr.GroupVersion().String()})
		}
	}
	return memory.NewMemCacheClient(clientset.Discovery())
}

package kube

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/restmapper"
	clienttesting "k8s.io/client-go/testing"
)

var (
	databaseKind = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "databases"}
	setKind      = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}
	crdKind      = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

const (
	database    = "{apiVersion: example.com/v1, kind: Database, metadata: {name: db, namespace: shop, uid: d, labels: {tier: data}}, spec: {replicas: 2}}"
	databaseSet = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: shop, uid: set, ownerReferences: [{apiVersion: example.com/v1, kind: Database, name: db, uid: d, controller: true}]}}"
	definition  = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: databases.example.com}, spec: {group: example.com, names: {plural: databases}}}"
)

// operated is a cluster that knows databases. Its pods hang below StatefulSet db.
func operated(t *testing.T, side spec.Side, namespace string, pods []string, texts ...string) *Cluster {
	t.Helper()
	var objects []runtime.Object
	for _, text := range append(texts, definition) {
		i := item(t, text)
		objects = append(objects, i.Unstructured)
	}
	dynamics := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{databaseKind: "DatabaseList", setKind: "StatefulSetList", crdKind: "CustomResourceDefinitionList"}, objects...)
	typed := kubefake.NewClientset()
	for gv, r := range map[string]metav1.APIResource{"example.com/v1": {Name: "databases", Kind: "Database"}, "apps/v1": {Name: "statefulsets", Kind: "StatefulSet"}} {
		r.Namespaced, r.Verbs = true, metav1.Verbs{"list"}
		typed.Resources = append(typed.Resources, &metav1.APIResourceList{GroupVersion: gv, APIResources: []metav1.APIResource{r}})
	}
	yes := true
	for _, name := range pods {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "set", Controller: &yes}}}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if _, err := typed.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	dynamics.PrependReactor("delete", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) { // one server behind both clients
		return true, nil, typed.CoreV1().Secrets(a.GetNamespace()).Delete(t.Context(), a.(clienttesting.DeleteAction).GetName(), metav1.DeleteOptions{})
	})
	typed.PrependReactor("create", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		o := a.(clienttesting.CreateAction).GetObject().(metav1.Object)
		o.SetUID("uid-of-it")
		return false, nil, nil
	})
	disco := memory.NewMemCacheClient(typed.Discovery())
	return &Cluster{Side: side, Name: string(side), Dynamic: dynamics, Kube: typed, Discovery: disco, Mapper: restmapper.NewDeferredDiscoveryRESTMapper(disco)}
}

// oneDatabase is a cutover of a database with two pods, kept as it is.
func oneDatabase(t *testing.T) *Env {
	t.Helper()
	e := cutover(1, operated(t, spec.Source, "shop", []string{"db-0", "db-1"}, database, databaseSet), operated(t, spec.Target, "store", nil))
	e.Run.Spec.Closure.Plan.Spec.Hooks = []spec.PlanHook{{Hook: "stop", Phase: spec.PreBackup, Undo: "start"}}
	e.Run.Spec.Closure.Plan.Spec.Existing = ""
	drive(t, e, "kube.keep")
	if c := e.Run.Facts.Custom; len(c) != 1 || c[0].Ready != 2 || c[0].Name != "db" {
		t.Fatalf("kept: %+v", c)
	}
	return e
}

// drive looks and acts until a verb waits or is done, and takes its facts over.
func drive(t *testing.T, e *Env, verb string) reconciler.Observation {
	t.Helper()
	v := Verbs()[verb]
	for range 10 {
		o, err := v.Look(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if o.Facts != nil && o.Facts.Custom != nil {
			e.Run.Facts.Custom = o.Facts.Custom
		}
		if o.Facts != nil && o.Facts.Created != nil {
			e.Run.Facts.Created = o.Facts.Created
		}
		if o.Seen != reconciler.Absent {
			return o
		}
		if err := v.Ensure(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("%s never ends", verb)
	return reconciler.Observation{}
}

func changed(t *testing.T, c *Cluster, change func(u *unstructured.Unstructured)) {
	t.Helper()
	u, err := c.Dynamic.Resource(databaseKind).Namespace("shop").Get(t.Context(), "db", metav1.GetOptions{})
	if err == nil {
		change(u)
		_, err = c.Dynamic.Resource(databaseKind).Namespace("shop").Update(t.Context(), u, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func suspend(u *unstructured.Unstructured) {
	_ = unstructured.SetNestedField(u.Object, int64(0), "spec", "replicas")
	u.SetAnnotations(map[string]string{"example.com/paused": "true"})
}

func podsOf(t *testing.T, c *Cluster, namespace string, names ...string) {
	t.Helper()
	l, err := c.Kube.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Items {
		if err := c.Kube.CoreV1().Pods(namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		more := operated(t, c.Side, namespace, []string{name})
		p, err := more.Kube.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil {
			_, err = c.Kube.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What the hook changed in a custom resource, or that it deleted it, is undone, and
// the undo waits for the pods that hung below it.
func TestACustomResourceIsPutBack(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *Env){
		"changed": func(t *testing.T, e *Env) { changed(t, e.Source, suspend) },
		"deleted": func(t *testing.T, e *Env) {
			if err := e.Source.Dynamic.Resource(databaseKind).Namespace("shop").Delete(t.Context(), "db", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := oneDatabase(t)
			spoil(t, e)
			podsOf(t, e.Source, "shop")
			e.Undo = true
			o := drive(t, e, "kube.keep-undo")
			if o.Seen != reconciler.Working || o.Reason != "OperandsNotReady" || !strings.Contains(o.Message, "source Database shop/db has 0 of 2 pods ready") {
				t.Fatalf("%+v", o)
			}
			changed(t, e.Source, func(u *unstructured.Unstructured) {
				if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); n != 2 || len(u.GetAnnotations()) != 0 || u.GetLabels()["tier"] != "data" {
					t.Errorf("it is %v", u.Object)
				}
				u.SetUID("d") // as the fake has it not
				u.SetAnnotations(map[string]string{"example.com/restarted": "now"})
			})
			podsOf(t, e.Source, "shop", "db-0", "db-1")
			if o := drive(t, e, "kube.keep-undo"); o.Seen != reconciler.Succeeded {
				t.Fatalf("%+v", o)
			}
			changed(t, e.Source, func(u *unstructured.Unstructured) {
				if u.GetAnnotations()["example.com/restarted"] == "" {
					t.Error("what the operator wrote after it was put back is lost")
				}
			})
			if left, err := e.kept(t.Context()); err != nil || len(left) > 0 {
				t.Errorf("%d Secrets are left (%v)", len(left), err)
			}
		})
	}
}

// An operator that never brings its pods back does not keep the rest of the
// application down for ever.
func TestABrokenOperatorIsNotWaitedForForEver(t *testing.T) {
	for name, begun := range undoBegun {
		e := oneDatabase(t)
		podsOf(t, e.Source, "shop")
		for since, want := range map[time.Duration]reconciler.Seen{time.Minute: reconciler.Working, operandsWait + time.Minute: reconciler.Succeeded} {
			begun(e, since)
			if o := drive(t, e, "kube.keep-undo"); o.Seen != want || o.Reason != "OperandsNotReady" {
				t.Errorf("%s, after %s: %+v", name, since, o)
			}
		}
		if left, err := e.kept(t.Context()); err != nil || len(left) != 1 {
			t.Errorf("%s: %d Secrets are left (%v)", name, len(left), err)
		}
	}
}

// undoBegun are the two ways in which an undo is called: in the run that it undoes,
// and as a step of the rollback of a finished cutover.
var undoBegun = map[string]func(e *Env, since time.Duration){
	"a failed cutover": func(e *Env, since time.Duration) {
		long, started := metav1.NewMicroTime(time.Now().Add(-time.Hour)), metav1.NewMicroTime(time.Now().Add(-since))
		e.Undo, e.Step = true, spec.Step{State: spec.StepUndoing, Started: &long, Undid: &spec.Undid{Started: &started}}
	},
	"a rollback": func(e *Env, since time.Duration) {
		started := metav1.NewMicroTime(time.Now().Add(-since))
		e.Run.Spec.Kind, e.Run.Spec.Undoes, e.Run.Metadata.Name = spec.RunRollback, "shop-migrate-1", "shop-rollback-1"
		e.Undo, e.Step = false, spec.Step{State: spec.StepRunning, Started: &started}
	},
}

// A finalizer that nobody takes off keeps the source down only as long as a pod
// below the custom resource runs.
func TestACustomResourceThatNeverGoes(t *testing.T) {
	e := oneDatabase(t)
	gone := strings.NewReplacer("namespace: shop", "namespace: store", "uid: d", "uid: d, deletionTimestamp: '2026-11-29T00:00:00Z', finalizers: [example.com/stuck], annotations: {"+AnnotationPlan+": shop, "+AnnotationRun+": "+e.Origin()+"}").Replace(database)
	for n, pods := range [][]string{{"db-0"}, nil} {
		e.Target = operated(t, spec.Target, "store", pods, gone, strings.ReplaceAll(databaseSet, "namespace: shop", "namespace: store"))
		o := drive(t, e, "kube.custom-undo")
		if want := []reconciler.Seen{reconciler.Working, reconciler.Succeeded}[n]; o.Seen != want || !strings.Contains(o.Message, "target Database store/db") {
			t.Errorf("with pods %v: %+v", pods, o)
		}
	}
}

// A plan whose hooks stop nothing has touched no custom resource: what people have
// written into it since stays.
func TestAnUntouchedCustomResourceStays(t *testing.T) {
	e := oneDatabase(t)
	e.Run.Spec.Closure.Plan.Spec.Hooks = nil
	changed(t, e.Source, suspend)
	if o := drive(t, e, "kube.keep-undo"); o.Seen != reconciler.Succeeded {
		t.Fatalf("%+v", o)
	}
	changed(t, e.Source, func(u *unstructured.Unstructured) {
		if u.GetAnnotations()["example.com/paused"] == "" {
			t.Error("it was put back")
		}
	})
}

// The target gets the custom resource as it was before the hook, and loses it by an
// undo; what is there and not ours fails the step and stays.
func TestACustomResourceIsMadeOnTheTarget(t *testing.T) {
	e := oneDatabase(t)
	changed(t, e.Source, suspend)
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Created) != 1 {
		t.Fatalf("%+v %+v", o, e.Run.Facts.Created)
	}
	u, err := e.Target.Dynamic.Resource(databaseKind).Namespace("store").Get(t.Context(), "db", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); n != 2 || u.GetAnnotations()["example.com/paused"] != "" || u.GetAnnotations()[AnnotationPlan] != "shop" {
		t.Errorf("the target has %v", u.Object)
	}
	lacking, err := Lacking(t.Context(), e, e.Target, e.Run.Facts.Custom)
	if err != nil || len(lacking) != 1 || !strings.Contains(lacking[0].Message, "target Database store/db has 0 of 2 pods ready") {
		t.Errorf("%+v %v", lacking, err)
	}
	if e.Run.Facts.Custom[0].Namespace != "shop" {
		t.Error("the record of the source was changed")
	}
	if o := drive(t, e, "kube.custom-undo"); o.Seen != reconciler.Succeeded {
		t.Fatalf("%+v", o)
	}
	foreign := strings.NewReplacer("namespace: shop", "namespace: store", "uid: d", "uid: x").Replace(database)
	e.Target = operated(t, spec.Target, "store", nil, foreign)
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Broken || o.Reason != "ExistingObject" || !o.Final {
		t.Errorf("%+v", o)
	}
	e.Run.Spec.Closure.Plan.Spec.Existing = spec.ExistingSkip
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Succeeded {
		t.Errorf("%+v", o)
	}
	if o := drive(t, e, "kube.custom-undo"); o.Seen != reconciler.Succeeded {
		t.Errorf("%+v", o)
	}
	if _, err := e.Target.Dynamic.Resource(databaseKind).Namespace("store").Get(t.Context(), "db", metav1.GetOptions{}); err != nil {
		t.Errorf("somebody else's was deleted: %v", err)
	}
}

// Only what this very run has made is its own: what an earlier one has left is refused
// whatever the plan says, and what is being deleted is waited for.
func TestACustomResourceOfAnotherRunIsNotTaken(t *testing.T) {
	e := oneDatabase(t)
	there := func(run, more string) *Cluster {
		return operated(t, spec.Target, "store", nil, strings.NewReplacer("namespace: shop", "namespace: store", "uid: d", "uid: x, annotations: {"+AnnotationPlan+": shop, "+AnnotationRun+": "+run+"}"+more).Replace(database))
	}
	for _, policy := range []spec.ExistingPolicy{spec.ExistingFail, spec.ExistingSkip, spec.ExistingUpdate} {
		e.Run.Spec.Closure.Plan.Spec.Existing = policy
		e.Target = there("shop-migrate-7", "")
		if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Broken || o.Reason != "ExistingObject" || !o.Final || len(e.Run.Facts.Created) > 0 {
			t.Errorf("%s: %+v, %+v", policy, o, e.Run.Facts.Created)
		}
		e.Target = there(e.Origin(), ", deletionTimestamp: '2026-11-29T00:00:00Z', finalizers: [example.com/slow]")
		if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Working || o.Reason != "ObjectsTerminating" || !strings.Contains(o.Message, "example.com/slow") {
			t.Errorf("%s: %+v", policy, o)
		}
	}
}

// A snapshot stands for what the source's storage holds: it is never kept and made
// on the target.
func TestASnapshotIsNoCustomResource(t *testing.T) {
	d := Definitions{{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots"}: true, databaseKind.GroupResource(): true}
	for text, want := range map[string]bool{database: true, "{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: a, namespace: shop}}": false} {
		i := item(t, text)
		if got := d.Custom(i); got != want {
			t.Errorf("%s: %t", i.GetKind(), got)
		}
	}
}

// A Secret that is gone is no reason to go on without the custom resource.
func TestALostKeptCustomResourceEndsTheStep(t *testing.T) {
	e := oneDatabase(t)
	if err := e.Source.Kube.CoreV1().Secrets("ours").Delete(t.Context(), keptName(e, "d"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Broken || o.Reason != "KeptObjectGone" {
		t.Errorf("%+v", o)
	}
}

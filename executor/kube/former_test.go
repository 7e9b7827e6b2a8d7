package kube

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const (
	oursAtSource = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop, uid: s}, data: {of: source}}"
	theirs       = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: store, uid: u}, data: {of: target}}"
	sourceDoor   = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: shop, uid: d}, spec: {rules: [{host: source}]}}"
	sourceScaler = "{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: web, namespace: shop, uid: h}, spec: {maxReplicas: 2}}"
	theirScaler  = "{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: web, namespace: store, uid: j}, spec: {maxReplicas: 9}}"
	theirDoor    = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: store, uid: i}, spec: {rules: [{host: target}]}}"
)

var (
	settingsKind = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	doorKind     = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}
)

// tracker is a cluster that keeps what is written to it.
func tracker(t *testing.T, side spec.Side, texts ...string) *Cluster {
	t.Helper()
	var objects []runtime.Object
	for _, text := range texts {
		i := item(t, text)
		objects = append(objects, i.Unstructured)
	}
	dynamics := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{settingsKind: "ConfigMapList", doorKind: "IngressList", scaling[0]: "HorizontalPodAutoscalerList"}, objects...)
	typed := kubefake.NewClientset()
	for gv, r := range map[string]metav1.APIResource{"v1": {Name: "configmaps", Kind: "ConfigMap"}, "networking.k8s.io/v1": {Name: "ingresses", Kind: "Ingress"}, "autoscaling/v1": {Name: "horizontalpodautoscalers", Kind: "HorizontalPodAutoscaler"}} {
		r.Namespaced, r.Verbs = true, metav1.Verbs{"list"}
		typed.Resources = append(typed.Resources, &metav1.APIResourceList{GroupVersion: gv, APIResources: []metav1.APIResource{r}})
	}
	dynamics.PrependReactor("delete", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) { // one server behind both clients
		return true, nil, typed.CoreV1().Secrets(a.GetNamespace()).Delete(t.Context(), a.(clienttesting.DeleteAction).GetName(), metav1.DeleteOptions{})
	})
	typed.PrependReactor("create", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		o := a.(clienttesting.CreateAction).GetObject().(metav1.Object)
		o.SetUID(types.UID("uid-of-" + o.GetName()))
		return false, nil, nil
	})
	return &Cluster{Side: side, Name: string(side), Dynamic: dynamics, Kube: typed, Discovery: memory.NewMemCacheClient(typed.Discovery())}
}

// cutover is the n-th cutover of plan shop between two clusters.
func cutover(n int, source, target *Cluster) *Env {
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: n}}
	run.Spec.Closure.Plan.Spec.Existing = spec.ExistingUpdate
	run.Spec.Closure.Plan.Spec.Namespaces = []spec.NamespaceMapping{{Name: "shop", TargetName: "store"}}
	run.Facts.Traffic = []spec.Traffic{{Object: spec.Object{Side: spec.Target, APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Resource: "ingresses", Namespace: "store", Name: "web", UID: "i"}}}
	return &Env{Call: reconciler.Call{Run: run}, Source: source, Target: target, Settings: Settings{Namespace: "ours"}}
}

func there(t *testing.T, e *Env, gvr schema.GroupVersionResource, name string) Item {
	t.Helper()
	i, err := e.Target.get(t.Context(), gvr, "store", name)
	if err != nil || i == nil {
		t.Fatalf("%s is gone (%v)", name, err)
	}
	return *i
}

func replace(t *testing.T, e *Env, text string) {
	t.Helper()
	source := item(t, text)
	if err := supersede(t.Context(), e, source, Held(source, e.Translation()), there(t, e, source.GVR, source.GetName())); err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, have Item, want string) {
	t.Helper()
	if !alike(have, item(t, want)) {
		t.Errorf("it is %v, want %s", have.Object, want)
	}
}

func mustText(t *testing.T, i Item) string {
	t.Helper()
	raw, err := i.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func kept(t *testing.T, e *Env) int {
	t.Helper()
	l, err := e.Target.Kube.CoreV1().Secrets("ours").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(l.Items)
}

// TestWhatAnEarlierRunUpdatedIsPutBack: a cutover has updated objects, failed, and
// its undo did not come to an end. The next cutover knows them as what was there,
// lets Velero leave them, changes them again, and puts back what they were first.
func TestWhatAnEarlierRunUpdatedIsPutBack(t *testing.T) {
	source, target := tracker(t, spec.Source, oursAtSource, sourceDoor, sourceScaler), tracker(t, spec.Target, theirs, theirDoor, theirScaler)
	first := cutover(1, source, target)
	replace(t, first, oursAtSource)
	replace(t, first, sourceDoor)
	replace(t, first, sourceScaler)

	e := cutover(2, source, target)
	o, err := lookUpdate(t.Context(), e)
	if err != nil || o.Seen != reconciler.Succeeded || len(o.Facts.Updated) != 1 {
		t.Fatalf("the record does not name it: %+v, %v", o, err)
	}
	e.Run.Facts.Updated = append(o.Facts.Updated, e.Run.Facts.Traffic[0].Object)
	covered := []Item{item(t, oursAtSource)}
	if left, err := WithoutForeign(t.Context(), e, covered); err != nil || len(left) != 0 {
		t.Errorf("Velero meets it: %v, %v", left, err)
	}
	again := item(t, strings.Replace(oursAtSource, "of: source", "of: changed", 1))
	want := e.onto(Held(again, e.Translation()), there(t, e, settingsKind, "settings"))
	if _, err := target.Dynamic.Resource(settingsKind).Namespace("store").Update(t.Context(), want.Unstructured, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	if err := ensureTrafficUndo(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	is(t, there(t, e, doorKind, "web"), theirDoor)
	if o, err := lookAutoscalersUndo(t.Context(), e); err != nil || o.Seen != reconciler.Absent {
		t.Errorf("what scales is not to be put back: %+v, %v", o, err)
	}
	if err := ensureAutoscalersUndo(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	is(t, there(t, e, scaling[0], "web"), theirScaler)
	if o, err := lookUpdateUndo(t.Context(), e); err != nil || o.Seen != reconciler.Absent {
		t.Fatalf("nothing is to be put back: %+v, %v", o, err)
	} else if !strings.Contains(o.Message, "ConfigMap store/settings") {
		t.Errorf("it is not said what: %s", o.Message)
	}
	if err := ensureUpdateUndo(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	is(t, there(t, e, settingsKind, "settings"), theirs)
	if o, err := lookUpdateUndo(t.Context(), e); err != nil || o.Seen != reconciler.Succeeded || kept(t, e) != 0 {
		t.Errorf("%+v, %v, %d Secrets", o, err, kept(t, e))
	}
}

// TestACloseLetsAnObjectStayOnlyWhenSomebodySaysSo: a close names what no undo has put
// back, puts it back, and leaves what lost its mark.
func TestACloseLetsAnObjectStayOnlyWhenSomebodySaysSo(t *testing.T) {
	source, target := tracker(t, spec.Source, oursAtSource, sourceDoor), tracker(t, spec.Target, theirs, theirDoor)
	replace(t, cutover(1, source, target), oursAtSource)
	replace(t, cutover(1, source, target), sourceDoor)
	e := cutover(1, source, target)
	e.Run.Spec.Kind = spec.RunClose
	o, err := lookUpdateUndo(t.Context(), e)
	if err != nil || o.Seen != reconciler.Absent || !strings.Contains(o.Message, "ConfigMap store/settings") || !strings.Contains(o.Message, "Ingress store/web") || !strings.Contains(o.Message, AnnotationFormer) {
		t.Errorf("%+v, %v", o, err)
	}
	door := there(t, e, doorKind, "web")
	stays := door.DeepCopy()
	annotations := stays.GetAnnotations()
	delete(annotations, AnnotationFormer)
	stays.SetAnnotations(annotations)
	if _, err := target.Dynamic.Resource(doorKind).Namespace("store").Update(t.Context(), stays, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := ensureUpdateUndo(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	is(t, there(t, e, settingsKind, "settings"), theirs)
	if alike(there(t, e, doorKind, "web"), item(t, theirDoor)) || kept(t, e) != 0 {
		t.Errorf("the Ingress was put back against somebody's word, or %d Secrets are left", kept(t, e))
	}
	if o, err := lookUpdateUndo(t.Context(), e); err != nil || o.Seen != reconciler.Succeeded {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestWhatOnlyWasRememberedIsNotPutBack: an earlier run remembered an object and
// did not change it; somebody else did, before the run at hand updated it.
func TestWhatOnlyWasRememberedIsNotPutBack(t *testing.T) {
	target := tracker(t, spec.Target, theirs)
	if err := cutover(1, nil, target).remember(t.Context(), item(t, theirs)); err != nil {
		t.Fatal(err)
	}
	since := strings.Replace(theirs, "of: target", "of: later", 1)
	if _, err := target.Dynamic.Resource(settingsKind).Namespace("store").Update(t.Context(), item(t, since).Unstructured, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	other := cutover(1, nil, target)
	other.Run.Spec.Plan = "other"
	if err := other.remember(t.Context(), item(t, theirDoor)); err != nil {
		t.Fatal(err)
	}
	e := cutover(2, nil, target)
	replace(t, e, oursAtSource)
	if n := kept(t, e); n != 3 {
		t.Fatalf("%d Secrets", n)
	}
	if err := ensureUpdateUndo(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	is(t, there(t, e, settingsKind, "settings"), since)
	if n := kept(t, e); n != 1 {
		t.Errorf("%d Secrets are left, want the one of another plan", n)
	}
}

// TestAFormerObjectThatIsLost: the Secret of an earlier run is gone, or the mark
// names what another object was. Neither is deleted, nor called as it was.
func TestAFormerObjectThatIsLost(t *testing.T) {
	target := tracker(t, spec.Target, theirs, theirDoor)
	first := cutover(1, nil, target)
	replace(t, first, oursAtSource)
	replace(t, first, sourceDoor)
	e := cutover(2, nil, target)
	e.Run.Facts.Updated = []spec.Object{there(t, e, settingsKind, "settings").Record(spec.Target), e.Run.Facts.Traffic[0].Object}

	door := there(t, e, doorKind, "web")
	mark := door.GetAnnotations()
	of := mark[AnnotationFormer]
	mark[AnnotationFormer] = there(t, e, settingsKind, "settings").GetAnnotations()[AnnotationFormer]
	door.SetAnnotations(mark)
	if WasThere(e, door) {
		t.Error("another's mark counts")
	}
	if err := e.putBackNow(t.Context(), door); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("another's is put back: %v", err)
	}
	forged := cutover(2, nil, tracker(t, spec.Target, mustText(t, door)))
	if err := ensureTrafficUndo(t.Context(), forged); err == nil {
		t.Error("an object with another's mark is deleted")
	}
	there(t, forged, doorKind, "web")

	secrets := target.Kube.CoreV1().Secrets("ours")
	for _, name := range []string{of, mark[AnnotationFormer]} {
		if err := secrets.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ensureTrafficUndo(t.Context(), e); err == nil {
		t.Error("what was there is deleted, or left, without a word")
	}
	there(t, e, doorKind, "web")
	if o, err := lookUpdateUndo(t.Context(), e); err != nil || o.Reason != "FormerObjectLost" || !strings.Contains(o.Message, "store/settings") {
		t.Errorf("%+v, %v", o, err)
	}
}

package kube

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/restmapper"
	clienttesting "k8s.io/client-go/testing"
)

var podsOfAll = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

const (
	// worker is a pod as an API server, a scheduler and a network have filled it in.
	worker = `{apiVersion: v1, kind: Pod, metadata: {name: worker, namespace: shop, uid: w, resourceVersion: '7', labels: {app: worker}, annotations: {note: mine, cni.projectcalico.org/podIP: 10.0.0.7},
  ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: release, uid: r}]},
 spec: {nodeName: n1, priority: 7, priorityClassName: high, serviceAccountName: app, serviceAccount: app, restartPolicy: Always, imagePullSecrets: [{name: mine}, {name: app-dockercfg-x7}],
  ephemeralContainers: [{name: debug, image: d}],
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}, {name: kube-api-access-x, projected: {}}, {name: old, secret: {secretName: app-token-x}}, {name: hub, secret: {secretName: app-token-of-hub}}],
  initContainers: [{name: i, image: i, volumeMounts: [{name: kube-api-access-x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]}],
  containers: [{name: c, image: c, env: [{name: P, value: secret}], volumeMounts: [{name: data, mountPath: /d}, {name: kube-api-access-x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}, {name: hub, mountPath: /hub}]}, {name: o, image: o, volumeMounts: [{name: old, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]}]},
 status: {phase: Running, podIP: 10.0.0.7, conditions: [{type: Ready, status: 'True'}]}}`
	// workersSpec is what of it is its author's.
	workersSpec = `{priorityClassName: high, serviceAccountName: app, serviceAccount: app, restartPolicy: Always, imagePullSecrets: [{name: mine}],
  volumes: [{name: data, persistentVolumeClaim: {claimName: CLAIM}}, {name: hub, secret: {secretName: app-token-of-hub}}], initContainers: [{name: i, image: i}],
  containers: [{name: c, image: c, env: [{name: P, value: secret}], volumeMounts: [{name: data, mountPath: /d}, {name: hub, mountPath: /hub}]}, {name: o, image: o}]}`
	once = `{apiVersion: v1, kind: Pod, metadata: {name: once, namespace: shop, uid: o}, spec: {restartPolicy: Never, containers: [{name: c, image: c}]}, status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}}`
)

// podded is a cluster with pods and no controller: what is created gets a UID, and
// what is deleted is deleted by its UID only.
func podded(t *testing.T, side spec.Side, texts ...string) *Cluster {
	t.Helper()
	var objects []runtime.Object
	for _, text := range texts {
		objects = append(objects, item(t, text).Unstructured)
	}
	c := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{podsOfAll: "PodList", crdKind: "CustomResourceDefinitionList"}, objects...)
	made := 0
	c.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		made++
		a.(clienttesting.CreateAction).GetObject().(*unstructured.Unstructured).SetUID(types.UID(fmt.Sprintf("%s-%d", side, made)))
		return false, nil, nil
	})
	typed := kubefake.NewClientset()
	typed.Resources = append(typed.Resources, &metav1.APIResourceList{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: metav1.Verbs{"list"}}}})
	c.PrependReactor("delete", "*", func(a clienttesting.Action) (bool, runtime.Object, error) { // one server behind both clients
		d := a.(clienttesting.DeleteActionImpl)
		if d.GetResource().Resource == "secrets" {
			return true, nil, typed.CoreV1().Secrets(a.GetNamespace()).Delete(t.Context(), d.GetName(), metav1.DeleteOptions{})
		}
		if p := d.GetDeleteOptions().Preconditions; p == nil || p.UID == nil {
			t.Errorf("%s is deleted by its name alone", d.GetName())
		}
		return false, nil, nil
	})
	typed.PrependReactor("create", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		a.(clienttesting.CreateAction).GetObject().(metav1.Object).SetUID("uid-of-it")
		return false, nil, nil
	})
	disco := memory.NewMemCacheClient(typed.Discovery())
	return &Cluster{Side: side, Name: string(side), Dynamic: c, Kube: typed, Discovery: disco, Mapper: restmapper.NewDeferredDiscoveryRESTMapper(disco)}
}

// keptPods is a cutover that has kept the pods of the texts.
func keptPods(t *testing.T, texts ...string) *Env {
	t.Helper()
	e := cutover(1, podded(t, spec.Source, texts...), podded(t, spec.Target))
	e.Run.Spec.Closure.Plan.Spec.Existing = ""
	e.Run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data", Action: "copy", TargetNamespace: "store", TargetClaim: "new"}}
	drive(t, e, "kube.keep")
	return e
}

func podAt(t *testing.T, c *Cluster, namespace, name string) *Item {
	t.Helper()
	i, err := c.get(t.Context(), podsOfAll, namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// stopAll is what the stop does to every pod that was kept.
func stopAll(t *testing.T, e *Env) {
	t.Helper()
	pods, err := e.KeptPods(t.Context())
	for n := range pods {
		if err == nil {
			err = e.StopPod(t.Context(), &pods[n])
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func specIs(t *testing.T, have *Item, claim string) {
	t.Helper()
	want := item(t, "{apiVersion: v1, kind: Pod, spec: "+strings.ReplaceAll(workersSpec, "CLAIM", claim)+"}")
	if have == nil || !reflect.DeepEqual(have.Object["spec"], want.Object["spec"]) {
		t.Errorf("it is %v, want %v", have, want.Object["spec"])
	}
}

// The target gets what the stop has deleted, translated, without what only the
// source's cluster knows, and loses it by an undo.
func TestAPodIsMadeOnTheTarget(t *testing.T) {
	e := keptPods(t, worker, once, strings.NewReplacer("name: once", "name: job", "uid: o}", "uid: j, ownerReferences: [{apiVersion: batch/v1, kind: Job, name: j, uid: x, controller: true}]}").Replace(once),
		strings.NewReplacer("name: once", "name: over", "uid: o", "uid: v", "Running", "Succeeded").Replace(once),
		strings.NewReplacer("name: once", "name: static", "uid: o}", "uid: s, annotations: {kubernetes.io/config.mirror: x}}").Replace(once))
	if c := e.Run.Facts.Custom; len(c) != 2 || c[0].Ready != 1 || c[1].Ready != 1 {
		t.Fatalf("kept: %+v", c)
	}
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Created) != 0 {
		t.Fatalf("what no stop has deleted is made: %+v %+v", o, e.Run.Facts.Created)
	}
	if pods, err := e.StoppedPods(t.Context(), "shop"); err != nil || len(pods) > 0 {
		t.Errorf("stopped: %v %v", pods, err)
	}
	stopAll(t, e)
	if pods, err := e.StoppedPods(t.Context(), "shop"); err != nil || len(pods) != 2 || pods[1].Name == pods[0].Name || pods[0].Spec.Containers == nil {
		t.Errorf("stopped: %v %v", pods, err)
	}
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Created) != 2 {
		t.Fatalf("%+v %+v", o, e.Run.Facts.Created)
	}
	there := podAt(t, e.Target, "store", "worker")
	specIs(t, there, "new")
	if a := there.GetAnnotations(); a["note"] != "mine" || a["cni.projectcalico.org/podIP"] != "" || a[AnnotationPlan] != "shop" || there.GetLabels()["app"] != "worker" || len(there.GetOwnerReferences()) > 0 {
		t.Errorf("it is %v", there)
	}
	for status, lacks := range map[string]int{"{phase: Pending}": 2, "{phase: Succeeded}": 0, "{phase: Running, conditions: [{type: Ready, status: 'True'}]}": 0, "{phase: Failed}": 2} {
		for _, name := range []string{"worker", "once"} {
			p := podAt(t, e.Target, "store", name)
			p.Object["status"] = item(t, "{apiVersion: v1, kind: Pod, status: "+status+"}").Object["status"]
			if _, err := e.Target.Dynamic.Resource(podsOfAll).Namespace("store").Update(t.Context(), p.Unstructured, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if l, err := Lacking(t.Context(), e, e.Target, e.Run.Facts.Custom); err != nil || len(l) != lacks {
			t.Errorf("%s: %+v %v", status, l, err)
		}
	}
	// The source waits until its container has ended.
	ending := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "store", Name: "worker", UID: there.GetUID()}}
	if _, err := e.Target.Kube.CoreV1().Pods("store").Create(t.Context(), ending, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if o := drive(t, e, "kube.custom-undo"); o.Seen != reconciler.Working || o.Reason != "ObjectsTerminating" || !strings.Contains(o.Message, "store/worker") {
		t.Errorf("%+v", o)
	}
	if err := e.Target.Kube.CoreV1().Pods("store").Delete(t.Context(), "worker", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if o := drive(t, e, "kube.custom-undo"); o.Seen != reconciler.Succeeded {
		t.Fatalf("%+v", o)
	}
	if podAt(t, e.Target, "store", "worker") != nil || podAt(t, e.Target, "store", "once") != nil {
		t.Error("they are left on the target")
	}
}

// Without a stop the target gets what still runs on the source, which stays there.
func TestAPodOfAnApplicationThatIsNotStopped(t *testing.T) {
	e := keptPods(t, worker, once)
	no := false
	e.Run.Spec.Closure.Plan.Spec.Cutover.Quiesce = &no
	if err := e.Source.Delete(t.Context(), item(t, once).Record(spec.Source)); err != nil {
		t.Fatal(err)
	}
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Created) != 1 || e.Run.Facts.Created[0].Name != "worker" {
		t.Fatalf("%+v %+v", o, e.Run.Facts.Created)
	}
	e.Undo = true
	if o := drive(t, e, "kube.keep-undo"); o.Seen != reconciler.Succeeded || o.Reason != "" {
		t.Errorf("%+v", o)
	}
	if l, err := e.everyKept(t.Context()); err != nil || len(l) > 0 || podAt(t, e.Source, "shop", "worker").GetUID() != "w" {
		t.Errorf("%d Secrets are left (%v)", len(l), err)
	}
}

// What an earlier run has deleted, and nobody has put back, is the later one's: the
// target gets it, and an undo makes it again.
func TestAPodThatAnEarlierRunDeleted(t *testing.T) {
	e := keptPods(t, worker)
	stopAll(t, e)
	e.Run.Spec.Number, e.Run.Facts.Custom = 2, nil
	if o := drive(t, e, "kube.keep"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Custom) != 1 || e.Run.Facts.Custom[0].Ready != 1 {
		t.Fatalf("%+v %+v", o, e.Run.Facts.Custom)
	}
	if l, err := e.keptBy(t.Context(), labelKept); err != nil || len(l) != 1 {
		t.Errorf("%d Secrets (%v)", len(l), err)
	}
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Created) != 1 {
		t.Fatalf("%+v", o)
	}
	pods, err := e.KeptPods(t.Context())
	if err != nil || len(pods) != 1 {
		t.Fatalf("%v %v", pods, err)
	}
	if err := e.PutPodBack(t.Context(), &pods[0]); err != nil {
		t.Fatal(err)
	}
	back := podAt(t, e.Source, "shop", "worker")
	specIs(t, back, "data")
	if o := back.GetOwnerReferences(); len(o) != 1 || o[0].Name != "release" {
		t.Errorf("its owners are %v", o)
	}
	e.Run.Spec.Number, e.Run.Facts.Custom = 3, nil // it is back: what the second run keeps is not taken over
	if o := drive(t, e, "kube.keep"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Custom) != 1 || e.Run.Facts.Custom[0].UID == "w" {
		t.Errorf("%+v %+v", o, e.Run.Facts.Custom)
	}
}

// A copy back that fails makes on the target again what ran there.
func TestARemovedPodIsMadeAgain(t *testing.T) {
	e := keptPods(t, worker, once)
	stopAll(t, e)
	drive(t, e, "kube.custom")
	over := podAt(t, e.Target, "store", "once")
	over.Object["status"] = map[string]any{"phase": "Succeeded"}
	if _, err := e.Target.Dynamic.Resource(podsOfAll).Namespace("store").Update(t.Context(), over.Unstructured, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	first := podAt(t, e.Target, "store", "worker")
	undoBegun["a rollback"](e, 0)
	e.Step.Undo = "kube.custom"
	if o := drive(t, e, "kube.custom-undo"); o.Seen != reconciler.Succeeded || podAt(t, e.Target, "store", "worker") != nil {
		t.Fatalf("%+v", o)
	}
	e.Source, e.Undo = nil, true
	if o := drive(t, e, "kube.custom"); o.Seen != reconciler.Succeeded {
		t.Fatalf("%+v", o)
	}
	if podAt(t, e.Target, "store", "once") != nil {
		t.Error("what had ended runs again")
	}
	again := podAt(t, e.Target, "store", "worker")
	specIs(t, again, "new")
	if again.GetUID() == first.GetUID() || again.GetAnnotations()[AnnotationRun] != e.Origin() {
		t.Errorf("it is %v", again)
	}
}

// What the stop deletes is made anew as it was then, however long it has waited for
// its window, but for what a hook may have changed.
func TestAPodThatChangedBeforeTheStop(t *testing.T) {
	for image, hooks := range map[string][]spec.PlanHook{"new": nil, "c": {{Hook: "drain", Phase: spec.PreBackup}}} {
		e := keptPods(t, once)
		e.Run.Spec.Closure.Plan.Spec.Hooks = hooks
		newer := item(t, strings.Replace(once, "image: c", "image: new", 1))
		if _, err := e.Source.Dynamic.Resource(podsOfAll).Namespace("shop").Update(t.Context(), newer.Unstructured, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		stopAll(t, e)
		drive(t, e, "kube.custom")
		there := podAt(t, e.Target, "store", "once")
		if is := fmt.Sprint(there.Object["spec"]); !strings.Contains(is, "image:"+image) {
			t.Errorf("it is %s, want image %s", is, image)
		}
	}
}

// What an earlier run has deleted, and is not gone yet, is taken over; what the plan
// covers no longer is not.
func TestWhatALaterRunTakesOver(t *testing.T) {
	ending := strings.Replace(once, "uid: o}", "uid: o, deletionTimestamp: '2026-01-01T00:00:00Z', finalizers: [x]}", 1)
	for name, c := range map[string]struct {
		change func(p *spec.PlanSpec)
		takes  int
	}{
		"it ends":           {func(*spec.PlanSpec) {}, 1},
		"another namespace": {func(p *spec.PlanSpec) { p.Namespaces = []spec.NamespaceMapping{{Name: "other"}} }, 0},
		"the selector is new": {func(p *spec.PlanSpec) {
			p.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, 0},
	} {
		e := keptPods(t, once)
		stopAll(t, e)
		if name == "it ends" {
			slow := item(t, ending)
			if _, err := e.Source.Dynamic.Resource(podsOfAll).Namespace("shop").Create(t.Context(), slow.DeepCopy(), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Source.Dynamic.Resource(podsOfAll).Namespace("shop").Update(t.Context(), slow.Unstructured, metav1.UpdateOptions{}); err != nil { // whoever creates gets a UID of his own
				t.Fatal(err)
			}
		}
		e.Run.Spec.Number, e.Run.Facts.Custom = 2, nil
		c.change(&e.Run.Spec.Closure.Plan.Spec)
		if o := drive(t, e, "kube.keep"); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Custom) != c.takes {
			t.Errorf("%s: %+v %+v", name, o, e.Run.Facts.Custom)
		}
		if l, err := e.keptBy(t.Context(), labelKept); err != nil || len(l) != 1 {
			t.Errorf("%s: %d Secrets (%v)", name, len(l), err)
		}
	}
}

package workload

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery/cached/memory"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/restmapper"
)

// A pod below a custom resource that is ending is waited for; one that runs is
// told at once when a hook was to have stopped it long ago.
func TestOperandsAreGone(t *testing.T) {
	yes, now := true, metav1.Now()
	root := "source Database shop/db"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-0", OwnerReferences: []metav1.OwnerReference{{Kind: "StatefulSet", Name: "db", Controller: &yes}}}}
	ending := pod.DeepCopy()
	ending.DeletionTimestamp = &now
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		late bool
		seen reconciler.Seen
	}{
		"runs, at first": {pod, false, reconciler.Working},
		"runs":           {pod, true, reconciler.Broken},
		"ends":           {ending, true, reconciler.Working},
	} {
		v := operandVerdict(root, c.pod, c.late)
		if v.seen != c.seen || v.final != (c.seen == reconciler.Broken) {
			t.Errorf("%s: %+v", name, v)
		}
		for _, want := range []string{"Pod shop/db-0", "source Database shop/db", "StatefulSet db"} {
			if !strings.Contains(v.message, want) {
				t.Errorf("%s: %q does not name %s", name, v.message, want)
			}
		}
	}
}

// What an operator controls is not stopped by us: it would put it back.
func TestOperandsAreNotStopped(t *testing.T) {
	yes := true
	var items []item
	for _, name := range []string{"own", "operators"} {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetName(name)
		if name == "operators" {
			u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Database", Name: "db", UID: "d", Controller: &yes}})
		}
		items = append(items, item{kindNamed("StatefulSet"), u})
	}
	left := among(items, func(item) bool { return true })
	if len(left) != 1 || left[0].GetName() != "own" {
		t.Errorf("%d workloads are to be stopped", len(left))
	}
}

// A pod whose controller is gone counts in the proof that an operator has stopped,
// where there is one: what it hung below cannot be told any more.
func TestPodsWhoseControllerIsGoneCount(t *testing.T) {
	yes := true
	client := kubefake.NewClientset(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-0", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "gone", Controller: &yes}}}})
	client.Resources = []*metav1.APIResourceList{{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "databases", Kind: "Database", Namespaced: true}}}}
	run := &spec.Run{}
	run.Spec.Closure.Plan.Spec.Namespaces = []spec.NamespaceMapping{{Name: "shop"}}
	e := &kube.Env{Call: reconciler.Call{Run: run}, Source: &kube.Cluster{Name: "old", Kube: client, Mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))}}
	if found, err := operands(t.Context(), e, operandGrace); err != nil || len(found) != 0 {
		t.Errorf("without a custom resource: %+v, %v", found, err)
	}
	run.Facts.Custom = []spec.CustomResource{{Object: spec.Object{Side: spec.Source, APIVersion: "example.com/v1", Kind: "Database", Namespace: "shop", Name: "db", UID: "d"}}}
	found, err := operands(t.Context(), e, operandGrace)
	if err != nil || len(found) != 1 || found[0].seen != reconciler.Broken || !strings.Contains(found[0].message, "Pod shop/db-0") {
		t.Errorf("%+v, %v", found, err)
	}
}

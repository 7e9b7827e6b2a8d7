package kube

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
)

var theDatabase = spec.Object{Side: spec.Source, APIVersion: "example.com/v1", Kind: "Database", Resource: "databases", Namespace: "shop", Name: "db", UID: "d"}

// What is below an object is found by its references, also when the object was made
// anew; what nobody can tell any more is found as that.
func TestBelow(t *testing.T) {
	for name, c := range map[string]struct {
		objects []string
		orphans bool
	}{
		"at two steps":               {objects: []string{database, databaseSet}},
		"of one that is made anew":   {objects: []string{database, strings.ReplaceAll(databaseSet, "uid: d,", "uid: other,")}},
		"whose controller is gone":   {objects: []string{database}, orphans: true},
		"whose controller is others": {objects: []string{database, strings.ReplaceAll(databaseSet, "uid: set", "uid: another")}, orphans: true},
	} {
		c2 := operated(t, spec.Source, "shop", []string{"db-0"}, c.objects...)
		pods, err := Below(t.Context(), c2, []string{"shop"}, []spec.Object{theDatabase})
		if err != nil {
			t.Fatal(err)
		}
		if len(pods) != 1 || len(pods["d"]) == 1 == c.orphans || len(pods[Orphans]) == 1 != c.orphans {
			t.Errorf("%s: %v", name, pods)
		}
	}
}

// Many controllers are listed, and not read one by one.
func TestControllersAreNotReadOneByOne(t *testing.T) {
	texts := []string{database}
	for n := range 20 {
		texts = append(texts, strings.NewReplacer("name: db, namespace", fmt.Sprintf("name: db%d, namespace", n), "uid: set", fmt.Sprintf("uid: set%d", n)).Replace(databaseSet))
	}
	c := operated(t, spec.Source, "shop", nil, texts...)
	yes := true
	for n := range 40 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("p", n), OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "StatefulSet", Name: fmt.Sprint("db", n/2), UID: types.UID(fmt.Sprint("set", n/2)), Controller: &yes}}}}
		if _, err := c.Kube.CoreV1().Pods("shop").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pods, err := Below(t.Context(), c, []string{"shop"}, []spec.Object{theDatabase})
	if err != nil || len(pods["d"]) != 40 {
		t.Fatalf("%d pods, %v", len(pods["d"]), err)
	}
	if asked := len(c.Dynamic.(*dynamicfake.FakeDynamicClient).Actions()); asked != maxReads+1 {
		t.Errorf("%d requests", asked)
	}
}

// Only pods that are to stay count, and of a rollout one revision.
func TestReady(t *testing.T) {
	pod := func(hash string, policy corev1.RestartPolicy) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", GenerateName: "web-" + hash + "-"}, Spec: corev1.PodSpec{RestartPolicy: policy}}
		if hash != "" {
			p.Labels = map[string]string{"pod-template-hash": hash}
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		return p
	}
	always := corev1.RestartPolicyAlways
	ending := pod("", always)
	ending.DeletionTimestamp = &metav1.Time{}
	other := pod("a", always)
	other.GenerateName = "api-a-"
	for name, c := range map[string]struct {
		pods []corev1.Pod
		want int32
	}{
		"of a StatefulSet":   {[]corev1.Pod{pod("", always), pod("", always)}, 2},
		"one that ends":      {[]corev1.Pod{pod("", always), ending}, 1},
		"one of a Job":       {[]corev1.Pod{pod("", always), pod("", corev1.RestartPolicyNever), pod("", corev1.RestartPolicyOnFailure)}, 1},
		"a surge":            {[]corev1.Pod{pod("a", always), pod("a", always), pod("b", always)}, 2},
		"of two Deployments": {[]corev1.Pod{pod("a", always), pod("a", always), other}, 3},
	} {
		if got := Ready(c.pods); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

// A custom resource that a hook has made is too late; one that it has made anew is the
// one that was kept.
func TestNewcomers(t *testing.T) {
	e := oneDatabase(t)
	e.Source = operated(t, spec.Source, "shop", nil, strings.ReplaceAll(database, "uid: d", "uid: anew"))
	if late, err := Newcomers(t.Context(), e); err != nil || len(late) != 0 {
		t.Errorf("%v, %v", late, err)
	}
	e.Source = operated(t, spec.Source, "shop", nil, database, strings.ReplaceAll(database, "name: db, namespace: shop, uid: d", "name: new, namespace: shop, uid: n"))
	if late, err := Newcomers(t.Context(), e); err != nil || len(late) != 1 || late[0] != "source Database shop/new" {
		t.Errorf("%v, %v", late, err)
	}
}

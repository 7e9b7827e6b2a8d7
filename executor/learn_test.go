package executor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

func secret(ns, name, value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Data: map[string][]byte{"key": []byte(value)}}
}

// What the plan's namespaces hold on both sides is told to whoever redacts;
// other namespaces are nobody's business, and a log of which that is not known
// is not shown.
func TestSecretsOfTheNamespacesAreLearned(t *testing.T) {
	source := fake.NewClientset(secret("shop", "db", "source-password"), secret("other", "db", "of-another"), secret("shop", "big", strings.Repeat("x", maxLearned+1)))
	target := fake.NewClientset(secret("store", "db", "target-password"))
	broken := errors.New("the API server is away")
	lists := 0
	target.PrependReactor("list", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		lists++
		return broken != nil, nil, broken
	})
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Closure: spec.Closure{Plan: spec.MigrationPlan{Spec: spec.PlanSpec{Namespaces: []spec.NamespaceMapping{{Name: "shop", TargetName: "store"}}}}}}}
	e := &kube.Env{Call: reconciler.Call{Run: run}, Source: &kube.Cluster{Name: "old", Kube: source}, Target: &kube.Cluster{Name: "new", Kube: target}}
	told := map[spec.Side][]string{}
	k := &knowledge{tell: func(plan string, side spec.Side, values [][]byte) {
		told[side] = nil
		for _, v := range values {
			told[side] = append(told[side], plan+" "+string(v))
		}
	}}
	err := k.refresh(context.Background(), e)
	if err == nil || !strings.Contains(err.Error(), "cluster new: the Secrets of namespace store cannot be listed") {
		t.Errorf("%v", err)
	}
	if o := withheld(reconciler.Observation{Log: "said target-password"}, err); strings.Contains(o.Log, "target-password") || !strings.Contains(o.Log, "<dropped: 20 bytes") {
		t.Errorf("%q", o.Log)
	}
	if again := k.refresh(context.Background(), e); again == nil || lists != 1 {
		t.Errorf("a cluster that does not answer is asked at every look: %v, %d lists", again, lists)
	}
	broken = nil
	k.at[learned{"shop", spec.Target}] = lesson{}
	if err := k.refresh(context.Background(), e); err != nil {
		t.Error(err)
	}
	if !slices.Equal(told[spec.Source], []string{"shop source-password"}) || !slices.Equal(told[spec.Target], []string{"shop target-password"}) {
		t.Errorf("%q", told)
	}
	if o := withheld(reconciler.Observation{Log: "x"}, nil); o.Log != "x" {
		t.Errorf("%q", o.Log)
	}
	before := lists
	if err := k.refresh(context.Background(), e); err != nil || lists != before {
		t.Errorf("%v, %d lists for what was read a moment ago", err, lists-before)
	}
	broken = errors.New("away again")
	k.at[learned{"shop", spec.Target}] = lesson{known: true}
	if err := k.refresh(context.Background(), e); err != nil || lists == before {
		t.Errorf("old values are not enough: %v", err)
	}
	e.Target = nil
	if err := k.refresh(context.Background(), e); err != nil {
		t.Errorf("a verb that does without the target: %v", err)
	}
}

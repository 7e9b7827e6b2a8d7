package kube

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tranship/tranship/reconciler"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func TestGuard(t *testing.T) {
	kept := func(epoch string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ours", Name: "tranship-epoch-s"}, Data: map[string]string{epochKey: epoch}}
	}
	for name, c := range map[string]struct {
		have       *corev1.ConfigMap
		after      string
		superseded bool
		fails      bool
	}{
		"first":    {nil, "5", false, false},
		"lower":    {kept("4"), "5", false, false},
		"equal":    {kept("5"), "5", false, false},
		"higher":   {kept("6"), "6", true, true},
		"not ours": {kept("many"), "many", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			if c.have != nil {
				client = fake.NewClientset(c.have)
			}
			cluster := &Cluster{Name: "old", Kube: client}
			err := cluster.Guard(t.Context(), &Settings{Namespace: "ours", Epoch: 5, Shard: "s"})
			if (err != nil) != c.fails || errors.Is(err, reconciler.ErrSuperseded) != c.superseded {
				t.Errorf("got %v", err)
			}
			if c.superseded && !strings.Contains(err.Error(), "start with --take-over") {
				t.Errorf("it does not say what to do where a ledger began anew: %v", err)
			}
			m, err := client.CoreV1().ConfigMaps("ours").Get(t.Context(), "tranship-epoch-s", metav1.GetOptions{})
			if err != nil || m.Data[epochKey] != c.after {
				t.Errorf("kept %v, %v", m, err)
			}
		})
	}
}

// TestGuardLosesARace: somebody else raised the epoch between read and write.
func TestGuardLosesARace(t *testing.T) {
	client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ours", Name: "tranship-epoch-s"}, Data: map[string]string{epochKey: "1"}})
	client.PrependReactor("update", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(corev1.Resource("configmaps"), "tranship-epoch-s", errors.New("changed"))
	})
	if err := (&Cluster{Name: "old", Kube: client}).Guard(t.Context(), &Settings{Namespace: "ours", Epoch: 5, Shard: "s"}); !apierrors.IsConflict(err) {
		t.Errorf("got %v", err)
	}
}

// TestGuardBeforeOurNamespace: the first effect makes the namespace.
func TestGuardBeforeOurNamespace(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("create", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(corev1.Resource("namespaces"), "ours")
	})
	if err := (&Cluster{Name: "old", Kube: client}).Guard(t.Context(), &Settings{Namespace: "ours", Epoch: 5, Shard: "s"}); err != nil {
		t.Error(err)
	}
	if err := (&Cluster{Name: "old"}).Guard(t.Context(), &Settings{Namespace: "ours", Epoch: 5}); err != nil {
		t.Error(err)
	}
}

// The ledger began anew below what a cluster remembers: a daemon that may take
// over raises its own number in Git first, and acts with that. One that may not,
// or whom Git refuses, acts on nothing.
func TestGuardRaisesWhereItMayTakeOver(t *testing.T) {
	for name, c := range map[string]struct {
		refused error
		after   string
	}{
		"Git agrees":             {nil, "58"},
		"Git has another daemon": {reconciler.ErrSuperseded, "57"},
		"Git is away":            {errors.New("no route"), "57"},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ours", Name: "tranship-epoch-s"}, Data: map[string]string{epochKey: "57"}})
			s := &Settings{Namespace: "ours", Epoch: 1, Shard: "s", RaiseAbove: func(_ context.Context, seen int64) (int64, error) { return seen + 1, c.refused }}
			if err := (&Cluster{Name: "old", Kube: client}).Guard(t.Context(), s); !errors.Is(err, c.refused) || c.refused == nil && s.Epoch != 58 {
				t.Errorf("epoch %d, %v", s.Epoch, err)
			}
			m, err := client.CoreV1().ConfigMaps("ours").Get(t.Context(), "tranship-epoch-s", metav1.GetOptions{})
			if err != nil || m.Data[epochKey] != c.after {
				t.Errorf("kept %v, %v", m, err)
			}
		})
	}
}

package bedtest

import (
	"context"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// ofTests marks the definitions that tests have made.
const ofTests = "tranship.dev/of-tests"

// Definition lets a cluster serve a kind of another product, without that
// product: any content is taken, and nobody acts on it. It goes with the test,
// unless objects of it are left that others have made.
func Definition(t *testing.T, c *kube.Cluster, gvr schema.GroupVersionResource, kind string) {
	t.Helper()
	name := gvr.GroupResource().String()
	crds := c.Dynamic.Resource(definitions)
	until(t, name+" is served", func() bool {
		if have, err := crds.Get(t.Context(), name, metav1.GetOptions{}); err == nil && have.GetDeletionTimestamp() != nil {
			return false // of an earlier test
		}
		_, err := crds.Create(t.Context(), definition(gvr, kind), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return false
		}
		_, err = c.Dynamic.Resource(gvr).List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	t.Cleanup(func() { removeDefinition(c, gvr) })
	c.Discovery.Invalidate()
	if c.Mapper != nil {
		c.Mapper.Reset()
	}
}

func removeDefinition(c *kube.Cluster, gvr schema.GroupVersionResource) {
	ctx, crds := context.Background(), c.Dynamic.Resource(definitions)
	have, err := crds.Get(ctx, gvr.GroupResource().String(), metav1.GetOptions{})
	if err != nil || have.GetLabels()[ofTests] == "" {
		return
	}
	left, err := c.Dynamic.Resource(gvr).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, o := range left.Items {
		ns, err := c.Kube.CoreV1().Namespaces().Get(ctx, o.GetNamespace(), metav1.GetOptions{})
		if err == nil && ns.DeletionTimestamp == nil {
			return // of a test that goes on
		}
	}
	uid := have.GetUID()
	_ = crds.Delete(ctx, have.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: (*types.UID)(&uid)}})
}

func definition(gvr schema.GroupVersionResource, kind string) *unstructured.Unstructured {
	open := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": gvr.GroupResource().String(), "labels": map[string]any{ofTests: "true"}},
		"spec": map[string]any{
			"group": gvr.Group, "scope": "Namespaced",
			"names": map[string]any{"plural": gvr.Resource, "kind": kind},
			"versions": []any{map[string]any{
				"name": gvr.Version, "served": true, "storage": true,
				"schema":       map[string]any{"openAPIV3Schema": open},
				"subresources": map[string]any{"status": map[string]any{}},
			}},
		},
	}}
}

// until waits for a condition on the bed.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited three minutes until %s", what)
}

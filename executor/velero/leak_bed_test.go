package velero_test

import (
	"bytes"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/spec"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestBedNothingLeaks: somebody with edit in the application's namespaces
// finds no credential of the store there, and may not look where they are
// (safety property 11).
func TestBedNothingLeaks(t *testing.T) {
	e, from, to := readyToRestore(t, small)
	succeeds(t, e, "restore", "velero.restore")
	secret, err := e.Secrets.Read(t.Context(), spec.SecretRef{From: "s3"}, "secretKey")
	if err != nil {
		t.Fatal(err)
	}
	secret = kube.TrimSpace(secret)
	for _, place := range []struct {
		c  *kube.Cluster
		ns string
	}{{e.Source, from}, {e.Target, to}} {
		for _, r := range []string{"v1:secrets", "v1:configmaps", "v1:pods", "v1:events"} {
			for _, i := range bedtest.List(t, place.c, place.ns, r, "") {
				raw, err := i.MarshalJSON()
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(raw, secret) {
					t.Errorf("%s on cluster %s holds the store's secret", kube.Describe(i.Record(place.c.Side)), place.c.Name)
				}
			}
		}
		editorMayNot(t, e, place.c, place.ns)
	}
	takeBack(t, e)
}

func editorMayNot(t *testing.T, e *kube.Env, c *kube.Cluster, ns string) {
	t.Helper()
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "editor"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "editor"}}}
	if _, err := c.Kube.RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(c.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "editor"}
	editor, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	// Without that the test would prove nothing.
	bedtest.Await(t, "the editor's right to read the application's Secrets", func() bool { return mayRead(t, editor, ns, "secrets") })
	for _, where := range []string{c.VeleroNamespace, e.Settings.Namespace} {
		for _, what := range []string{"secrets", "configmaps", "pods"} {
			if mayRead(t, editor, where, what) {
				t.Errorf("an editor of %s may read %s in %s on cluster %s", ns, what, where, c.Name)
			}
		}
	}
	if err := c.Kube.RbacV1().RoleBindings(ns).Delete(t.Context(), "editor", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func mayRead(t *testing.T, client kubernetes.Interface, ns, resource string) bool {
	t.Helper()
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "get", Resource: resource}}}
	a, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return a.Status.Allowed
}

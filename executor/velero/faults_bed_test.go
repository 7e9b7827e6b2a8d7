package velero_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// readyToRestore is a plan on the bed whose backup is made.
func readyToRestore(t *testing.T, objects string, also ...func(e *kube.Env, from string)) (e *kube.Env, from, to string) {
	t.Helper()
	id := fmt.Sprint(time.Now().UnixNano() % 1e8)
	from, to = "faults-"+id, "failed-"+id
	e = bedtest.Env(t, "faults-"+id, from, to)
	bedtest.Namespace(t, e.Source, from, nil)
	bedtest.Put(t, e.Source, from, objects)
	for _, more := range also {
		more(e, from)
	}
	t.Cleanup(func() {
		_ = e.Target.Kube.CoreV1().Namespaces().Delete(context.Background(), to, metav1.DeleteOptions{})
	})
	succeeds(t, e, "locations", "velero.locations")
	succeeds(t, e, "namespaces", "kube.namespaces")
	succeeds(t, e, "backup", "velero.backup")
	return e, from, to
}

func takeBack(t *testing.T, e *kube.Env) {
	t.Helper()
	for _, s := range []string{"velero.restore-undo", "velero.backup-undo", "kube.namespaces-undo", "velero.purge"} {
		succeeds(t, e, "undo", s)
	}
	nothingLeft(t, e)
}

const small = `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}
---
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selector: {app: a}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}`

// TestBedSecondAttempt: what the first attempt made is removed before the
// second begins, though the daemon died before it could record any of it.
func TestBedSecondAttempt(t *testing.T) {
	e, _, to := readyToRestore(t, small)
	succeeds(t, e, "restore", "velero.restore")
	first := bedtest.Field(t, e.Target, to, "v1:configmaps", "a", "metadata", "uid")
	e.Run.Facts.Created, e.Run.Facts.Restore = nil, ""
	if o := bedtest.Drive(t, e, verbs(), "restore", "velero.restore", 2); o.Seen != reconciler.Succeeded || len(e.Run.Facts.Created) != 3 {
		t.Fatalf("second attempt: %s %s, %d objects", o.Reason, o.Message, len(e.Run.Facts.Created))
	}
	if second := bedtest.Field(t, e.Target, to, "v1:configmaps", "a", "metadata", "uid"); second == first {
		t.Error("the first attempt's object was taken for the second's")
	}
	e.Run.Facts.Created, e.Run.Facts.Restore, e.Run.Facts.Namespaces = nil, "", nil
	takeBack(t, e)
}

// TestBedConflict: an object in the way that differs fails the step, and the
// undo leaves it alone.
func TestBedConflict(t *testing.T) {
	e, _, to := readyToRestore(t, small)
	bedtest.Put(t, e.Target, to, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {theirs: kept}}")
	o := bedtest.Drive(t, e, verbs(), "restore", "velero.restore", 1)
	if o.Seen != reconciler.Broken || o.Reason != "ExistingObject" || !strings.Contains(o.Message, "already exists") {
		t.Fatalf("got %+v", o)
	}
	for _, s := range []string{"velero.restore-undo", "velero.backup-undo"} {
		succeeds(t, e, "undo", s)
	}
	last := succeeds(t, e, "undo", "kube.namespaces-undo")
	if !strings.Contains(last.Message, "ConfigMap a") {
		t.Errorf("the namespace with their object: %s", last.Message)
	}
	expect(t, e.Target, to, "v1:configmaps", "a", `{"theirs":"kept"}`, "data")
	if got := bedtest.Field(t, e.Target, to, "v1:services", "a", "spec"); !strings.Contains(got, "not found") {
		t.Errorf("the undo left the Service: %s", got)
	}
	succeeds(t, e, "purge", "velero.purge")
}

// TestBedLateWorkload: a workload that appears during the cutover fails it.
func TestBedLateWorkload(t *testing.T) {
	e, from, _ := readyToRestore(t, small)
	succeeds(t, e, "restore", "velero.restore")
	bedtest.Put(t, e.Source, from, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: late}, spec: {replicas: 0, selector: {matchLabels: {app: l}}, template: {metadata: {labels: {app: l}}, spec: {containers: [{name: c, image: none}]}}}}")
	o := bedtest.Drive(t, e, verbs(), "list-again", "kube.list-again", 1)
	if o.Seen != reconciler.Broken || !o.Final || !strings.Contains(o.Message, "Deployment "+from+"/late") {
		t.Errorf("got %+v", o)
	}
	takeBack(t, e)
}

// role makes a ClusterRole and binds a ServiceAccount of the namespace to it.
func role(t *testing.T, c *kube.Cluster, name, namespace string) {
	t.Helper()
	rbac := c.Kube.RbacV1()
	_, err := rbac.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil && namespace != "" {
		_, err = rbac.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "a"}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rolesLike are the ClusterRoles and bindings of a cluster with a prefix.
func rolesLike(t *testing.T, c *kube.Cluster, prefix string) (names []string) {
	t.Helper()
	for kind, gvr := range map[string]schema.GroupVersionResource{
		"role": rbacv1.SchemeGroupVersion.WithResource("clusterroles"), "binding": rbacv1.SchemeGroupVersion.WithResource("clusterrolebindings"),
	} {
		l, err := c.Dynamic.Resource(gvr).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range l.Items {
			if strings.HasPrefix(i.GetName(), prefix) {
				names = append(names, kind+" "+strings.TrimPrefix(i.GetName(), prefix))
			}
		}
	}
	slices.Sort(names)
	return names
}

// TestBedRollback: a rollback is another run, of another kind and number. Outside
// of namespaces nothing is made, though the Backup has what a ServiceAccount is bound
// to, and nothing is taken away (mig-controller deleted there by label).
func TestBedRollback(t *testing.T) {
	e, from, _ := readyToRestore(t, small, func(e *kube.Env, from string) {
		t.Cleanup(func() {
			for _, c := range []*kube.Cluster{e.Source, e.Target} {
				for _, name := range []string{from + "-ours", from + "-theirs"} {
					_ = c.Kube.RbacV1().ClusterRoleBindings().Delete(context.Background(), name, metav1.DeleteOptions{})
					_ = c.Kube.RbacV1().ClusterRoles().Delete(context.Background(), name, metav1.DeleteOptions{})
				}
			}
		})
		role(t, e.Source, from+"-ours", from)
		role(t, e.Source, from+"-theirs", from)
		role(t, e.Target, from+"-theirs", "")
	})
	succeeds(t, e, "restore", "velero.restore")
	if got := rolesLike(t, e.Source, from); len(got) != 4 {
		t.Errorf("the source has %q", got)
	}
	if got := rolesLike(t, e.Target, from); !slices.Equal(got, []string{"role -theirs"}) {
		t.Errorf("the target has %q", got)
	}
	e.Run.Spec.Undoes = e.Run.Metadata.Name
	e.Run.Spec.Kind, e.Run.Spec.Number = spec.RunRollback, 4
	e.Run.Metadata.Name = e.Run.Spec.Plan + "-rollback-4"
	takeBack(t, e)
	if got := rolesLike(t, e.Target, from); !slices.Equal(got, []string{"role -theirs"}) {
		t.Errorf("after the rollback the target has %q", got)
	}
}

// TestBedDryRun: every refusal is collected.
func TestBedDryRun(t *testing.T) {
	id := fmt.Sprint(time.Now().UnixNano() % 1e8)
	from, to := "dry-"+id, "dried-"+id
	e := bedtest.Env(t, "dry-"+id, from, to)
	bedtest.Namespace(t, e.Source, from, nil)
	bedtest.Namespace(t, e.Target, to, nil)
	bedtest.Put(t, e.Source, from, small)
	bedtest.Put(t, e.Target, to, "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {services: 0, count/configmaps: 1}}}\n---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}")
	bedtest.Await(t, "the quota controller's count", func() bool {
		return bedtest.Field(t, e.Target, to, "v1:resourcequotas", "q", "status", "used", "count/configmaps") == "1"
	})
	o := bedtest.Drive(t, e, verbs(), "dry-run", "kube.dry-run", 1)
	for _, want := range []string{"Service " + from + "/a", "ConfigMap " + from + "/a", "ServiceAccount " + to + "/a: it exists already", "refuses 3 of"} {
		if !strings.Contains(o.Message, want) {
			t.Errorf("%q does not say %q", o.Message, want)
		}
	}
	if o.Seen != reconciler.Broken || !o.Final {
		t.Errorf("got %+v", o)
	}
}

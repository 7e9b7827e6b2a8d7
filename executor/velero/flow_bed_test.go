package velero_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/executor/preflight"
	"github.com/tranship/tranship/executor/velero"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func verbs() map[string]kube.Verb {
	all := map[string]kube.Verb{}
	for _, m := range []map[string]kube.Verb{kube.Verbs(), velero.Verbs(), preflight.Verbs()} {
		maps.Copy(all, m)
	}
	return all
}

func succeeds(t *testing.T, e *kube.Env, step, verb string) reconciler.Observation {
	t.Helper()
	o := bedtest.Drive(t, e, verbs(), step, verb, 1)
	if o.Seen != reconciler.Succeeded {
		t.Fatalf("%s: %s: %s", verb, o.Reason, o.Message)
	}
	return o
}

const app = `
{apiVersion: v1, kind: ConfigMap, metadata: {name: changes}, data: {k: v, gone: later}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: stays}, data: {k: v}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: leaves}, data: {k: v}}
---
{apiVersion: v1, kind: Secret, metadata: {name: password, finalizers: [example.com/keep]}, stringData: {k: v}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: app}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: app}, rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: app}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: app}, subjects: [{kind: ServiceAccount, name: app, namespace: NAMESPACE}]}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: door}, spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, nodePort: PORT}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: balanced}, spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: a, port: 80}, {name: b, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: outside}, subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{port: 80}]}]}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web}, spec: {rules: [{host: NAMESPACE.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {app: web}}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: app, terminationGracePeriodSeconds: 0, containers: [{name: c, image: IMAGE, command: [sleep, "86400"]}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {replicas: 1, serviceName: headless, persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: IMAGE, command: [sleep, "86400"]}]}}}}
`

// TestBedMove moves a small application without volumes between two real
// clusters, with changes after the backup, and takes everything back.
func TestBedMove(t *testing.T) {
	id := fmt.Sprint(time.Now().UnixNano() % 1e8)
	from, to := "verbs-"+id, "moved-"+id
	e := bedtest.Env(t, "verbs-"+id, from, to)
	bedtest.Namespace(t, e.Source, from, map[string]string{"pod-security.kubernetes.io/warn": "baseline", "team": "t1"})
	bedImage(t, e, from)
	t.Cleanup(func() { // nobody else would take the finalizer off
		_, _ = e.Source.Kube.CoreV1().Secrets(from).Patch(context.Background(), "password", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	})

	succeeds(t, e, "preflight", preflight.Check)
	succeeds(t, e, "locations", "velero.locations")
	succeeds(t, e, "namespaces", "kube.namespaces")
	succeeds(t, e, "dry-run", "kube.dry-run")
	succeeds(t, e, "backup", "velero.backup")
	succeeds(t, e, "restore", "velero.restore")
	heldAtZero(t, e, to)
	changeSource(t, e, from)
	succeeds(t, e, "list-again", "kube.list-again")
	listedAgain(t, e, to)
	succeeds(t, e, "traffic", "kube.traffic")
	for path, want := range map[string]string{"door type": "NodePort", "balanced type": "LoadBalancer", "door externalTrafficPolicy": "Local"} {
		name, f, _ := strings.Cut(path, " ")
		expect(t, e.Target, to, "v1:services", name, want, "spec", f)
	}
	expect(t, e.Target, to, "networking.k8s.io/v1:ingresses", "web", to, "metadata", "namespace")

	succeeds(t, e, "traffic", "kube.traffic-undo")
	expect(t, e.Target, to, "v1:services", "door", "ClusterIP", "spec", "type")
	succeeds(t, e, "restore", "velero.restore-undo")
	succeeds(t, e, "backup", "velero.backup-undo")
	succeeds(t, e, "namespaces", "kube.namespaces-undo")
	if _, err := e.Target.Kube.CoreV1().Namespaces().Get(t.Context(), to, metav1.GetOptions{}); err == nil {
		t.Errorf("namespace %s is left on the target", to)
	}
	expect(t, e.Source, from, "apps/v1:deployments", "web", "2", "spec", "replicas")
	succeeds(t, e, "clean-up", "velero.clean-up")
	succeeds(t, e, "purge", "velero.purge")
	nothingLeft(t, e)
}

func expect(t *testing.T, c *kube.Cluster, ns, resource, name, want string, path ...string) {
	t.Helper()
	if got := bedtest.Field(t, c, ns, resource, name, path...); got != want {
		t.Errorf("%s %s %s/%s: %s is %q, want %q", c.Name, resource, ns, name, strings.Join(path, "."), got, want)
	}
}

func bedImage(t *testing.T, e *kube.Env, ns string) {
	t.Helper()
	port := bedtest.FreeNodePort(t, e.Source, e.Target)
	text := strings.NewReplacer("IMAGE", "localhost/bed/busybox:1", "NAMESPACE", ns, "PORT", fmt.Sprint(port)).Replace(strings.TrimSpace(app))
	bedtest.Put(t, e.Source, ns, text)
}

func heldAtZero(t *testing.T, e *kube.Env, to string) {
	t.Helper()
	if n := len(e.Run.Facts.Created); n < 13 {
		t.Errorf("only %d objects are recorded as created: %v", n, e.Run.Facts.Created)
	}
	for _, o := range e.Run.Facts.Created {
		if o.UID == "" || o.Side != spec.Target || o.Kind == "Ingress" {
			t.Errorf("recorded: %+v", o)
		}
	}
	expect(t, e.Target, to, "apps/v1:deployments", "web", "0", "spec", "replicas")
	expect(t, e.Target, to, "apps/v1:statefulsets", "db", "0", "spec", "replicas")
	expect(t, e.Target, to, "apps/v1:statefulsets", "db", "Retain", "spec", "persistentVolumeClaimRetentionPolicy", "whenScaled")
	expect(t, e.Target, to, "v1:services", "door", "ClusterIP", "spec", "type")
	expect(t, e.Target, to, "v1:services", "balanced", "ClusterIP", "spec", "type")
	expect(t, e.Target, to, "v1:services", "headless", "None", "spec", "clusterIP")
	expect(t, e.Target, to, "v1:secrets", "password", "", "metadata", "finalizers")
	expect(t, e.Target, to, "v1:configmaps", "stays", e.Run.Spec.Plan, "metadata", "annotations", kube.AnnotationPlan)
	expect(t, e.Target, to, "v1:endpoints", "outside", "outside", "metadata", "name")
	expect(t, e.Target, "", "v1:namespaces", to, "t1", "metadata", "labels", "team")
	if got := bedtest.Field(t, e.Target, to, "rbac.authorization.k8s.io/v1:rolebindings", "app", "subjects"); !strings.Contains(got, to) {
		t.Errorf("the RoleBinding's subjects are %s", got)
	}
	if got := bedtest.Field(t, e.Target, to, "networking.k8s.io/v1:ingresses", "web", "spec"); !strings.Contains(got, "not found") {
		t.Errorf("the Ingress was created before its time: %s", got)
	}
	pods, err := e.Target.Kube.CoreV1().Pods(to).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("%d pods on the target, %v", len(pods.Items), err)
	}
}

// changeSource is what people do between the backup and the stop, and the
// stop itself.
func changeSource(t *testing.T, e *kube.Env, from string) {
	t.Helper()
	maps := e.Source.Kube.CoreV1().ConfigMaps(from)
	for _, err := range []error{
		maps.Delete(t.Context(), "leaves", metav1.DeleteOptions{}),
		second(maps.Patch(t.Context(), "changes", types.MergePatchType, []byte(`{"data":{"k":"w","gone":null}}`), metav1.PatchOptions{})),
		second(e.Source.Kube.AppsV1().Deployments(from).Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"replicas":0},"metadata":{"annotations":{"tranship.dev/previous":"{}"}}}`), metav1.PatchOptions{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	bedtest.Put(t, e.Source, from, "{apiVersion: v1, kind: ConfigMap, metadata: {name: comes}, data: {k: v}}")
}

func second[T any](_ T, err error) error { return err }

func listedAgain(t *testing.T, e *kube.Env, to string) {
	t.Helper()
	expect(t, e.Target, to, "v1:configmaps", "changes", `{"k":"w"}`, "data")
	expect(t, e.Target, to, "v1:configmaps", "comes", `{"k":"v"}`, "data")
	expect(t, e.Target, to, "v1:configmaps", "stays", `{"k":"v"}`, "data")
	if got := bedtest.Field(t, e.Target, to, "v1:configmaps", "leaves", "data"); !strings.Contains(got, "not found") {
		t.Errorf("the object that left the source is still on the target: %s", got)
	}
	names := ""
	for _, o := range e.Run.Facts.Created {
		names += o.Name + " "
	}
	if !strings.Contains(names, "comes") || strings.Contains(names, "leaves") {
		t.Errorf("recorded as created: %s", names)
	}
	if _, err := e.Source.Kube.AppsV1().Deployments(e.Plan().Namespaces[0].Name).Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func nothingLeft(t *testing.T, e *kube.Env) {
	t.Helper()
	selector := kube.LabelPlan + "=" + kube.Short(e.Run.Spec.Plan)
	for _, c := range []*kube.Cluster{e.Source, e.Target} {
		var items []kube.Item
		for _, r := range []string{"v1:secrets", "v1:configmaps", "velero.io/v1:backups", "velero.io/v1:restores", "velero.io/v1:backupstoragelocations", "velero.io/v1:deletebackuprequests", "velero.io/v1:downloadrequests"} {
			for _, ns := range []string{c.VeleroNamespace, e.Settings.Namespace} {
				items = append(items, bedtest.List(t, c, ns, r, selector)...)
			}
		}
		for _, i := range items {
			t.Errorf("left: %s", kube.Describe(i.Record(c.Side)))
		}
	}
}

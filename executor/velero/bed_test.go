package velero_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/preflight"
	"github.com/tranship/tranship/executor/velero"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// bed is what these tests need of bed.json (test/bed).
type bed struct {
	Source, Target struct{ Server, CAFile, TokenFile string }
	S3             struct{ Endpoint, Bucket, Region, CAFile, AccessKeyFile, SecretKeyFile string }
	Images         struct{ Busybox string }
}

type bedSecrets map[string][]byte

func (s bedSecrets) Read(_ context.Context, ref spec.SecretRef, key string) ([]byte, error) {
	if ref.Key != "" {
		key = ref.Key
	}
	v, ok := s[ref.From+"/"+key]
	if !ok {
		return nil, fmt.Errorf("secret %s (key %s) does not exist", ref.From, key)
	}
	return v, nil
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// onBed is an Env on the running bed, for a plan that maps one namespace.
func onBed(t *testing.T, plan, from, to string) *kube.Env {
	t.Helper()
	file := os.Getenv("TRANSHIP_BED")
	if file == "" {
		t.Skip("TRANSHIP_BED does not name a running bed")
	}
	var b bed
	if err := json.Unmarshal(readFile(t, file), &b); err != nil {
		t.Fatal(err)
	}
	secrets := bedSecrets{
		"source/token": readFile(t, b.Source.TokenFile), "target/token": readFile(t, b.Target.TokenFile),
		"s3/accessKey": readFile(t, b.S3.AccessKeyFile), "s3/secretKey": readFile(t, b.S3.SecretKeyFile), "s3/password": []byte("for-the-test"),
	}
	var c spec.Closure
	c.Plan.Metadata.Name = plan
	c.Plan.Spec.Namespaces = []spec.NamespaceMapping{{Name: from, TargetName: to}}
	c.Source = spec.Cluster{Metadata: spec.Metadata{Name: "old"}, Spec: spec.ClusterSpec{Server: b.Source.Server, CABundle: string(readFile(t, b.Source.CAFile)), Token: &spec.SecretRef{From: "source"}}}
	c.Target = spec.Cluster{Metadata: spec.Metadata{Name: "new"}, Spec: spec.ClusterSpec{Server: b.Target.Server, CABundle: string(readFile(t, b.Target.CAFile)), Token: &spec.SecretRef{From: "target"}}}
	c.Repository = spec.ReplicationRepository{Metadata: spec.Metadata{Name: "main"}, Spec: spec.RepositorySpec{
		Provider: spec.ProviderAWS, Bucket: b.S3.Bucket, Prefix: "verbs-test", Region: b.S3.Region, Endpoint: b.S3.Endpoint,
		CABundle: string(readFile(t, b.S3.CAFile)), Credentials: &spec.SecretRef{From: "s3"}, Encryption: &spec.SecretRef{From: "s3"},
	}}
	run := &spec.Run{Metadata: spec.Metadata{Name: plan + "-migrate-1"}, Spec: spec.RunSpec{Plan: plan, Kind: spec.RunMigrate, Number: 1, Closure: c}}
	pool := kube.NewPool(secrets)
	e := &kube.Env{Call: reconciler.Call{Run: run}, Secrets: secrets, Settings: kube.Settings{Namespace: "tranship-system", Epoch: 1}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	var err error
	if e.Source, err = pool.Get(t.Context(), spec.Source, &c.Source); err != nil {
		t.Fatal(err)
	}
	if e.Target, err = pool.Get(t.Context(), spec.Target, &c.Target); err != nil {
		t.Fatal(err)
	}
	return e
}

func verbs() map[string]kube.Verb {
	all := map[string]kube.Verb{}
	for _, m := range []map[string]kube.Verb{kube.Verbs(), velero.Verbs(), preflight.Verbs()} {
		maps.Copy(all, m)
	}
	return all
}

// drive does what the loop does with one step, and returns the last word.
func drive(t *testing.T, e *kube.Env, step, verb string, attempt int) reconciler.Observation {
	t.Helper()
	began := time.Now()
	started := metav1.NewMicroTime(began)
	e.Step = spec.Step{Name: step, Verb: verb, Attempt: attempt, Started: &started}
	e.Verb = verb
	v, ok := verbs()[verb]
	if !ok {
		t.Fatalf("no verb %s", verb)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	looks := 0
	for {
		o, err := v.Look(ctx, e)
		looks++
		switch {
		case err != nil:
			t.Fatalf("%s: look: %v", verb, err)
		case o.Seen == reconciler.Absent:
			if err := v.Ensure(ctx, e); err != nil {
				t.Fatalf("%s: ensure: %v", verb, err)
			}
			continue
		case o.Seen == reconciler.Working:
			poll := time.After(2 * time.Second)
			select {
			case <-o.Wake:
			case <-poll:
			case <-ctx.Done():
				t.Fatalf("%s: still %s: %s", verb, o.Reason, o.Message)
			}
			continue
		}
		mergeFacts(&e.Run.Facts, o.Facts)
		t.Logf("%-22s %6.3f s, %d looks: %s", verb, time.Since(began).Seconds(), looks, o.Message)
		return o
	}
}

func mergeFacts(into, from *spec.Facts) {
	if from == nil {
		return
	}
	raw, _ := json.Marshal(from)
	_ = json.Unmarshal(raw, into)
}

func succeeds(t *testing.T, e *kube.Env, step, verb string) reconciler.Observation {
	t.Helper()
	o := drive(t, e, step, verb, 1)
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
{apiVersion: v1, kind: Service, metadata: {name: door}, spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, nodePort: 31987}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: balanced}, spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: a, port: 80}, {name: b, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: outside}, subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{port: 80}]}]}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web}, spec: {rules: [{host: shop.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {app: web}}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: app, terminationGracePeriodSeconds: 0, containers: [{name: c, image: IMAGE, command: [sleep, "86400"]}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {replicas: 1, serviceName: headless, persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: IMAGE, command: [sleep, "86400"]}]}}}}
`

// put creates the objects of a YAML stream in a namespace.
func put(t *testing.T, c *kube.Cluster, namespace, text string) {
	t.Helper()
	for _, doc := range strings.Split(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatal(err)
		}
		u.SetNamespace(namespace)
		gvk := u.GroupVersionKind()
		m, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Dynamic.Resource(m.Resource).Namespace(namespace).Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

func namespace(t *testing.T, c *kube.Cluster, name string, labels map[string]string) {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	u.SetName(name)
	u.SetLabels(labels)
	gvr := schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	if _, err := c.Dynamic.Resource(gvr).Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Dynamic.Resource(gvr).Delete(context.Background(), name, metav1.DeleteOptions{})
	})
}

// field reads a value of an object, as text.
func field(t *testing.T, c *kube.Cluster, namespace, resource, name string, path ...string) string {
	t.Helper()
	gv, r, _ := strings.Cut(resource, ":")
	group, err := schema.ParseGroupVersion(gv)
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.Dynamic.Resource(group.WithResource(r)).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return "error: " + err.Error()
	}
	v, found, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	if !found {
		return ""
	}
	raw, _ := json.Marshal(v)
	return strings.Trim(string(raw), `"`)
}

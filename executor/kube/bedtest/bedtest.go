// Package bedtest lets tests of verbs run on the test bed (test/bed): two real
// clusters with Velero and an S3 store. Without TRANSHIP_BED they are skipped.
package bedtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
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

// Env is an Env on the running bed, for a plan that maps one namespace.
func Env(t *testing.T, plan, from, to string) *kube.Env {
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
		"wrong/accessKey": []byte("nobody"), "wrong/secretKey": []byte("knows"),
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

// Patience is how long a test on the bed waits for one thing. Machines are
// slow at times, and it costs nothing but in a test that fails.
const Patience = 10 * time.Minute

// Again says why a call to the bed is made again, a moment later. It ends the
// test where doing so is no use.
func Again(t *testing.T, what string, err error) {
	t.Helper()
	if errors.Is(err, reconciler.ErrSuperseded) || t.Context().Err() != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Logf("%s, once more: %v", what, err)
	time.Sleep(time.Second)
}

// Drive does what the loop does with one step, and returns the last word.
func Drive(t *testing.T, e *kube.Env, verbs map[string]kube.Verb, step, verb string, attempt int) reconciler.Observation {
	t.Helper()
	began := time.Now()
	started := metav1.NewMicroTime(began)
	e.Step = spec.Step{Name: step, Verb: verb, Attempt: attempt, Started: &started}
	e.Verb = verb
	v, ok := verbs[verb]
	if !ok {
		t.Fatalf("no verb %s", verb)
	}
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	looks := 0
	for {
		o, err := v.Look(ctx, e)
		looks++
		if err == nil && o.Seen == reconciler.Absent {
			err = v.Ensure(ctx, e)
		}
		switch {
		case ctx.Err() != nil:
			t.Fatalf("%s: still %s: %s (%v)", verb, o.Reason, o.Message, err)
		case err != nil: // the loop tries again, too
			Again(t, verb, err)
			continue
		case o.Seen == reconciler.Absent:
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

// FreeNodePort is a port that no Service of the clusters has.
func FreeNodePort(t *testing.T, clusters ...*kube.Cluster) int32 {
	t.Helper()
	taken := map[int32]bool{}
	for _, c := range clusters {
		list, err := c.Kube.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list.Items {
			taken[s.Spec.HealthCheckNodePort] = true
			for _, p := range s.Spec.Ports {
				taken[p.NodePort] = true
			}
		}
	}
	// From anywhere in the range, so that others who ask at once get another one.
	for port := 30000 + rand.Int32N(2700); ; port = 30000 + (port-29999)%2700 {
		if !taken[port] {
			return port
		}
	}
}

// Put creates the objects of a YAML stream in a namespace.
func Put(t *testing.T, c *kube.Cluster, namespace, text string) {
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

// Await polls until ok, and says how long that took.
func Await(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for ; !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > Patience {
			t.Fatalf("waited %s for: %s", Patience, what)
		}
	}
	return time.Since(began)
}

// Namespace makes a namespace that goes with the test, and waits until pods
// may be made in it.
func Namespace(t *testing.T, c *kube.Cluster, name string, labels map[string]string) {
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
	Await(t, "ServiceAccount default of namespace "+name, func() bool {
		_, err := c.Kube.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
}

// resource reads "apps/v1:deployments".
func resource(t *testing.T, name string) schema.GroupVersionResource {
	t.Helper()
	gv, r, _ := strings.Cut(name, ":")
	group, err := schema.ParseGroupVersion(gv)
	if err != nil {
		t.Fatal(err)
	}
	return group.WithResource(r)
}

// List lists the objects of a resource that a selector matches.
func List(t *testing.T, c *kube.Cluster, namespace, of, selector string) []kube.Item {
	t.Helper()
	gvr := resource(t, of)
	l, err := c.Dynamic.Resource(gvr).Namespace(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	var items []kube.Item
	for n := range l.Items {
		items = append(items, kube.Item{GVR: gvr, Unstructured: &l.Items[n]})
	}
	return items
}

// Field reads a value of an object, as text.
func Field(t *testing.T, c *kube.Cluster, namespace, of, name string, path ...string) string {
	t.Helper()
	u, err := c.Dynamic.Resource(resource(t, of)).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
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

package kube

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// TestNotUpdated: what is never updated, each with its reason.
func TestNotUpdated(t *testing.T) {
	junk := make([]byte, maxFormer)
	_, _ = rand.Read(junk)
	const cm, service = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: b", "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: "
	for name, c := range map[string]struct{ source, there, why string }{
		"plain":               {cm + "}}", cm + "}}", ""},
		"another plan's":      {cm + "}}", cm + ", annotations: {tranship.dev/plan-name: other}}}", "another plan"},
		"stopped by another":  {cm + "}}", cm + ", annotations: {tranship.dev/previous: '{}'}}}", "another plan"},
		"an object of ours":   {cm + "}}", cm + ", labels: {app.kubernetes.io/managed-by: tranship, tranship.dev/plan: x}}}", "another plan"},
		"going":               {cm + "}}", cm + ", deletionTimestamp: 2026-01-01T00:00:00Z}}", "being deleted"},
		"controlled":          {cm + "}}", cm + ", ownerReferences: [{apiVersion: v1, kind: Shop, name: s, uid: u, controller: true}]}}", "Shop s controls it"},
		"owned":               {cm + "}}", cm + ", ownerReferences: [{apiVersion: v1, kind: Shop, name: s, uid: u}]}}", ""},
		"a Job":               {"{apiVersion: batch/v1, kind: Job}", "{apiVersion: batch/v1, kind: Job}", "runs once"},
		"a token":             {"{apiVersion: v1, kind: Secret}", "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token}", "token"},
		"a Secret":            {"{apiVersion: v1, kind: Secret}", "{apiVersion: v1, kind: Secret, type: Opaque}", ""},
		"headless here":       {service + "{clusterIP: None}}", service + "{clusterIP: 10.0.0.1}}", "headless"},
		"headless there":      {service + "{clusterIP: 10.0.0.1}}", service + "{clusterIP: None}}", "headless"},
		"headless both":       {service + "{clusterIP: None}}", service + "{clusterIP: None}}", ""},
		"immutable there":     {cm + "}}", cm + "}, immutable: true}", "immutable"},
		"immutable here":      {cm + "}, immutable: true}", cm + "}}", "immutable"},
		"a Secret, immutable": {"{apiVersion: v1, kind: Secret, immutable: true}", "{apiVersion: v1, kind: Secret, immutable: false}", "immutable"},
		"immutable both":      {cm + "}, immutable: true}", cm + "}, immutable: true}", ""},
		"said to be mutable":  {cm + "}, immutable: false}", cm + "}}", ""},
		"too large":           {cm + "}}", cm + "}, data: {a: '" + base64.StdEncoding.EncodeToString(junk) + "'}}", "too large"},
		"large, but all same": {cm + "}}", cm + "}, data: {a: '" + strings.Repeat("x", 2*maxFormer) + "'}}", ""},
	} {
		if got := NotUpdated(item(t, c.source), item(t, c.there)); got == "" && c.why != "" || !strings.Contains(got, c.why) || c.why == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, c.why)
		}
	}
	keda := item(t, "{apiVersion: keda.sh/v1alpha1, kind: ScaledObject}")
	keda.GVR = scaling[1]
	if got := NotUpdated(keda, keda); !strings.Contains(got, "KEDA") {
		t.Errorf("a ScaledObject: %q", got)
	}
}

// TestStillRuns: what is held at zero is waited for.
func TestStillRuns(t *testing.T) {
	for text, want := range map[string]string{
		"{apiVersion: v1, kind: ConfigMap}": "",
		"{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 3}, status: {observedGeneration: 2}}":              "waits for its controller",
		"{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 3}, status: {observedGeneration: 3, replicas: 2}}": "has 2 pods",
		"{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 3}, status: {observedGeneration: 3}}":              "",
		"{apiVersion: apps/v1, kind: DaemonSet, status: {currentNumberScheduled: 4}}":                                      "has 4 pods",
	} {
		if got := stillRuns(item(t, text)); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestOnto: what replaces an object of the target keeps what only the target
// can know, and is not taken for something that a restore made.
func TestOnto(t *testing.T) {
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: 1}}
	run.Facts.Restore = "r"
	e := &Env{Call: reconciler.Call{Run: run}}
	there := item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app, uid: u, resourceVersion: '7', finalizers: [f], ownerReferences: [{apiVersion: v1, kind: Shop, name: s, uid: o}]}, secrets: [{name: app-token}], imagePullSecrets: [{name: theirs}, {name: app-dockercfg-x}]}")
	want := e.onto(item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app}, imagePullSecrets: [{name: ours}]}"), there)
	raw, err := json.Marshal([]any{want.Object["secrets"], want.Object["imagePullSecrets"], want.GetFinalizers(), len(want.GetOwnerReferences()), want.GetUID(), want.GetResourceVersion(), want.GetLabels()})
	if err != nil || string(raw) != `[[{"name":"app-token"}],[{"name":"ours"},{"name":"app-dockercfg-x"}],["f"],1,"u","7",{}]` {
		t.Errorf("%s %v", raw, err)
	}
	if !WasThere(e, want) || want.GetAnnotations()[AnnotationFormer] != formerName(e, "u") || WasThere(e, there) {
		t.Errorf("marks: %v", want.GetAnnotations())
	}
	if again := e.onto(item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app}}"), want); again.GetLabels()[LabelRestore] != "" || !WasThere(e, again) {
		t.Errorf("a second change takes it for restored: %v %v", again.GetLabels(), again.GetAnnotations())
	}
	mine := e.Marked(item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"))
	if got := e.onto(item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"), mine); got.GetLabels()[LabelRestore] != "r" || WasThere(e, got) {
		t.Errorf("what the run made: %v %v", got.GetLabels(), got.GetAnnotations())
	}
}

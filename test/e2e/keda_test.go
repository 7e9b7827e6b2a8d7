package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// kedaDefinition is KEDA's kind without KEDA.
	kedaDefinition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: scaledobjects.keda.sh, labels: {tranship.dev/of-tests: "true"}}
spec:
  group: keda.sh
  scope: Namespaced
  names: {plural: scaledobjects, kind: ScaledObject}
  versions: [{name: v1alpha1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`
	kedaPaused = "autoscaling.keda.sh/paused"
)

func (l *lab) kedaApp() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.2; done"]}]}}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: web, namespace: NS, annotations: {autoscaling.keda.sh/paused: "false"}}
spec: {scaleTargetRef: {name: web}, triggers: []}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: resting, namespace: NS, annotations: {autoscaling.keda.sh/paused: "true", autoscaling.keda.sh/paused-replicas: "0"}}
spec: {scaleTargetRef: {name: web}, triggers: []}
`)
}

// keda plays KEDA's part in the lab's namespace of a cluster: it confirms a
// pause, and starts again at once what is at zero and not paused.
func (l *lab) keda(kubeconfig string) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	l.must(err)
	client, err := dynamic.NewForConfig(config)
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		defer wait.Done()
		for ctx.Err() == nil {
			kedaTurn(ctx, client, l.name)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	l.t.Cleanup(func() { cancel(); wait.Wait() })
}

// kedaTurn does what there is to do. What fails is done in the next one.
func kedaTurn(ctx context.Context, client dynamic.Interface, ns string) {
	objects := client.Resource(schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"}).Namespace(ns)
	deployments := client.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace(ns)
	list, err := objects.List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for n := range list.Items {
		o := &list.Items[n]
		want := "False"
		if o.GetAnnotations()[kedaPaused] == "true" {
			want = "True"
		}
		have, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		if len(have) != 1 || have[0].(map[string]any)["status"] != want {
			_ = unstructured.SetNestedSlice(o.Object, []any{map[string]any{"type": "Paused", "status": want}}, "status", "conditions")
			_, _ = objects.UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: "keda"})
			continue
		}
		if d, err := deployments.Get(ctx, "web", metav1.GetOptions{}); err == nil && want == "False" {
			if replicas, _, _ := unstructured.NestedInt64(d.Object, "spec", "replicas"); replicas == 0 {
				_, _ = deployments.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{FieldManager: "keda"})
			}
		}
	}
}

// pauses are the annotations of the ScaledObjects of a cluster that are KEDA's.
func (l *lab) pauses(run func(...string) string) string {
	l.t.Helper()
	return run("-n", l.name, "get", "scaledobjects.keda.sh", "-o",
		`jsonpath={range .items[*]}{.metadata.name}={.metadata.annotations.autoscaling\.keda\.sh/paused},{.metadata.annotations.autoscaling\.keda\.sh/paused-replicas} {end}`)
}

// TestWhatKEDAScalesThereAndBack: something that starts again what is at zero
// does not disturb a cutover, and neither side keeps an annotation of ours.
func TestWhatKEDAScalesThereAndBack(t *testing.T) {
	long(t)
	l := newLab(t)
	l.write("keda.yaml", kedaDefinition)
	for _, run := range []func(...string) string{l.onSource, l.onTarget} {
		run("apply", "-f", l.dir+"/keda.yaml")
		run("wait", "crd/scaledobjects.keda.sh", "--for=condition=Established", "--timeout=60s")
	}
	t.Cleanup(func() {
		for _, k := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
			_, _ = l.kubectl(k, "-n", l.name, "delete", "scaledobjects.keda.sh", "--all")
			if left, err := l.kubectl(k, "get", "scaledobjects.keda.sh", "-A", "-o", "name"); err == nil && !strings.Contains(left, "scaledobject") {
				_, _ = l.kubectl(k, "delete", "crd", "scaledobjects.keda.sh", "--ignore-not-found")
			}
		}
	})
	l.openStaged(l.kedaApp(), "deployment/web", "")
	l.keda(l.bed.Source.Kubeconfig)
	l.keda(l.bed.Target.Kubeconfig)
	const want = "resting=true,0 web=false, "
	if got := l.pauses(l.onSource); got != want {
		t.Fatalf("the test reads %q", got)
	}
	l.flip(spec.Migrated, "")
	l.waitReason("Migrated", 5*time.Minute)
	if got := l.pauses(l.onTarget); got != want {
		t.Errorf("on the target: %q, want %q", got, want)
	}
	if got := l.onSource("-n", l.name, "get", "pods", "-o", "name"); got != "" {
		t.Errorf("on the source runs %s", got)
	}
	l.flip(spec.RolledBack, "rollback: {targetWrites: Discard}")
	l.waitReason("RolledBack", 5*time.Minute)
	if got := l.pauses(l.onSource); got != want {
		t.Errorf("back on the source: %q, want %q", got, want)
	}
	if got := l.onSource("-n", l.name, "get", "deployment/web", "-o", "jsonpath={.spec.replicas} {.status.readyReplicas}"); got != "2 2" {
		t.Errorf("back on the source: %s", got)
	}
	if left, err := l.kubectl(l.bed.Target.Kubeconfig, "-n", l.name, "get", "scaledobjects.keda.sh", "-o", "name"); err == nil && strings.Contains(left, "scaledobject") {
		t.Errorf("left on the target: %s", left)
	}
}

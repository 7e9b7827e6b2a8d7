package workload

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const deploymentConfigs = `apiVersion: apps.openshift.io/v1
kind: DeploymentConfig
metadata: {name: web, labels: {app: web}}
spec: {replicas: 2, selector: {app: web}, triggers: [{type: ConfigChange}], template: {metadata: {labels: {app: web}}, spec: {POD}}}
---
apiVersion: apps.openshift.io/v1
kind: DeploymentConfig
metadata: {name: frozen, labels: {app: frozen}}
spec: {replicas: 1, selector: {app: frozen}, triggers: [{type: ConfigChange}], template: {metadata: {labels: {app: frozen}}, spec: {POD}}}
---
apiVersion: apps.openshift.io/v1
kind: DeploymentConfig
metadata: {name: idle, labels: {app: idle}}
spec: {replicas: 0, selector: {app: idle}, triggers: [{type: ConfigChange}], template: {metadata: {labels: {app: idle}}, spec: {POD}}}`

// rollOut plays the part of OpenShift's controller in the lab's namespace of a
// cluster, as its source tells it: what is paused gets a status and nothing
// else; of the others it makes one ReplicationController and gives it their count.
func (l *lab) rollOut(c *kube.Cluster) {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		defer wait.Done()
		for ctx.Err() == nil {
			objects := c.Dynamic.Resource(kindNamed("DeploymentConfig").gvr).Namespace(l.ns)
			if list, err := objects.List(ctx, metav1.ListOptions{}); err == nil {
				for n := range list.Items {
					l.reconcile(ctx, c, item{kindNamed("DeploymentConfig"), &list.Items[n]})
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	l.Cleanup(func() { cancel(); wait.Wait() })
}

// reconcile does what there is to do. What fails is done in the next turn.
func (l *lab) reconcile(ctx context.Context, c *kube.Cluster, dc item) {
	controllers := c.Dynamic.Resource(kindNamed("ReplicationController").gvr).Namespace(l.ns)
	rc, err := controllers.Get(ctx, dc.GetName()+"-1", metav1.GetOptions{})
	if err != nil {
		if !dc.paused() {
			_, _ = controllers.Create(ctx, controllerOf(dc), metav1.CreateOptions{FieldManager: "openshift"})
		}
		rc = &unstructured.Unstructured{Object: map[string]any{}}
	} else if !dc.paused() && (item{kindNamed("ReplicationController"), rc}).replicas() != dc.replicas() {
		_ = unstructured.SetNestedField(rc.Object, int64(dc.replicas()), "spec", "replicas")
		_, _ = controllers.Update(ctx, rc, metav1.UpdateOptions{FieldManager: "openshift"})
		return
	}
	made := item{kindNamed("ReplicationController"), rc}
	available := "False"
	if made.counts("readyReplicas") >= dc.replicas() {
		available = "True"
	}
	before, _ := json.Marshal(dc.Object["status"])
	dc.Object["status"] = map[string]any{
		"observedGeneration": dc.GetGeneration(), "replicas": int64(made.counts("replicas")), "readyReplicas": int64(made.counts("readyReplicas")),
		"updatedReplicas": int64(made.counts("replicas")), "conditions": []any{map[string]any{"type": "Available", "status": available}},
	}
	if after, _ := json.Marshal(dc.Object["status"]); string(after) != string(before) {
		_, _ = c.Dynamic.Resource(dc.kind.gvr).Namespace(l.ns).UpdateStatus(ctx, dc.Unstructured, metav1.UpdateOptions{FieldManager: "openshift"})
	}
}

func controllerOf(dc item) *unstructured.Unstructured {
	spec := dc.DeepCopy().Object["spec"].(map[string]any)
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ReplicationController",
		"metadata": map[string]any{"name": dc.GetName() + "-1", "labels": map[string]any{"app": dc.GetName()}, "ownerReferences": []any{map[string]any{
			"apiVersion": dc.kind.apiVersion, "kind": dc.kind.name, "name": dc.GetName(), "uid": string(dc.GetUID()), "controller": true}}},
		"spec": map[string]any{"replicas": spec["replicas"], "selector": spec["selector"], "template": spec["template"]},
	}}
}

// A DeploymentConfig goes to zero and comes back, a paused one too, whose
// controller does nothing meanwhile; on the target nothing is rolled out before
// the start, and what was paused is paused again once its pods are there.
func TestLiveDeploymentConfigs(t *testing.T) {
	l := newLab(t)
	src, dst := l.env.Source, l.env.Target
	for _, c := range []*kube.Cluster{src, dst} {
		bedtest.Definition(t, c, kindNamed("DeploymentConfig").gvr, "DeploymentConfig")
	}
	l.Cleanup(func() { l.noMore("DeploymentConfig", "ReplicationController") })
	l.mappers()
	l.create(src, strings.ReplaceAll(deploymentConfigs, "POD", idlePod))
	l.rollOut(src)
	for _, name := range []string{"web", "frozen"} {
		l.until(name+" is healthy", func() bool {
			i := l.get(src, "DeploymentConfig", name)
			return i.allPods() > 0 && i.kind.unhealthy(i) == ""
		})
	}
	l.patch(src, "DeploymentConfig", "frozen", `{"spec":{"paused":true}}`)
	before := l.specs()

	for _, lost := range []bool{false, true} {
		l.env.Run.Facts = spec.Facts{}
		l.pend("workload.stop")
		l.must("workload.stop")
		l.must("workload.drained")
		if n := l.pods(src, ""); n != 0 {
			t.Fatalf("%d pods run", n)
		}
		stopped := l.env.Run.Facts
		if lost {
			l.env.Run.Facts = spec.Facts{}
		} else {
			l.onTheTarget(dst)
			l.env.Run.Facts = stopped
		}
		l.must("workload.start-source")
		if after := l.specs(); !reflect.DeepEqual(after, before) {
			got, _ := json.Marshal(after)
			want, _ := json.Marshal(before)
			t.Errorf("came back as %s, it was %s", got, want)
		}
	}
	for name, want := range map[string]int{"web": 2, "frozen": 1, "idle": 0} {
		l.until(name+" runs", func() bool { return l.pods(src, name) == want })
	}
}

// onTheTarget restores what the source has, starts it, and stops it.
func (l *lab) onTheTarget(dst *kube.Cluster) {
	l.Helper()
	covered, err := kube.Covered(l.Context(), l.env)
	if err != nil {
		l.Fatal(err)
	}
	for _, i := range covered {
		switch i.GetKind() {
		case "ReplicationController":
			l.Errorf("%s would be there twice", i.GetName())
		case "DeploymentConfig":
			held := l.env.Marked(kube.Held(i, l.env.Translation()))
			if _, err := dst.Dynamic.Resource(i.GVR).Namespace(l.ns).Create(l.Context(), held.Unstructured, metav1.CreateOptions{}); err != nil {
				l.Fatal(err)
			}
		}
	}
	l.rollOut(dst)
	l.until("the target's controller has seen all", func() bool {
		return l.get(dst, "DeploymentConfig", "web").observed() && l.get(dst, "DeploymentConfig", "idle").observed()
	})
	if list, err := dst.Kube.CoreV1().ReplicationControllers(l.ns).List(l.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		l.Errorf("rolled out before the start: %v %v", list, err)
	}
	l.must("workload.start")
	l.must("workload.health")
	for name, want := range map[string]struct {
		replicas, pods int32
		paused         bool
	}{"web": {2, 2, false}, "frozen": {1, 1, true}, "idle": {0, 0, false}} {
		if i := l.get(dst, "DeploymentConfig", name); i.replicas() != want.replicas || i.readyPods() != want.pods || i.paused() != want.paused {
			l.Errorf("%s on the target: %d replicas, %d pods, paused %v", name, i.replicas(), i.readyPods(), i.paused())
		}
	}
	l.must("workload.stop-target")
	if n := l.pods(dst, ""); n != 0 {
		l.Errorf("%d pods run on the target", n)
	}
}

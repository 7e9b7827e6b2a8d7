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
	"k8s.io/apimachinery/pkg/types"
)

const kedaApplication = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {POD}}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: web, annotations: {autoscaling.keda.sh/paused: "false", example.com/own: stays}}
spec: {scaleTargetRef: {name: web}, minReplicaCount: 2, triggers: []}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: fixed, annotations: {autoscaling.keda.sh/paused: "true", autoscaling.keda.sh/paused-replicas: "3"}}
spec: {scaleTargetRef: {name: none}, triggers: []}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: resting, annotations: {autoscaling.keda.sh/paused: "true"}}
spec: {scaleTargetRef: {name: none}, triggers: []}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: queue}
spec: {jobTargetRef: {template: {spec: {restartPolicy: Never, POD}}}, triggers: []}`

// keda plays KEDA's part in a namespace, as its documentation tells it: what is
// paused it confirms and leaves alone; a Deployment at zero it starts again, for
// there is always work in this test, and a ScaledJob has one Job.
type keda struct {
	*lab
	wait   sync.WaitGroup
	cancel context.CancelFunc
}

func (l *lab) keda() *keda {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keda{lab: l, cancel: cancel}
	k.wait.Add(1)
	go func() {
		defer k.wait.Done()
		for ctx.Err() == nil {
			k.turn(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	l.Cleanup(func() { k.cancel(); k.wait.Wait() })
	return k
}

// turn does what there is to do. What fails is done in the next one.
func (k *keda) turn(ctx context.Context) {
	for _, kind := range []string{"ScaledObject", "ScaledJob"} {
		objects := k.env.Source.Dynamic.Resource(kindNamed(kind).gvr).Namespace(k.ns)
		list, err := objects.List(ctx, metav1.ListOptions{})
		if err != nil {
			continue
		}
		for n := range list.Items {
			o := &list.Items[n]
			before, _ := json.Marshal(o.Object["status"])
			confirmPause(o.Object)
			if after, _ := json.Marshal(o.Object["status"]); string(after) != string(before) {
				_, _ = objects.UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: "keda"})
			} else if !pausesAll(o.GetAnnotations()) {
				k.scale(ctx, o)
			}
		}
	}
}

func (k *keda) scale(ctx context.Context, o *unstructured.Unstructured) {
	if o.GetKind() == "ScaledJob" {
		job := strings.NewReplacer("UID", string(o.GetUID()), "POD", idlePod).Replace(`apiVersion: batch/v1
kind: Job
metadata: {name: queue-1, ownerReferences: [{apiVersion: keda.sh/v1alpha1, kind: ScaledJob, name: queue, uid: UID, controller: true}]}
spec: {template: {metadata: {labels: {app: queue}}, spec: {restartPolicy: Never, POD}}}`)
		u := parsed(job)
		_, _ = k.env.Source.Dynamic.Resource(kindNamed("Job").gvr).Namespace(k.ns).Create(ctx, u, metav1.CreateOptions{FieldManager: "keda"})
		return
	}
	name, _, _ := unstructured.NestedString(o.Object, "spec", "scaleTargetRef", "name")
	deployments := k.env.Source.Dynamic.Resource(kindNamed("Deployment").gvr).Namespace(k.ns)
	if d, err := deployments.Get(ctx, name, metav1.GetOptions{}); err == nil && (item{kindNamed("Deployment"), d}).replicas() == 0 {
		_, _ = deployments.Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{FieldManager: "keda"})
	}
}

// With something that starts again whatever it may: all is stopped and stays so,
// and every annotation and count comes back exactly, with and without the record.
func TestLiveWhatKEDAScales(t *testing.T) {
	l := newLab(t)
	src := l.env.Source
	for _, kind := range []string{"ScaledObject", "ScaledJob"} {
		bedtest.Definition(t, src, kindNamed(kind).gvr, kind)
	}
	l.Cleanup(func() { l.noMore("ScaledObject", "ScaledJob") })
	l.create(src, strings.ReplaceAll(kedaApplication, "POD", idlePod))
	l.ready(src, "Deployment", "web")
	l.keda()
	l.until("KEDA has made its Job", func() bool { return l.pods(src, "queue") > 0 })
	own := func() map[string]any {
		all := map[string]any{"web": l.get(src, "Deployment", "web").replicas(), "queue-1": l.get(src, "Job", "queue-1").suspended()}
		for _, name := range []string{"web", "fixed", "resting"} {
			all["ScaledObject "+name] = l.get(src, "ScaledObject", name).GetAnnotations()
		}
		all["ScaledJob"] = l.get(src, "ScaledJob", "queue").GetAnnotations()
		return all
	}
	before := own()
	for _, lost := range []bool{false, true} {
		l.env.Run.Facts = spec.Facts{}
		l.pend("workload.stop")
		l.must("workload.stop")
		l.must("workload.drained")
		for _, name := range []string{"web", "fixed", "resting"} {
			if i := l.get(src, "ScaledObject", name); !i.held() {
				t.Errorf("%s is not paused: %v", name, i.GetAnnotations())
			}
		}
		if n := l.pods(src, ""); n != 0 {
			t.Errorf("%d pods run", n)
		}
		if lost {
			l.env.Run.Facts = spec.Facts{}
		}
		l.must("workload.start-source")
		if after := own(); !reflect.DeepEqual(after, before) {
			t.Errorf("came back as %v, it was %v", after, before)
		}
	}
}

// The target gets what scales with the annotations of its author, not with ours.
func TestLiveScalersOfTheTarget(t *testing.T) {
	l := newLab(t)
	for _, c := range []*kube.Cluster{l.env.Source, l.env.Target} {
		bedtest.Definition(t, c, kindNamed("ScaledObject").gvr, "ScaledObject")
	}
	l.Cleanup(func() { l.noMore("ScaledObject") })
	l.mappers()
	objects := strings.Split(kedaApplication, "\n---\n")
	l.create(l.env.Source, objects[1]+"\n---\n"+objects[2])
	l.create(l.env.Source, `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: keda-hpa-web, ownerReferences: [{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, name: web, uid: `+string(l.get(l.env.Source, "ScaledObject", "web").GetUID())+`, controller: true}]}
spec: {maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}`)
	l.pend("workload.stop")
	for _, name := range []string{"web", "fixed"} {
		_, err := l.env.Source.Dynamic.Resource(kindNamed("ScaledObject").gvr).Namespace(l.ns).Patch(l.Context(), name, types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"autoscaling.keda.sh/paused":"true","autoscaling.keda.sh/paused-replicas":null,"tranship.dev/previous":"{}"}}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	l.drive(kube.Verbs()["kube.autoscalers"])
	for name, want := range map[string]map[string]string{
		"web":   {kube.AnnotationPaused: "false", "example.com/own": "stays"},
		"fixed": {kube.AnnotationPaused: "true", kube.AnnotationPausedReplicas: "3"},
	} {
		have := l.get(l.env.Target, "ScaledObject", name).GetAnnotations()
		for k := range have {
			if strings.HasPrefix(k, "tranship.dev/") {
				delete(have, k)
			}
		}
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%s on the target: %v, want %v", name, have, want)
		}
	}
	hpas, err := l.env.Target.Kube.AutoscalingV2().HorizontalPodAutoscalers(l.ns).List(l.Context(), metav1.ListOptions{})
	if err != nil || len(hpas.Items) != 0 {
		t.Errorf("KEDA's own autoscaler was moved: %v %v", hpas, err)
	}
	l.drive(kube.Verbs()["kube.autoscalers-undo"])
	if left, err := l.env.Target.Dynamic.Resource(kindNamed("ScaledObject").gvr).Namespace(l.ns).List(l.Context(), metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
		t.Errorf("left on the target: %v %v", left, err)
	}
}

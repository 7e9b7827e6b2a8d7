package workload

import (
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/runtime"
)

// When KEDA takes something for paused. Of both annotations the number wins.
func TestPausesAll(t *testing.T) {
	for name, c := range map[string]struct {
		set  map[string]string
		want bool
	}{
		"none":                  {nil, false},
		"true":                  {map[string]string{kube.AnnotationPaused: "true"}, true},
		"no truth value":        {map[string]string{kube.AnnotationPaused: "yes"}, true},
		"empty":                 {map[string]string{kube.AnnotationPaused: ""}, true},
		"false":                 {map[string]string{kube.AnnotationPaused: "false"}, false},
		"at none":               {map[string]string{kube.AnnotationPausedReplicas: "0"}, true},
		"at some":               {map[string]string{kube.AnnotationPausedReplicas: "5"}, false},
		"at some, and also so":  {map[string]string{kube.AnnotationPausedReplicas: "5", kube.AnnotationPaused: "true"}, false},
		"at none, and also not": {map[string]string{kube.AnnotationPausedReplicas: "0", kube.AnnotationPaused: "false"}, true},
	} {
		if got := pausesAll(c.set); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What scales others is paused, and has confirmed it, before anything else is
// touched; it goes on only when all others run again.
func TestScalersStopFirstAndStartLast(t *testing.T) {
	scaler := made("ScaledObject", "web", 3, nil)
	web := made("Deployment", "web", 2, func(o map[string]any) { field(o, "metadata/uid", "uid-deployment") })
	e, client := fakeEnv([]runtime.Object{scaler.Unstructured, web.Unstructured})
	replicas := func() int32 {
		i, _ := get(t.Context(), e.Source, kindNamed("Deployment"), "shop", "web")
		return i.replicas()
	}
	paused := func() bool {
		i, _ := get(t.Context(), e.Source, kindNamed("ScaledObject"), "shop", "web")
		return i.held()
	}
	ensure := func(verb string) reconciler.Observation {
		t.Helper()
		o, err := Verbs()[verb].Look(t.Context(), e)
		if err == nil && o.Seen == reconciler.Absent {
			err = Verbs()[verb].Ensure(t.Context(), e)
		}
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	pendFake(e, "workload.stop")
	ensure("workload.stop")
	if o := ensure("workload.stop"); !paused() || replicas() != 2 || o.Reason != "WaitsForController" || o.Object != "source ScaledObject shop/web" {
		t.Fatalf("before KEDA has seen the pause: paused %v, %d replicas, %+v", paused(), replicas(), o)
	}
	control(e, "ScaledObject", confirmPause)
	ensure("workload.stop")
	if replicas() != 0 {
		t.Fatalf("not stopped: %d replicas", replicas())
	}
	e.Run.Facts = spec.Facts{} // all is lost but the annotations
	ensure("workload.start-source")
	if replicas() != 2 || !paused() {
		t.Fatalf("%d replicas, paused %v", replicas(), paused())
	}
	if o := turns(t, e, "workload.start-source", nil); o.Seen != reconciler.Succeeded || paused() {
		t.Errorf("paused %v: %+v", paused(), o)
	}
	if i := fetch(client, "web"); len(i.GetAnnotations()) != 0 {
		t.Errorf("left behind: %v", i.GetAnnotations())
	}
}

// A cluster without an API group is not asked for its objects.
func TestUnservedGroupsCostNothing(t *testing.T) {
	e, client := fakeEnv([]runtime.Object{made("Deployment", "web", 1, nil).Unstructured})
	e.Source.Discovery = nothingMore()
	if _, _, err := covered(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for _, a := range client.Actions() {
		for _, k := range kinds {
			if k.extension && a.GetResource() == k.gvr {
				t.Errorf("asked for %s", k.gvr.Resource)
			}
		}
	}
}

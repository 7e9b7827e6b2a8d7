package workload

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What is patched of each kind when it is stopped: one field.
func TestBrakes(t *testing.T) {
	for name, c := range map[string]struct{ stop, start string }{
		"Deployment":            {`{"replicas":0}`, `{"replicas":2}`},
		"StatefulSet":           {`{"replicas":0}`, `{"replicas":2}`},
		"ReplicaSet":            {`{"replicas":0}`, `{"replicas":2}`},
		"ReplicationController": {`{"replicas":0}`, `{"replicas":2}`},
		"CronJob":               {`{"suspend":true}`, `{"suspend":false}`},
		"Job":                   {`{"suspend":true}`, `{"suspend":false}`},
		"DaemonSet": {`{"template":{"spec":{"nodeSelector":{"disk":"ssd","tranship.dev/no-node":"true"}}}}`,
			`{"template":{"spec":{"nodeSelector":{"disk":"ssd"}}}}`},
	} {
		i := made(name, "a", 2, func(o map[string]any) {
			if name == "DaemonSet" {
				field(o, "spec/template/spec/nodeSelector", map[string]any{"disk": "ssd"})
			}
		})
		var held, released edit
		held.hold(i)
		released.release(i, i.setting())
		stop, _ := json.Marshal(held.spec)
		start, _ := json.Marshal(released.spec)
		if string(stop) != c.stop {
			t.Errorf("%s is stopped by %s, want %s", name, stop, c.stop)
		}
		if string(start) != c.start && name != "DaemonSet" || !strings.Contains(string(start), `"disk":"ssd"`) && name == "DaemonSet" {
			t.Errorf("%s is started by %s, want %s", name, start, c.start)
		}
	}
	for _, k := range kinds {
		if k.scales() {
			continue // the restore leaves it out
		}
		if _, held := kube.HoldPatch(kube.Item{GVR: k.gvr, Unstructured: made(k.name, "a", 1, nil).Unstructured})["spec"]; !held {
			t.Errorf("the restore does not hold %s", k.name)
		}
	}
}

func TestHealthOfTheOtherKinds(t *testing.T) {
	set := func(path string, v any) func(map[string]any) { return func(o map[string]any) { field(o, path, v) } }
	failed := []any{map[string]any{"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}}
	for name, c := range map[string]struct {
		item item
		want string
	}{
		"DaemonSet":                  {made("DaemonSet", "a", 2, nil), ""},
		"DaemonSet, a node is left":  {made("DaemonSet", "a", 2, set("status/numberReady", int64(1))), "1 of 2 pods are ready"},
		"DaemonSet rolls":            {made("DaemonSet", "a", 2, set("status/updatedNumberScheduled", int64(1))), "newest template"},
		"ReplicaSet":                 {made("ReplicaSet", "a", 2, nil), ""},
		"ReplicaSet, one is missing": {made("ReplicaSet", "a", 2, set("status/readyReplicas", int64(1))), "1 of 2"},
		"Job":                        {made("Job", "a", 2, nil), ""},
		"Job without a pod":          {made("Job", "a", 2, set("status", map[string]any{})), "0 of 1"},
		"Job of an old cluster":      {made("Job", "a", 2, set("status", map[string]any{"active": int64(1)})), ""},
		"Job has ended":              {made("Job", "a", 2, set("status", map[string]any{"conditions": []any{map[string]any{"type": "Complete", "status": "True"}}})), ""},
		"Job has failed":             {made("Job", "a", 2, set("status", map[string]any{"conditions": failed})), "it has failed: BackoffLimitExceeded"},
		"CronJob":                    {made("CronJob", "a", 1, nil), ""},
	} {
		if got := c.item.kind.unhealthy(c.item); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	e := testEnv("shop")
	idle := made("DaemonSet", "a", 0, nil)
	if v := healthVerdict(e, pair{recorded: &spec.Workload{Object: idle.object(spec.Target), Replicas: 2}, item: idle}); v.reason != "NoNode" {
		t.Errorf("a DaemonSet that finds no node on the target: %+v", v)
	}
}

// On the target a Deployment that was paused is paused again only once it has a
// ReplicaSet; with its replicas if it had any.
func TestStartPausesAgain(t *testing.T) {
	e, now := testEnv("shop"), time.Now()
	for name, c := range map[string]struct {
		replicas int32
		seen     bool
		want     string
		looks    reconciler.Seen
	}{
		"not seen": {2, false, "null", reconciler.Working},
		"ran":      {2, true, `{"paused":true,"replicas":2}`, reconciler.Absent},
		"idle":     {0, true, `{"paused":true}`, reconciler.Absent},
	} {
		i := made("Deployment", "web", 0, func(o map[string]any) {
			if !c.seen {
				field(o, "metadata/generation", int64(3))
			}
		})
		w := &spec.Workload{Object: i.object(spec.Target), Replicas: c.replicas, Paused: true}
		ed, err := startEdit(e, w, i, now)
		got := "null"
		if ed != nil {
			text, _ := json.Marshal(ed.spec)
			got = string(text)
		}
		v, _ := startVerdict(e, pair{recorded: w, item: i})
		if err != nil || got != c.want || v.seen != c.looks {
			t.Errorf("%s: %s %v, %+v", name, got, err, v)
		}
	}
}

// A Job that ended before the last list was taken from the target with it.
func TestAnEndedJobIsNotMissed(t *testing.T) {
	e := testEnv("shop")
	for kind, want := range map[string]reconciler.Seen{"Job": reconciler.Succeeded, "Deployment": reconciler.Broken} {
		p := pair{recorded: &spec.Workload{Object: spec.Object{Kind: kind, Name: "a"}, Replicas: 1}, item: item{kind: kindNamed(kind)}}
		if v, err := startVerdict(e, p); err != nil || v.seen != want {
			t.Errorf("%s: %+v %v", kind, v, err)
		}
	}
	over := made("Job", "a", 1, func(o map[string]any) {
		field(o, "status/conditions", []any{map[string]any{"type": "Complete", "status": "True"}})
	})
	if list, err := intents(e, []item{over, {kindNamed("Job"), &unstructured.Unstructured{Object: made("Job", "b", 1, nil).Object}}}); err != nil || len(list) != 1 || list[0].Name != "b" {
		t.Errorf("%+v %v", list, err)
	}
}

package workload

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// One of every kind that is stopped by other means than a Deployment. No minute
// turns for these: what a CronJob makes is made by hand. And no Job completes:
// a pod that is stopped may be counted as one that has ended well.
const manyKinds = `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, labels: {app: agent}}
spec:
  selector: {matchLabels: {app: agent}}
  template: {metadata: {labels: {app: agent}}, spec: {nodeSelector: {kubernetes.io/os: linux}, POD}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere, labels: {app: everywhere}}
spec:
  selector: {matchLabels: {app: everywhere}}
  template: {metadata: {labels: {app: everywhere}}, spec: {POD}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: alone, labels: {app: alone}}
spec:
  replicas: 1
  selector: {matchLabels: {app: alone}}
  template: {metadata: {labels: {app: alone}}, spec: {POD}}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old, labels: {app: old}}
spec:
  replicas: 1
  selector: {app: old}
  template: {metadata: {labels: {app: old}}, spec: {POD}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, labels: {app: once}}
spec: {parallelism: 2, completions: 40, template: {metadata: {labels: {app: once}}, spec: {restartPolicy: Never, POD}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: later, labels: {app: later}}
spec: {suspend: true, template: {metadata: {labels: {app: later}}, spec: {restartPolicy: Never, POD}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: ended, labels: {app: ended}}
spec: {template: {metadata: {labels: {app: ended}}, spec: {restartPolicy: Never, containers: [{name: app, image: localhost/bed/busybox:1, command: ["true"]}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: seldom, labels: {app: seldom}}
spec: {schedule: "0 0 29 2 *", concurrencyPolicy: Forbid, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, POD}}}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: resting, labels: {app: resting}}
spec: {schedule: "0 0 29 2 *", suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, POD}}}}}`

const idlePod = `terminationGracePeriodSeconds: 1, containers: [{name: app, image: localhost/bed/busybox:1, command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.2; done"]}]`

// specs are what the source's workloads say, without what the server counts.
func (l *lab) specs() map[string]any {
	l.Helper()
	all := map[string]any{}
	served, err := servedBy(l.env.Source)
	if err != nil {
		l.Fatal(err)
	}
	for _, k := range served {
		list, err := l.env.Source.Dynamic.Resource(k.gvr).Namespace(l.ns).List(l.Context(), metav1.ListOptions{})
		if k.extension && apierrors.IsNotFound(err) {
			continue // of its group there are other kinds
		}
		if err != nil {
			l.Fatal(err)
		}
		for n := range list.Items {
			i := item{k, &list.Items[n]}
			ours := map[string]string{}
			for key, v := range i.GetAnnotations() {
				if strings.HasPrefix(key, "tranship.dev/") {
					ours[key] = v
				}
			}
			all[k.name+"/"+i.GetName()] = []any{string(i.GetUID()), i.Object["spec"], ours}
		}
	}
	return all
}

// Every kind is stopped, and comes back exactly, with and without the record:
// a CronJob and a Job that people had suspended stay so, what has ended is left
// alone, a Job keeps its parallelism, and a CronJob's Job stops with it.
func TestLiveEveryKindThereAndBack(t *testing.T) {
	l := newLab(t)
	src := l.env.Source
	l.create(src, strings.ReplaceAll(manyKinds, "POD", idlePod))
	child := strings.NewReplacer("UID", string(l.get(src, "CronJob", "seldom").GetUID()), "POD", idlePod).Replace(`apiVersion: batch/v1
kind: Job
metadata: {name: seldom-1, ownerReferences: [{apiVersion: batch/v1, kind: CronJob, name: seldom, uid: UID, controller: true}]}
spec: {completions: 20, parallelism: 1, template: {spec: {restartPolicy: Never, POD}}}`)
	l.create(src, child)
	for name, kind := range map[string]string{"agent": "DaemonSet", "everywhere": "DaemonSet", "alone": "ReplicaSet", "old": "ReplicationController", "once": "Job", "seldom-1": "Job"} {
		l.until(name+" runs", func() bool { i := l.get(src, kind, name); return i.readyPods() > 0 && i.kind.unhealthy(i) == "" })
	}
	l.until("the Job has ended", func() bool { return l.get(src, "Job", "ended").over() })
	before := l.specs()
	for _, lost := range []bool{false, true} {
		l.env.Run.Facts = spec.Facts{}
		l.pend("workload.stop")
		l.must("workload.stop")
		l.pend("workload.stop") // again, by a daemon that has lost everything
		l.must("workload.stop")
		l.must("workload.drained")
		if n := l.pods(src, ""); n != 0 {
			t.Fatalf("%d pods left", n)
		}
		time.Sleep(2 * time.Second) // for controllers to do their worst
		if n := l.pods(src, ""); n != 0 {
			t.Fatalf("%d pods came back", n)
		}
		if after := l.specs(); !reflect.DeepEqual(before["Job/ended"], after["Job/ended"]) || !reflect.DeepEqual(before["CronJob/resting"], after["CronJob/resting"]) || !reflect.DeepEqual(before["Job/later"], after["Job/later"]) {
			t.Error("what did not run was touched")
		}
		if lost {
			l.env.Run.Facts = spec.Facts{}
		}
		l.must("workload.start-source")
		after := l.specs()
		for name := range after {
			if want, was := before[name]; was && !reflect.DeepEqual(after[name], want) {
				got, _ := json.Marshal(after[name])
				wanted, _ := json.Marshal(want)
				t.Errorf("%s came back as %s, it was %s", name, got, wanted)
			}
		}
	}
	for _, name := range []string{"agent", "everywhere", "alone", "old", "once", "seldom-1"} {
		if l.pods(src, name) == 0 {
			t.Errorf("%s has no pod", name)
		}
	}
}

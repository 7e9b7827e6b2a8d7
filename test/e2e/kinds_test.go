package e2e

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// manyKinds is an application of every kind that can be stopped, and a
// Deployment beside it that is not part of it.
func (l *lab) manyKinds() string {
	const (
		pod = `terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.2; done"]}]`
		web = `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: NS, labels: {LABELS}}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: NAME}}
  template: {metadata: {labels: {app: NAME}}, spec: {POD}}`
	)
	deployment := func(name, replicas, labels string) string {
		return strings.NewReplacer("NAME", name, "REPLICAS", replicas, "LABELS", labels).Replace(web)
	}
	const part = `part: "yes"`
	text := `apiVersion: v1
kind: Namespace
metadata: {name: NS}` + deployment("web", "2", part) + deployment("idle", "0", part) + deployment("stays", "1", `part: "no"`) + `
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: NS, labels: {part: "yes"}}
spec:
  selector: {matchLabels: {app: agent}}
  template: {metadata: {labels: {app: agent}}, spec: {nodeSelector: {kubernetes.io/os: linux}, POD}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: alone, namespace: NS, labels: {part: "yes"}}
spec:
  replicas: 2
  selector: {matchLabels: {app: alone}}
  template: {metadata: {labels: {app: alone}}, spec: {POD}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: NS, labels: {part: "yes"}}
spec: {parallelism: 2, completions: 3, template: {metadata: {labels: {app: once}}, spec: {restartPolicy: Never, POD}}}
---
apiVersion: v1
kind: Pod
metadata: {name: solo, namespace: NS, labels: {part: "yes", app: solo}}
spec: {POD}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: NS, labels: {part: "yes"}}
spec: {minReplicas: 2, maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: NS, labels: {part: "yes"}}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: active, namespace: NS, labels: {part: "yes"}}
spec: {schedule: "* * * * *", concurrencyPolicy: Forbid, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, POD}}}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: resting, namespace: NS, labels: {part: "yes"}}
spec: {schedule: "* * * * *", suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, POD}}}}}
`
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(strings.ReplaceAll(text, "POD", pod))
}

// workloads are what the source's workloads say, by kind and name: UID, spec
// and annotations of ours. Those with a controller are left out.
func (l *lab) workloads() map[string]any {
	l.t.Helper()
	var list struct {
		Items []struct {
			Kind     string
			Metadata struct {
				Name, UID       string
				Annotations     map[string]string
				OwnerReferences []any
			}
			Spec any
		}
	}
	l.must(json.Unmarshal([]byte(l.onSource("-n", l.name, "get", "deployments,daemonsets,replicasets,jobs,cronjobs,horizontalpodautoscalers,poddisruptionbudgets", "-o", "json")), &list))
	all := map[string]any{}
	for _, i := range list.Items {
		if len(i.Metadata.OwnerReferences) > 0 {
			continue
		}
		ours := map[string]string{}
		for k, v := range i.Metadata.Annotations {
			if strings.HasPrefix(k, "tranship.dev/") {
				ours[k] = v
			}
		}
		all[i.Kind+"/"+i.Metadata.Name] = []any{i.Metadata.UID, i.Spec, ours}
	}
	return all
}

// solo is what the pod without a controller says.
func (l *lab) solo(on func(args ...string) string) string {
	return on("-n", l.name, "get", "pod/solo", "-o", "jsonpath={.status.phase} {.metadata.labels.app} {.spec.restartPolicy} {.spec.terminationGracePeriodSeconds} {.spec.containers[*].image} {.spec.containers[*].command}")
}

// TestEveryKindThereAndBack: every kind is stopped, held at zero by Velero,
// started as it was, and put back exactly by a rollback.
func TestEveryKindThereAndBack(t *testing.T) {
	l := newLab(t)
	const plan = `labelSelector: {matchLabels: {part: "yes"}}`
	l.openStaged(l.manyKinds(), "deployment/web", plan)
	l.onSource("-n", l.name, "rollout", "pause", "deployment/web")
	l.onSource("-n", l.name, "create", "job", "active-now", "--from=cronjob/active")
	l.rolledOut("daemonset/agent")
	for _, pods := range []string{"app=solo", "app=once", "batch.kubernetes.io/job-name=active-now"} {
		l.created("pods", pods)
		l.onSource("-n", l.name, "wait", "pod", "-l", pods, "--for=condition=Ready", kubePatience)
	}
	before, solo := l.workloads(), l.solo(l.onSource)

	l.flip(spec.Migrated, plan)
	s := l.waitReason("Migrated", 4*time.Minute)
	l.logTimes(s.Run)
	for _, c := range s.Run.Facts.Counts { // what scales, and a pod, come after the others were counted
		if (c.Kind == "HorizontalPodAutoscaler.autoscaling" || c.Kind == "Pod") && (c.Source != 1 || c.Target != 1) {
			t.Errorf("%s: %d on the source, %d on the target, want 1", c.Kind, c.Source, c.Target)
		}
	}
	if m := s.Run.Steps[0].Message; !strings.Contains(m, "the stop deletes pods without a controller") || !strings.Contains(m, "source Pod "+l.name+"/solo") {
		t.Errorf("the preflight does not name the pod: %s", m)
	}
	if got := l.solo(l.onTarget); got != solo {
		t.Errorf("on the target the pod without a controller is %s, on the source it was %s", got, solo)
	}
	// Only those of the Deployment that the plan does not cover are left.
	l.poll("the pods of the source to be gone", time.Second, func() (string, bool) {
		got := l.onSource("-n", l.name, "get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {end}")
		return got, strings.HasPrefix(got, "stays-") && len(strings.Fields(got)) == 1
	})
	for what, want := range map[string]string{
		"deployment/web {.spec.paused} {.spec.replicas} {.status.readyReplicas}":                          "true 2 2",
		"horizontalpodautoscaler/web {.spec.minReplicas} {.spec.maxReplicas} {.spec.scaleTargetRef.name}": "2 5 web",
		"poddisruptionbudget/web {.spec.minAvailable}":                                                    "2",
		"deployment/idle {.spec.replicas}":                                                                "0",
		"daemonset/agent {.spec.template.spec.nodeSelector} {.status.numberReady}":                        `{"kubernetes.io/os":"linux"} 2`,
		"replicaset/alone {.spec.replicas} {.status.readyReplicas}":                                       "2 2",
		"job/once {.spec.suspend} {.spec.parallelism} {.spec.completions} {.status.ready}":                "false 2 3 2",
		"cronjob/active {.spec.suspend}":                                                                  "false",
		"cronjob/resting {.spec.suspend}":                                                                 "true",
	} {
		at := strings.IndexByte(what, ' ')
		l.poll(fmt.Sprintf("%s on the target to be %q", what, want), time.Second, func() (string, bool) {
			got := l.onTarget("-n", l.name, "get", what[:at], "-o", "jsonpath="+what[at+1:])
			return got, got == want
		})
	}
	if out := l.onTarget("-n", l.name, "get", "deployment/stays", "job/active-now", "--ignore-not-found", "-o", "name"); out != "" {
		t.Errorf("on the target is what the plan does not move: %s", out)
	}

	l.flip(spec.RolledBack, plan+"\nrollback: {targetWrites: Discard}")
	l.waitReason("RolledBack", 4*time.Minute)
	after := l.workloads()
	for name, was := range before {
		if !reflect.DeepEqual(after[name], was) {
			t.Errorf("%s came back as %v, it was %v", name, after[name], was)
		}
	}
	for _, name := range []string{"web", "agent", "alone", "once", "solo", "stays"} {
		l.created("pods", "app="+name)
	}
	if got := l.solo(l.onSource); got != solo {
		t.Errorf("the pod without a controller came back as %s, it was %s", got, solo)
	}
	l.gone("the pod on the target", l.bed.Target.Kubeconfig, "-n", l.name, "get", "pods", "-l", "app=solo")
	l.gone("what was kept", l.bed.Source.Kubeconfig, "get", "secrets", "-A", "-l", "tranship.dev/kept-by,tranship.dev/plan="+spec.ShortName(l.name))
	// Also the Jobs that a CronJob has made on the target meanwhile.
	l.gone("every kind on the target", l.bed.Target.Kubeconfig, "-n", l.name, "get", "deployments,daemonsets,replicasets,jobs,cronjobs,horizontalpodautoscalers,poddisruptionbudgets")
}

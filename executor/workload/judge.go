package workload

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func none(item) int32 { return 0 }

func inStatus(field string) func(item) int32 {
	return func(i item) int32 { return i.counts(field) }
}

// readyOfJob: clusters before 1.24 do not count the ready pods of Jobs.
func readyOfJob(i item) int32 {
	if _, known, _ := unstructured.NestedInt64(i.Object, "status", "ready"); known {
		return i.counts("ready")
	}
	return i.counts("active")
}

// scheduled is how many nodes a DaemonSet should run on.
func scheduled(i item) int32 { return i.counts("desiredNumberScheduled") }

// working is the least number of pods that a Job needs to get on.
func working(i item) int32 {
	parallel, found, _ := unstructured.NestedInt64(i.Object, "spec", "parallelism")
	if !i.runs() || found && parallel == 0 {
		return 0
	}
	return 1
}

func unhealthyDeployment(i item) string {
	want := i.replicas()
	if missing := unready(i); missing != "" {
		return missing
	}
	// A paused Deployment keeps the pods of its newest ReplicaSet and never
	// updates them, so the count of updated pods says nothing about it.
	if n := i.counts("updatedReplicas"); n != want && !i.paused() {
		return newest(n, want)
	}
	if status, _ := i.condition("Available"); want > 0 && status != "True" {
		return "it is not Available yet"
	}
	return ""
}

func unhealthyStatefulSet(i item) string {
	want := i.replicas()
	if missing := unready(i); missing != "" {
		return missing
	}
	strategy, _, _ := unstructured.NestedString(i.Object, "spec", "updateStrategy", "type")
	partition, _, _ := unstructured.NestedInt64(i.Object, "spec", "updateStrategy", "rollingUpdate", "partition")
	// With OnDelete or a partition the author keeps older pods on purpose.
	if n := i.counts("updatedReplicas"); n != want && strategy != "OnDelete" && partition == 0 {
		return newest(n, want)
	}
	return ""
}

func unhealthyDaemonSet(i item) string {
	if missing := unready(i); missing != "" {
		return missing
	}
	strategy, _, _ := unstructured.NestedString(i.Object, "spec", "updateStrategy", "type")
	if n, want := i.counts("updatedNumberScheduled"), scheduled(i); n != want && strategy != "OnDelete" {
		return newest(n, want)
	}
	return ""
}

// unhealthyJob: a Job is well when it gets on. What has failed for good never
// will.
func unhealthyJob(i item) string {
	if status, message := i.condition("Failed"); status == "True" {
		return "it has failed: " + message
	}
	return unready(i)
}

func newest(n, want int32) string {
	return fmt.Sprintf("%d of %d pods have the newest template", n, want)
}

// unready is the part of health that all kinds share.
func unready(i item) string {
	if !i.observed() {
		return "its controller has not seen the newest change yet"
	}
	if i.over() {
		return ""
	}
	if n, want := i.readyPods(), i.wantedPods(); n < want || i.kind.over == nil && n != want {
		return fmt.Sprintf("%d of %d pods are ready", n, want)
	}
	return ""
}

// seenJob: a Job's status has no generation; its Suspended condition follows
// spec.suspend.
func seenJob(i item) bool {
	status, _ := i.condition("Suspended")
	return i.over() || (status == "True") == i.suspended()
}

// seenPause: KEDA says of what it has paused that it has. One that its author
// has paused is not waited for. Source of the condition: KEDA's ScaledObject
// and ScaledJob API; ScaledObjects have it for this annotation since 2.12.
func seenPause(i item) bool {
	p, err := readPrevious(i)
	if err != nil || !i.stoppedBy(p) || !i.held() {
		return true // what cannot be read is said by whoever changes it
	}
	status, _ := i.condition("Paused")
	return status == "True"
}

// condition returns status and message of a condition of the status.
func (i item) condition(kind string) (status, message string) {
	list, _, _ := unstructured.NestedSlice(i.Object, "status", "conditions")
	for _, c := range list {
		m, ok := c.(map[string]any)
		if ok && m["type"] == kind {
			status, _ = m["status"].(string)
			message, _ = m["message"].(string)
		}
	}
	return status, message
}

package workload

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

func convert(i item, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(i.Object, into)
}

// explain adds to a verdict which pod of i is not ready and why. It is help
// for people: what cannot be read is left out.
func (v *verdict) explain(ctx context.Context, c *kube.Cluster, i item) {
	if _, selects := i.selector().Requirements(); !selects {
		return
	}
	pods, err := c.Kube.CoreV1().Pods(i.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: i.selector().String()})
	if err != nil {
		return
	}
	if p := worst(pods.Items); p != nil {
		reason, message := PodTrouble(p)
		v.reason = reason
		v.message += fmt.Sprintf("; pod %s: %s", p.Name, message)
		if words := LastWords(ctx, c, p); words != "" {
			v.message += "; its last lines: " + words
		}
		if ev := PodWarning(ctx, c, p); ev != "" {
			v.message += "; last event: " + ev
		}
		return
	}
	if status, message := i.condition("ReplicaFailure"); status == "True" {
		v.reason, v.message = "ReplicaFailure", v.message+"; "+message
	} else if ev := LastWarning(ctx, c, i.GetNamespace(), i.GetUID()); ev != "" {
		v.message += "; last event: " + ev
	}
}

// worst is the pod that says most about why a workload is not ready: one in
// real trouble before one that only takes its time; nil when all are ready.
func worst(pods []corev1.Pod) *corev1.Pod {
	var found *corev1.Pod
	for n := range pods {
		p := &pods[n]
		if done(p) || p.DeletionTimestamp != nil || ready(p) {
			continue
		}
		reason, _ := PodTrouble(p)
		if !patient[reason] {
			return p
		}
		if found == nil {
			found = p
		}
	}
	return found
}

// patient are reasons of PodTrouble that may pass by themselves.
var patient = map[string]bool{"NotReady": true, "ContainerCreating": true, "ContainersNotReady": true}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// starting are reasons of waiting containers that are no trouble by themselves.
var starting = map[string]bool{"ContainerCreating": true, "PodInitializing": true, "": true}

// PodTrouble says in one CamelCase word and a few others why a pod is not
// ready: it cannot be scheduled, a container waits, has crashed, or runs
// without passing its readiness probe.
func PodTrouble(p *corev1.Pod) (reason, message string) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Reason, "cannot be scheduled: " + c.Message
		}
	}
	reason, message = "NotReady", "is "+string(p.Status.Phase)
	if p.Status.Phase == "" {
		message = "has no status yet"
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch w, t := s.State.Waiting, s.State.Terminated; {
		case w != nil && !starting[w.Reason]:
			message = fmt.Sprintf("container %s waits: %s", s.Name, w.Reason)
			if w.Message != "" {
				message += " (" + w.Message + ")"
			}
			return w.Reason, message + lastExit(s.LastTerminationState.Terminated)
		case w != nil:
			reason, message = "ContainerCreating", fmt.Sprintf("container %s is being created", s.Name)
		case t != nil && t.ExitCode != 0:
			return "ContainerFailed", fmt.Sprintf("container %s", s.Name) + lastExit(t)
		case s.State.Running != nil && !s.Ready && s.Started != nil:
			reason, message = "ContainersNotReady", fmt.Sprintf("container %s runs but is not ready", s.Name)
		}
	}
	return reason, message
}

func lastExit(t *corev1.ContainerStateTerminated) string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf(", ended with exit code %d (%s)", t.ExitCode, t.Reason)
}

// PodWarning is the newest warning event about a pod, without those that its
// being on a node has settled.
func PodWarning(ctx context.Context, c *kube.Cluster, p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return LastWarning(ctx, c, p.Namespace, p.UID, "FailedScheduling")
	}
	return LastWarning(ctx, c, p.Namespace, p.UID)
}

// LastWarning is the newest warning event about an object, "" without one.
func LastWarning(ctx context.Context, c *kube.Cluster, namespace string, uid types.UID, settled ...string) string {
	events, err := c.Kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.uid": string(uid), "type": corev1.EventTypeWarning}.String(),
	})
	if err != nil {
		return ""
	}
	var newest *corev1.Event
	for n := range events.Items {
		ev := &events.Items[n]
		if slices.Contains(settled, ev.Reason) {
			continue
		}
		if newest == nil || kube.EventTime(ev).After(kube.EventTime(newest).Time) {
			newest = ev
		}
	}
	if newest == nil {
		return ""
	}
	return newest.Reason + ": " + newest.Message
}

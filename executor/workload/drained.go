package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func lookDrained(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	o, err := lookStopped(ctx, e)
	if err == nil && o.Seen == reconciler.Succeeded {
		o.Message = "no pod uses a covered claim of the source any more"
		o.Facts = &spec.Facts{Times: withTime(e, reconciler.TimeDrained, time.Now())}
	}
	return o, err
}

// lookStillStopped asks once more what drained has asked: a controller that comes
// by every ten minutes, or a person, may have started the source since.
func lookStillStopped(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	o, err := lookStopped(ctx, e)
	if err == nil && o.Seen == reconciler.Succeeded {
		o.Message = "nothing of the application runs on the source"
	}
	return o, err
}

// lookStopped succeeds when the source's workloads are as they were stopped, and
// no pod of theirs or on their claims is left.
func lookStopped(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	items, places, err := covered(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	// Something that scales back up would be waited for until the deadline;
	// it is better told at once, by its name.
	for _, p := range pairs(e.Run.Facts.Workloads, items) {
		if v, same := changedMeanwhile(p); !same {
			if v.reason == "NewWorkload" {
				return fold(forward, []verdict{v}), nil
			}
			continue
		}
		if p.item.runs() {
			return fold(forward, []verdict{scaledBackUp(p.item, p.recorded.Object)}), nil
		}
	}
	bare, err := stopBare(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if o := fold(forward, bare.verdicts); o.Seen != reconciler.Succeeded {
		if o.Seen == reconciler.Absent { // its deletion has not begun: nobody but the stop may do that
			o.Seen, o.Final, o.Reason = reconciler.Broken, true, "PodStillRuns"
		}
		o.Wake = wake(ctx, e, e.Source, bare.places)
		return o, nil
	}
	below, err := operands(ctx, e, 0)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if o := fold(forward, below); o.Seen != reconciler.Succeeded {
		return o, nil
	}
	claims, err := claimsOfSource(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	return lookGone(ctx, e, e.Source, e.Namespaces(spec.Source), claims, items, places)
}

func claimsOfSource(ctx context.Context, e *kube.Env) (claimSet, error) {
	list, err := coveredClaims(ctx, e)
	if err != nil {
		return nil, err
	}
	set := claimSet{}
	for _, c := range list {
		set[c.Namespace+"/"+c.Name] = true
	}
	for _, v := range e.Run.Facts.Volumes { // also those that are gone: a pod may still hold one
		if v.Action != "skip" {
			set[v.Namespace+"/"+v.Claim] = true
		}
	}
	return set, nil
}

// lookGone succeeds when no pod is left on a cluster that uses one of the
// claims or belongs to one of the workloads.
func lookGone(ctx context.Context, e *kube.Env, c *kube.Cluster, names []string, claims claimSet, items []item, places []place) (reconciler.Observation, error) {
	pods, more, err := podsLeft(ctx, e, c, names, claims, items)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if len(pods) == 0 {
		return reconciler.Observation{Seen: reconciler.Succeeded}, nil
	}
	now := c.Now()
	verdicts := make([]verdict, len(pods))
	for n, l := range pods {
		reason, message := describeLeft(l, now)
		if n < named {
			message += nodeTrouble(ctx, c, &pods[n].pod, now)
		}
		verdicts[n] = verdict{reconciler.Working, reason, message, podObject(c.Side, &l.pod), false}
	}
	o := fold(forward, verdicts)
	o.Wake = wake(ctx, e, c, append(more, places...))
	return o, nil
}

// nodeTrouble names the node as the culprit when a pod outlives its grace
// period on a node that does not answer.
func nodeTrouble(ctx context.Context, c *kube.Cluster, p *corev1.Pod, now time.Time) string {
	if p.Spec.NodeName == "" || p.DeletionTimestamp == nil || now.Before(p.DeletionTimestamp.Time) {
		return ""
	}
	node, err := c.Kube.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		return "" // the right to read nodes is not needed for anything else
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
			return fmt.Sprintf("; the node is not ready (%s): make sure that it is off before you delete the pod by force", cond.Message)
		}
	}
	return ""
}

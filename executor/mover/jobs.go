package mover

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// helperJob is a Job of ours as it is now, with its pods.
type helperJob struct {
	job     *batchv1.Job // nil: only pods are left of it
	name    string
	pods    []corev1.Pod
	volumes map[string]string // key → snapshot
	current bool              // of exactly this run, step and attempt
	tail    *kube.Tail        // of its running container, if it is of this attempt
	said    *Report           // its last word, once heard
}

// jobList is every mover Job of the plan and of one component on a cluster.
type jobList struct {
	jobs    []*helperJob
	version string // of the list of pods
}

// readJobs lists Jobs and pods. Pods count even without their Job: what still
// runs may still read or write.
func readJobs(ctx context.Context, e *kube.Env, on *kube.Cluster, component string) (*jobList, error) {
	return listJobs(ctx, e, on, helpers(e, component))
}

func listJobs(ctx context.Context, e *kube.Env, on *kube.Cluster, which metav1.ListOptions) (*jobList, error) {
	jobs, err := on.Kube.BatchV1().Jobs(e.Settings.Namespace).List(ctx, which)
	if err != nil {
		return nil, fmt.Errorf("cannot list our Jobs on cluster %s: %w", on.Name, err)
	}
	pods, err := on.Kube.CoreV1().Pods(e.Settings.Namespace).List(ctx, which)
	if err != nil {
		return nil, fmt.Errorf("cannot list our pods on cluster %s: %w", on.Name, err)
	}
	l := &jobList{version: pods.ResourceVersion}
	byName := map[string]*helperJob{}
	at := func(name string, o metav1.Object) *helperJob {
		h := byName[name]
		if h == nil {
			h = &helperJob{name: name, current: ofThisAttempt(e, o), volumes: map[string]string{}}
			// Of our own making; what cannot be read names no volume, and the Job is then stale.
			_ = json.Unmarshal([]byte(o.GetAnnotations()[annotationVolumes]), &h.volumes)
			byName[name], l.jobs = h, append(l.jobs, h)
		}
		return h
	}
	for i := range jobs.Items {
		j := &jobs.Items[i]
		at(j.Name, j).job = j
	}
	for _, p := range pods.Items {
		name := p.Labels[batchv1.JobNameLabel]
		if name == "" {
			name = p.Name
		}
		h := at(name, &p)
		h.pods = append(h.pods, p)
	}
	for _, h := range l.jobs {
		if p := h.listens(); p != nil && h.current {
			h.listen(on.Tail(p, workContainer, reportLine))
		}
	}
	return l, nil
}

// listen takes the container's last word from its log: the pod's status has it
// up to two seconds later.
func (h *helperJob) listen(t *kube.Tail) {
	h.tail = t
	for _, line := range t.Lines() {
		var r Report
		if bytes.HasPrefix(line, []byte(reportLine)) && json.Unmarshal(line, &r) == nil {
			h.said = &r
		}
	}
}

// tails are the logs whose last word has not been heard yet.
func (l *jobList) tails() (ts []*kube.Tail) {
	for _, h := range l.jobs {
		if h.tail == nil {
			continue
		}
		select {
		case <-h.tail.Ended(): // heard, or broken off: its pod's status tells the rest
		default:
			ts = append(ts, h.tail)
		}
	}
	return ts
}

// active says that the Job or a pod of it may still do something.
func (h *helperJob) active() bool {
	if h.said != nil {
		return false
	}
	for i := range h.pods {
		if !over(&h.pods[i]) && !ended(&h.pods[i]) {
			return true
		}
	}
	if h.job == nil || len(h.pods) > 0 {
		return false
	}
	return !finished(h.job)
}

func finished(j *batchv1.Job) bool {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// ended says that the mover itself is over; the pod's phase follows a moment later.
func ended(p *corev1.Pod) bool { return termination(p) != nil }

func termination(p *corev1.Pod) *corev1.ContainerStateTerminated {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == workContainer {
			return c.State.Terminated
		}
	}
	return nil
}

// leaving says that its end has been asked for.
func (h *helperJob) leaving() bool {
	if h.job != nil {
		return h.job.DeletionTimestamp != nil
	}
	for i := range h.pods {
		if h.pods[i].DeletionTimestamp == nil {
			return false
		}
	}
	return true
}

// remove ends the Job and everything that it has made.
func (h *helperJob) remove(ctx context.Context, e *kube.Env, on *kube.Cluster) error {
	if h.job != nil {
		if err := gone(on.Kube.BatchV1().Jobs(e.Settings.Namespace).Delete(ctx, h.name, exactly(h.job))); err != nil {
			return err
		}
	}
	for i := range h.pods {
		o := exactly(&h.pods[i])
		o.GracePeriodSeconds = ptr.To[int64](jobGrace)
		if err := gone(on.Kube.CoreV1().Pods(e.Settings.Namespace).Delete(ctx, h.pods[i].Name, o)); err != nil {
			return err
		}
	}
	return gone(on.Kube.CoreV1().ConfigMaps(e.Settings.Namespace).Delete(ctx, h.name, metav1.DeleteOptions{}))
}

// removal is the move that removes the Job.
func (h *helperJob) removal(t *thought, e *kube.Env, on *kube.Cluster, why string) {
	t.move(fmt.Sprintf("remove Job %s/%s on cluster %s, %s", e.Settings.Namespace, h.name, on.Name, why), func(ctx context.Context) error {
		return h.remove(ctx, e, on)
	})
}

// leavingJob is what is seen while a removed Job or its pods are still there.
func leavingJob(e *kube.Env, on *kube.Cluster, h *helperJob) reconciler.Observation {
	return working("JobLeaving", object(on.Side, "Job", e.Settings.Namespace, h.name), "waits until Job %s/%s and its pods are gone from cluster %s", e.Settings.Namespace, h.name, on.Name)
}

// report reads what a finished Job did. Without a readable report the reason
// says how the container ended.
func (h *helperJob) report(ctx context.Context, on *kube.Cluster) (engine.Result, error) {
	if h.said != nil {
		return h.said.Result, nil
	}
	for i := range h.pods {
		p := &h.pods[i]
		t := termination(p)
		if t == nil {
			continue
		}
		var r Report
		if json.Unmarshal([]byte(t.Message), &r) == nil && r.InLog {
			line, err := lastLine(ctx, on, p)
			if err != nil {
				return engine.Result{}, err
			}
			r = Report{}
			if err := json.Unmarshal(line, &r); err != nil {
				return engine.Result{}, fmt.Errorf("cannot parse the last line of the log of pod %s/%s on cluster %s: %w", p.Namespace, p.Name, on.Name, err)
			}
		}
		if r.Error == "" && t.ExitCode == 0 && r.Done {
			return r.Result, nil
		}
		return died(r.Result, p, t), nil
	}
	return engine.Result{Reason: "HelperLost", Error: fmt.Sprintf("Job %s ended without a pod that says why: %s", h.name, h.conditions())}, nil
}

func died(r engine.Result, p *corev1.Pod, t *corev1.ContainerStateTerminated) engine.Result {
	if r.Error != "" {
		return r
	}
	r.Reason = engine.Reason("HelperDied")
	next := "look at its log and repeat the run"
	if t.Reason == "OOMKilled" {
		next = "raise mover.memory in the daemon's configuration"
	}
	r.Error = fmt.Sprintf("pod %s/%s ended with code %d (%s) without a result: %s", p.Namespace, p.Name, t.ExitCode, t.Reason, next)
	return r
}

func (h *helperJob) conditions() string {
	if h.job == nil {
		return "it is gone"
	}
	for _, c := range h.job.Status.Conditions {
		if c.Type == batchv1.JobFailed {
			return c.Reason + ": " + c.Message
		}
	}
	for i := range h.pods {
		if s := h.pods[i].Status; s.Reason != "" || s.Message != "" {
			return s.Reason + ": " + s.Message
		}
	}
	return "no condition"
}

func lastLine(ctx context.Context, on *kube.Cluster, p *corev1.Pod) ([]byte, error) {
	raw, err := on.Kube.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: workContainer, TailLines: ptr.To[int64](1)}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the log of pod %s/%s on cluster %s: %w", p.Namespace, p.Name, on.Name, err)
	}
	return bytes.TrimSpace(raw), nil
}

// final are the reasons that another attempt cannot help.
var final = map[engine.Reason]bool{
	engine.ReasonBadRequest: true, engine.ReasonBucketMissing: true, engine.ReasonAccessDenied: true,
	engine.ReasonWrongPassword: true, engine.ReasonUntrustedCertificate: true,
	engine.ReasonRepositoryDamaged: true, engine.ReasonSnapshotUnknown: true, engine.ReasonNoSpace: true,
}

// failure is the answer to a Job that reported one.
func failure(side spec.Side, on *kube.Cluster, h *helperJob, namespace string, r engine.Result) thought {
	o := broken(final[r.Reason], string(r.Reason), object(side, "Job", namespace, h.name), "on cluster %s: %s", on.Name, r.Error)
	return thought{seen: o}
}

// done lists the volumes that a Job finished, by key: after an error the last
// one in the report is the one that failed.
func done(r engine.Result) map[string]engine.VolumeResult {
	out := map[string]engine.VolumeResult{}
	for i, v := range r.Volumes {
		if v.Snapshot != "" && (r.Error == "" || i < len(r.Volumes)-1) {
			out[v.Name] = v
		}
	}
	return out
}

// stuck explains a pod that does not come up.
func stuck(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" {
			return w.Reason + ": " + w.Message
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Reason + ": " + c.Message
		}
	}
	return "it is being started"
}

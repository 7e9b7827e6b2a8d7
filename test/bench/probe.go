package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"
)

const probeLimit = 2 * time.Minute

// empty is what an empty Job took: until it was Complete, until its container
// had ended (the product waits for that only), and to open the repository.
type empty struct{ whole, container, open time.Duration }

// probes runs the two Jobs, one on each cluster, one after the other.
func (l *lab) probes(ctx context.Context, plan string, number int, times *parts) (empty, error) {
	var sum empty
	for _, c := range l.clusters() {
		e, err := l.probe(ctx, c, plan, fmt.Sprintf("%s-probe-%d", plan, number))
		if err != nil {
			return sum, fmt.Errorf("the empty Job failed: %w", err)
		}
		times.add(c.name+" Job", e.whole)
		times.add(c.name+" container", e.container)
		times.add(c.name+" open", e.open)
		sum.whole, sum.container, sum.open = sum.whole+e.whole, sum.container+e.container, sum.open+e.open
	}
	return sum, nil
}

// probe runs one Job of the product's image that opens the plan's repository
// and does nothing more.
func (l *lab) probe(ctx context.Context, c *cluster, plan, name string) (empty, error) {
	ctx, stop := context.WithTimeout(ctx, probeLimit)
	defer stop()
	request, err := l.probeRequest(plan)
	if err != nil {
		return empty{}, err
	}
	meta := metav1.ObjectMeta{Namespace: ourNamespace, Name: name, Labels: map[string]string{kube.LabelPlan: kube.Short(plan)}}
	start := time.Now()
	m := &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"request.json": request}}
	if _, err := c.kube.CoreV1().ConfigMaps(ourNamespace).Create(ctx, m, metav1.CreateOptions{}); err != nil {
		return empty{}, fmt.Errorf("cannot write the request on cluster %s: %w", c.name, err)
	}
	job, err := c.kube.BatchV1().Jobs(ourNamespace).Create(ctx, l.probeJob(meta, plan), metav1.CreateOptions{})
	if err != nil {
		return empty{}, fmt.Errorf("cannot create the Job on cluster %s: %w", c.name, err)
	}
	e := empty{}
	if e.open, err = c.containerDone(ctx, job); err != nil {
		return e, err
	}
	e.container = time.Since(start)
	if err := c.jobDone(ctx, job); err != nil {
		return e, err
	}
	e.whole = time.Since(start)
	return e, nil
}

// dataPrefix is where the plan's repository lies in the bucket.
func (l *lab) dataPrefix(plan string) string {
	return mover.DataPrefix(&spec.RepositorySpec{Prefix: l.name}, plan)
}

func (l *lab) probeRequest(plan string) (string, error) {
	ca, err := secret(l.bed.S3.CAFile)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(mover.Assignment{Request: engine.Request{
		Op: engine.OpProbe, CredentialsFile: "/secrets/cloud", PasswordFile: "/secrets/password", CacheDir: "/cache",
		Repository: engine.Repository{
			Endpoint: l.bed.S3.Endpoint, Region: l.bed.S3.Region, Bucket: l.bed.S3.Bucket, CABundle: ca + "\n",
			Prefix: l.dataPrefix(plan),
		},
	}})
	if err != nil {
		return "", fmt.Errorf("cannot encode the request: %w", err)
	}
	return string(raw), nil
}

// probeJob is as the product's own, without volumes of an application.
func (l *lab) probeJob(meta metav1.ObjectMeta, plan string) *batchv1.Job {
	env := &kube.Env{Call: reconciler.Call{Run: &spec.Run{Spec: spec.RunSpec{Plan: plan}}}}
	return &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{
		BackoffLimit: ptr.To[int32](0), ActiveDeadlineSeconds: ptr.To(int64(probeLimit.Seconds())),
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels}, Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To[int64](3),
			AutomountServiceAccountToken: ptr.To(false), EnableServiceLinks: ptr.To(false),
			Containers: []corev1.Container{{
				Name: "mover", Image: l.image, ImagePullPolicy: corev1.PullIfNotPresent,
				Args: []string{"mover", "run", "--request", "/request/request.json"},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
				},
				VolumeMounts: []corev1.VolumeMount{
					{Name: "request", MountPath: "/request", ReadOnly: true},
					{Name: "secrets", MountPath: "/secrets", ReadOnly: true},
					{Name: "cache", MountPath: "/cache"},
				},
			}},
			Volumes: []corev1.Volume{
				{Name: "request", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: meta.Name}}}},
				{Name: "secrets", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: mover.SecretName(env)}}},
				{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		}},
	}}
}

// jobDone watches a Job to its end.
func (c *cluster) jobDone(ctx context.Context, job *batchv1.Job) error {
	w, err := c.kube.BatchV1().Jobs(ourNamespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", job.Name).String(), ResourceVersion: job.ResourceVersion,
	})
	if err != nil {
		return fmt.Errorf("cannot watch Job %s on cluster %s: %w", job.Name, c.name, err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		j, ok := event.Object.(*batchv1.Job)
		if !ok {
			return fmt.Errorf("the watch of Job %s on cluster %s broke: %v", job.Name, c.name, event.Object)
		}
		for _, cond := range j.Status.Conditions {
			if cond.Status != corev1.ConditionTrue {
				continue
			}
			switch cond.Type {
			case batchv1.JobComplete:
				return nil
			case batchv1.JobFailed:
				return fmt.Errorf("the Job %s on cluster %s failed: %s", job.Name, c.name, cond.Message)
			}
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("the watch of Job %s on cluster %s ended before the Job did", job.Name, c.name))
}

// containerDone watches the Job's pod until its container has ended, and reads
// from its last words how long the repository was opened. A probe that found
// none is an error, for it would be no measure.
func (c *cluster) containerDone(ctx context.Context, job *batchv1.Job) (time.Duration, error) {
	w, err := c.kube.CoreV1().Pods(ourNamespace).Watch(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job.Name})
	if err != nil {
		return 0, fmt.Errorf("cannot watch the pod of Job %s on cluster %s: %w", job.Name, c.name, err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		p, ok := event.Object.(*corev1.Pod)
		if !ok {
			return 0, fmt.Errorf("the watch of the pod of Job %s on cluster %s broke: %v", job.Name, c.name, event.Object)
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Terminated != nil {
				return opened(job.Name, s.State.Terminated.Message)
			}
		}
	}
	return 0, errors.Join(ctx.Err(), fmt.Errorf("the watch of the pod of Job %s on cluster %s ended before its container did", job.Name, c.name))
}

func opened(job, said string) (time.Duration, error) {
	var r mover.Report
	if err := json.Unmarshal([]byte(said), &r); err != nil {
		return 0, fmt.Errorf("the container of Job %s said %q: %w", job, said, err)
	}
	if !r.RepositoryExists {
		return 0, fmt.Errorf("the container of Job %s found no repository: %s", job, said)
	}
	return time.Duration(r.RepositoryOpenMS) * time.Millisecond, nil
}

package mover

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// SecretName is the Secret of our namespace, on both clusters, with the
// store's credentials ("cloud") and the repository's password ("password").
func SecretName(e *kube.Env) string { return e.PlanObjectName("mover") }

// DataPrefix is where the plan's volume data lies in the bucket; it ends in a slash.
func DataPrefix(r *spec.RepositorySpec, plan string) string {
	return strings.TrimPrefix(strings.Trim(r.Prefix, "/")+"/data/"+kube.Short(plan)+"/", "/")
}

const (
	requestFile    = "/request/request.json"
	requestKey     = "request.json"
	secretDir      = "/secrets"
	cacheDir       = "/cache"
	workContainer  = "mover"
	jobKeep        = 24 * 3600 // seconds: long enough for a daemon that was away to read the result
	jobGrace       = 3         // seconds: the mover ends at once, this is for the node
	deadlineMargin = time.Minute
)

// request is what every assignment has in common.
func request(e *kube.Env, op engine.Op) engine.Request {
	r := &e.Run.Spec.Closure.Repository.Spec
	region := cmp.Or(r.Region, "us-east-1")
	return engine.Request{
		Op: op, CredentialsFile: secretDir + "/cloud", PasswordFile: secretDir + "/password", CacheDir: cacheDir,
		Parallel: e.Settings.Mover.Parallel,
		Repository: engine.Repository{
			Endpoint: cmp.Or(r.Endpoint, "https://s3."+region+".amazonaws.com"), Region: region,
			Bucket: r.Bucket, Prefix: DataPrefix(r, e.Run.Spec.Plan),
			CABundle: r.CABundle, InsecureSkipTLSVerify: r.InsecureSkipTLSVerify,
			BytesPerSecond: bytesPerSecond(e.Settings.Mover.BytesPerSecond),
		},
	}
}

// bytesPerSecond reads a limit that the configuration's rules have let through; 0 is no limit.
func bytesPerSecond(limit string) int64 {
	if limit == "" {
		return 0
	}
	q := quantity(limit, "0")
	return q.Value()
}

// seconds are how long the call's step may still take, and some more: whatever
// a lost daemon leaves behind ends by itself.
func seconds(e *kube.Env) *int64 {
	left := e.Plan().Cutover.CopyTimeoutOrDefault()
	if e.Step.Deadline != nil {
		left = max(time.Until(e.Step.Deadline.Time), 0)
	}
	return ptr.To(int64((left + deadlineMargin).Seconds()))
}

// jobSpec is what differs between readers and writers.
type jobSpec struct {
	name       string
	component  string
	assignment Assignment
	volumes    map[string]string // key of volume → snapshot, for the annotation
	caps       []corev1.Capability
	privileged bool // only to read devices
	mounts     []corev1.VolumeMount
	devices    []corev1.VolumeDevice
	sources    []corev1.Volume
	place      placement
}

// placement says where a pod may run.
type placement struct {
	nodeSelector map[string]string
	affinity     *corev1.Affinity
	tolerations  []corev1.Toleration
}

// build makes the Job. It runs as root without privileges beyond its
// capabilities, unless it reads devices, and holds the only mount of the credentials.
func (s jobSpec) build(e *kube.Env) (*batchv1.Job, *corev1.ConfigMap, error) {
	raw, err := json.Marshal(s.assignment)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encode the request of Job %s: %w", s.name, err)
	}
	vols, err := json.Marshal(s.volumes)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encode the volumes of Job %s: %w", s.name, err)
	}
	head := objectMeta(e, e.Settings.Namespace, s.name, s.component)
	head.Annotations[annotationVolumes] = string(vols)
	if s.assignment.StandBy {
		head.Annotations[annotationStandBy] = standByWaiting
	}
	request := &corev1.ConfigMap{ObjectMeta: objectMeta(e, e.Settings.Namespace, s.name, s.component), Data: map[string]string{requestKey: string(raw)}}
	pod := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: head.Labels, Annotations: head.Annotations}, Spec: s.pod(e)}
	return &batchv1.Job{ObjectMeta: head, Spec: batchv1.JobSpec{
		BackoffLimit: ptr.To[int32](0), PodReplacementPolicy: ptr.To(batchv1.Failed),
		ActiveDeadlineSeconds: seconds(e), TTLSecondsAfterFinished: ptr.To[int32](jobKeep), Template: pod,
	}}, request, nil
}

func (s jobSpec) pod(e *kube.Env) corev1.PodSpec {
	m := e.Settings.Mover
	limit := quantity(m.Memory, "512Mi")
	return corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To[int64](jobGrace),
		AutomountServiceAccountToken: ptr.To(false), EnableServiceLinks: ptr.To(false),
		NodeSelector: s.place.nodeSelector, Affinity: s.place.affinity, Tolerations: s.place.tolerations,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsUser: ptr.To[int64](0), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			// The application's files carry its own SELinux level; this type may reach all of them.
			SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"},
		},
		Containers: []corev1.Container{{
			Name: workContainer, Image: m.Image, ImagePullPolicy: corev1.PullIfNotPresent,
			// The image starts tranship: where in it the program lies is the image's own business.
			Args: []string{"mover", "run", "--request", requestFile},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: quantity(m.CPU, "100m"), corev1.ResourceMemory: atMost(limit, resource.MustParse("64Mi"))},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: limit},
			},
			// The collector works harder before the kernel has to end us.
			Env:             []corev1.EnvVar{{Name: "GOMEMLIMIT", Value: heapLimit(quantity(m.Memory, "512Mi"))}},
			SecurityContext: s.security(), VolumeDevices: s.devices,
			TerminationMessagePath: terminationMessage, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			VolumeMounts: append([]corev1.VolumeMount{
				{Name: "request", MountPath: "/request", ReadOnly: true},
				{Name: "secrets", MountPath: secretDir, ReadOnly: true},
				{Name: "cache", MountPath: cacheDir},
			}, s.mounts...),
		}},
		Volumes: append([]corev1.Volume{
			{Name: "request", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: s.name}}}},
			{Name: "secrets", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: SecretName(e), DefaultMode: ptr.To[int32](0o400)}}},
			{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		}, s.sources...),
	}
}

// heapLimit is what of a container's memory limit the program may take, in bytes: the rest is for what
// the Go runtime does not count.
func heapLimit(limit resource.Quantity) string { return strconv.FormatInt(limit.Value()/100*85, 10) }

func (s jobSpec) security() *corev1.SecurityContext {
	if s.privileged { // which has every capability, whatever else is written
		return &corev1.SecurityContext{Privileged: ptr.To(true), ReadOnlyRootFilesystem: ptr.To(true)}
	}
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: s.caps},
	}
}

func quantity(s, def string) resource.Quantity {
	if q, err := resource.ParseQuantity(s); err == nil {
		return q
	}
	return resource.MustParse(def)
}

// atMost keeps a request below the limit: with more, the API refuses the pod.
func atMost(limit, request resource.Quantity) resource.Quantity {
	if limit.Cmp(request) < 0 {
		return limit
	}
	return request
}

// start makes the Job with its request. A request of the same name is of an
// earlier try that got no further, for the name is never used by two Jobs.
func (s jobSpec) start(ctx context.Context, e *kube.Env, on *kube.Cluster) error {
	job, request, err := s.build(e)
	if err != nil {
		return err
	}
	maps := on.Kube.CoreV1().ConfigMaps(request.Namespace)
	if _, err = maps.Create(ctx, request, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		_, err = maps.Update(ctx, request, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("cannot write ConfigMap %s/%s on cluster %s: %w", request.Namespace, request.Name, on.Name, err)
	}
	_, err = on.Kube.BatchV1().Jobs(job.Namespace).Create(ctx, job, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the next thought sees it, and whether it is ours
	}
	if err != nil {
		return fmt.Errorf("cannot create Job %s/%s on cluster %s: %w", job.Namespace, job.Name, on.Name, err)
	}
	return nil
}

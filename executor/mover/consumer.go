package mover

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// ComponentConsumer stands for a pod of the application until its volumes are made.
const ComponentConsumer = "consumer"

func (g *landingGroup) podName(e *kube.Env) string {
	return e.ObjectName("consumer/" + g.namespace + "/" + g.name)
}

// createConsumer makes the pod that the claims of a group wait for: Velero
// restores a claim of a class that waits for its first consumer only when the
// scheduler has chosen a node, and the application is not started yet. The pod
// mounts all claims of the group, so that they meet on one node, and does nothing.
func (g *landingGroup) createConsumer(ctx context.Context, e *kube.Env) error {
	place, err := placeOnTarget(ctx, e, e.Run.Facts.Volumes, g.namespace, g.name, true)
	if err != nil {
		return err
	}
	_, err = e.Target.Kube.CoreV1().Pods(e.Settings.Namespace).Create(ctx, g.pod(e, place), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the next thought sees it
	}
	if err != nil {
		return fmt.Errorf("cannot create pod %s/%s on cluster %s: %w", e.Settings.Namespace, g.podName(e), e.Target.Name, err)
	}
	return nil
}

func (g *landingGroup) pod(e *kube.Env, place placement) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: objectMeta(e, e.Settings.Namespace, g.podName(e), ComponentConsumer)}
	p.Annotations[annotationVolume] = g.namespace + "/" + g.name
	var mounts []corev1.VolumeMount
	for i, claim := range g.mounts {
		name := fmt.Sprintf("volume-%d", i)
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: fmt.Sprintf("/volumes/%d", i), ReadOnly: true})
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
	}
	p.Spec.RestartPolicy, p.Spec.TerminationGracePeriodSeconds = corev1.RestartPolicyNever, ptr.To[int64](holderGrace)
	p.Spec.ActiveDeadlineSeconds = seconds(e)
	p.Spec.AutomountServiceAccountToken, p.Spec.EnableServiceLinks = ptr.To(false), ptr.To(false)
	p.Spec.NodeSelector, p.Spec.Affinity, p.Spec.Tolerations = place.nodeSelector, place.affinity, place.tolerations
	p.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](holderUser),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"},
	}
	p.Spec.Containers = []corev1.Container{{
		Name: "consumer", Image: e.Settings.Mover.Image, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"mover", "hold"},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		VolumeMounts: mounts,
	}}
	return p
}

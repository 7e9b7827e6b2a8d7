package mover

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Labels and annotations of the mover's own objects.
const (
	// LabelComponent tells our helpers apart; its values are the Component constants.
	LabelComponent = "tranship.dev/component"
	// ComponentHolder keeps a source claim mounted in the application's namespace.
	ComponentHolder = "holder"
	// ComponentReader reads the source through the holders' directories.
	ComponentReader = "reader"
	// ComponentSender reads as a reader does and sends to a receiver, which is a writer.
	ComponentSender = "sender"
	// ComponentIdentity is what sender and receiver prove themselves with.
	ComponentIdentity = "identity"
	// ComponentWriter writes the target's claims.
	ComponentWriter = "writer"
	// ComponentPurger deletes a closed plan's volume data in the store.
	ComponentPurger = "purger"
	// ComponentStaging is a claim of ours on the target.
	ComponentStaging = "staging"

	// annotationVolumes of a Job is the JSON list of the volumes that it handles,
	// with the snapshot that each will have where it writes.
	annotationVolumes = "tranship.dev/volumes"
	// annotationVolume of a claim or a volume is "<source namespace>/<claim>".
	annotationVolume = "tranship.dev/volume"
)

var (
	podResource    = corev1.SchemeGroupVersion.WithResource("pods")
	claimResource  = corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	volumeResource = corev1.SchemeGroupVersion.WithResource("persistentvolumes")
)

// key is a volume's identity in requests, annotations and messages.
func key(v *spec.Volume) string { return v.Namespace + "/" + v.Claim }

// copied says that the mover copies the volume through the repository.
func copied(v *spec.Volume) bool {
	return v.Action == "copy" && (v.Method == "" || v.Method == "filesystem")
}

// snapshotted says that Velero moves the volume, from a CSI snapshot or, see
// native, one of its provider's own.
func snapshotted(v *spec.Volume) bool { return v.Action == "copy" && v.Method == methodSnapshot }

// staged says that the copy lies in a claim of ours until it is handed over.
func staged(v *spec.Volume) bool { return copied(v) || snapshotted(v) }

// factsOf wraps a complete list of volumes: a merge replaces the whole field.
func factsOf(volumes []spec.Volume) *spec.Facts { return &spec.Facts{Volumes: volumes} }

// stagingName is the name of a volume's claim in our namespace on the target:
// the same for ever, so that the next run finds what the previous one copied.
func stagingName(e *kube.Env, v *spec.Volume) string { return e.PlanObjectName("claim/" + key(v)) }

// ours says that an object was made for the plan of this call.
func ours(e *kube.Env, o metav1.Object) bool {
	return o.GetLabels()[kube.LabelPlan] == kube.Short(e.Run.Spec.Plan)
}

// ofThisAttempt says that an object belongs to exactly this run, step and attempt.
func ofThisAttempt(e *kube.Env, o metav1.Object) bool {
	l := o.GetLabels()
	return ours(e, o) && l[kube.LabelRun] == e.RunLabel() && l[kube.LabelStep] == e.Step.Name && l[kube.LabelAttempt] == strconv.Itoa(e.Step.Attempt)
}

// helpers selects the plan's objects of one component.
func helpers(e *kube.Env, component string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: kube.LabelPlan + "=" + kube.Short(e.Run.Spec.Plan) + "," + LabelComponent + "=" + component}
}

// meta is the head of an object that this call makes.
func objectMeta(e *kube.Env, namespace, name, component string) metav1.ObjectMeta {
	labels := e.Labels()
	labels[LabelComponent] = component
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, Annotations: stamps(e)}
}

// stamps are the annotations of everything that we make or change.
func stamps(e *kube.Env) map[string]string {
	return map[string]string{
		kube.AnnotationPlan:  e.Run.Spec.Plan,
		kube.AnnotationEpoch: strconv.FormatInt(e.Settings.Epoch, 10),
	}
}

// newer refuses an object that a later daemon has already changed.
func newer(e *kube.Env, o metav1.Object) error {
	n, err := strconv.ParseInt(o.GetAnnotations()[kube.AnnotationEpoch], 10, 64)
	if err == nil && n > e.Settings.Epoch {
		return fmt.Errorf("%s/%s was changed in epoch %d and this daemon is of epoch %d: another daemon has taken over", o.GetNamespace(), o.GetName(), n, e.Settings.Epoch)
	}
	return nil
}

// change is a merge patch that holds only for the version that was read. A nil
// value removes an entry.
type change struct {
	annotations map[string]any
	labels      map[string]any
	spec        map[string]any
}

func (c change) patch(e *kube.Env, o metav1.Object) ([]byte, error) {
	if err := newer(e, o); err != nil {
		return nil, err
	}
	annotations := map[string]any{kube.AnnotationRun: e.RunLabel()}
	for k, v := range stamps(e) {
		annotations[k] = v
	}
	maps.Copy(annotations, c.annotations)
	metadata := map[string]any{"uid": o.GetUID(), "resourceVersion": o.GetResourceVersion(), "annotations": annotations}
	if c.labels != nil {
		metadata["labels"] = c.labels
	}
	p := map[string]any{"metadata": metadata}
	if c.spec != nil {
		p["spec"] = c.spec
	}
	return json.Marshal(p)
}

func patchClaim(ctx context.Context, e *kube.Env, on *kube.Cluster, o *corev1.PersistentVolumeClaim, c change) error {
	p, err := c.patch(e, o)
	if err != nil {
		return err
	}
	_, err = on.Kube.CoreV1().PersistentVolumeClaims(o.Namespace).Patch(ctx, o.Name, types.MergePatchType, p, metav1.PatchOptions{})
	return err
}

func patchVolume(ctx context.Context, e *kube.Env, on *kube.Cluster, o *corev1.PersistentVolume, c change) error {
	p, err := c.patch(e, o)
	if err != nil {
		return err
	}
	_, err = on.Kube.CoreV1().PersistentVolumes().Patch(ctx, o.Name, types.MergePatchType, p, metav1.PatchOptions{})
	return err
}

// setMark writes a mark on a claim.
func setMark(ctx context.Context, e *kube.Env, on *kube.Cluster, o *corev1.PersistentVolumeClaim, m mark) error {
	return patchClaim(ctx, e, on, o, change{annotations: markAnnotations(m)})
}

func markAnnotations(m mark) map[string]any {
	a := map[string]any{kube.AnnotationMark: nil, kube.AnnotationHeld: nil}
	if m.kind != spec.MarkNone {
		a[kube.AnnotationMark] = m.String()
	}
	if m.kind == spec.MarkClean {
		a[kube.AnnotationHeld] = m.held
	}
	return a
}

// getClaim returns nil for a claim that is not there.
func getClaim(ctx context.Context, on *kube.Cluster, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	c, err := on.Kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read claim %s/%s of cluster %s: %w", namespace, name, on.Name, err)
	}
	return c, nil
}

// getVolume returns nil for a volume that is not there.
func getVolume(ctx context.Context, on *kube.Cluster, name string) (*corev1.PersistentVolume, error) {
	if name == "" {
		return nil, nil
	}
	pv, err := on.Kube.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read persistent volume %s of cluster %s: %w", name, on.Name, err)
	}
	return pv, nil
}

// handle identifies the storage behind a volume, whatever its object is called.
func handle(pv *corev1.PersistentVolume) string {
	if pv.Spec.CSI != nil {
		return pv.Spec.CSI.Driver + "/" + pv.Spec.CSI.VolumeHandle
	}
	raw, err := json.Marshal(pv.Spec.PersistentVolumeSource)
	if err != nil {
		return ""
	}
	return string(raw)
}

// deleteClaim deletes exactly the claim that was read.
func deleteClaim(ctx context.Context, on *kube.Cluster, c *corev1.PersistentVolumeClaim) error {
	return gone(on.Kube.CoreV1().PersistentVolumeClaims(c.Namespace).Delete(ctx, c.Name, exactly(c)))
}

// exactly is a deletion of the object that was read and of no other of its name.
func exactly(o metav1.Object) metav1.DeleteOptions {
	uid := o.GetUID()
	background := metav1.DeletePropagationBackground
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &background}
}

// gone turns "not found" into success.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// usesClaim says that a pod mounts a claim of its namespace and is not over.
func usesClaim(p *corev1.Pod, claim string) bool { return !over(p) && namesClaim(p, claim) }

// namesClaim says that a pod mounts, or has mounted, a claim of its namespace. A
// claim that is being deleted stays until no pod object names it any more, be
// it over or not.
func namesClaim(p *corev1.Pod, claim string) bool {
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim {
			return true
		}
		if v.Ephemeral != nil && p.Name+"-"+v.Name == claim {
			return true
		}
	}
	return false
}

// over says that a pod's containers have ended for good: its volumes are being,
// or have been, unmounted.
func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// object names an object for people: "source Pod shop/web-0".
func object(side spec.Side, kind, namespace, name string) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", side, kind, strings.TrimPrefix(namespace+"/"+name, "/")))
}

func watchOf(on *kube.Cluster, r schema.GroupVersionResource, namespace, selector, version string) watched {
	return watched{on: on, resource: r, namespace: namespace, options: metav1.ListOptions{LabelSelector: selector, ResourceVersion: version}}
}

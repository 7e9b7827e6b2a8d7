package mover

import (
	"context"
	"fmt"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov2 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Velero's node agents move the data of a CSI snapshot: a DataUpload takes it
// into the repository, a DataDownload makes a new volume of it. They are used
// without a Backup and a Restore around them (ADR 10).
var (
	uploadResource   = velerov2.SchemeGroupVersion.WithResource("datauploads")
	downloadResource = velerov2.SchemeGroupVersion.WithResource("datadownloads")
	snapshotResource = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
)

// A movement is one DataUpload or DataDownload, reduced to what both have.
type movement struct {
	*unstructured.Unstructured
	on       *kube.Cluster
	resource schema.GroupVersionResource
}

// The phases of both kinds; any other is one on the way.
const (
	phaseCompleted = "Completed"
	phaseFailed    = "Failed"
	phaseCanceled  = "Canceled"
)

func (m *movement) status(field string) string {
	s, _, _ := unstructured.NestedString(m.Object, "status", field)
	return s
}

func (m *movement) number(fields ...string) int64 {
	n, _, _ := unstructured.NestedInt64(m.Object, append([]string{"status"}, fields...)...)
	return n
}

func (m *movement) phase() string { return m.status("phase") }

func (m *movement) ended() bool {
	p := m.phase()
	return p == phaseCompleted || p == phaseFailed || p == phaseCanceled
}

func (m *movement) at() string {
	return object(m.on.Side, m.GetKind(), m.GetNamespace(), m.GetName())
}

// progress says how far it is.
func (m *movement) progress() string {
	p := m.phase()
	if p == "" {
		return "no node agent has taken it yet"
	}
	if total := m.number("progress", "totalBytes"); total > 0 {
		return fmt.Sprintf("%s, %d of %d bytes", p, m.number("progress", "bytesDone"), total)
	}
	return p
}

// failed is the answer for one that did not complete. Another attempt may:
// also a node agent that was restarted ends what it had begun.
func (m *movement) failed(v *spec.Volume) reconciler.Observation {
	return broken(false, m.GetKind()+m.phase(), m.at(), "%s %s/%s for claim %s ended %s on cluster %s: %s", m.GetKind(), m.GetNamespace(), m.GetName(), key(v), m.phase(), m.on.Name, m.status("message"))
}

// movements lists the plan's objects of one kind in Velero's namespace, with
// the watch that wakes at their next change.
func movements(ctx context.Context, e *kube.Env, on *kube.Cluster, r schema.GroupVersionResource) ([]*movement, watched, error) {
	l, err := listOf(ctx, on, r, on.VeleroNamespace, ofPlan(e))
	if err != nil {
		return nil, watched{}, err
	}
	var all []*movement
	for i := range l.Items {
		all = append(all, &movement{Unstructured: &l.Items[i], on: on, resource: r})
	}
	return all, watchOf(on, r, on.VeleroNamespace, ofPlan(e).LabelSelector, l.GetResourceVersion()), nil
}

// ofPlan selects everything of the plan.
func ofPlan(e *kube.Env) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: kube.LabelPlan + "=" + kube.Short(e.Run.Spec.Plan)}
}

// listOf lists objects of a kind that may not be installed.
func listOf(ctx context.Context, on *kube.Cluster, r schema.GroupVersionResource, namespace string, o metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	l, err := on.Dynamic.Resource(r).Namespace(namespace).List(ctx, o)
	if apierrors.IsNotFound(err) {
		return &unstructured.UnstructuredList{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list %s of cluster %s: %w", r.Resource, on.Name, err)
	}
	return l, nil
}

// remove deletes exactly the object that was read. A movement on its way is
// canceled by that: its node agent lets it go when all of it is cleaned up.
func remove(t *thought, on *kube.Cluster, r schema.GroupVersionResource, o *unstructured.Unstructured) {
	if o.GetDeletionTimestamp() != nil {
		return
	}
	t.move(fmt.Sprintf("delete %s %s/%s on cluster %s", o.GetKind(), o.GetNamespace(), o.GetName(), on.Name), func(ctx context.Context) error {
		return gone(on.Dynamic.Resource(r).Namespace(o.GetNamespace()).Delete(ctx, o.GetName(), exactly(o)))
	})
}

// create makes a typed object as an unstructured one. Unknown fields are
// refused: another version of Velero must not ignore what we ask for.
func create(ctx context.Context, on *kube.Cluster, r schema.GroupVersionResource, kind string, o metav1.Object) error {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return fmt.Errorf("cannot encode %s %s: %w", kind, o.GetName(), err)
	}
	u := &unstructured.Unstructured{Object: m}
	u.SetGroupVersionKind(r.GroupVersion().WithKind(kind))
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(u.Object, "status")
	_, err = on.Dynamic.Resource(r).Namespace(o.GetNamespace()).Create(ctx, u, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if apierrors.IsAlreadyExists(err) {
		return nil // the next thought sees it, and whether it is ours
	}
	return err
}

package mover

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var snapshotClassResource = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotclasses"}

// SnapshotClass is a VolumeSnapshotClass of the source.
type SnapshotClass struct {
	Name, Driver string
	// Velero: it carries the label with which people tell Velero its class.
	Velero, Default bool
}

const (
	veleroClassLabel   = "velero.io/csi-volumesnapshot-class"
	defaultClassMarker = "snapshot.storage.kubernetes.io/is-default-class"
)

// snapshotClasses lists the source's classes; none where snapshots are not installed.
func snapshotClasses(ctx context.Context, on *kube.Cluster) ([]SnapshotClass, error) {
	l, err := listOf(ctx, on, snapshotClassResource, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all []SnapshotClass
	for _, c := range l.Items {
		driver, _, _ := unstructured.NestedString(c.Object, "driver")
		all = append(all, SnapshotClass{Name: c.GetName(), Driver: driver,
			Velero: c.GetLabels()[veleroClassLabel] == "true", Default: c.GetAnnotations()[defaultClassMarker] == "true"})
	}
	return all, nil
}

// chooseSnapshotClass follows Velero's own rule: among the classes of the
// driver the labelled one, else the default, else the only one. Without an
// answer it returns a sentence.
func chooseSnapshotClass(driver string, classes []SnapshotClass) (name, problem string) {
	of := slices.DeleteFunc(slices.Clone(classes), func(c SnapshotClass) bool { return c.Driver != driver })
	for _, marked := range []func(SnapshotClass) bool{
		func(c SnapshotClass) bool { return c.Velero },
		func(c SnapshotClass) bool { return c.Default },
		func(SnapshotClass) bool { return true },
	} {
		some := slices.DeleteFunc(slices.Clone(of), func(c SnapshotClass) bool { return !marked(c) })
		if len(some) == 1 {
			return some[0].Name, ""
		}
		if len(some) > 1 {
			var names []string
			for _, c := range some {
				names = append(names, c.Name)
			}
			slices.Sort(names)
			return "", fmt.Sprintf("several VolumeSnapshotClasses of driver %s may be meant (%s): label one with %s=true", driver, strings.Join(names, ", "), veleroClassLabel)
		}
	}
	return "", fmt.Sprintf("the source has no VolumeSnapshotClass of driver %s: create one, or write method: filesystem", driver)
}

// Snapshots says that the plan asks for a snapshot copy anywhere.
func Snapshots(plan *spec.PlanSpec) bool {
	return plan.Volumes.Defaults.Method == methodSnapshot ||
		slices.ContainsFunc(plan.Volumes.Overrides, func(o spec.VolumeOverride) bool { return o.Method == methodSnapshot })
}

// snapshotable finds the class with which a claim's snapshot is made, or the
// plugin with which its provider makes it: where the plan says transfer: Direct,
// which is not through the repository, and where nothing else can and the plan
// does not say Repository. Without either it returns the sentence why not.
func (inv *Inventory) snapshotable(plan *spec.PlanSpec, v *spec.Volume, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (reason, problem string) {
	switch {
	case c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return "BlockVolume", "it is a raw block device, and this version copies only file systems by snapshot: write method: filesystem, or skip it"
	case verified(plan, v):
		return "SnapshotNotVerified", "what Velero restores from a snapshot cannot be verified file by file: write verify: false, or method: filesystem"
	}
	switch {
	case pv.Spec.CSI == nil:
		reason, problem = "NoSnapshots", fmt.Sprintf("volume %s is not one of a CSI driver, and only its provider itself can take snapshots of it", pv.Name)
	case transferAsked(plan, v) == transferDirect:
		reason, problem = "SnapshotNotDirect", "snapshots that do not go through the repository are its provider's own: write transfer: Repository, or method: filesystem"
	case c.Spec.StorageClassName == nil || *c.Spec.StorageClassName == "":
		reason, problem = "NoSnapshots", "it has no storage class, which Velero needs to read its snapshot: write method: filesystem"
	default:
		reason = "NoSnapshotClass"
		if v.SnapshotClass, problem = chooseSnapshotClass(pv.Spec.CSI.Driver, inv.SnapshotClasses); problem == "" {
			return "", ""
		}
	}
	if transferAsked(plan, v) == transferRepository {
		return reason, problem + "; its provider's own snapshots do not go through the repository: write transfer: Direct for them"
	}
	plugin, better, why := inv.nativePlugin(pv)
	switch {
	case plugin != "":
		v.SnapshotPlugin = plugin
		return "", ""
	case better != "" || pv.Spec.CSI == nil || transferAsked(plan, v) == transferDirect:
		return cmp.Or(better, reason), problem + "; its provider's snapshots cannot be used: " + why
	}
	return reason, problem
}

// transferAsked is the plan's own word on the way of a volume, "" without one.
func transferAsked(plan *spec.PlanSpec, v *spec.Volume) string {
	return cmp.Or(overrideOf(plan, v.Namespace, v.Claim).Transfer, plan.Volumes.Defaults.Transfer)
}

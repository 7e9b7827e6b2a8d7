package main

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var snapshotGroup = schema.GroupVersion{Group: "snapshot.storage.k8s.io", Version: "v1"}

// content is what a claim wants its volume filled with, nil for an empty one.
func (p *provisioner) content(ctx context.Context, c *corev1.PersistentVolumeClaim) (*csi.VolumeContentSource, error) {
	from := c.Spec.DataSource
	switch {
	case from == nil:
		return nil, nil
	case from.Kind == "VolumeSnapshot":
		handle, err := p.snapshotHandle(ctx, c.Namespace, from.Name)
		if err != nil {
			return nil, err
		}
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: handle}}}, nil
	case from.Kind == "PersistentVolumeClaim":
		handle, err := p.volumeHandle(c.Namespace, from.Name)
		if err != nil {
			return nil, err
		}
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: handle}}}, nil
	}
	return nil, fmt.Errorf("cannot fill a volume from a %s", from.Kind)
}

func (p *provisioner) snapshotHandle(ctx context.Context, namespace, name string) (string, error) {
	s, err := p.dynamic.Resource(snapshotGroup.WithResource("volumesnapshots")).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("cannot read snapshot %s: %w", name, err)
	}
	if ready, _, _ := unstructured.NestedBool(s.Object, "status", "readyToUse"); !ready {
		return "", fmt.Errorf("snapshot %s is not ready yet", name)
	}
	bound, _, _ := unstructured.NestedString(s.Object, "status", "boundVolumeSnapshotContentName")
	content, err := p.dynamic.Resource(snapshotGroup.WithResource("volumesnapshotcontents")).Get(ctx, bound, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("cannot read the content of snapshot %s: %w", name, err)
	}
	handle, _, _ := unstructured.NestedString(content.Object, "status", "snapshotHandle")
	return handle, nil
}

func (p *provisioner) volumeHandle(namespace, claim string) (string, error) {
	c, err := p.claims.PersistentVolumeClaims(namespace).Get(claim)
	if err != nil {
		return "", fmt.Errorf("cannot read claim %s: %w", claim, err)
	}
	pv, err := p.volumes.Get(c.Spec.VolumeName)
	if err != nil {
		return "", fmt.Errorf("cannot read the volume of claim %s: %w", claim, err)
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != driverName {
		return "", fmt.Errorf("claim %s is no volume of this driver", claim)
	}
	return pv.Spec.CSI.VolumeHandle, nil
}

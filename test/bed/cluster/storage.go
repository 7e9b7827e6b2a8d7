package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tranship/tranship/test/bed/kubeapi"
)

// Driver is the CSI driver of the bed.
const Driver = "csi.bed.tranship.dev"

// Storage classes. ClassNode is the default one: its volumes are pinned to the
// node of their first pod. ClassShared can be used from every node, of one at a
// time where the claim is ReadWriteOnce. ClassFixed has exactly the size asked for.
const (
	ClassNode   = "bed-node"
	ClassShared = "bed-shared"
	ClassFixed  = "bed-small-fs"
	ClassGold   = "bed-gold"
)

// InstallStorage makes the classes, and starts what makes snapshots.
func (c *Cluster) InstallStorage(ctx context.Context) error {
	if err := c.applyCRDs(ctx, c.KubeCRD); err != nil {
		return err
	}
	objects := []kubeapi.Object{
		{
			"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": object{"name": Driver},
			"spec": object{"attachRequired": false, "podInfoOnMount": false, "fsGroupPolicy": "File"},
		},
		storageClass(ClassNode, "WaitForFirstConsumer", nil, true),
		storageClass(ClassShared, "Immediate", object{"scope": "shared"}, false),
		storageClass(ClassFixed, "WaitForFirstConsumer", object{"kind": "ext4"}, false),
		{
			"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "driver": Driver, "deletionPolicy": "Delete",
			"metadata": object{"name": "bed", "annotations": object{"snapshot.storage.kubernetes.io/is-default-class": "true"}},
		},
	}
	if c.Gold {
		objects = append(objects, storageClass(ClassGold, "WaitForFirstConsumer", nil, false))
	}
	if err := c.API.Apply(ctx, objects...); err != nil {
		return err
	}
	m := c.controlPlane()
	if err := m.Start("snapshot-controller", []string{
		c.Bin("snapshot-controller"), "--kubeconfig=" + c.Kubeconfig(), "--leader-election=false", "--http-endpoint=",
		"--retry-interval-start=200ms",
	}, nil); err != nil {
		return err
	}
	return m.Start("csi-snapshotter", []string{
		c.Bin("csi-snapshotter"), "--kubeconfig=" + c.Kubeconfig(), "--csi-address=/var/lib/kubelet/plugins/" + Driver + "/csi.sock",
		"--leader-election=false", "--retry-interval-start=200ms",
	}, nil)
}

func storageClass(name, binding string, parameters object, isDefault bool) kubeapi.Object {
	o := kubeapi.Object{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": object{"name": name},
		"provisioner": Driver, "volumeBindingMode": binding,
	}
	if parameters != nil {
		o["parameters"] = parameters
	}
	if isDefault {
		o["metadata"] = object{"name": name, "annotations": object{"storageclass.kubernetes.io/is-default-class": "true"}}
	}
	return o
}

// applyCRDs applies the CRDs in a folder, and waits until they are served. A file
// is called GROUP_PLURAL.yaml, so the name needs no look inside.
func (c *Cluster) applyCRDs(ctx context.Context, dir string) error {
	const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return fmt.Errorf("cannot list the CRDs: %w", err)
	}
	if len(files) == 0 {
		return fmt.Errorf("cannot find any CRD in %s: delete that folder's parent, and `bed up` makes it again", dir)
	}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cannot read a CRD: %w", err)
		}
		group, plural, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".yaml"), "_")
		names = append(names, plural+"."+group)
		if err := c.API.ApplyYAML(ctx, crds+plural+"."+group, text); err != nil {
			return err
		}
	}
	for _, name := range names {
		err := kubeapi.Wait(ctx, 30*time.Second, "CRD "+name, func(ctx context.Context) (bool, error) {
			o, err := c.API.Get(ctx, crds+name)
			return err == nil && o.Condition("Established") == "True", err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

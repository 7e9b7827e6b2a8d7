package mover

import (
	"cmp"
	"path"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// blockMode is a claim's volumeMode as the ledger has it: empty for a file system.
func blockMode(c *corev1.PersistentVolumeClaim) corev1.PersistentVolumeMode {
	if m := c.Spec.VolumeMode; m != nil && *m == corev1.PersistentVolumeBlock {
		return *m
	}
	return ""
}

// isBlock says that a volume is a raw device.
func isBlock(v *spec.Volume) bool { return v.VolumeMode == corev1.PersistentVolumeBlock }

// modeOf is the volume's mode in the words of the engine.
func modeOf(v *spec.Volume) engine.Mode {
	if isBlock(v) {
		return engine.ModeBlock
	}
	return engine.ModeFilesystem
}

// attach gives a container a volume of its pod, at that path: as a folder or as a device.
func attach(c *corev1.Container, v *spec.Volume, m corev1.VolumeMount) {
	if isBlock(v) {
		c.VolumeDevices = append(c.VolumeDevices, corev1.VolumeDevice{Name: m.Name, DevicePath: m.MountPath})
		return
	}
	c.VolumeMounts = append(c.VolumeMounts, m)
}

// deviceVisible says whether a reader can be shown the device behind a volume.
func deviceVisible(pv *corev1.PersistentVolume) bool { return deviceDir(pv) != "" }

// deviceDir is the folder, below the kubelet's root, in which a kubelet has a bind
// mount of a volume's device for each pod that uses it, named by the pod's UID. It
// is empty for the in-tree plugins of network disks: their folder's name cannot be
// told from the volume alone.
func deviceDir(pv *corev1.PersistentVolume) string {
	s := &pv.Spec.PersistentVolumeSource
	if s.Local != nil {
		return "plugins/kubernetes.io~local-volume/volumeDevices/" + pv.Name
	}
	if s.HostPath != nil || s.FlexVolume != nil || slices.ContainsFunc(plugins, func(p plugin) bool { return p.is(s) }) {
		return ""
	}
	return "plugins/kubernetes.io/csi/volumeDevices/" + pv.Name + "/dev"
}

// throughDevice is the window to the device that a pod has. The pod's own directory
// holds only a link to a place that differs between drivers; the folder of the
// volume has nothing but the one device, once for every pod.
func throughDevice(e *kube.Env, p *corev1.Pod, pv *corev1.PersistentVolume) window {
	root := cmp.Or(e.Settings.Mover.KubeletRoot, "/var/lib/kubelet")
	return window{hostPath: path.Join(root, deviceDir(pv)), kind: corev1.HostPathDirectoryOrCreate, path: string(p.UID), await: true}
}

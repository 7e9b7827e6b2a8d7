package mover

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// deviceWorld is a source with a file system claim "data" and a device "disk", both
// used by one pod.
func deviceWorld(t *testing.T) (*world, *world) {
	t.Helper()
	p := appPod("web-0", "node-1", corev1.PodRunning)
	p.Spec.Volumes = podSpec("data", "disk").Volumes
	source, _ := runningWorld(t, corev1.ReadWriteOnce, p)
	c, pv := sourceClaim("disk", nil, corev1.ReadWriteOnce)
	c.Spec.VolumeMode, pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock), ptr.To(corev1.PersistentVolumeBlock)
	source.put(c)
	source.put(pv)
	return source, newWorld(t, class("fast", "csi", true))
}

func (w *world) allJobs() []batchv1.Job {
	o, err := w.Tracker().List(batchv1.SchemeGroupVersion.WithResource("jobs"), batchv1.SchemeGroupVersion.WithKind("Job"), ourNamespace)
	if err != nil {
		w.t.Fatal(err)
	}
	return o.(*batchv1.JobList).Items
}

// A device is read by a Job of its own, the only privileged one: it sees the folder
// with that one device and nothing else of the node.
func TestDevicesAreReadApart(t *testing.T) {
	source, target := deviceWorld(t)
	e := testEnv(source, target, "upload", "mover.upload")
	want(t, drive(t, e), reconciler.Working)
	disk := spec.Volume{Namespace: "shop", Claim: "disk"}
	h := source.pod(holderName(e, &disk))
	if c := h.Spec.Containers[0]; len(c.VolumeMounts) != 0 || len(c.VolumeDevices) != 1 || *c.SecurityContext.AllowPrivilegeEscalation {
		t.Errorf("the holder of a device: %+v", c)
	}
	jobs := source.allJobs()
	if len(jobs) != 2 {
		t.Fatalf("%d readers, want one for the file system and one for the device", len(jobs))
	}
	for i := range jobs {
		a, c := assignmentOf(source, &jobs[i]), jobs[i].Spec.Template.Spec.Containers[0].SecurityContext
		q := a.Request.Volumes[0]
		if privileged := c.Privileged != nil && *c.Privileged; len(a.Request.Volumes) != 1 || privileged != (q.Mode == engine.ModeBlock) {
			t.Errorf("privileged %t for %+v", privileged, a.Request.Volumes)
		}
		if q.Name != "shop/disk" {
			continue
		}
		if p := "/volumes/0/" + string(h.UID); q.Path != p || a.Mounts[0] != p {
			t.Errorf("the reader awaits %v and reads %s, want %s", a.Mounts, q.Path, p)
		}
		for _, v := range jobs[i].Spec.Template.Spec.Volumes {
			if v.HostPath != nil && v.HostPath.Path != "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/pv-disk/dev" {
				t.Errorf("the reader sees %s of the node", v.HostPath.Path)
			}
		}
	}
}

// The writer has the device as its own claim, and needs no privilege.
func TestDevicesAreWritten(t *testing.T) {
	source, target := deviceWorld(t)
	source.job, target.job = writesAll, writesAll
	e := testEnv(source, target, "upload", "mover.upload")
	o := drive(t, e)
	want(t, o, reconciler.Succeeded)
	e.Run.Facts.Volumes = o.Facts.Volumes
	want(t, drive(t, at(e, "claims", "mover.claims")), reconciler.Succeeded)
	want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
	j := target.onlyJob()
	c := j.Spec.Template.Spec.Containers[0]
	if len(c.VolumeDevices) != 1 || c.SecurityContext.Privileged != nil || *c.SecurityContext.AllowPrivilegeEscalation {
		t.Fatalf("the writer: %+v", c)
	}
	for i, q := range assignmentOf(target, j).Request.Volumes {
		if (q.Mode == engine.ModeBlock) != (q.Name == "shop/disk") || (q.Path == c.VolumeDevices[0].DevicePath) != (q.Name == "shop/disk") {
			t.Errorf("order %d: %+v", i, q)
		}
	}
	for _, v := range e.Run.Facts.Volumes {
		mode := target.claim(ourNamespace, stagingName(e, &v)).Spec.VolumeMode
		if block := mode != nil && *mode == corev1.PersistentVolumeBlock; block != (v.Claim == "disk") {
			t.Errorf("claim %s has the mode %v", v.Claim, mode)
		}
	}
}

func TestDeviceDir(t *testing.T) {
	tests := map[string]struct {
		source corev1.PersistentVolumeSource
		want   string
	}{
		"CSI":                             {corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{}}, "kubernetes.io/csi/volumeDevices/pv/dev"},
		"in-tree, served by a CSI driver": {corev1.PersistentVolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{}}, "kubernetes.io/csi/volumeDevices/pv/dev"},
		"local":                           {corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{}}, "kubernetes.io~local-volume/volumeDevices/pv"},
		"iSCSI":                           {corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{}}, ""},
		"a folder of the node":            {corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{}}, ""},
	}
	for name, c := range tests {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: c.source}}
		if got := strings.TrimPrefix(deviceDir(pv), "plugins/"); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A class whose driver gives no devices is not known beforehand: what the driver
// says of the claim is what a person reads.
func TestRefusedClaimSaysWhy(t *testing.T) {
	_, target := deviceWorld(t)
	e := testEnv(target, target, "restore-volumes", "mover.restore")
	v := stagedVolume(e, "disk", "s1")
	v.VolumeMode = corev1.PersistentVolumeBlock
	target.put(&corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: ourNamespace, Name: v.StagingClaim, UID: "c1"},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	})
	w := &writing{v: &v}
	g := &writeGroup{writes: []*writing{w}}
	pending := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}
	for i, want := range []string{"it is being started", "it is being started; claim " + ourNamespace + "/" + v.StagingClaim + ": ProvisioningFailed: no devices here"} {
		if i == 1 {
			target.put(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: ourNamespace, Name: "e"}, InvolvedObject: corev1.ObjectReference{UID: "c1"},
				Reason: "ProvisioningFailed", Message: "no devices here"})
		}
		if err := w.look(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if got := g.stuck(pending); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// onDevice is a StatefulSet that keeps its data on a bare device, with a file
// system beside it.
func (l *lab) onDevice() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: raw, namespace: NS}
spec:
  replicas: 1
  serviceName: raw
  selector: {matchLabels: {app: raw}}
  template:
    metadata: {labels: {app: raw}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: raw
        image: IMAGE
        command: [/bin/sh, -c, "test -e /data/born || hostname > /data/born; exec sleep 100000"]
        readinessProbe: {exec: {command: [test, -e, /data/born]}, periodSeconds: 1, timeoutSeconds: 30}
        volumeMounts: [{name: data, mountPath: /data}]
        volumeDevices: [{name: disk, devicePath: /dev/disk}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: bed-small-fs, resources: {requests: {storage: 16Mi}}}
  - metadata: {name: disk}
    spec: {accessModes: [ReadWriteOnce], storageClassName: bed-small-fs, volumeMode: Block, resources: {requests: {storage: 64Mi}}}
`)
}

// scribble changes a few pages of the device in the pod on the source, without
// a word to the kernel about when to write them out.
func (l *lab) scribble(pages ...int) {
	l.t.Helper()
	for _, p := range pages {
		l.onSource("-n", l.name, "exec", "raw-0", "--", "dd", "if=/dev/urandom", "of=/dev/disk", "bs=8192", "count=1", fmt.Sprint("seek=", p), "conv=notrunc")
	}
}

func (l *lab) deviceSum(run func(...string) string) string {
	l.t.Helper()
	sum, _, _ := strings.Cut(run("-n", l.name, "exec", "raw-0", "--", "sha256sum", "/dev/disk"), " ")
	return sum
}

func (l *lab) stageAgain(before *story) *story {
	l.t.Helper()
	l.commit("Copy again", map[string]string{"plan.yaml": l.plan(spec.Staged, fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))})
	s := l.wait("another stage run", 3*time.Minute, func(s *story) bool {
		return s.Status.LastStage != nil && (before == nil || s.Status.LastStage.Run != before.Status.LastStage.Run)
	})
	if s.Status.LastStage.Result != spec.RunSucceeded {
		l.t.Fatalf("the stage run: %+v", s.Run.Status)
	}
	return s
}

func TestBlockVolumeMovesAndComesBack(t *testing.T) {
	long(t)
	l := newLab(t)
	l.apply(l.onDevice())
	l.rolledOut("statefulset/raw")
	l.onSource("-n", l.name, "exec", "raw-0", "--", "dd", "if=/dev/urandom", "of=/dev/disk", "bs=1M", "count=20", "seek=30", "conv=notrunc")
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, "")
	l.commit("Plan the move", files)
	l.start()

	s := l.stageAgain(nil)
	l.scribble(0, 1000, 4000, 8191)
	s = l.stageAgain(s)
	for _, v := range s.Status.Volumes {
		if disk := v.Claim == "disk-raw-0"; disk != (v.VolumeMode == corev1.PersistentVolumeBlock) || disk && v.Bytes != 64<<20 {
			t.Errorf("claim %s: mode %q, %d bytes", v.Claim, v.VolumeMode, v.Bytes)
		}
	}

	l.scribble(5, 4001, 8190)
	want := l.deviceSum(l.onSource)
	l.commit("Move it", map[string]string{"plan.yaml": l.plan(spec.Migrated, "volumes: {defaults: {verify: true}}")})
	s = l.waitReason("Migrated", 4*time.Minute)
	for _, v := range s.Run.Facts.Volumes {
		if v.Verified == nil || !v.Verified.Complete || v.Verified.Errors != 0 || v.Verified.Bytes == 0 {
			t.Errorf("claim %s was verified as %+v", v.Claim, v.Verified)
		}
	}
	t.Logf("stop time: %.1f s (application's own: %.1f s)", s.Run.Status.StopSeconds, s.Run.Status.OwnSeconds)
	if got := l.deviceSum(l.onTarget); got != want {
		t.Errorf("the device on the target has the checksum %s, on the source %s", got, want)
	}
	if got := l.onTarget("-n", l.name, "get", "pvc", "disk-raw-0", "-o", "jsonpath={.spec.volumeMode}"); got != "Block" {
		t.Errorf("the claim on the target has the mode %q", got)
	}
	l.onTarget("-n", l.name, "exec", "raw-0", "--", "cat", "/data/born")

	l.onTarget("-n", l.name, "exec", "raw-0", "--", "dd", "if=/dev/urandom", "of=/dev/disk", "bs=8192", "count=3", "seek=77", "conv=notrunc")
	l.commit("Take it back", map[string]string{"plan.yaml": l.plan(spec.RolledBack, "rollback: {targetWrites: Discard}")})
	l.waitReason("RolledBack", 4*time.Minute)
	l.rolledOut("statefulset/raw")
	if got := l.deviceSum(l.onSource); got != want {
		t.Errorf("the device on the source has the checksum %s after the rollback, before %s", got, want)
	}
	// The copy is dirty now: it is compared with the source by content.
	l.scribble(2, 4096)
	s = l.stageAgain(s)
	for _, v := range s.Status.Volumes {
		if v.Mark != spec.MarkClean {
			t.Errorf("claim %s is %q after the stage run", v.Claim, v.Mark)
		}
	}
	l.nothingLeaks()
}

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

func (l *lab) nativePlan(state spec.State, extra string) string {
	return l.plan(state, fmt.Sprintf("volumes: {overrides: [{namespace: %s, claim: shot, method: snapshot, transfer: Direct}]}\n%s", l.name, extra))
}

// cloudSnapshots are those of one volume in the bed's "cloud".
func (l *lab) cloudSnapshots(handle string) []string {
	l.t.Helper()
	metas, err := filepath.Glob(filepath.Join(l.cloud(), "snapshots", "*", "meta.json"))
	l.must(err)
	var found []string
	for _, file := range metas {
		raw, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // another test's, deleted meanwhile
		}
		l.must(err)
		var r struct{ Source string }
		if json.Unmarshal(raw, &r) != nil {
			continue // another test's, being written
		}
		if r.Source == handle {
			found = append(found, filepath.Base(filepath.Dir(file)))
		}
	}
	slices.Sort(found)
	return found
}

// keptInCloud waits until the cloud has n snapshots of a volume: it takes its
// time to delete one.
func (l *lab) keptInCloud(handle string, n int) {
	l.t.Helper()
	l.poll(fmt.Sprintf("%d snapshots in the cloud", n), time.Second, func() (string, bool) {
		kept := l.cloudSnapshots(handle)
		return fmt.Sprint(kept), len(kept) == n
	})
}

func (l *lab) cloud() string { return filepath.Join(filepath.Dir(os.Getenv("TRANSHIP_BED")), "csi") }

// TestNativeSnapshotCopy: one claim is copied by snapshots that the provider of
// its volume takes itself, past the repository, beside one that is copied as
// files; there and back again, and nothing is left in the cloud.
func TestNativeSnapshotCopy(t *testing.T) {
	long(t)
	l := newLab(t)
	l.apply(strings.Replace(l.twoMethods(), "storageClassName: bed-node", "storageClassName: bed-shared", 1))
	l.rolledOut("deployment/web")
	pv := l.onSource("-n", l.name, "get", "pvc", "shot", "-o", "jsonpath={.spec.volumeName}")
	handle := l.onSource("get", "pv", pv, "-o", "jsonpath={.spec.csi.volumeHandle}")
	files := l.infrastructure()
	files["plan.yaml"] = l.nativePlan(spec.Staged, fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	l.commit("Plan the move", files)
	l.start()
	s := l.wait("a stage run", 3*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if s.Status.LastStage.Result != spec.RunSucceeded {
		t.Fatalf("the stage run: %+v", s.Run.Status)
	}
	staged := l.recorded(s.Run, "shot")
	if staged.Snapshot == "" || staged.SnapshotPlugin != "bed.tranship.dev/folders" || staged.TargetPV != "" || len(l.cloudSnapshots(handle)) != 1 {
		t.Errorf("after the stage run one snapshot is in the cloud and nothing on the target: %v %+v", l.cloudSnapshots(handle), staged)
	}

	l.onSource("-n", l.name, "exec", "deploy/web", "--", "/bin/sh", "-c", "rm /shot/sub/3 && echo changed > /shot/sub/4 && echo new > /shot/late && echo new > /files/late")
	before := l.contents(l.bed.Source.Kubeconfig)
	l.commit("Move the shop", map[string]string{"plan.yaml": l.nativePlan(spec.Migrated, "")})
	s = l.waitReason("Migrated", 5*time.Minute)
	t.Logf("stop time: %.1f s (application's own: %.1f s)", s.Run.Status.StopSeconds, s.Run.Status.OwnSeconds)
	for _, step := range s.Run.Steps {
		if strings.Contains(step.Verb, "snapshot") || step.Verb == "mover.land" {
			t.Logf("%s took %.1f s: %s", step.Name, step.Ended.Sub(step.Started.Time).Seconds(), step.Message)
		}
	}
	if after := l.contents(l.bed.Target.Kubeconfig); after != before {
		t.Errorf("the volumes differ\nbefore:\n%s\nafter:\n%s", before, after)
	}
	moved := l.recorded(s.Run, "shot")
	if moved.Mark != spec.MarkLive || moved.TargetPV != pv || strings.HasSuffix(moved.TargetHandle, handle) || moved.TargetPolicy != "Delete" {
		t.Errorf("the copy is live, under the same name and on another disk than %s: %+v", handle, moved)
	}
	l.keptInCloud(handle, 1)

	l.commit("Take it back", map[string]string{"plan.yaml": l.nativePlan(spec.RolledBack, "rollback: {targetWrites: Discard, keepVolumes: false}")})
	l.waitReason("RolledBack", 4*time.Minute)
	l.rolledOut("deployment/web")
	if again := l.contents(l.bed.Source.Kubeconfig); again != before {
		t.Errorf("the source is not as before:\n%s", again)
	}
	l.gone("the copies on the target", l.bed.Target.Kubeconfig, "get", "pv,pvc", "-A", "-l", "tranship.dev/plan="+spec.ShortName(l.name))
	l.poll("the copy "+moved.TargetHandle+" to be gone from the cloud", time.Second, func() (string, bool) {
		_, err := os.Stat(filepath.Join(l.cloud(), "volumes", filepath.Base(moved.TargetHandle)))
		return fmt.Sprint(err), os.IsNotExist(err)
	})
	l.commit("End the plan", map[string]string{"plan.yaml": l.nativePlan(spec.Closed, "rollback: {targetWrites: Discard, keepVolumes: false}")})
	l.waitReason("Closed", 3*time.Minute)
	l.nothingOfThePlanIsLeft()
	l.keptInCloud(handle, 0)
	for _, kubeconfig := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
		l.gone("what was asked of Velero", kubeconfig, "get", "serverstatusrequests.velero.io,backups.velero.io,restores.velero.io,configmaps", "-n", "velero", "-l", "tranship.dev/plan="+spec.ShortName(l.name))
	}
	l.nothingLeaks()
}

// TestNativeSnapshotWithoutItsPlugin: a location without a plugin behind it is
// told by name, and the application is never touched.
func TestNativeSnapshotWithoutItsPlugin(t *testing.T) {
	long(t)
	l := newLab(t)
	driver := l.name + ".bed.tranship.dev"
	l.write("foreign.yaml", strings.NewReplacer("NAME", l.name, "DRIVER", driver).Replace(`
apiVersion: velero.io/v1
kind: VolumeSnapshotLocation
metadata: {name: NAME, namespace: velero, annotations: {tranship.dev/drivers: DRIVER}}
spec: {provider: DRIVER/none}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: NAME}
provisioner: DRIVER
`))
	file := filepath.Join(l.dir, "foreign.yaml")
	for _, kubeconfig := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
		_, err := l.kubectl(kubeconfig, "apply", "-f", file)
		l.must(err)
		t.Cleanup(func() { _, _ = l.kubectl(kubeconfig, "delete", "-f", file, "--wait=false") })
	}
	l.apply(strings.NewReplacer("NAME", l.name, "DRIVER", driver).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NAME}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: NAME}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: NAME
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: NAME, name: shot}
  csi: {driver: DRIVER, volumeHandle: none}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shot, namespace: NAME}
spec: {accessModes: [ReadWriteOnce], storageClassName: NAME, volumeName: NAME, resources: {requests: {storage: 1Mi}}}
`))
	t.Cleanup(func() { _, _ = l.kubectl(l.bed.Source.Kubeconfig, "delete", "pv", l.name, "--wait=false") })
	l.onSource("-n", l.name, "wait", "--for=jsonpath={.status.phase}=Bound", "pvc/shot", kubePatience)
	files := l.infrastructure()
	files["plan.yaml"] = l.nativePlan(spec.Staged, fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	l.commit("Plan the move", files)
	l.start()
	s := l.wait("a failed stage run", 90*time.Second, func(s *story) bool { return s.Status.LastStage != nil })
	if m := s.Run.Status.Message; s.Status.LastStage.Result != spec.RunFailed || !strings.Contains(m, "VolumeSnapshotter plugin "+driver+"/none") {
		t.Errorf("the stage run: %+v", s.Run.Status)
	}
}

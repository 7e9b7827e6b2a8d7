package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// twoMethods is a Deployment with a claim for each method of copying.
func (l *lab) twoMethods() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shot, namespace: NS, labels: {team: shop}}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 64Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  selector: {matchLabels: {app: web}}
  strategy: {type: Recreate}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        command: [/bin/sh, -c, "for d in shot files; do test -e /$d/born || { mkdir -p /$d/sub; n=0; while [ $n -lt 20 ]; do n=$((n+1)); dd if=/dev/urandom of=/$d/sub/$n bs=64k count=4 2>/dev/null; done; chmod 640 /$d/sub/1; ln -s sub/2 /$d/link; hostname > /$d/born; }; done; exec sleep 100000"]
        readinessProbe: {exec: {command: [test, -e, /files/born]}, periodSeconds: 1, timeoutSeconds: 30}
        volumeMounts: [{name: shot, mountPath: /shot}, {name: files, mountPath: /files}]
      volumes:
      - {name: shot, persistentVolumeClaim: {claimName: shot}}
      - {name: files, persistentVolumeClaim: {claimName: files}}
`)
}

// classOfItsOwn makes a storage class on the target that only this lab uses.
// The driver of a bed that was booted by an older checkout makes a volume also
// for a claim with a selector, which no real provisioner does; there the API
// server refuses that volume.
func (l *lab) classOfItsOwn() {
	l.t.Helper()
	l.write("class.yaml", strings.ReplaceAll(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: NAME}
provisioner: csi.bed.tranship.dev
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAME}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [persistentvolumes]}]}
  validations:
  - expression: "!(object.spec.storageClassName == 'NAME' && object.spec.claimRef.namespace == 'tranship-system')"
    message: the claim has a selector
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME, validationActions: [Deny]}
`, "NAME", l.name))
	file := filepath.Join(l.dir, "class.yaml")
	l.onTarget("apply", "-f", file)
	l.t.Cleanup(func() {
		_, _ = l.kubectl(l.bed.Target.Kubeconfig, "delete", "-f", file, "--wait=false")
	})
}

// contents lists everything on both claims, with checksums and modes.
func (l *lab) contents(kubeconfig string) string {
	l.t.Helper()
	out, err := l.kubectl(kubeconfig, "-n", l.name, "exec", "deploy/web", "--", "/bin/sh", "-c",
		"cd / && find shot files | sort && find shot files -type f | sort | xargs md5sum && find shot files | sort | xargs stat -c '%A %u %g %Y %N'")
	l.must(err)
	if strings.Count(out, "sub/") < 80 {
		l.t.Fatalf("the application's files are not all there:\n%s", out)
	}
	return out
}

func (l *lab) snapshotPlan(state spec.State, extra string) string {
	return l.plan(state, fmt.Sprintf("volumes: {overrides: [{namespace: %s, claim: shot, method: snapshot, storageClassName: %s}]}\n%s", l.name, l.name, extra))
}

// recorded is what a run knows of a claim.
func (l *lab) recorded(run *spec.Run, claim string) spec.Volume {
	l.t.Helper()
	for _, v := range run.Facts.Volumes {
		if v.Claim == claim {
			return v
		}
	}
	l.t.Fatalf("run %s knows no claim %s", run.Metadata.Name, claim)
	return spec.Volume{}
}

// TestSnapshotCopy: one claim is moved by a CSI snapshot, with another class on
// the target, beside one that is copied as files; there and back again.
func TestSnapshotCopy(t *testing.T) {
	l := newLab(t)
	l.classOfItsOwn()
	l.apply(l.twoMethods())
	l.rolledOut("deployment/web")
	files := l.infrastructure()
	files["plan.yaml"] = l.snapshotPlan(spec.Staged, fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	l.commit("Plan the move", files)
	l.start()
	s := l.wait("a stage run", 4*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if s.Status.LastStage.Result != spec.RunSucceeded {
		t.Fatalf("the stage run: %+v", s.Run.Status)
	}
	staged := l.recorded(s.Run, "shot")
	if staged.Snapshot == "" || staged.TargetPV != "" || staged.Bytes < 5<<20 {
		t.Errorf("after the stage run a snapshot is in the repository and nothing on the target: %+v", staged)
	}
	if pvcs := l.onTarget("-n", "tranship-system", "get", "pvc", staged.StagingClaim, "--ignore-not-found", "-o", "name"); pvcs != "" {
		t.Errorf("the stage run made %s", pvcs)
	}

	l.onSource("-n", l.name, "exec", "deploy/web", "--", "/bin/sh", "-c", "rm /shot/sub/3 && echo changed > /shot/sub/4 && echo new > /shot/late && echo new > /files/late")
	before := l.contents(l.bed.Source.Kubeconfig)
	l.commit("Move the shop", map[string]string{"plan.yaml": l.snapshotPlan(spec.Migrated, "")})
	s = l.waitReason("Migrated", 6*time.Minute)
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
	if moved.Mark != spec.MarkLive || moved.ChangedBytes >= moved.Bytes/2 {
		t.Errorf("the last snapshot is small and the copy is live: %+v", moved)
	}
	if got := l.onTarget("-n", l.name, "get", "pvc", "shot", "-o", "jsonpath={.spec.storageClassName} {.metadata.labels.team} {.spec.selector}"); strings.TrimSpace(got) != l.name+" shop" {
		t.Errorf("class, label and selector of the claim: %q", got)
	}

	l.commit("Take it back", map[string]string{"plan.yaml": l.snapshotPlan(spec.RolledBack, "rollback: {targetWrites: Discard, keepVolumes: false}")})
	l.waitReason("RolledBack", 4*time.Minute)
	l.rolledOut("deployment/web")
	if again := l.contents(l.bed.Source.Kubeconfig); again != before {
		t.Errorf("the source is not as before:\n%s", again)
	}
	l.gone("the copies on the target", l.bed.Target.Kubeconfig, "get", "pv,pvc", "-A", "-l", "tranship.dev/plan="+spec.ShortName(l.name))
	l.commit("End the plan", map[string]string{"plan.yaml": l.snapshotPlan(spec.Closed, "rollback: {targetWrites: Discard, keepVolumes: false}")})
	l.waitReason("Closed", 3*time.Minute)
	l.nothingOfThePlanIsLeft()
	l.nothingOfTheSnapshotsIsLeft()
	l.nothingLeaks()
}

// nothingOfTheSnapshotsIsLeft: neither Velero's objects nor its repository.
func (l *lab) nothingOfTheSnapshotsIsLeft() {
	l.t.Helper()
	selector := "tranship.dev/plan=" + spec.ShortName(l.name)
	for _, kubeconfig := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
		l.gone("Velero's snapshots", kubeconfig, "get", "datauploads.velero.io,datadownloads.velero.io,volumesnapshots.snapshot.storage.k8s.io", "-A", "-l", selector)
		l.gone("Velero's repository", kubeconfig, "-n", "velero", "get", "backuprepositories.velero.io", "-l", "velero.io/volume-namespace="+l.name)
	}
}

// TestSnapshotWithoutItsClass: a driver without a VolumeSnapshotClass is said
// right after the merge, and nothing starts.
func TestSnapshotWithoutItsClass(t *testing.T) {
	l := newLab(t)
	l.apply(strings.NewReplacer("NS", l.name).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: NS}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: bed-node
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: NS, name: shot}
  csi: {driver: nobody.bed.tranship.dev, volumeHandle: none}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shot, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, volumeName: NS, resources: {requests: {storage: 1Mi}}}
`))
	t.Cleanup(func() { _, _ = l.kubectl(l.bed.Source.Kubeconfig, "delete", "pv", l.name, "--wait=false") })
	// A claim that is not bound holds no data and has no driver: nothing to say.
	l.onSource("-n", l.name, "wait", "--for=jsonpath={.status.phase}=Bound", "pvc/shot", kubePatience)
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, "volumes: {defaults: {method: snapshot}}")
	l.commit("Plan the move", files)
	l.start()
	s := l.wait("a problem", time.Minute, func(s *story) bool { r, _ := s.condition("Checked"); return r == "NoSnapshotClass" })
	if _, message := s.condition("Checked"); !strings.Contains(message, "no VolumeSnapshotClass of driver nobody.bed.tranship.dev") || !strings.Contains(message, l.name+"/shot") {
		t.Errorf("the status says: %s", message)
	}
}

// TestSnapshotNodeAgentDies: Velero ends what its node agent had begun, and
// another attempt does it again.
func TestSnapshotNodeAgentDies(t *testing.T) {
	long(t)
	l := newLab(t)
	l.classOfItsOwn()
	l.apply(l.twoMethods())
	l.rolledOut("deployment/web")
	files := l.infrastructure()
	files["plan.yaml"] = l.snapshotPlan(spec.Staged, fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	l.commit("Plan the move", files)
	l.start()
	begun := ""
	for end := time.Now().Add(3 * time.Minute); begun != "Prepared" && begun != "InProgress"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no upload began: it is %q", begun)
		}
		begun = l.onSource("-n", "velero", "get", "datauploads.velero.io", "-l", "tranship.dev/plan="+spec.ShortName(l.name), "-o", "jsonpath={.items[*].status.phase}")
	}
	l.onSource("-n", "velero", "delete", "pod", "-l", "name=node-agent", "--grace-period=0", "--force")
	l.onSource("-n", "velero", "rollout", "status", "daemonset/node-agent", kubePatience)
	s := l.wait("a stage run", 6*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	for _, step := range s.Run.Steps {
		if step.Verb == "mover.snapshot" {
			t.Logf("killed when it was %s; then attempt %d is %s: %s", begun, step.Attempt, step.State, step.Message)
		}
	}
	if s.Status.LastStage.Result != spec.RunSucceeded || l.recorded(s.Run, "shot").Snapshot == "" {
		t.Errorf("the stage run: %+v", s.Run.Status)
	}
	l.rolledOut("deployment/web")
}

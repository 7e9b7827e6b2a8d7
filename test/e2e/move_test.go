package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// shared is a Deployment with a claim that both clusters can reach and one
// that they cannot. On the target it is ready only once it may be.
func (l *lab) shared() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: media, namespace: NS, labels: {kind: film}}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-shared, resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 32Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        command: [/bin/sh, -c, "echo $NODE >> /media/nodes; echo $NODE >> /data/nodes; test -e /media/film || { dd if=/dev/urandom of=/media/part bs=1M count=4; mv /media/part /media/film; }; while true; do sleep 1; done"]
        readinessProbe: {exec: {command: [/bin/sh, -c, "case $NODE in source*) test -e /media/film;; *) test -e /media/may;; esac"]}, periodSeconds: 1, timeoutSeconds: 30}
        volumeMounts: [{name: media, mountPath: /media}, {name: data, mountPath: /data}]
      volumes: [{name: media, persistentVolumeClaim: {claimName: media}}, {name: data, persistentVolumeClaim: {claimName: data}}]
`)
}

// volume reads, by kubectl, a field of the volume behind a claim.
func (l *lab) volume(on func(...string) string, claim, path string) string {
	l.t.Helper()
	pv := on("-n", l.name, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	return on("get", "pv", pv, "-o", "jsonpath="+path)
}

func (l *lab) inWeb(on func(...string) string, command string) string {
	l.t.Helper()
	return strings.TrimSpace(on("-n", l.name, "exec", "deployment/web", "--", "/bin/sh", "-c", command))
}

// backAlone checks that the source runs with its own volumes, the moved one with
// what the target wrote there, and that nothing of the move is left.
func (l *lab) backAlone(film string) {
	l.t.Helper()
	l.rolledOut("deployment/web")
	if got := l.volume(l.onSource, "media", "{.spec.persistentVolumeReclaimPolicy} {.metadata.annotations}"); !strings.HasPrefix(got, "Delete ") || strings.Contains(got, "tranship.dev/") {
		l.t.Errorf("the source's volume is %s", got)
	}
	l.poll("the moved volume to be gone from the target", time.Second, func() (string, bool) {
		got := l.onTarget("get", "pv", "-l", "tranship.dev/plan="+spec.ShortName(l.name), "-o", "jsonpath={range .items[*]}{.spec.claimRef.name} {end}")
		return got, !strings.Contains(got, "media")
	})
	l.gone("the target's claim", l.bed.Target.Kubeconfig, "-n", l.name, "get", "pvc", "media")
	if got := l.inWeb(l.onSource, "md5sum /media/film"); got != film {
		l.t.Errorf("the film is %s, it was %s", got, film)
	}
	for claim, want := range map[string]bool{"media": true, "data": false} {
		if got := l.inWeb(l.onSource, "cat /"+claim+"/nodes"); strings.Contains(got, "target-") != want {
			l.t.Errorf("claim %s on the source was written on %q", claim, strings.Fields(got))
		}
	}
}

// openMoved opens a plan that moves one volume and copies another, and returns
// what it says below spec and the sum of the film.
func (l *lab) openMoved(stage string) (plan, film string) {
	l.t.Helper()
	plan = fmt.Sprintf("volumes: {overrides: [{namespace: %s, claim: media, action: move}]}\n", l.name)
	l.open(l.shared(), "deployment/web", plan+stage)
	return plan, l.inWeb(l.onSource, "md5sum /media/film")
}

// TestMoveVolume moves one volume and copies another, and takes both back.
func TestMoveVolume(t *testing.T) {
	l := newLab(t)
	plan, film := l.openMoved(fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	handle := l.volume(l.onSource, "media", "{.spec.csi.volumeHandle}")
	l.inWeb(l.onSource, "touch /media/may")
	s := l.wait("a stage run", 3*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if s.Status.LastStage.Result != spec.RunSucceeded {
		t.Fatalf("the stage run: %+v", s.Run.Status)
	}
	l.flip(spec.Migrated, plan)
	s = l.waitReason("Migrated", 5*time.Minute)
	t.Log(stepOf(s.Run, "move").Message)
	if got := l.inWeb(l.onTarget, "md5sum /media/film"); got != film {
		t.Errorf("the film on the target is %s, on the source it was %s", got, film)
	}
	if got := l.volume(l.onTarget, "media", "{.spec.csi.volumeHandle} {.spec.persistentVolumeReclaimPolicy}"); got != handle+" Retain" {
		t.Errorf("the target's volume is %s, want %s Retain", got, handle)
	}
	if got := l.volume(l.onTarget, "data", "{.spec.csi.volumeHandle}"); got == l.volume(l.onSource, "data", "{.spec.csi.volumeHandle}") {
		t.Error("the copied volume is the source's own")
	}
	if got := l.volume(l.onSource, "media", "{.spec.persistentVolumeReclaimPolicy} {.metadata.annotations.tranship\\.dev/moved-to}"); !strings.HasPrefix(got, "Retain new/") {
		t.Errorf("the source's volume is at %q", got)
	}

	l.flip(spec.RolledBack, plan+"rollback: {targetWrites: Discard}")
	s = l.waitReason("RolledBack", 4*time.Minute)
	l.backAlone(film)
	if _, say := s.condition("Ready"); !strings.Contains(say, "stays on the moved volumes "+l.name+"/media") {
		t.Errorf("the status does not say that the target's writes stay: %s", say)
	}
	if say := strings.Join(s.Run.Status.Warnings, "\n"); !strings.Contains(say, "a plan with moved and copied volumes: "+l.name+"/data") {
		t.Errorf("the record does not say that the volumes are of two times: %s", say)
	}
	l.nothingLeaks()
}

// TestAFailedCutoverGivesTheMovedVolumeBack is not healthy on the target at
// first, which has the volume by then; the next attempt succeeds.
func TestAFailedCutoverGivesTheMovedVolumeBack(t *testing.T) {
	long(t)
	l := newLab(t)
	plan, film := l.openMoved("")
	l.waitReason("Staged", time.Minute)
	l.flip(spec.Migrated, plan+"cutover: {healthTimeout: 15s}")
	s := l.waitReason("CutoverNotDone", 5*time.Minute)
	if step := stepOf(s.Run, "move"); step.State != spec.StepUndone {
		t.Fatalf("the move is %q after %s", step.State, s.Run.Status.Message)
	}
	if say := strings.Join(s.Run.Status.Warnings, "\n"); !strings.Contains(say, "volume "+l.name+"/media: what the application wrote on the target stays") {
		t.Errorf("the record does not say what stays: %s", say)
	}
	l.backAlone(film)

	l.inWeb(l.onSource, "touch /media/may")
	l.flip(spec.Migrated, plan+"cutover: {attempt: 2}")
	l.waitReason("Migrated", 5*time.Minute)
	if got := l.inWeb(l.onTarget, "md5sum /media/film"); got != film {
		t.Errorf("the film on the target is %s, on the source it was %s", got, film)
	}
}

// long skips a test that `make test` has no time for.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("TRANSHIP_LONG") == "" {
		t.Skip("make test-long runs it: others have most of it")
	}
}

func stepOf(r *spec.Run, name string) spec.Step {
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	return spec.Step{}
}

// TestAPlanThatOnlyMoves copies nothing, and is closed: the target's volume
// gets the policy that the source's had, which itself keeps Retain for ever.
func TestAPlanThatOnlyMoves(t *testing.T) {
	long(t)
	l := newLab(t)
	const plan = "volumes: {defaults: {action: move}}\n"
	app := strings.ReplaceAll(l.stateful(), "bed-node", "bed-shared")
	l.open(app, "statefulset/db", plan+fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	s := l.wait("a stage run", 3*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if s.Status.LastStage.Result != spec.RunSucceeded || stepOf(s.Run, "upload").Name != "" {
		t.Fatalf("the stage run: %+v", s.Run.Steps)
	}
	l.flip(spec.Migrated, plan)
	l.waitReason("Migrated", 4*time.Minute)
	for _, pod := range []string{"db-0", "db-1"} {
		if got := strings.TrimSpace(l.onTarget("-n", l.name, "exec", pod, "--", "cat", "/data/born")); got != pod {
			t.Errorf("%s on the target says it was born as %q", pod, got)
		}
	}
	l.flip(spec.Closed, plan)
	l.waitReason("Closed", 3*time.Minute)
	for _, claim := range []string{"data-db-0", "data-db-1"} {
		target, source := l.volume(l.onTarget, claim, "{.spec.persistentVolumeReclaimPolicy}"), l.volume(l.onSource, claim, "{.spec.persistentVolumeReclaimPolicy}")
		if target != "Delete" || source != "Retain" {
			t.Errorf("%s: the target's volume is at %s, the source's at %s", claim, target, source)
		}
	}
	l.nothingOfThePlanIsLeft()
}

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// bulky is a Deployment with more data than the size of its claim: the
// source's volumes are folders, which do not mind.
func (l *lab) bulky() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
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
        command: [/bin/sh, -c, "test -e /data/ready || dd if=/dev/urandom of=/data/big bs=1M count=48; touch /data/ready; while true; do sleep 1; done"]
        readinessProbe: {exec: {command: [test, -e, /data/ready]}, periodSeconds: 1, timeoutSeconds: 30}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`)
}

func (l *lab) sourceReady(want string) {
	l.t.Helper()
	if got := l.onSource("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"); got != want {
		l.t.Errorf("the source has %q ready replicas, want %s", got, want)
	}
}

// TestAFullTargetClaimSaysHowBig copies more files than the target's file
// system has inodes for; more bytes would have got a larger claim.
func TestAFullTargetClaimSaysHowBig(t *testing.T) {
	l := newLab(t)
	extra := fmt.Sprintf("volumes: {overrides: [{namespace: %s, claim: data, storageClassName: bed-small-fs}]}", l.name)
	app := strings.Replace(l.bulky(), "dd if=/dev/urandom of=/data/big bs=1M count=48", "i=0; while [ $i -lt 20000 ]; do : > /data/$i; i=$((i+1)); done", 1)
	l.openStaged(app, "deployment/web", extra)
	l.flip(spec.Migrated, extra)
	s := l.waitReason("CutoverNotDone", 4*time.Minute)
	if _, say := s.condition("Ready"); !strings.Contains(say, "NoSpace") || !strings.Contains(say, "20001 files") {
		t.Errorf("the status does not say that the claim is full: %s", say)
	} else {
		t.Log(say)
	}
	l.sourceReady("1")
}

// TestAMoverThatCannotStart has an image that no node has.
func TestAMoverThatCannotStart(t *testing.T) {
	long(t)
	l := newLab(t)
	l.writeConfig("localhost/no-such-image:1")
	l.openStaged(l.bulky(), "deployment/web", "cutover: {copyTimeout: 60s}")
	l.flip(spec.Migrated, "cutover: {copyTimeout: 60s}")
	s := l.waitReason("CutoverNotDone", 3*time.Minute)
	if _, say := s.condition("Ready"); !strings.Contains(say, "no-such-image") && !strings.Contains(say, "ImagePull") && !strings.Contains(say, "image") {
		t.Errorf("the status does not say that the image is missing: %s", say)
	} else {
		t.Log(say)
	}
	l.sourceReady("1")
	l.gone("our pods in the application's namespace", l.bed.Source.Kubeconfig, "-n", l.name, "get", "pods", "-l", "app.kubernetes.io/managed-by=tranship")
}

// TestVeleroRestartedDuringTheCutover deletes Velero's pod as soon as the
// Backup is there: a restarted Velero marks its work Failed, and a new attempt
// is made.
func TestVeleroRestartedDuringTheCutover(t *testing.T) {
	l := newLab(t)
	l.openStaged(l.stateless(), "deployment/web", "")
	l.flip(spec.Migrated, "")
	selector := "tranship.dev/plan=" + spec.ShortName(l.name)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no Backup appeared")
		}
		if got, _ := l.kubectl(l.bed.Source.Kubeconfig, "-n", "velero", "get", "backups.velero.io", "-l", selector, "-o", "name"); strings.Contains(got, "backup") {
			break
		}
	}
	l.onSource("-n", "velero", "delete", "pod", "-l", "deploy=velero", "--grace-period=0", "--force")
	s := l.waitReason("Migrated", 4*time.Minute)
	for _, step := range s.Run.Steps {
		if step.Name == "backup" {
			t.Logf("backup: %d attempts", step.Attempt)
		}
	}
	l.onSource("-n", "velero", "rollout", "status", "deployment/velero", kubePatience)
}

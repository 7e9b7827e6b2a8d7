package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// archive is a Deployment with a claim that is nearly full and gets another
// name, to stand beside the StatefulSet of stateful.
func (l *lab) archive() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files, namespace: NS, labels: {team: shop}}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 64Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: archive, namespace: NS}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: archive}}
  template:
    metadata: {labels: {app: archive}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: archive
        image: IMAGE
        command: [/bin/sh, -c, "test -e /files/first || { dd if=/dev/urandom of=/files/much bs=1M count=60; echo on the source > /files/first; }; while true; do sleep 1; done"]
        readinessProbe: {exec: {command: [test, -e, /files/first]}, periodSeconds: 1, timeoutSeconds: 30}
        volumeMounts: [{name: files, mountPath: /files}]
      volumes: [{name: files, persistentVolumeClaim: {claimName: files}}]
`)
}

// TestClaimsGetAnotherClassAndAnotherName moves a StatefulSet to another
// storage class and a Deployment to another claim, into a namespace of another
// name; the StatefulSet is then scaled up where it arrived.
func TestClaimsGetAnotherClassAndAnotherName(t *testing.T) {
	long(t)
	l := newLab(t)
	l.apply(l.stateful() + l.archive())
	l.rolledOut("statefulset/db")
	l.rolledOut("deployment/archive")
	there := l.name + "-new"
	t.Cleanup(func() {
		_, _ = l.kubectl(l.bed.Target.Kubeconfig, "delete", "namespace", there, "--ignore-not-found", "--wait=false")
	})
	plan := func(state spec.State, extra string) string {
		text := l.plan(state, fmt.Sprintf("volumes: {overrides: [{namespace: %s, claim: data-db-0, storageClassName: bed-gold}, {namespace: %s, claim: data-db-1, storageClassName: bed-gold}, {namespace: %s, claim: files, targetClaim: documents, storageClassName: bed-small-fs}]}\n%s", l.name, l.name, l.name, extra))
		return strings.Replace(text, "namespaces: [{name: "+l.name+"}]", "namespaces: [{name: "+l.name+", targetName: "+there+"}]", 1)
	}
	files := l.infrastructure()
	files["plan.yaml"] = plan(spec.Staged, "")
	l.commit("Plan the move", files)
	l.start()
	l.waitReason("Staged", time.Minute)
	l.foreseen()
	l.commit("Move the database", map[string]string{"plan.yaml": plan(spec.Migrated, "")})
	s := l.waitReason("Migrated", 4*time.Minute)
	t.Logf("stop time: %.1f s (application's own: %.1f s)", s.Run.Status.StopSeconds, s.Run.Status.OwnSeconds)

	onTarget := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(l.onTarget(append([]string{"-n", there}, args...)...))
	}
	if got := onTarget("get", "pvc", "documents", "-o", "jsonpath={.status.phase} {.spec.storageClassName} {.metadata.labels.team} {.status.capacity.storage}"); got != "Bound bed-small-fs shop 76Mi" {
		t.Errorf("the renamed claim: %q (60 MiB and a line in 64 MiB need 76)", got)
	}
	if got := onTarget("get", "deployment", "archive", "-o", "jsonpath={.spec.template.spec.volumes[0].persistentVolumeClaim.claimName} {.metadata.annotations}"); !strings.HasPrefix(got, "documents ") || strings.Contains(got, "tranship.dev/applied") {
		t.Errorf("the Deployment mounts another claim, or listing again changed what was restored: %s", got)
	}
	if got := onTarget("exec", "deployment/archive", "--", "cat", "/files/first"); got != "on the source" {
		t.Errorf("the renamed claim holds %q", got)
	}
	if got := onTarget("get", "statefulset", "db", "-o", "jsonpath={.spec.volumeClaimTemplates[0].spec.storageClassName} {.metadata.annotations}"); !strings.HasPrefix(got, "bed-gold ") || strings.Contains(got, "tranship.dev/applied") {
		t.Errorf("the template: %s", got)
	}
	onTarget("scale", "statefulset", "db", "--replicas=3")
	onTarget("rollout", "status", "statefulset/db", kubePatience)
	if got := onTarget("get", "pvc", "-l", "app=db", "-o", `jsonpath={range .items[*]}{.metadata.name} {.spec.storageClassName} {.status.phase}{"\n"}{end}`); got != "data-db-0 bed-gold Bound\ndata-db-1 bed-gold Bound\ndata-db-2 bed-gold Bound" {
		t.Errorf("the claims after scaling up:\n%s", got)
	}
	onTarget("scale", "statefulset", "db", "--replicas=2")
	if got := l.onSource("-n", l.name, "get", "statefulset", "db", "-o", "jsonpath={.spec.volumeClaimTemplates[0].spec.storageClassName}"); got != "bed-node" {
		t.Errorf("the source's template says %q", got)
	}

	l.commit("Take it back", map[string]string{"plan.yaml": plan(spec.RolledBack, "rollback: {targetWrites: Discard}")})
	l.waitReason("RolledBack", 4*time.Minute)
	l.rolledOut("statefulset/db")
	l.rolledOut("deployment/archive")
	l.gone("the target's claims", l.bed.Target.Kubeconfig, "-n", there, "get", "pvc", "documents", "data-db-0")
	l.nothingLeaks()
}

// foreseen: the status says what will happen to each volume before anything
// has run.
func (l *lab) foreseen() {
	l.t.Helper()
	l.wait("the survey", time.Minute, func(s *story) bool { return len(s.Status.Volumes) == 3 })
	text := l.run(l.binary, "status", l.name, "--config", filepath.Join(l.dir, "config.yaml"), "--secrets-dir", filepath.Join(l.dir, "secrets"))
	for _, want := range []string{"bed-node -> bed-gold", "bed-node -> bed-small-fs", "-> " + l.name + "-new/documents", "Deployment/archive", "StatefulSet/db"} {
		if !strings.Contains(text, want) {
			l.t.Errorf("the status does not foresee %q:\n%s", want, text)
		}
	}
	l.t.Log("\n" + text)
}

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// tell is what `tranship status PLAN` prints for people.
func (l *lab) tell() string {
	l.t.Helper()
	return l.run(l.binary, "status", l.name, "--config", filepath.Join(l.dir, "config.yaml"), "--secrets-dir", filepath.Join(l.dir, "secrets"))
}

// freeNodePort is one that no Service of either cluster has, of those that no
// Service is given that does not ask for one.
func (l *lab) freeNodePort() int {
	l.t.Helper()
	taken := ""
	for _, on := range []func(...string) string{l.onSource, l.onTarget} {
		taken += " " + on("get", "services", "-A", "-o", "jsonpath={.items[*].spec.ports[*].nodePort}") + " "
	}
	for i := range 86 {
		if port := 30000 + (int(time.Now().UnixNano()/1000)+i)%86; !strings.Contains(taken, fmt.Sprintf(" %d ", port)) {
			return port
		}
	}
	l.t.Fatalf("no node port is free:%s", taken)
	return 0
}

// TestOutcomeIsRecorded: where users reach the application, how many objects
// came over and what was changed stand in the record of one cutover.
func TestOutcomeIsRecorded(t *testing.T) {
	l := newLab(t)
	port := l.freeNodePort()
	app := l.stateless() + strings.NewReplacer("NS", l.name, "PORT", fmt.Sprint(port)).Replace(`---
apiVersion: v1
kind: Service
metadata: {name: door, namespace: NS, annotations: {external-dns.alpha.kubernetes.io/hostname: door.example.com}}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: PORT}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: NS}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
`)
	l.openStaged(app, "deployment/web", "")
	l.flip(spec.Migrated, "")
	s := l.waitReason("Migrated", 3*time.Minute)
	f := &s.Run.Facts
	door, host := fmt.Sprintf("node port %d", port), l.name+".example.com"
	for _, x := range f.Traffic {
		if x.Kind == "Service" && (x.OldAddress != door || x.NewAddress != door) || x.Kind == "Ingress" && (x.OldAddress != host || x.NewAddress != host) {
			t.Errorf("%s %s: %q -> %q", x.Kind, x.Name, x.OldAddress, x.NewAddress)
		}
	}
	if len(f.Traffic) != 2 {
		t.Errorf("%d traffic objects: %+v", len(f.Traffic), f.Traffic)
	}
	want := map[string]int{"ConfigMap": 1, "Secret": 1, "Deployment.apps": 1, "Service": 2, "Ingress.networking.k8s.io": 1, "PodDisruptionBudget.policy": 1}
	for _, c := range f.Counts {
		if c.Source != want[c.Kind] || c.Target != want[c.Kind] {
			t.Errorf("%s: %d on the source, %d on the target, want %d", c.Kind, c.Source, c.Target, want[c.Kind])
		}
		delete(want, c.Kind)
	}
	if len(want) > 0 {
		t.Errorf("not counted: %v", want)
	}
	told := l.tell()
	for _, say := range []string{
		"external-dns publishes the addresses of source Service " + l.name + "/door (door.example.com)",
		"objects   7 on the source, 7 of them on the target", host + " -> " + host, door + " -> " + door,
		"spec.replicas", "2 -> 0 (held at first)", "NodePort -> ClusterIP (held at first)",
	} {
		if !strings.Contains(told, say) {
			t.Errorf("tranship status does not tell %q", say)
		}
	}
	t.Log("\n" + told)
}

// TestExistingObjectsAreSkipped: what was on the target before stays exactly as
// it was, through cutover and rollback; a claim in the way is refused.
func TestExistingObjectsAreSkipped(t *testing.T) {
	l := newLab(t)
	l.onTarget("create", "namespace", l.name)
	l.onTarget("label", "namespace", l.name, "team=shop")
	l.onTarget("-n", l.name, "create", "configmap", "settings", "--from-literal=owner=someone")
	l.onTarget("-n", l.name, "create", "ingress", "web", "--rule=elsewhere.example.com/*=web:80")
	untouched := func(when string) {
		t.Helper()
		if got := l.onTarget("-n", l.name, "get", "configmap/settings", "ingress/web", "-o", "jsonpath={range .items[*]}{.data.owner}{.spec.rules[0].host}{.metadata.annotations}{.metadata.labels} {end}"); got != "someone elsewhere.example.com " {
			t.Errorf("%s the objects that were there are %q", when, got)
		}
	}
	l.openStaged(l.stateless(), "deployment/web", "existing: Skip")
	l.flip(spec.Migrated, "existing: Skip")
	s := l.waitReason("Migrated", 3*time.Minute)
	untouched("after the cutover")
	var skipped []string
	for _, o := range s.Run.Facts.Skipped {
		skipped = append(skipped, o.Kind+"/"+o.Name)
	}
	if got := strings.Join(skipped, " "); got != "ConfigMap/settings Ingress/web" {
		t.Errorf("the record says that these were skipped: %s", got)
	}
	if told := l.tell(); !strings.Contains(told, "skipped   ConfigMap "+l.name+"/settings") || !strings.Contains(told, "left as they are") {
		t.Errorf("tranship status does not tell what was skipped:\n%s", told)
	}
	if got := l.onTarget("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"); got != "2" {
		t.Errorf("the target has %q ready replicas, want 2", got)
	}
	back := "existing: Skip\nrollback: {targetWrites: Discard}"
	l.flip(spec.RolledBack, back)
	l.waitReason("RolledBack", 3*time.Minute)
	untouched("after the rollback")
	l.gone("what was restored on the target", l.bed.Target.Kubeconfig, "-n", l.name, "get", "deployment,service,secret")
}

// TestExistingObjectsAreUpdated: what was on the target before becomes the
// source's, and is after the rollback what it was: a Secret, a Deployment that
// runs there, an Ingress, and a door that is open. No value gets into Git.
func TestExistingObjectsAreUpdated(t *testing.T) {
	long(t)
	l := newLab(t)
	l.onTarget("create", "namespace", l.name)
	l.onTarget("label", "namespace", l.name, "team=shop")
	l.onTarget("-n", l.name, "create", "secret", "generic", "password", "--from-literal=password=the-targets-former-value")
	l.onTarget("-n", l.name, "create", "ingress", "web", "--rule=elsewhere.example.com/*=web:80")
	l.onTarget("-n", l.name, "create", "deployment", "web", "--image=localhost/bed/busybox:1", "--replicas=3", "--", "sleep", "86400")
	l.onTarget("-n", l.name, "patch", "deployment", "web", "-p", `{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":0}}}}`)
	l.onTarget("-n", l.name, "rollout", "status", "deployment/web", "--timeout=5m")
	contents := func() string {
		return l.onTarget("-n", l.name, "get", "secret/password", "ingress/web", "deployment/web", "-o", "jsonpath={range .items[*]}{.metadata.uid}{.metadata.labels}{.data}{.spec}{.metadata.annotations.tranship\\.dev/former}{\"\\n\"}{end}")
	}
	before := contents()
	policy := "existing: Update"
	l.openStaged(l.stateless(), "deployment/web", policy)
	l.flip(spec.Migrated, policy)
	s := l.waitReason("Migrated", 5*time.Minute)
	var updated []string
	for _, o := range s.Run.Facts.Updated {
		updated = append(updated, o.Kind+"/"+o.Name)
	}
	slices.Sort(updated)
	if got := strings.Join(updated, " "); got != "Deployment/web Ingress/web Secret/password" {
		t.Errorf("the record says that these were updated: %s", got)
	}
	if got := l.onTarget("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}{.metadata.uid}"); !strings.HasPrefix(got, "2") || !strings.Contains(before, got[1:]) {
		t.Errorf("the target has %q ready replicas and UID, want 2 and the one that it had", got)
	}
	l.neverSaid("the-targets-former-value")
	l.flip(spec.RolledBack, policy+"\nrollback: {targetWrites: Discard}")
	l.waitReason("RolledBack", 5*time.Minute)
	if after := contents(); after != before {
		t.Errorf("after the rollback the objects are\n%s\nand were\n%s", after, before)
	}
	remembered := func(when string, want int) {
		t.Helper()
		if got := strings.Fields(l.onTarget("-n", "tranship-system", "get", "secret", "-l", "tranship.dev/former-of,tranship.dev/plan="+spec.ShortName(l.name), "-o", "name")); len(got) != want {
			t.Errorf("%s %d objects are remembered, want %d", when, len(got), want)
		}
	}
	remembered("after the rollback", 0)
	l.sourceReady("2")
	l.flip(spec.Migrated, policy)
	l.waitReason("Migrated", 5*time.Minute)
	remembered("after the second cutover", 3)
	l.flip(spec.Closed, policy)
	l.waitReason("Closed", 5*time.Minute)
	remembered("after the end", 0)
	if marks := l.onTarget("-n", l.name, "get", "secret/password", "ingress/web", "deployment/web", "-o", "jsonpath={.items[*].metadata.annotations}"); strings.Contains(marks, "tranship") {
		t.Errorf("after the end the objects carry %s", marks)
	}
}

// TestUnhealthyTargetRollsBack has an application that only runs on nodes of
// the source: the status names pod, container and what it said, not its
// password, and the source runs again. The pod has to have ended before the
// deadline, which a busy node takes its time for.
func TestUnhealthyTargetRollsBack(t *testing.T) {
	long(t)
	l := newLab(t)
	app := strings.Replace(l.stateless(), `command: [/bin/sh, -c, "mkdir`,
		`env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: CODE, valueFrom: {secretKeyRef: {name: password, key: password}}}]
        command: [/bin/sh, -c, "case $NODE in source*) ;; *) echo no license for node $NODE, code $CODE >&2; exit 3;; esac; mkdir`, 1)
	l.openStaged(app, "deployment/web", "cutover: {healthTimeout: 60s}")
	l.flip(spec.Migrated, "cutover: {healthTimeout: 60s}")
	s := l.waitReason("CutoverNotDone", 3*time.Minute)
	_, say := s.condition("Ready")
	for _, want := range []string{"step health", "target Deployment " + l.name + "/web", "pod web-", "container web", "exit code 3", "no license for node target-", "code <hidden>"} {
		if !strings.Contains(say, want) {
			t.Errorf("the status does not say %q: %s", want, say)
		}
	}
	t.Log(say)
	l.sourceReady("2")
	l.gone("what was restored on the target", l.bed.Target.Kubeconfig, "-n", l.name, "get", "deployment,service,ingress,secret")
	l.nothingLeaks()
}

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// stateless is a Deployment with what usually surrounds it.
func (l *lab) stateless() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS, labels: {team: shop}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: NS}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: NS}
stringData: {password: do-not-tell-anyone}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        command: [/bin/sh, -c, "mkdir -p /tmp/www && echo hello > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 30}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: NS}
spec: {rules: [{host: NS.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
`)
}

// stateful is a StatefulSet whose claims Kubernetes deletes when it is scaled
// to zero, unless somebody takes care.
func (l *lab) stateful() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: NS}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: NS}
spec:
  replicas: 2
  serviceName: db
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999}
      containers:
      - name: db
        image: IMAGE
        command: [/bin/sh, -c, "test -e /data/born || hostname > /data/born; n=0; while true; do n=$((n+1)); echo $n >> /data/journal; sleep 1; done"]
        readinessProbe: {exec: {command: [test, -e, /data/born]}, periodSeconds: 1, timeoutSeconds: 30}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 64Mi}}}
`)
}

func (l *lab) rolledOut(workload string) {
	l.t.Helper()
	l.onSource("-n", l.name, "rollout", "status", workload, kubePatience)
}

func TestMigrateAndRollBackWithoutVolumes(t *testing.T) {
	l := newLab(t)
	l.openStaged(l.stateless(), "deployment/web", "")

	merged := l.flip(spec.Migrated, "")
	s := l.waitReason("Migrated", 3*time.Minute)
	if s.Run == nil || s.Run.Spec.ApprovedBy.Commit != merged || s.Run.Status.StopSeconds <= 0 {
		t.Fatalf("the record does not say who approved, or how long it stopped: %+v", s.Run)
	}
	t.Logf("stop time: %.1f s (application's own: %.1f s)", s.Run.Status.StopSeconds, s.Run.Status.OwnSeconds)
	if got := l.onTarget("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"); got != "2" {
		t.Errorf("the target has %q ready replicas, want 2", got)
	}
	if got := l.onSource("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"); got != "0" {
		t.Errorf("the source has %q replicas, want 0", got)
	}
	told := l.run(l.binary, "logs", l.name, "--config", filepath.Join(l.dir, "config.yaml"), "--secrets-dir", filepath.Join(l.dir, "secrets"))
	for _, want := range []string{"approved  " + merged[:12], "Set the plan to Migrated", "traffic", "stop time:"} {
		if !strings.Contains(told, want) {
			t.Errorf("tranship logs does not tell of %q:\n%s", want, told)
		}
	}
	t.Log("\n" + told)
	l.onTarget("-n", l.name, "get", "ingress/web", "service/web", "configmap/settings", "secret/password")
	if got := l.onTarget("get", "namespace", l.name, "-o", "jsonpath={.metadata.labels.team}"); got != "shop" {
		t.Errorf("the namespace lost its label: %q", got)
	}

	l.flip(spec.RolledBack, "rollback: {targetWrites: Discard}")
	l.waitReason("RolledBack", 3*time.Minute)
	if got := l.onSource("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas} {.metadata.annotations}"); !strings.HasPrefix(got, "2 ") || strings.Contains(got, "tranship.dev/") {
		t.Errorf("the source is not as before: %s", got)
	}
	l.gone("what was restored on the target", l.bed.Target.Kubeconfig, "-n", l.name, "get", "deployment,service,ingress,secret")
	l.nothingLeaks()
}

func TestStatefulSetKeepsItsClaims(t *testing.T) {
	l := newLab(t)
	l.open(l.stateful(), "statefulset/db", fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	s := l.wait("a stage run", 3*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if s.Status.LastStage.Result != spec.RunSucceeded {
		t.Fatalf("the stage run: %+v", s.Run.Status)
	}
	l.flip(spec.Migrated, "volumes: {defaults: {verify: true}}")
	s = l.waitReason("Migrated", 4*time.Minute)
	l.logTimes(s.Run)
	for _, v := range s.Run.Facts.Volumes {
		if p := v.Verified; p == nil || p.Run != s.Run.Metadata.Name || p.Snapshot != v.Snapshot || !p.Complete || p.Errors != 0 {
			t.Errorf("claim %s was verified: %+v", v.Claim, p)
		}
	}
	// Movers that a busy node does not bring up within a minute are not waited for.
	if m := stepOf(s.Run, "movers"); m.Ended.Sub(m.Started.Time) < time.Minute {
		l.neverSaid("cannot be told", "without every mover")
	}
	for _, pod := range []string{"db-0", "db-1"} {
		if got := strings.TrimSpace(l.onTarget("-n", l.name, "exec", pod, "--", "cat", "/data/born")); got != pod {
			t.Errorf("%s on the target says it was born as %q", pod, got)
		}
	}
	if got := l.onSource("-n", l.name, "get", "pvc", "-o", "name"); strings.Count(got, "persistentvolumeclaim/") != 2 {
		t.Errorf("claims of the source: %q, want both", got)
	}

	l.flip(spec.RolledBack, "rollback: {targetWrites: Discard}")
	l.waitReason("RolledBack", 4*time.Minute)
	l.rolledOut("statefulset/db")
	if got := l.onSource("-n", l.name, "get", "statefulset", "db", "-o", "jsonpath={.spec.persistentVolumeClaimRetentionPolicy.whenScaled} {.status.readyReplicas}"); got != "Delete 2" {
		t.Errorf("the source's own policy and replicas: %q, want %q", got, "Delete 2")
	}
	for _, pod := range []string{"db-0", "db-1"} {
		if got := strings.TrimSpace(l.onSource("-n", l.name, "exec", pod, "--", "cat", "/data/born")); got != pod {
			t.Errorf("%s on the source says it was born as %q", pod, got)
		}
	}

	if len(l.volumeData()) == 0 {
		t.Error("the store holds no volume data before the plan is closed: where is it?")
	}
	l.flip(spec.Closed, "rollback: {targetWrites: Discard}")
	l.waitReason("Closed", 3*time.Minute)
	l.nothingOfThePlanIsLeft()
	if left := l.volumeData(); len(left) > 0 {
		t.Errorf("of the volume data is left: %q", left)
	}
	l.nothingLeaks()
}

// nothingLeaks looks for every secret value of the lab in the whole history of
// its ledger and in the daemon's log.
func (l *lab) nothingLeaks() {
	l.t.Helper()
	l.git("fetch", "-q", "origin", l.Ledger())
	text := l.git("log", "-p", "FETCH_HEAD")
	text += l.Log.String()
	secrets, err := l.Secrets()
	l.must(err)
	for _, secret := range append(secrets, "do-not-tell-anyone") {
		if strings.Contains(text, secret) {
			l.t.Errorf("a secret of %d characters is in the ledger or the log", len(secret))
		}
	}
}

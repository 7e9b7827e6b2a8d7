package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// everyWay is an application with a volume for each way to the target, something
// that scales it and a way in. bed-small-fs has room for few files.
func (l *lab) everyWay() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shot, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: sent, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-small-fs, resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: moved, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: bed-shared, resources: {requests: {storage: 32Mi}}}
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
        command: [/bin/sh, -c, "for d in shot sent moved; do test -e /$d/born || { dd if=/dev/urandom of=/$d/much bs=64k count=16 2>/dev/null; echo source > /$d/changed; echo gone > /$d/deleted; hostname > /$d/born; }; done; exec sleep 100000"]
        readinessProbe: {exec: {command: [test, -e, /moved/born]}, periodSeconds: 1, timeoutSeconds: 30}
        volumeMounts: [{name: shot, mountPath: /shot}, {name: sent, mountPath: /sent}, {name: moved, mountPath: /moved}]
      volumes:
      - {name: shot, persistentVolumeClaim: {claimName: shot}}
      - {name: sent, persistentVolumeClaim: {claimName: sent}}
      - {name: moved, persistentVolumeClaim: {claimName: moved}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: NS}
spec: {minReplicas: 1, maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: NS}
spec: {rules: [{host: NS.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
`)
}

// TestCopyBackOfEveryVolume takes a cutover back whose volumes went by snapshot, from
// mover to mover, and as one disk. The first try fails after the stop: what scales and
// what lets users in is there again on the target. After the second it is gone there,
// and the source has all that the target wrote.
func TestCopyBackOfEveryVolume(t *testing.T) {
	long(t)
	l := newLab(t)
	l.classOfItsOwn()
	plan := func(attempt int, more string) string {
		return fmt.Sprintf("volumes: {overrides: [{namespace: %[1]s, claim: shot, method: snapshot, storageClassName: %[1]s}, {namespace: %[1]s, claim: sent, transfer: Direct, storageClassName: bed-node}, {namespace: %[1]s, claim: moved, action: move}]}\ncutover: {attempt: %[2]d}\nrollback: {targetWrites: CopyBack}\n%[3]s", l.name, attempt, more)
	}
	l.open(l.everyWay(), "deployment/web", plan(1, fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339))))
	around := func(on func(...string) string) string {
		return strings.Join(strings.Fields(on("-n", l.name, "get", "hpa,ingress,deployment", "--ignore-not-found", "-o", "jsonpath={range .items[*]}{.kind} {.spec.replicas}{.spec.maxReplicas}{.spec.rules[0].host} {end}")), " ")
	}
	stands := fmt.Sprintf("HorizontalPodAutoscaler 2 Ingress %s.example.com Deployment 1", l.name)
	s := l.wait("a stage run", 4*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if s.Status.LastStage.Result != spec.RunSucceeded {
		t.Fatalf("the stage run: %+v", s.Run.Status)
	}
	l.flip(spec.Migrated, plan(1, ""))
	l.waitReason("Migrated", 6*time.Minute)
	const write = "for d in shot sent moved; do echo target > /$d/changed; rm /$d/deleted; mkdir /$d/more; echo $d > /$d/more/written; done; mkdir /sent/crowd; i=0; while [ $i -lt 20000 ]; do : > /sent/crowd/$i; i=$((i+1)); done; cat /*/much | md5sum"
	much := strings.Join(strings.Fields(l.inWeb(l.onTarget, write)), " ")

	l.flip(spec.RolledBack, plan(1, ""))
	s = l.waitReason("RollbackNotDone", 6*time.Minute)
	if _, say := s.condition("Ready"); !strings.Contains(say, "write-source") || !strings.Contains(say, "NoSpace") {
		t.Errorf("the status does not say what failed: %s", say)
	}
	l.onTarget("-n", l.name, "rollout", "status", "deployment/web", kubePatience)
	if got := around(l.onTarget); got != stands {
		t.Errorf("after the failure the target has %q, want %q", got, stands)
	}
	const read = "for d in shot sent moved; do ls /$d | grep -v lost; cat /$d/changed /$d/more/written; done; cat /*/much | md5sum"
	want := func(claim, also string) string {
		return "born changed " + also + "more much target " + claim
	}
	all := strings.Join([]string{want("shot", ""), want("sent", "crowd "), want("moved", ""), much}, " ")
	if got := strings.Join(strings.Fields(l.inWeb(l.onTarget, read)), " "); got != all {
		t.Errorf("after the failure the target has\n%s\nwant\n%s", got, all)
	}

	l.inWeb(l.onTarget, "rm -r /sent/crowd; echo again >> /shot/changed; echo again >> /moved/changed")
	l.flip(spec.RolledBack, plan(2, ""))
	s = l.waitReason("RolledBack", 6*time.Minute)
	_, say := s.condition("Ready")
	t.Log(say)
	if !strings.Contains(say, "moved volumes "+l.name+"/moved") || strings.Count(say, " of "+l.name+"/") < 2 {
		t.Error("the status does not name the volumes")
	}
	l.rolledOut("deployment/web")
	all = strings.NewReplacer("crowd ", "", "target shot", "target again shot", "target moved", "target again moved").Replace(all)
	if got := strings.Join(strings.Fields(l.inWeb(l.onSource, read)), " "); got != all {
		t.Errorf("the source has\n%s\nwant\n%s", got, all)
	}
	if got := around(l.onSource); got != stands {
		t.Errorf("the source has %q, want %q", got, stands)
	}
	l.gone("the target's objects", l.bed.Target.Kubeconfig, "-n", l.name, "get", "deployment,pods,hpa,ingress")
	for _, on := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
		l.gone("holders and movers", on, "get", "pods,jobs", "-A", "-l", "tranship.dev/plan="+spec.ShortName(l.name))
	}
	l.flip(spec.Closed, plan(2, ""))
	l.waitReason("Closed", 4*time.Minute)
	for _, claim := range []string{"shot", "sent"} {
		if got := l.onSource("-n", l.name, "get", "pvc", claim, "-o", "jsonpath={.metadata.annotations}"); strings.Contains(got, "tranship.dev/") {
			t.Errorf("a closed plan leaves on the source's claim %s %s", claim, got)
		}
	}
	l.nothingLeaks()
}

package mover

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const setYAML = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  serviceName: db
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: db
        image: localhost/bed/busybox:1
        command: [/bin/sh, -c, "trap 'exit 0' TERM; while true; do sleep 1; done"]
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: data, mountPath: /data}, {name: log, mountPath: /log}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 32Mi}}}
  - metadata: {name: log}
    spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 32Mi}}}
`

func (l *bedLab) set() {
	l.t.Helper()
	bedtest.Put(l.t, l.Source, l.from, setYAML)
	l.await("two running pods", func() bool {
		n := 0
		for _, p := range l.pods(l.Source, l.from, "app=web") {
			if p.Status.Phase == corev1.PodRunning {
				n++
			}
		}
		return n == 2
	})
}

// Four claims of two pods, of a class that waits for its first consumer: the
// claims of one pod come out on one node.
func TestBedStatefulSet(t *testing.T) {
	l := newBedLab(t)
	l.set()
	claims := []string{"data-db-0", "data-db-1", "log-db-0", "log-db-1"}
	for _, c := range claims {
		l.random(l.path(l.Source, l.from, c)+"/"+c, 300_000)
	}
	l.step("upload", "mover.upload", 1)
	l.step("claims", "mover.claims", 1)
	l.Settings.Limits.MoversPerPlan = 1 // the two pods' claims are written one after the other
	l.step("restore-volumes", "mover.restore", 1)
	nodes := map[string]map[string]bool{}
	for _, v := range l.Run.Facts.Volumes {
		l.equal(l.path(l.Source, l.from, v.Claim), l.path(l.Target, l.Settings.Namespace, v.StagingClaim))
		pv, err := l.Target.Kube.CoreV1().PersistentVolumes().Get(t.Context(), v.TargetPV, metav1.GetOptions{})
		l.must(err)
		if nodes[v.Group] == nil {
			nodes[v.Group] = map[string]bool{}
		}
		nodes[v.Group][fmt.Sprint(pv.Spec.NodeAffinity)] = true
	}
	if len(nodes) != 2 || len(nodes["StatefulSet/db/0"]) != 1 || len(nodes["StatefulSet/db/1"]) != 1 {
		t.Fatalf("groups %v", nodes)
	}
	l.step("restore-volumes", "mover.restore", 2) // nothing to do
	l.step("upload", "mover.upload", 2)
	l.step("restore-volumes", "mover.restore", 3)
	l.step("hand-over", "mover.hand-over", 1)
	l.step("hand-over", "mover.hand-back", 1)
}

// A target that is too small says so in one sentence, and a second attempt to a
// claim that was half written compares everything.
func TestBedNoSpace(t *testing.T) {
	l := newBedLab(t)
	l.set()
	dir := l.path(l.Source, l.from, "data-db-0")
	l.random(dir+"/a-little", 1000)
	l.Run.Spec.Closure.Plan.Spec.Volumes.Overrides = []spec.VolumeOverride{{Namespace: l.from, Claim: "data-db-0", StorageClassName: "bed-small-fs"}}
	l.step("upload", "mover.upload", 1)
	l.step("claims", "mover.claims", 1)
	l.random(dir+"/too-much", 48<<20) // later than the claim, which would else have been made larger
	l.step("upload", "mover.upload", 2)
	o := bedtest.Drive(t, l.Env, Verbs(), "restore-volumes", "mover.restore", 1)
	if o.Seen != reconciler.Broken || !o.Final || o.Reason != "NoSpace" || !strings.Contains(o.Message, "is full") {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
	l.must(os.Remove(dir + "/too-much"))
	l.step("upload", "mover.upload", 3)
	l.step("restore-volumes", "mover.restore", 2)
	l.step("claims", "mover.claims-undo", 1)
}

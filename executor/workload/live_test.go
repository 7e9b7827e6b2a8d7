package workload

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Templates of the applications on the bed. They end at once when told to.
const (
	podSpec = `
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: localhost/bed/busybox:1
        command: [sh, -c, "trap 'exit 0' TERM; while true; do date > /data/now; sleep 0.2; done"]
        volumeMounts: [{name: data, mountPath: /data}]`

	deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, labels: {app: NAME}}
spec:
  replicas: REPLICAS
  paused: PAUSED
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}` + podSpec + `
      volumes: [{name: data, persistentVolumeClaim: {claimName: NAME}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: NAME, labels: {app: NAME}}
spec: {accessModes: [ReadWriteMany], storageClassName: bed-shared, resources: {requests: {storage: 1Mi}}}`

	statefulSet = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: NAME, labels: {app: NAME}}
spec:
  replicas: REPLICAS
  serviceName: NAME
  selector: {matchLabels: {app: NAME}}
  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete}
  template:
    metadata: {labels: {app: NAME}}` + podSpec + `
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: bed-node, resources: {requests: {storage: 1Mi}}}`
)

func fill(template, name, replicas, paused string) string {
	return strings.NewReplacer("NAME", name, "REPLICAS", replicas, "PAUSED", paused).Replace(template)
}

func (l *lab) volumesOf(claims ...string) {
	for _, c := range claims {
		l.env.Run.Facts.Volumes = append(l.env.Run.Facts.Volumes, spec.Volume{
			Namespace: l.ns, Claim: c, TargetNamespace: l.ns, TargetClaim: c, Action: "copy", StagingClaim: "keep-me"})
	}
}

func (l *lab) volume(claim string) item {
	l.Helper()
	c, err := l.env.Source.Kube.CoreV1().PersistentVolumeClaims(l.ns).Get(l.Context(), claim, metav1.GetOptions{})
	if err != nil {
		l.Fatal(err)
	}
	pv, err := get(l.Context(), l.env.Source, volumeKind, "", c.Spec.VolumeName)
	if err != nil || !pv.exists() {
		l.Fatalf("volume of %s: %v", claim, err)
	}
	return pv
}

// A whole way there and back: claims survive whenScaled: Delete, a paused and
// a stopped Deployment come back as they were, and nothing of ours is left.
func TestLiveStopAndRestart(t *testing.T) {
	l := newLab(t)
	src := l.env.Source
	l.create(src, fill(statefulSet, "db", "2", ""))
	l.create(src, fill(deployment, "web", "2", "false"))
	l.create(src, fill(deployment, "idle", "0", "true"))
	l.ready(src, "StatefulSet", "db")
	l.ready(src, "Deployment", "web")
	l.patch(src, "Deployment", "web", `{"spec":{"paused":true}}`)
	l.volumesOf("data-db-0", "data-db-1", "web")
	before := map[string]types.UID{}
	for _, v := range l.env.Run.Facts.Volumes {
		before[v.Claim] = l.claim(v.Claim).UID
	}

	l.pend("workload.retain")
	l.must("workload.retain")
	l.must("workload.retain") // twice is as good as once
	for _, v := range l.env.Run.Facts.Volumes {
		if v.SourcePolicy != "Delete" || v.SourcePV == "" || v.StagingClaim != "keep-me" {
			t.Errorf("recorded volume %+v", v)
		}
		if got := l.volume(v.Claim).reclaimPolicy(); got != "Retain" {
			t.Errorf("%s has reclaim policy %s", v.Claim, got)
		}
	}
	l.pend("workload.stop")
	o := l.must("workload.stop")
	l.pend("workload.stop") // a daemon that lost everything looks again
	l.must("workload.stop")
	if o.Facts == nil || len(o.Facts.Times) != 1 || o.Facts.Times[0].Name != reconciler.TimeStop {
		t.Errorf("stop recorded %+v", o.Facts)
	}
	l.must("workload.drained")
	if n := l.pods(src, ""); n != 0 {
		t.Fatalf("%d pods left", n)
	}
	time.Sleep(2 * time.Second) // for the StatefulSet controller to do its worst
	for claim, uid := range before {
		if c := l.claim(claim); c.UID != uid || c.DeletionTimestamp != nil || c.Status.Phase != corev1.ClaimBound {
			t.Errorf("claim %s did not survive: %s", claim, c.Status.Phase)
		}
	}

	if o := l.do("workload.retain-undo"); o.Reason != "StillStopped" {
		t.Errorf("retention of a stopped StatefulSet was given back: %+v", o)
	}
	l.must("workload.start-source")
	l.must("workload.start-source")
	l.must("workload.retain-undo")
	for name, want := range map[string]int32{"web": 2, "idle": 0} {
		if i := l.get(src, "Deployment", name); i.replicas() != want || !i.paused() {
			t.Errorf("%s has %d replicas, paused %v", name, i.replicas(), i.paused())
		}
		l.clean(l.get(src, "Deployment", name))
	}
	db := l.get(src, "StatefulSet", "db")
	l.clean(db)
	if !db.retentionIs(spec.ClaimRetention{WhenScaled: "Delete", WhenDeleted: "Delete"}) || db.counts("readyReplicas") != 2 {
		t.Errorf("db came back with %+v, %d ready", db.retention(), db.counts("readyReplicas"))
	}
	for claim, uid := range before {
		pv := l.volume(claim)
		l.clean(pv)
		if pv.reclaimPolicy() != "Delete" || l.claim(claim).UID != uid {
			t.Errorf("%s came back with %s", claim, pv.reclaimPolicy())
		}
	}
}

func (l *lab) claim(name string) *corev1.PersistentVolumeClaim {
	l.Helper()
	c, err := l.env.Source.Kube.CoreV1().PersistentVolumeClaims(l.ns).Get(l.Context(), name, metav1.GetOptions{})
	if err != nil {
		l.Fatalf("claim %s: %v", name, err)
	}
	return c
}

func (l *lab) patch(c *kube.Cluster, kind, name, body string) {
	l.Helper()
	_, err := c.Dynamic.Resource(kindNamed(kind).gvr).Namespace(l.ns).Patch(l.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "somebody-else"})
	if err != nil {
		l.Fatal(err)
	}
}

// A run without volumes has no retain step: the stop itself must keep the
// claims, and the restart must give the policy back.
func TestLiveStopProtectsClaimsByItself(t *testing.T) {
	l := newLab(t)
	src := l.env.Source
	l.env.Run.Steps = []spec.Step{{Name: "stop", Verb: "workload.stop"}}
	l.create(src, fill(statefulSet, "db", "1", ""))
	l.ready(src, "StatefulSet", "db")
	uid := l.claim("data-db-0").UID
	l.pend("workload.stop")
	l.must("workload.stop")
	l.must("workload.drained")
	time.Sleep(2 * time.Second)
	if c := l.claim("data-db-0"); c.UID != uid || c.DeletionTimestamp != nil {
		t.Fatal("the claim did not survive")
	}
	l.env.Run.Facts = spec.Facts{} // journal and ledger are lost: the annotations know
	l.must("workload.start-source")
	db := l.get(src, "StatefulSet", "db")
	l.clean(db)
	if db.replicas() != 1 || !db.retentionIs(spec.ClaimRetention{WhenScaled: "Delete", WhenDeleted: "Delete"}) {
		t.Errorf("db came back with %d replicas and %+v", db.replicas(), db.retention())
	}
}

// What was unhealthy before the stop is not waited for for ever, and what
// others did meanwhile is left alone.
func TestLiveRestartOfTheUnhealthy(t *testing.T) {
	l := newLab(t)
	src := l.env.Source
	l.create(src, strings.Replace(fill(deployment, "sick", "2", "false"), "image:", "readinessProbe: {exec: {command: [\"false\"]}}\n        image:", 1))
	l.create(src, fill(deployment, "moved", "1", "false"))
	l.create(src, fill(deployment, "gone", "1", "false"))
	l.ready(src, "Deployment", "moved")
	l.until("pods of sick", func() bool { return l.pods(src, "sick") == 2 })
	l.pend("workload.stop")
	l.must("workload.stop")
	l.must("workload.drained")
	l.must("workload.still-stopped")
	l.patch(src, "Deployment", "moved", `{"spec":{"replicas":3}}`)
	if o := l.do("workload.drained"); o.Reason != "ScaledBackUp" || !o.Final || !strings.Contains(o.Message, "somebody-else") {
		t.Errorf("scaling back up was not told: %+v", o)
	}
	if o := l.do("workload.still-stopped"); o.Reason != "ScaledBackUp" || !o.Final || !strings.Contains(o.Message, "somebody-else") || o.Facts != nil {
		t.Errorf("scaling back up was not told later: %+v", o)
	}
	if o := l.do("workload.stop"); o.Reason != "ScaledBackUp" {
		t.Errorf("scaling back up was not told by stop: %+v", o)
	}
	if err := src.Dynamic.Resource(kindNamed("Deployment").gvr).Namespace(l.ns).Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	o := l.must("workload.start-source")
	if !strings.Contains(o.Message, "from 1 to 3") || !strings.Contains(o.Message, "gone") || !strings.Contains(o.Message, "is not healthy") {
		t.Errorf("message %q", o.Message)
	}
	for name, want := range map[string]int32{"sick": 2, "moved": 3} { // and nothing of ours is left
		i := l.get(src, "Deployment", name)
		l.clean(i)
		if i.replicas() != want {
			t.Errorf("%s has %d replicas", name, i.replicas())
		}
	}
}

// A pod of any kind on a covered claim keeps the last copy waiting, with its
// name; our read-only holder does not.
func TestLiveDrainedNamesThePod(t *testing.T) {
	l := newLab(t)
	src := l.env.Source
	l.create(src, fill(deployment, "web", "1", "false"))
	l.ready(src, "Deployment", "web")
	l.volumesOf("web")
	bare := `apiVersion: v1
kind: Pod
metadata: {name: NAME, finalizers: [tranship.dev/test]LABELS}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: localhost/bed/busybox:1, command: [sleep, "1000"], volumeMounts: [{name: data, mountPath: /data, readOnly: READONLY}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: web}}]`
	labels := ", labels: {app.kubernetes.io/managed-by: tranship, tranship.dev/plan: " + kube.Short(l.env.Run.Spec.Plan) + "}"
	l.env.Plan().LabelSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "others", Operator: metav1.LabelSelectorOpDoesNotExist}}}
	l.create(src, strings.NewReplacer("NAME", "bare", "LABELS", `, labels: {others: "yes"}`, "READONLY", "true").Replace(bare))
	l.create(src, strings.NewReplacer("NAME", "holder", "LABELS", labels, "READONLY", "true").Replace(bare))
	l.create(src, strings.NewReplacer("NAME", "forged", "LABELS", labels, "READONLY", "false").Replace(bare))
	pods := src.Kube.CoreV1().Pods(l.ns)
	t.Cleanup(func() {
		for _, n := range []string{"bare", "holder", "forged"} {
			_, _ = pods.Patch(context.Background(), n, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		}
	})
	l.pend("workload.stop")
	l.must("workload.stop")
	l.until("the Deployment's pod is gone", func() bool { return l.pods(src, "web") == 0 })
	o, err := lookDrained(t.Context(), l.env)
	if err != nil || o.Seen != reconciler.Working || !strings.Contains(o.Message, "/bare") || !strings.Contains(o.Message, "/forged") || strings.Contains(o.Message, "/holder") {
		t.Fatalf("%v %+v", err, o)
	}
	for _, n := range []string{"bare", "forged"} {
		if err := pods.Delete(t.Context(), n, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	l.until("the pods are terminating", func() bool {
		o, err = lookDrained(t.Context(), l.env)
		return err == nil && strings.Contains(o.Message, "terminating since") && strings.Contains(o.Message, "tranship.dev/test")
	})
	t.Log(o.Message)
	time.AfterFunc(time.Second, func() {
		for _, n := range []string{"bare", "forged"} {
			_, _ = pods.Patch(t.Context(), n, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		}
	})
	l.must("workload.drained")
	_, _ = pods.Patch(t.Context(), "holder", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
}

// The target side: started with the source's counts, judged, and stopped.
func TestLiveTarget(t *testing.T) {
	l := newLab(t)
	src, dst := l.env.Source, l.env.Target
	for _, c := range []*kube.Cluster{src, dst} {
		replicas := map[*kube.Cluster]string{src: "2", dst: "0"}[c]
		l.create(c, fill(deployment, "web", replicas, "false"))
		l.create(c, fill(statefulSet, "db", map[string]string{"2": "1", "0": "0"}[replicas], ""))
	}
	l.ready(src, "Deployment", "web")
	l.ready(src, "StatefulSet", "db")
	l.volumesOf("web", "data-db-0")
	l.pend("workload.retain")
	l.must("workload.retain")
	l.pend("workload.stop")
	l.must("workload.stop")
	l.must("workload.drained")
	l.must("workload.start")
	l.must("workload.health")
	names := ""
	for _, at := range l.env.Run.Facts.Times {
		names += at.Name + " "
	}
	if names != "stop drained start healthy " {
		t.Errorf("instants: %s", names)
	}
	l.patch(dst, "Deployment", "web", `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"localhost/no/such:1","imagePullPolicy":"IfNotPresent"}]}}}}`)
	l.until("the bad image is told", func() bool {
		o, err := lookHealth(t.Context(), l.env)
		if err != nil {
			t.Fatal(err)
		}
		return o.Seen == reconciler.Working && (o.Reason == "ImagePullBackOff" || o.Reason == "ErrImagePull") && strings.Contains(o.Message, "localhost/no/such:1")
	})
	o, _ := lookHealth(t.Context(), l.env)
	t.Log(o.Reason, o.Message)
	l.must("workload.stop-target")
	l.must("workload.stop-target")
	if n := l.pods(dst, ""); n != 0 {
		t.Errorf("%d pods left on the target", n)
	}
	for k, name := range map[string]string{"Deployment": "web", "StatefulSet": "db"} {
		i := l.get(dst, k, name)
		l.clean(i)
		if i.replicas() != 0 {
			t.Errorf("%s has %d replicas", name, i.replicas())
		}
	}
	l.must("workload.start-source")
	l.must("workload.retain-undo")
}

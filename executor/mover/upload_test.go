package mover

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func appPod(name, node string, phase corev1.PodPhase) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: podSpec("data"), Status: corev1.PodStatus{Phase: phase}}
	p.Spec.NodeName = node
	p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
	p.Spec.SecurityContext = &corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Level: "s0:c1,c2"}}
	return p
}

// runningWorld is a source with claim data, used by the given pods.
func runningWorld(t testing.TB, mode corev1.PersistentVolumeAccessMode, pods ...*corev1.Pod) (*world, *kube.Env) {
	c, pv := sourceClaim("data", nil, mode)
	objects := []runtime.Object{c, pv, class("fast", "csi", true), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}
	for _, p := range pods {
		objects = append(objects, p)
	}
	source := newWorld(t, objects...)
	source.schedule = "node-1"
	return source, testEnv(source, newWorld(t, class("fast", "csi", true)), "upload", "mover.upload")
}

func (w *world) pod(name string) *corev1.Pod {
	o, err := w.Tracker().Get(podResource, "shop", name)
	if err != nil {
		return nil
	}
	return o.(*corev1.Pod)
}

func (w *world) onlyJob() *batchv1.Job {
	o, err := w.Tracker().List(batchv1.SchemeGroupVersion.WithResource("jobs"), batchv1.SchemeGroupVersion.WithKind("Job"), ourNamespace)
	if err != nil {
		w.t.Fatal(err)
	}
	if l := o.(*batchv1.JobList).Items; len(l) == 1 {
		return &l[0]
	}
	return nil
}

// The holder is all that the application's namespace sees: it holds the claim
// read-only and no secret, as the restricted standard wants it.
func TestHolderAndReader(t *testing.T) {
	source, e := runningWorld(t, corev1.ReadWriteOnce, appPod("web-0", "node-1", corev1.PodRunning))
	want(t, drive(t, e), reconciler.Working)
	e.Run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data"}}
	h := source.pod(holderName(e, &e.Run.Facts.Volumes[0]))
	s, c := h.Spec, h.Spec.Containers[0]
	switch {
	case *s.AutomountServiceAccountToken, len(s.Volumes) != 1, len(c.Env)+len(c.EnvFrom) > 0:
		t.Errorf("the holder has more than its claim: %+v", s)
	case !s.Volumes[0].PersistentVolumeClaim.ReadOnly, !c.VolumeMounts[0].ReadOnly:
		t.Error("the claim is not read-only")
	case !*s.SecurityContext.RunAsNonRoot, *c.SecurityContext.AllowPrivilegeEscalation, s.SecurityContext.FSGroup != nil, c.SecurityContext.Capabilities.Drop[0] != "ALL":
		t.Error("the holder is not restricted")
	case s.SecurityContext.SELinuxOptions.Level != "s0:c1,c2", s.Tolerations[0].Key != "dedicated":
		t.Error("the holder does not take after the application's pod")
	case s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0] != "node-1":
		t.Error("the holder is not bound to the application's node")
	}
	j := source.onlyJob()
	var paths []string
	for _, v := range j.Spec.Template.Spec.Volumes {
		if v.HostPath != nil {
			paths = append(paths, v.HostPath.Path)
		}
	}
	if len(paths) != 1 || paths[0] != "/var/lib/kubelet/pods/"+string(h.UID)+"/volumes" {
		t.Errorf("the reader sees %v of the node", paths)
	}
	a := assignmentOf(source, j)
	if p := "/volumes/0/kubernetes.io~csi/pv-data/mount"; a.Request.Volumes[0].Path != p || a.Mounts[0] != p || !a.Request.Live {
		t.Errorf("assignment %+v", a)
	}
	raw, _ := json.Marshal(j)
	if strings.Contains(string(raw), "secretKey") || strings.Contains(string(raw), "aws_secret") {
		t.Error("the Job shows a secret")
	}
}

func TestUploadKilledAtEveryCall(t *testing.T) {
	_, e := runningWorld(t, corev1.ReadWriteOnce)
	n := 0
	for _, late := range []bool{false, true} {
		for i := 0; i <= max(n, 1); i++ {
			var source *world
			source, e = runningWorld(t, corev1.ReadWriteOnce, appPod("web-0", "node-1", corev1.PodRunning))
			uploads := 0
			source.job = func(w *world, j *batchv1.Job, r engine.Request) engine.Result { uploads++; return writesAll(w, j, r) }
			source.killAt, source.late = i, late
			o := drive(t, e)
			want(t, o, reconciler.Succeeded)
			n = max(n, source.writes)
			v := o.Facts.Volumes[0]
			if uploads != 1 || v.Snapshot == "" || v.Files != 3 || source.pod(holderName(e, &v)) != nil {
				t.Fatalf("killed at %d (late %t): %d uploads, %+v", i, late, uploads, v)
			}
		}
	}
	t.Logf("%d writes", n)
}

// A pod of the application that is scheduled elsewhere gets the volume.
func TestUploadMakesWay(t *testing.T) {
	source, e := runningWorld(t, corev1.ReadWriteOnce, appPod("web-0", "node-1", corev1.PodRunning))
	want(t, drive(t, e), reconciler.Working) // reading, for ever
	e.Run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data"}}
	name := holderName(e, &e.Run.Facts.Volumes[0])
	e.Run.Facts.Volumes = nil
	_ = source.Tracker().Delete(podResource, "shop", "web-0")
	_ = source.Tracker().Add(appPod("web-1", "node-2", corev1.PodPending))
	o, err := Verbs()["mover.upload"].Look(t.Context(), e)
	if err != nil || o.Seen != reconciler.Absent || o.Reason != "MadeWay" || o.Object != "source Pod shop/web-1" {
		t.Fatalf("%+v %v", o, err)
	}
	if err := Verbs()["mover.upload"].Ensure(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if h := source.pod(name); h == nil || h.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0] != "node-2" {
		t.Fatalf("the next holder is not sent to the pod's node: %+v", h)
	}
}

// Two pods on two nodes: the volume is on its way, and nobody holds it.
func TestUploadWaitsForAMovingPod(t *testing.T) {
	source, e := runningWorld(t, corev1.ReadWriteOnce, appPod("web-0", "node-1", corev1.PodRunning), appPod("web-1", "node-2", corev1.PodPending))
	if o := drive(t, e); o.Seen != reconciler.Working || o.Reason != "MadeWay" || source.writes != 0 {
		t.Fatalf("%+v after %d writes", o, source.writes)
	}
	source, e = runningWorld(t, corev1.ReadWriteMany, appPod("web-0", "node-1", corev1.PodRunning), appPod("web-1", "node-2", corev1.PodPending))
	if o := drive(t, e); o.Reason != "Reading" || source.writes == 0 {
		t.Fatalf("a shared volume keeps nobody out: %+v", o)
	}
}

// A claim for one pod is read through that pod's own directory of the volume.
func TestUploadThroughTheOnlyPod(t *testing.T) {
	source, e := runningWorld(t, corev1.ReadWriteOncePod, appPod("web-0", "node-1", corev1.PodRunning))
	want(t, drive(t, e), reconciler.Working)
	p, j := source.pod("web-0"), source.onlyJob()
	for _, v := range j.Spec.Template.Spec.Volumes {
		if v.HostPath != nil && v.HostPath.Path != "/var/lib/kubelet/pods/"+string(p.UID)+"/volumes/kubernetes.io~csi/pv-data" {
			t.Errorf("the reader sees %s of the application's pod", v.HostPath.Path)
		}
	}
	if a := assignmentOf(source, j); a.Request.Volumes[0].Path != "/volumes/0/mount" {
		t.Errorf("path %s", a.Request.Volumes[0].Path)
	}
	p.DeletionTimestamp = &metav1.Time{}
	if err := source.Tracker().Update(podResource, p, "shop"); err != nil {
		t.Fatal(err)
	}
	if o := drive(t, e); o.Reason != "MadeWay" || source.onlyJob() != nil {
		t.Fatalf("%+v, Job %v", o, source.onlyJob())
	}
}

func TestUploadFails(t *testing.T) {
	source, e := runningWorld(t, corev1.ReadWriteOnce, appPod("web-0", "node-1", corev1.PodRunning))
	source.job = func(*world, *batchv1.Job, engine.Request) engine.Result {
		return engine.Result{Reason: engine.ReasonAccessDenied, Error: "denied"}
	}
	o := drive(t, e)
	if o.Seen != reconciler.Broken || o.Reason != "AccessDenied" || !o.Final || !strings.Contains(o.Message, "cluster old") {
		t.Fatalf("%+v", o)
	}
	l, _ := source.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{LabelSelector: LabelComponent + "=" + ComponentHolder})
	if len(l.Items) > 0 {
		t.Fatal("a holder is left")
	}
	// The next attempt has names of its own and succeeds.
	e.Step.Attempt, source.job = 2, writesAll
	want(t, drive(t, e), reconciler.Succeeded)
}

func TestUploadRefusesATakenName(t *testing.T) {
	source, e := runningWorld(t, corev1.ReadWriteOnce)
	e.Run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data"}}
	p := appPod(holderName(e, &e.Run.Facts.Volumes[0]), "node-1", corev1.PodRunning)
	_ = source.Tracker().Add(p)
	if o := drive(t, e); o.Seen != reconciler.Broken || o.Reason != "NameTaken" || source.writes != 0 {
		t.Fatalf("%+v", o)
	}
}

// A report that does not fit is the last line of the log.
func TestMessages(t *testing.T) {
	res := engine.Result{Volumes: make([]engine.VolumeResult, 3)}
	if full, short := messages(res); string(full) != string(short) {
		t.Error("a short report was cut")
	}
	res = engine.Result{Volumes: make([]engine.VolumeResult, 100), Error: strings.Repeat("x", 9000), Reason: engine.ReasonNoSpace}
	full, short := messages(res)
	var r Report
	if err := json.Unmarshal(short, &r); err != nil || !r.InLog || r.Reason != engine.ReasonNoSpace || len(short) > messageLimit || len(full) < 9000 {
		t.Errorf("%d bytes: %s %v", len(short), short, err)
	}
}

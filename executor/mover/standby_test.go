package mover

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// standingWorld has copied claim data once and has movers standing by.
func standingWorld(t *testing.T) (source, target *world, e *kube.Env) {
	source, e = runningWorld(t, corev1.ReadWriteOnce, appPod("web-0", "node-1", corev1.PodRunning))
	target = newWorld(t, class("fast", "csi", true))
	e.Target = cluster(spec.Target, "new", target)
	source.job, target.job = writesAll, writesAll
	v := stagedVolume(e, "data", "s1")
	v.Group = "Pod/web-0/0"
	e.Run.Facts.Volumes = []spec.Volume{v}
	for _, s := range []struct{ step, verb string }{{"claims", "mover.claims"}, {"restore-volumes", "mover.restore"}, {"movers", "mover.stand-by"}} {
		want(t, drive(t, at(e, s.step, s.verb)), reconciler.Succeeded)
	}
	return source, target, e
}

func (w *world) jobsOf(step string) (names []string) {
	o, err := w.Tracker().List(batchv1.SchemeGroupVersion.WithResource("jobs"), batchv1.SchemeGroupVersion.WithKind("Job"), ourNamespace)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, j := range o.(*batchv1.JobList).Items {
		if j.Labels[kube.LabelStep] == step {
			names = append(names, j.Name+" "+j.Annotations[annotationStandBy])
		}
	}
	return names
}

// Movers that stand by are told after the stop; no other Job is started, and
// nothing is written before its claim is marked.
func TestStandByIsTold(t *testing.T) {
	source, target, e := standingWorld(t)
	claim := target.claim(ourNamespace, e.Run.Facts.Volumes[0].StagingClaim)
	if m, _ := markOf(claim); !m.holds("s1") {
		t.Fatalf("a mover that only stands by changed the mark to %q", m)
	}
	want(t, drive(t, at(e, stepLastUpload, "mover.upload")), reconciler.Succeeded)
	last := e.Run.Facts.Volumes[0].Snapshot
	want(t, drive(t, at(e, stepLastRestore, "mover.restore")), reconciler.Succeeded)
	if last == "s1" || !holds(target, e, last) {
		t.Errorf("the target does not hold the last snapshot %q", last)
	}
	for _, w := range []struct {
		*world
		step string
	}{{source, stepLastUpload}, {target, stepLastRestore}} {
		if jobs := w.jobsOf(w.step); len(jobs) != 1 || !strings.HasSuffix(jobs[0], standByTold) {
			t.Errorf("%s: Jobs %v, want one that was told", w.step, jobs)
		}
	}
}

func holds(w *world, e *kube.Env, snapshot string) bool {
	m, err := markOf(w.claim(ourNamespace, e.Run.Facts.Volumes[0].StagingClaim))
	return err == nil && m.holds(snapshot)
}

// Movers that cannot be told, died or waited in vain are replaced.
func TestStandByInVain(t *testing.T) {
	cases := map[string]func(source, target *world){
		"cannot be told": func(source, target *world) { source.deaf, target.deaf = true, true },
		"waited too long": func(source, target *world) {
			over := engine.Result{Reason: reasonStandByOver, Error: "no order came"}
			source.endPods(over)
			target.endPods(over)
		},
		"were deleted": func(source, target *world) { source.deletePods(); target.deletePods() },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			source, target, e := standingWorld(t)
			spoil(source, target)
			want(t, drive(t, at(e, stepLastUpload, "mover.upload")), reconciler.Succeeded)
			want(t, drive(t, at(e, stepLastRestore, "mover.restore")), reconciler.Succeeded)
			if !holds(target, e, e.Run.Facts.Volumes[0].Snapshot) {
				t.Error("the target does not hold the last snapshot")
			}
			for _, j := range append(source.jobsOf(stepLastUpload), target.jobsOf(stepLastRestore)...) {
				if strings.HasSuffix(j, standByWaiting) {
					t.Errorf("Job %s is still there", j)
				}
			}
		})
	}
}

func (w *world) moverPods() []corev1.Pod {
	o, err := w.Tracker().List(podResource, corev1.SchemeGroupVersion.WithKind("Pod"), ourNamespace)
	if err != nil {
		w.t.Fatal(err)
	}
	return o.(*corev1.PodList).Items
}

func (w *world) endPods(res engine.Result) {
	for _, p := range w.moverPods() {
		if p.Status.Phase == corev1.PodRunning {
			w.play(&p, res)
			w.stamp(&p)
			if err := w.Tracker().Update(podResource, &p, p.Namespace); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// deletePods is a node that went away: the Jobs have failed and say nothing.
func (w *world) deletePods() {
	for _, p := range w.moverPods() {
		if p.Status.Phase != corev1.PodRunning {
			continue
		}
		name := p.Labels[batchv1.JobNameLabel]
		o, err := w.Tracker().Get(batchv1.SchemeGroupVersion.WithResource("jobs"), p.Namespace, name)
		if err != nil {
			w.t.Fatal(err)
		}
		j := o.(*batchv1.Job)
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded"}}
		w.stamp(j)
		if err := w.Tracker().Update(batchv1.SchemeGroupVersion.WithResource("jobs"), j, j.Namespace); err != nil {
			w.t.Fatal(err)
		}
		if err := w.Tracker().Delete(podResource, p.Namespace, p.Name); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A mover that does not come up keeps the application from being stopped for a
// minute and not longer.
func TestStandByPatience(t *testing.T) {
	source, e := runningWorld(t, corev1.ReadWriteOnce, appPod("web-0", "node-1", corev1.PodRunning))
	source.schedule = "" // no holder is ever scheduled
	e.Run.Facts.Volumes = []spec.Volume{stagedVolume(e, "data", "s1")}
	at(e, "movers", "mover.stand-by")
	started := metav1.NewMicroTime(time.Now())
	e.Step.Started = &started
	want(t, drive(t, e), reconciler.Working)
	started = metav1.NewMicroTime(time.Now().Add(-standByPatience - time.Second))
	if o := drive(t, e); o.Seen != reconciler.Succeeded || !strings.Contains(o.Message, "without every mover") {
		t.Fatalf("%d: %s", o.Seen, o.Message)
	}
}

// One order is taken; the same again changes nothing, another is refused.
func TestOrders(t *testing.T) {
	path := filepath.Join(t.TempDir(), orderSocket)
	o, err := listenForOrders(path)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	tell := func(text string) string {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.UnixConn).CloseWrite()
		var b bytes.Buffer
		_, _ = b.ReadFrom(c)
		return b.String()
	}
	for _, c := range []struct{ say, want string }{
		{`{"op":`, "the order cannot be read"}, {`{"op":"upload"}`, orderTaken}, {`{"op":"upload"}`, orderTaken}, {`{"op":"restore"}`, "another order"},
	} {
		if got := tell(c.say); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", c.say, got, c.want)
		}
	}
	if req := <-o.first; req.Op != engine.OpUpload {
		t.Errorf("the order was %+v", req)
	}
}

// An order without volumes lets the mover go.
func TestNothingToDo(t *testing.T) {
	res, err := obey(context.Background(), nil, engine.Request{Op: engine.OpRestore})
	if err != nil || len(res.Volumes) != 0 {
		t.Fatalf("%+v %v", res, err)
	}
}

// A claim that has come to another group meanwhile, as when a pod without a
// controller is gone, is never mounted by two movers at once.
func TestStandByOfAnotherGroup(t *testing.T) {
	_, target, e := standingWorld(t)
	e.Run.Facts.Volumes[0].Group, e.Run.Facts.Volumes[0].Snapshot = "PersistentVolumeClaim/data/0", "s2"
	want(t, drive(t, at(e, stepLastRestore, "mover.restore")), reconciler.Succeeded)
	if jobs := target.jobsOf(stepLastRestore); len(jobs) != 1 || strings.HasSuffix(jobs[0], standByWaiting) || !holds(target, e, "s2") {
		t.Errorf("Jobs %v", jobs)
	}
}

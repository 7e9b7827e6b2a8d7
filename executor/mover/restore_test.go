package mover

import (
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRestoreRefuses(t *testing.T) {
	marked := func(text string) func(*world, *kube.Env) {
		return func(w *world, e *kube.Env) {
			c := w.claim(ourNamespace, e.Run.Facts.Volumes[0].StagingClaim)
			c.Annotations[kube.AnnotationMark] = text
			w.put(c)
		}
	}
	cases := map[string]struct {
		change func(*world, *kube.Env)
		reason string
		final  bool
	}{
		"a live claim":                 {marked("live since 2026-12-01T10:00:00Z"), "LiveClaim", true},
		"a mark of a later version":    {marked("frozen"), "UnknownMark", true},
		"the ledger says live":         {func(_ *world, e *kube.Env) { e.Run.Facts.Volumes[0].Mark = spec.MarkLive }, "LiveClaim", true},
		"another storage":              {func(_ *world, e *kube.Env) { e.Run.Facts.Volumes[0].TargetHandle = "csi/other" }, "ForeignVolume", true},
		"another volume":               {func(_ *world, e *kube.Env) { e.Run.Facts.Volumes[0].TargetPV = "pv-other" }, "ForeignVolume", true},
		"no snapshot":                  {func(_ *world, e *kube.Env) { e.Run.Facts.Volumes[0].Snapshot = "" }, "NoSnapshot", false},
		"a claim that we did not make": {func(w *world, e *kube.Env) { relabel(w, e) }, "ForeignClaim", true},
		"a pod on the claim": {func(w *world, e *kube.Env) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ourNamespace, Name: "curious"}, Spec: podSpec(e.Run.Facts.Volumes[0].StagingClaim)}
			_ = w.Tracker().Add(p)
		}, "ClaimInUse", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, target, e := copiedWorld(t)
			e.Step.Attempt = 2
			e.Run.Facts.Volumes[0].Snapshot, e.Run.Facts.Volumes[1].Snapshot = "s2", "s2"
			c.change(target, e)
			before := target.writes
			o := drive(t, at(e, "restore-volumes", "mover.restore"))
			if o.Seen != reconciler.Broken || o.Reason != c.reason || o.Final != c.final || target.writes != before {
				t.Fatalf("%d %s final=%t after %d writes: %s", o.Seen, o.Reason, o.Final, target.writes-before, o.Message)
			}
		})
	}
}

func relabel(w *world, e *kube.Env) {
	c := w.claim(ourNamespace, e.Run.Facts.Volumes[0].StagingClaim)
	c.Labels[kube.LabelPlan] = "another"
	w.put(c)
}

// The orders that Jobs get, by what the claim's mark says.
func TestRestoreOrders(t *testing.T) {
	cases := map[string]struct {
		mark    string
		held    string
		content bool
		none    bool
	}{
		"a clean claim gets the changes": {mark: "clean s1", held: "s1"},
		"what is wanted is held":         {mark: "clean s2", none: true},
		"a half-written one is compared": {mark: "writing s1→s2", content: true},
		"a dirty one is compared":        {mark: "dirty", content: true},
		"an empty one is written":        {mark: ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, target, e := copiedWorld(t)
			e.Step.Attempt = 2
			e.Run.Facts.Volumes = e.Run.Facts.Volumes[:1]
			e.Run.Facts.Volumes[0].Snapshot = "s2"
			claim := target.claim(ourNamespace, e.Run.Facts.Volumes[0].StagingClaim)
			claim.Annotations[kube.AnnotationMark] = c.mark
			target.put(claim)
			var orders []engine.VolumeRequest
			target.job = func(w *world, j *batchv1.Job, r engine.Request) engine.Result {
				orders = append(orders, assignmentOf(w, j).Request.Volumes...)
				return writesAll(w, j, r)
			}
			want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
			want(t, drive(t, e), reconciler.Succeeded)
			if c.none {
				if len(orders) > 0 {
					t.Fatalf("ordered %+v", orders)
				}
				return
			}
			if len(orders) != 1 || orders[0].Held != c.held || orders[0].Content != c.content || orders[0].Snapshot != "s2" {
				t.Fatalf("ordered %+v", orders)
			}
		})
	}
}

// A Job that fails leaves a mark that makes the next attempt compare, says what
// to do, and what it did finish counts.
func TestRestoreFails(t *testing.T) {
	_, target, e := copiedWorld(t)
	e.Step.Attempt = 2
	e.Run.Facts.Volumes[0].Snapshot, e.Run.Facts.Volumes[1].Snapshot = "s2", "s2"
	target.job = func(*world, *batchv1.Job, engine.Request) engine.Result {
		return engine.Result{Reason: engine.ReasonNoSpace, Error: "cannot write", Volumes: []engine.VolumeResult{{Name: "shop/data", Snapshot: "s2"}, {Name: "shop/logs"}}}
	}
	o := drive(t, at(e, "restore-volumes", "mover.restore"))
	if o.Seen != reconciler.Broken || !o.Final || o.Reason != "NoSpace" || !strings.Contains(o.Message, "is full") {
		t.Fatalf("%+v", o)
	}
	var marks []string
	for _, v := range e.Run.Facts.Volumes {
		m, _ := markOf(target.claim(ourNamespace, v.StagingClaim))
		marks = append(marks, m.String())
	}
	if !slices.Equal(marks, []string{"clean s2", "writing s1→s2"}) {
		t.Fatalf("marks %q", marks)
	}
	e.Step.Attempt = 3
	target.job = writesAll
	want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
}

// A writer of an earlier attempt has ended before another one begins.
func TestRestoreEndsEarlierWriters(t *testing.T) {
	_, target, e := copiedWorld(t)
	e.Step.Attempt = 2
	e.Run.Facts.Volumes[0].Snapshot = "s2"
	target.job = nil // runs for ever
	want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Working)
	jobs := func() int {
		// Not through the client: its lock is held while a Job is created.
		o, err := target.Tracker().List(batchv1.SchemeGroupVersion.WithResource("jobs"), batchv1.SchemeGroupVersion.WithKind("Job"), ourNamespace)
		if err != nil {
			t.Fatal(err)
		}
		n, l := 0, o.(*batchv1.JobList)
		for i := range l.Items {
			if l.Items[i].Labels[kube.LabelAttempt] == "2" {
				n++
			}
		}
		return n
	}
	if jobs() != 1 {
		t.Fatal("no writer runs")
	}
	e.Step.Attempt = 3
	target.job = func(w *world, j *batchv1.Job, r engine.Request) engine.Result {
		if jobs() != 0 {
			t.Error("two writers at once")
		}
		return writesAll(w, j, r)
	}
	want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
}

func TestClaimsUndo(t *testing.T) {
	for _, keep := range []bool{true, false} {
		_, target, e := copiedWorld(t)
		e.Run.Spec.Closure.Plan.Spec.Rollback.KeepVolumes = &keep
		e.Run.Facts.Volumes[0].Snapshot, e.Step.Attempt = "s2", 2
		target.job = nil
		want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Working)
		want(t, drive(t, at(e, "claims", "mover.claims-undo")), reconciler.Succeeded)
		c := target.claim(ourNamespace, e.Run.Facts.Volumes[0].StagingClaim)
		if !keep && (c != nil || len(target.lost) != 2 || e.Run.Facts.Volumes[0].TargetPV != "") {
			t.Fatalf("claim %v, volumes freed %v, ledger %+v", c, target.lost, e.Run.Facts.Volumes[0])
		}
		if keep {
			if m, _ := markOf(c); m.kind != spec.MarkDirty || e.Run.Facts.Volumes[0].Mark != spec.MarkDirty || e.Run.Facts.Volumes[1].Held != "s1" {
				t.Fatalf("marked %q, ledger %+v", m, e.Run.Facts.Volumes)
			}
		}
	}
}

func TestClosePutsBackAndDeletes(t *testing.T) {
	_, target, e := copiedWorld(t)
	want(t, drive(t, at(e, "hand-over", "mover.hand-over")), reconciler.Succeeded)
	want(t, drive(t, at(e, "live", "mover.live")), reconciler.Succeeded)
	e.Run.Spec.Kind = spec.RunClose
	for _, s := range []string{"mover.policies", "mover.close-claims"} {
		want(t, drive(t, at(e, s, s)), reconciler.Succeeded)
	}
	for _, v := range e.Run.Facts.Volumes {
		if pv := target.volume(v.TargetPV); pv == nil || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			t.Fatalf("volume %+v", pv)
		}
	}
	if l, _ := target.BatchV1().Jobs("").List(t.Context(), metav1.ListOptions{}); len(l.Items) > 0 {
		t.Fatalf("%d Jobs are left", len(l.Items))
	}
	_, target, e = copiedWorld(t)
	want(t, drive(t, at(e, "claims", "mover.close-claims")), reconciler.Succeeded)
	if len(target.lost) != 2 {
		t.Fatalf("staged volumes freed: %v", target.lost)
	}
}

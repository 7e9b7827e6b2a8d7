package mover

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// agent plays Velero's node agents and the snapshot controller, one round.
type agent struct {
	t      *testing.T
	e      *kube.Env
	target *world
	phase  string // of what is moved
	made   int
	more   func() // what else it plays
	plugin string // that Velero says it has
	shots  int    // that a Backup has taken
}

func (a *agent) each(on *kube.Cluster, r schema.GroupVersionResource, change func(o *unstructured.Unstructured) map[string]any) {
	l, err := on.Dynamic.Resource(r).List(a.t.Context(), metav1.ListOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	for i := range l.Items {
		o := &l.Items[i]
		if has, _ := o.Object["status"].(map[string]any); len(has) > 0 {
			continue
		}
		status := change(o)
		if status == nil {
			continue
		}
		o.Object["status"] = status
		if _, err := on.Dynamic.Resource(r).Namespace(o.GetNamespace()).Update(a.t.Context(), o, metav1.UpdateOptions{}); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *agent) round() {
	if a.more != nil {
		a.more()
	}
	a.each(a.e.Source, snapshotResource, func(*unstructured.Unstructured) map[string]any { return map[string]any{"readyToUse": true} })
	a.each(a.e.Source, uploadResource, func(*unstructured.Unstructured) map[string]any {
		a.made++
		return map[string]any{"phase": a.phase, "snapshotID": fmt.Sprintf("shot-%d", a.made), "incrementalBytes": int64(3),
			"message": "no luck", "progress": map[string]any{"totalBytes": int64(30), "bytesDone": int64(30)}}
	})
	a.each(a.e.Target, downloadResource, func(o *unstructured.Unstructured) map[string]any {
		if a.phase == phaseCompleted && !a.land(o) {
			return nil // it waits for the first consumer
		}
		return map[string]any{"phase": a.phase, "message": "no luck"}
	})
}

// land makes the volume that a DataDownload is for.
func (a *agent) land(o *unstructured.Unstructured) bool {
	name, _, _ := unstructured.NestedString(o.Object, "spec", "targetVolume", "pvc")
	c := a.target.claim(ourNamespace, name)
	if c == nil || !a.target.named(c) {
		return false
	}
	if c.Spec.VolumeName != "" || c.Spec.Selector == nil {
		a.t.Fatalf("a snapshot is restored into claim %s, which has a volume or may get one: %+v", name, c.Spec)
	}
	a.made++
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pv-new-%d", a.made)}, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi", VolumeHandle: fmt.Sprintf("handle-%d", a.made)}},
		ClaimRef:                      &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name, UID: c.UID},
	}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}}
	a.target.put(pv)
	c.Spec.VolumeName, c.Status.Phase = pv.Name, corev1.ClaimBound
	a.target.put(c)
	return true
}

// run drives a verb as the loop does, with a node agent in between.
func (a *agent) run(step, verb string, attempt int) reconciler.Observation {
	a.t.Helper()
	e := at(a.e, step, verb)
	e.Step.Attempt = attempt
	var o reconciler.Observation
	for range 40 {
		var err error
		if o, err = Verbs()[verb].Look(a.t.Context(), e); err != nil {
			a.t.Fatalf("look of %s: %v", verb, err)
		}
		switch o.Seen {
		case reconciler.Absent:
			if err := Verbs()[verb].Ensure(a.t.Context(), e); err != nil && !errors.Is(err, errKilled) {
				a.t.Fatalf("ensure of %s: %v", verb, err)
			}
		case reconciler.Working:
			a.round()
		default:
			if o.Facts != nil && o.Facts.Volumes != nil {
				e.Run.Facts.Volumes = o.Facts.Volumes
			}
			return o
		}
	}
	a.t.Fatalf("%s does not come to an end: %s: %s", verb, o.Reason, o.Message)
	return o
}

func snapshotWorld(t *testing.T) *agent {
	c, pv := sourceClaim("data", nil)
	source, target := newWorld(t, c, pv), newWorld(t, class("fast", "csi", true))
	e := testEnv(source, target, "last-snapshot", "mover.snapshot")
	v := stagedVolume(e, "data", "")
	v.Method, v.SnapshotClass = methodSnapshot, "snap"
	e.Run.Facts.Volumes = []spec.Volume{v}
	return &agent{t: t, e: e, target: target, phase: phaseCompleted, plugin: "velero.io/aws", shots: 1}
}

func (a *agent) must(step, verb string, attempt int) {
	a.t.Helper()
	if o := a.run(step, verb, attempt); o.Seen != reconciler.Succeeded {
		a.t.Fatalf("%s: %s: %s", verb, o.Reason, o.Message)
	}
}

// TestSnapshotKilledAtEveryWrite takes the whole way to the live claim, killed
// once at every write to the target: the outcome is the same.
func TestSnapshotKilledAtEveryWrite(t *testing.T) {
	for at := range 20 {
		for _, late := range []bool{false, true} {
			a := snapshotWorld(t)
			a.target.killAt, a.target.late = at, late
			a.must("last-snapshot", "mover.snapshot", 1)
			a.must("land", "mover.land", 1)
			v := a.e.Run.Facts.Volumes[0]
			if v.Snapshot != "shot-1" || v.Mark != spec.MarkClean || v.Held != "shot-1" || v.TargetPV == "" || v.Bytes != 30 || v.ChangedBytes != 3 {
				t.Fatalf("killed at %d: %+v", at, v)
			}
			a.must("hand-over", "mover.hand-over", 1)
			a.must("live", "mover.live", 1)
			app := a.target.claim("shop-new", "data")
			if app == nil || app.Spec.VolumeName != v.TargetPV || app.Spec.Selector != nil || a.e.Run.Facts.Volumes[0].Mark != spec.MarkLive {
				t.Fatalf("killed at %d: the application's claim is %+v", at, app)
			}
			if o := a.run("land", "mover.land", 2); o.Reason != "LiveClaim" || !o.Final {
				t.Fatalf("a live copy is replaced: %+v", o)
			}
			if len(a.target.lost)+len(a.target.stolen) > 0 {
				t.Fatalf("lost %v, anybody's %v", a.target.lost, a.target.stolen)
			}
		}
	}
}

// TestSnapshotReplacesAnOlderCopy: what a rollback has left is deleted, never
// written into.
func TestSnapshotReplacesAnOlderCopy(t *testing.T) {
	a := snapshotWorld(t)
	for _, s := range [][2]string{{"last-snapshot", "mover.snapshot"}, {"land", "mover.land"}, {"hand-over", "mover.hand-over"}, {"live", "mover.live"}, {"hand-over", "mover.hand-back"}, {"land", "mover.stop-land"}, {"last-snapshot", "mover.stop-snapshot"}} {
		a.must(s[0], s[1], 1)
	}
	first := a.e.Run.Facts.Volumes[0]
	if first.Mark != spec.MarkDirty || a.target.volume(first.TargetPV) == nil {
		t.Fatalf("the rollback keeps the copy, as the plan says: %+v", first)
	}
	a.e.Run.Spec.Number = 2
	a.must("last-snapshot", "mover.snapshot", 1)
	a.must("land", "mover.land", 1)
	second := a.e.Run.Facts.Volumes[0]
	if second.TargetPV == first.TargetPV || second.Mark != spec.MarkClean || a.target.volume(first.TargetPV) != nil {
		t.Errorf("first %+v, second %+v", first, second)
	}
}

// TestSnapshotFailureLeavesNothing: another attempt starts anew, and the undo
// removes what the failed one has made.
func TestSnapshotFailureLeavesNothing(t *testing.T) {
	a := snapshotWorld(t)
	a.phase = phaseFailed
	if o := a.run("last-snapshot", "mover.snapshot", 1); o.Seen != reconciler.Broken || o.Final || o.Reason != "DataUploadFailed" {
		t.Fatalf("got %+v", o)
	}
	a.phase = phaseCompleted
	a.must("last-snapshot", "mover.snapshot", 2)
	a.phase = phaseCanceled
	if o := a.run("land", "mover.land", 1); o.Seen != reconciler.Broken || o.Final || o.Reason != "DataDownloadCanceled" {
		t.Fatalf("got %+v", o)
	}
	a.must("land", "mover.stop-land", 1)
	a.must("last-snapshot", "mover.stop-snapshot", 1)
	if c := a.target.claim(ourNamespace, a.e.Run.Facts.Volumes[0].StagingClaim); c != nil || a.e.Run.Facts.Volumes[0].TargetPV != "" {
		t.Errorf("left: %+v", c)
	}
	for _, of := range []struct {
		on *kube.Cluster
		r  schema.GroupVersionResource
	}{{a.e.Source, uploadResource}, {a.e.Source, snapshotResource}, {a.e.Target, downloadResource}} {
		if l, err := of.on.Dynamic.Resource(of.r).List(t.Context(), metav1.ListOptions{}); err != nil || len(l.Items) > 0 {
			t.Errorf("left: %d %s, %v", len(l.Items), of.r.Resource, err)
		}
	}
}

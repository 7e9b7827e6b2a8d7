package mover

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// neverLive checks, whenever a Job is started, that nothing it may write to
// belongs to the application, and that every claim says that it is being written.
func neverLive(t *rapid.T, fails func() bool) func(w *world, j *batchv1.Job, r engine.Request) engine.Result {
	return func(w *world, j *batchv1.Job, r engine.Request) engine.Result {
		for i, v := range j.Spec.Template.Spec.Volumes {
			if v.PersistentVolumeClaim == nil || !asked(r, j.Spec.Template.Spec.Containers[0].VolumeMounts[i].MountPath) || j.Spec.Template.Spec.Containers[0].VolumeMounts[i].ReadOnly {
				continue
			}
			c := w.claim(j.Namespace, v.PersistentVolumeClaim.ClaimName)
			if c == nil {
				t.Fatalf("Job %s writes to claim %s, which is not there", j.Name, v.PersistentVolumeClaim.ClaimName)
			}
			m, err := markOf(c)
			if err != nil || m.kind != spec.MarkWriting {
				t.Fatalf("Job %s writes to claim %s, which is marked %q", j.Name, c.Name, c.Annotations[kube.AnnotationMark])
			}
			if pv := w.volume(c.Spec.VolumeName); pv != nil {
				if m, _ := markOf(pv); m.kind == spec.MarkLive {
					t.Fatalf("Job %s writes to volume %s, which is live", j.Name, pv.Name)
				}
			}
		}
		if fails() {
			return engine.Result{Reason: engine.ReasonWriteFailed, Error: "no luck"}
		}
		return writesAll(w, j, r)
	}
}

// asked says that a request writes to what is mounted there: a mover that stood
// by has all claims mounted and is told which of them to write.
func asked(r engine.Request, path string) bool {
	return slices.ContainsFunc(r.Volumes, func(v engine.VolumeRequest) bool { return v.Path == path })
}

// TestNeverWritesToLive takes random verbs in random order, with kills, lost
// facts, foreign hands and failing Jobs in between (safety property 13).
func TestNeverWritesToLive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, pv := sourceClaim("data", nil)
		source, target := newWorld(t, c, pv, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}), newWorld(t, class("fast", "csi", true))
		source.schedule, source.job = "node-1", writesAll
		target.job = neverLive(rt, func() bool { return rapid.IntRange(0, 4).Draw(rt, "fails") == 0 })
		e := testEnv(source, target, "claims", "mover.claims")
		e.Run.Facts.Volumes = []spec.Volume{stagedVolume(e, "data", "s1")}
		steps := []struct{ step, verb string }{
			{"claims", "mover.claims"}, {"restore-volumes", "mover.restore"}, {"movers", "mover.stand-by"}, {"last-restore", "mover.restore"},
			{"hand-over", "mover.hand-over"}, {"live", "mover.live"}, {"hand-over", "mover.hand-back"}, {"claims", "mover.claims-undo"},
		}
		for i := range rapid.IntRange(5, 60).Draw(rt, "length") {
			s := rapid.SampledFrom(steps).Draw(rt, fmt.Sprintf("verb-%d", i))
			at(e, s.step, s.verb)
			e.Step.Attempt = rapid.IntRange(1, 3).Draw(rt, "attempt")
			target.killAt, target.late = 0, rapid.Bool().Draw(rt, "late")
			target.deaf = rapid.IntRange(0, 5).Draw(rt, "deaf") == 0
			if rapid.Bool().Draw(rt, "kill") {
				target.killAt = target.writes + rapid.IntRange(1, 4).Draw(rt, "at")
			}
			play(rt, e)
			if rapid.IntRange(0, 5).Draw(rt, "snapshot") == 0 {
				e.Run.Facts.Volumes[0].Snapshot = rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(rt, "which")
			}
			if rapid.IntRange(0, 9).Draw(rt, "journal") == 0 { // the journal is lost, the plan's status is not
				e.Run.Facts.Volumes[0].Mark, e.Run.Facts.Volumes[0].Held = "", ""
			}
		}
		if len(target.lost)+len(target.stolen) > 0 {
			rt.Fatalf("lost %v, anybody's %v", target.lost, target.stolen)
		}
	})
}

// play looks, ensures and looks again, and keeps the facts as the loop does.
func play(t *rapid.T, e *kube.Env) {
	v := Verbs()[e.Verb]
	for range 4 {
		o, err := v.Look(t.Context(), e)
		if err != nil {
			t.Fatalf("look of %s: %v", e.Verb, err)
		}
		if o.Seen == reconciler.Succeeded && o.Facts != nil && o.Facts.Volumes != nil {
			e.Run.Facts.Volumes = o.Facts.Volumes
		}
		if o.Seen != reconciler.Absent {
			return
		}
		if err := v.Ensure(t.Context(), e); err != nil {
			if !errors.Is(err, errKilled) {
				t.Fatalf("ensure of %s: %v", e.Verb, err)
			}
			return
		}
	}
}

// Looking never writes, whatever there is to do.
func TestLookWritesNothing(t *testing.T) {
	for verb := range Verbs() {
		source, target, e := copiedWorld(t)
		before := source.writes + target.writes
		if _, err := Verbs()[verb].Look(t.Context(), at(e, "step", verb)); err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		if n := source.writes + target.writes - before; n != 0 {
			t.Errorf("looking at %s wrote %d times", verb, n)
		}
	}
}

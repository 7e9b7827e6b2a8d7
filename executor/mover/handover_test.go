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
)

// copiedWorld is a target on which two claims hold snapshot s1 completely.
func copiedWorld(t testing.TB) (*world, *world, *kube.Env) {
	c1, pv1 := sourceClaim("data", map[string]string{"app": "shop"})
	c2, pv2 := sourceClaim("logs", nil)
	source := newWorld(t, c1, pv1, c2, pv2)
	target := newWorld(t, class("fast", "csi", true))
	target.job = writesAll
	e := testEnv(source, target, "claims", "mover.claims")
	e.Run.Facts.Volumes = []spec.Volume{stagedVolume(e, "data", "s1"), stagedVolume(e, "logs", "s1")}
	want(t, drive(t, e), reconciler.Succeeded)
	want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
	return source, target, e
}

func want(t testing.TB, o reconciler.Observation, seen reconciler.Seen) {
	t.Helper()
	if o.Seen != seen {
		t.Fatalf("seen %d (%s: %s), want %d", o.Seen, o.Reason, o.Message, seen)
	}
}

// countWrites runs f without a kill and says how many writes it made.
func countWrites(w *world, f func()) int {
	before := w.writes
	w.killAt = 0
	f()
	return w.writes - before
}

// The hand-over is killed at every single API write, before and after it took
// effect, and always ends the same way; then it is taken back, killed the same.
func TestHandOverKilledAtEveryCall(t *testing.T) {
	_, target, e := copiedWorld(t)
	n := countWrites(target, func() { want(t, drive(t, at(e, "hand-over", "mover.hand-over")), reconciler.Succeeded) })
	m := countWrites(target, func() { want(t, drive(t, at(e, "hand-over", "mover.hand-back")), reconciler.Succeeded) })
	if n < 8 || m < 8 {
		t.Fatalf("%d and %d writes for two volumes: too few to be real", n, m)
	}
	for _, late := range []bool{false, true} {
		for i := 1; i <= n; i++ {
			for j := 1; j <= m; j++ {
				t.Run(fmt.Sprintf("late=%t/%d/%d", late, i, j), func(t *testing.T) { killTwice(t, late, i, j) })
			}
		}
	}
	t.Logf("%d writes forward, %d back", n, m)
}

func killTwice(t *testing.T, late bool, i, j int) {
	_, target, e := copiedWorld(t)
	volumes := []string{e.Run.Facts.Volumes[0].TargetPV, e.Run.Facts.Volumes[1].TargetPV}
	target.late, target.killAt = late, target.writes+i
	want(t, drive(t, at(e, "hand-over", "mover.hand-over")), reconciler.Succeeded)
	for k, claim := range []string{"data", "logs"} {
		c := target.claim("shop-new", claim)
		if c == nil || c.Spec.VolumeName != volumes[k] || c.Status.Phase != corev1.ClaimBound {
			t.Fatalf("claim %s is not bound to %s: %+v", claim, volumes[k], c)
		}
		if m, _ := markOf(c); !m.holds("s1") {
			t.Fatalf("claim %s is marked %q", claim, m)
		}
		if c.Annotations["team"] != "a" || c.Annotations["pv.kubernetes.io/bind-completed"] != "" {
			t.Fatalf("annotations are not the source's: %v", c.Annotations)
		}
		if target.claim(ourNamespace, e.Run.Facts.Volumes[k].StagingClaim) != nil {
			t.Fatal("our claim is still there")
		}
	}
	target.killAt = target.writes + j
	want(t, drive(t, at(e, "hand-over", "mover.hand-back")), reconciler.Succeeded)
	for k := range volumes {
		c := target.claim(ourNamespace, e.Run.Facts.Volumes[k].StagingClaim)
		pv := target.volume(volumes[k])
		if c == nil || pv == nil || !bound(c, pv) {
			t.Fatalf("volume %s did not come back: %+v", volumes[k], c)
		}
		if m, _ := markOf(c); !m.holds("s1") {
			t.Fatalf("nothing was live, and the claim is marked %q", m)
		}
		if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			t.Fatalf("volume %s was left at %s", pv.Name, pv.Spec.PersistentVolumeReclaimPolicy)
		}
	}
	if len(target.lost) > 0 || len(target.stolen) > 0 {
		t.Fatalf("lost %v, anybody's %v", target.lost, target.stolen)
	}
}

// The volume controller binds the volume and leaves the claim to its next resync: the claim is touched.
func TestHandOverWhenTheControllerLosesItsRace(t *testing.T) {
	_, target, e := copiedWorld(t)
	target.loses = true
	want(t, drive(t, at(e, "hand-over", "mover.hand-over")), reconciler.Succeeded)
	want(t, drive(t, at(e, "hand-over", "mover.hand-back")), reconciler.Succeeded)
	if len(target.lostAt) != 4 {
		t.Fatalf("the race was lost for %d of 4 claims", len(target.lostAt))
	}
}

// A hand-back starts from every state in which a hand-over can stop.
func TestHandBackFromEveryState(t *testing.T) {
	_, target, e := copiedWorld(t)
	n := countWrites(target, func() { drive(t, at(e, "hand-over", "mover.hand-over")) })
	for i := 0; i <= n; i++ {
		_, target, e := copiedWorld(t)
		target.killAt = target.writes + 1 + i
		at(e, "hand-over", "mover.hand-over")
		for {
			err := Verbs()[e.Verb].Ensure(t.Context(), e)
			if errors.Is(err, errKilled) {
				break
			}
			if o, lerr := Verbs()[e.Verb].Look(t.Context(), e); err != nil || lerr != nil || o.Seen == reconciler.Succeeded {
				break
			}
		}
		target.killAt = 0
		want(t, drive(t, at(e, "hand-over", "mover.hand-back")), reconciler.Succeeded)
		for k := range e.Run.Facts.Volumes {
			v := &e.Run.Facts.Volumes[k]
			if c := target.claim(ourNamespace, v.StagingClaim); c == nil || !bound(c, target.volume(v.TargetPV)) {
				t.Fatalf("after %d writes the volume of %s did not come back", i, v.Claim)
			}
		}
		if len(target.lost)+len(target.stolen) > 0 {
			t.Fatalf("after %d writes: lost %v, anybody's %v", i, target.lost, target.stolen)
		}
	}
}

func TestHandBackOfLiveIsDirty(t *testing.T) {
	_, target, e := copiedWorld(t)
	drive(t, at(e, "hand-over", "mover.hand-over"))
	want(t, drive(t, at(e, "live", "mover.live")), reconciler.Succeeded)
	if m := e.Run.Facts.Volumes[0].Mark; m != spec.MarkLive {
		t.Fatalf("the ledger says %q", m)
	}
	want(t, drive(t, at(e, "live", "mover.live")), reconciler.Succeeded)
	want(t, drive(t, at(e, "hand-over", "mover.hand-back")), reconciler.Succeeded)
	v := e.Run.Facts.Volumes[0]
	if m, _ := markOf(target.claim(ourNamespace, v.StagingClaim)); m.kind != spec.MarkDirty || v.Mark != spec.MarkDirty {
		t.Fatalf("marked %q, in the ledger %q", m, v.Mark)
	}
	if pv := target.volume(v.TargetPV); pv.Annotations[kube.AnnotationMark] != "" {
		t.Fatalf("the volume still says %q", pv.Annotations[kube.AnnotationMark])
	}
	// The next copy compares every file.
	e.Run.Facts.Volumes[0].Snapshot, e.Run.Facts.Volumes[1].Snapshot = "s2", "s2"
	e.Step.Attempt = 2
	want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
	if m, _ := markOf(target.claim(ourNamespace, v.StagingClaim)); !m.holds("s2") {
		t.Fatalf("marked %q", m)
	}
}

func TestHandOverRefuses(t *testing.T) {
	cases := map[string]struct {
		change func(w *world, e *kube.Env)
		reason string
	}{
		"a claim of that name is there": {func(w *world, _ *kube.Env) {
			c, _ := sourceClaim("data", nil)
			c.Namespace = "shop-new"
			w.put(c)
		}, "ClaimExists"},
		"the volume is another storage":     {func(_ *world, e *kube.Env) { e.Run.Facts.Volumes[0].TargetHandle = "csi/other" }, "ForeignVolume"},
		"the claim holds an older snapshot": {func(_ *world, e *kube.Env) { e.Run.Facts.Volumes[0].Snapshot = "s9" }, "NotRestored"},
		"the volume belongs to somebody": {func(w *world, e *kube.Env) {
			pv := w.volume(e.Run.Facts.Volumes[0].TargetPV)
			pv.Spec.ClaimRef.Namespace = "elsewhere"
			w.put(pv)
		}, "VolumeElsewhere"},
		"the volume is gone": {func(w *world, e *kube.Env) {
			_ = w.Tracker().Delete(volumeResource, "", e.Run.Facts.Volumes[0].TargetPV)
		}, "VolumeMissing"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, target, e := copiedWorld(t)
			c.change(target, e)
			before := target.writes
			o := drive(t, at(e, "hand-over", "mover.hand-over"))
			if o.Seen != reconciler.Broken || o.Reason != c.reason {
				t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
			}
			if c.reason != "NotRestored" && target.writes != before {
				t.Fatalf("%d writes before the refusal", target.writes-before)
			}
		})
	}
}

// The hand-over does not wait for a writer's pod whose claim is marked clean,
// and waits for every other pod.
func TestHandOverBesideAWriterThatIsDone(t *testing.T) {
	for name, c := range map[string]struct {
		labels func(e *kube.Env) map[string]string
		seen   reconciler.Seen
	}{
		"our writer":    {func(e *kube.Env) map[string]string { l := e.Labels(); l[LabelComponent] = ComponentWriter; return l }, reconciler.Succeeded},
		"a foreign pod": {func(*kube.Env) map[string]string { return map[string]string{LabelComponent: ComponentWriter} }, reconciler.Working},
	} {
		t.Run(name, func(t *testing.T) {
			_, target, e := copiedWorld(t)
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ourNamespace, Name: "late", Labels: c.labels(e)}, Spec: podSpec(e.Run.Facts.Volumes[0].StagingClaim)}
			p.Status.Phase = corev1.PodRunning
			target.stamp(p)
			if err := target.Tracker().Add(p); err != nil {
				t.Fatal(err)
			}
			want(t, drive(t, at(e, "hand-over", "mover.hand-over")), c.seen)
		})
	}
}

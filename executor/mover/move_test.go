package mover

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// movedWorld has two claims that are to be moved, stopped and set to Retain.
func movedWorld(t testing.TB) (*world, *world, *kube.Env) {
	source, target := newWorld(t), newWorld(t, class("fast", "csi", true))
	e := testEnv(source, target, "move", "mover.move")
	e.Run.Spec.Closure.Plan.Spec.Volumes.Defaults.Action = "move"
	e.Run.Spec.Closure.Target.Metadata.Name = "new"
	for _, name := range []string{"data", "media"} {
		c, pv := sourceClaim(name, map[string]string{"app": "shop"})
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		pv.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": "csi", kube.AnnotationPrevious: `{"reclaimPolicy":"Delete"}`, kube.AnnotationRun: e.RunLabel(), kube.AnnotationEpoch: "1"}
		pv.Labels = map[string]string{"tier": "gold", "topology.kubernetes.io/zone": "a"}
		pv.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: "shop", Name: "stage"}
		source.add(c)
		pv.Spec.ClaimRef.UID = c.UID
		source.add(pv)
		e.Run.Facts.Volumes = append(e.Run.Facts.Volumes, spec.Volume{
			Namespace: "shop", Claim: name, TargetNamespace: "shop-new", TargetClaim: name, Action: "move",
			StorageClassName: "fast", Capacity: "1Gi", SourcePV: pv.Name, SourcePolicy: "Delete",
		})
	}
	return source, target, e
}

// handedOver checks that the target has the storage and the source keeps it.
func handedOver(t testing.TB, source, target *world, e *kube.Env) {
	t.Helper()
	for i := range e.Run.Facts.Volumes {
		v := &e.Run.Facts.Volumes[i]
		from, pv, c := source.volume(v.SourcePV), target.volume(v.TargetPV), target.claim("shop-new", v.Claim)
		if pv == nil || c == nil || !bound(c, pv) || pv.Spec.CSI.VolumeHandle != from.Spec.CSI.VolumeHandle {
			t.Fatalf("%s: volume %+v, claim %+v", v.Claim, pv, c)
		}
		if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || from.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
			t.Fatalf("%s: policies %s and %s", v.Claim, pv.Spec.PersistentVolumeReclaimPolicy, from.Spec.PersistentVolumeReclaimPolicy)
		}
		if from.Annotations[kube.AnnotationMoved] != "new/"+pv.Name {
			t.Fatalf("%s: the source's volume says %v", v.Claim, from.Annotations)
		}
		if v.TargetPolicy != "Delete" || v.TargetHandle != handle(pv) {
			t.Fatalf("the ledger says %+v", v)
		}
	}
}

// takenBack checks that nothing of a move is left anywhere.
func takenBack(t testing.TB, source, target *world, e *kube.Env) {
	t.Helper()
	for i := range e.Run.Facts.Volumes {
		v := &e.Run.Facts.Volumes[i]
		from := source.volume(v.SourcePV)
		if pv, c := target.volume(movedName(e, v)), target.claim("shop-new", v.Claim); pv != nil || c != nil {
			t.Fatalf("%s: left on the target: %v, %v", v.Claim, pv, c)
		}
		if from == nil || !bound(source.claim("shop", v.Claim), from) || from.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
			t.Fatalf("%s: the source's volume is %v", v.Claim, from)
		}
		var have []string
		for k := range from.Annotations {
			have = append(have, k)
		}
		slices.Sort(have)
		if want := []string{"pv.kubernetes.io/provisioned-by", kube.AnnotationRun, kube.AnnotationEpoch, kube.AnnotationPrevious}; !slices.Equal(have, sorted(want)) {
			t.Fatalf("%s: the source's volume has %v", v.Claim, from.Annotations)
		}
		if v.TargetPV != "" || v.Mark != spec.MarkNone {
			t.Fatalf("the ledger says %+v", v)
		}
	}
	if len(source.lost)+len(target.lost)+len(target.stolen) > 0 {
		t.Fatalf("lost %v and %v, anybody's %v", source.lost, target.lost, target.stolen)
	}
}

func sorted(s []string) []string { slices.Sort(s); return s }

func TestMoveMakesTheSameStorageOnTheTarget(t *testing.T) {
	source, target, e := movedWorld(t)
	o, err := Verbs()["mover.move"].Look(t.Context(), e)
	if err != nil || o.Seen != reconciler.Absent || o.Facts == nil || o.Facts.Volumes[0].TargetPV == "" || o.Facts.Volumes[0].TargetHandle != "csi/src-data" {
		t.Fatalf("the intent does not name what will be made: %+v %v", o, err)
	}
	o = drive(t, e)
	want(t, o, reconciler.Succeeded)
	if !strings.Contains(o.Message, "shop/data (volume pv-data)") || !strings.Contains(o.Message, "stay at Retain for ever") {
		t.Errorf("the record says %q", o.Message)
	}
	handedOver(t, source, target, e)
	pv, c := target.volume(e.Run.Facts.Volumes[0].TargetPV), target.claim("shop-new", "data")
	if pv.Labels["tier"] != "gold" || pv.Labels["topology.kubernetes.io/zone"] != "" || pv.Annotations["pv.kubernetes.io/provisioned-by"] != "csi" {
		t.Errorf("labels %v, annotations %v", pv.Labels, pv.Annotations)
	}
	if s := pv.Spec.CSI.NodeStageSecretRef; s.Namespace != "shop-new" || source.volume("pv-data").Spec.CSI.NodeStageSecretRef.Namespace != "shop" {
		t.Errorf("the Secret that comes with the plan is looked for in %s", s.Namespace)
	}
	if c.Annotations["team"] != "a" || c.Labels["app"] != "shop" || c.Annotations["pv.kubernetes.io/bind-completed"] != "" || *c.Spec.StorageClassName != "fast" {
		t.Errorf("the claim is not the source's: %+v", c)
	}
	want(t, drive(t, at(e, "live", "mover.live")), reconciler.Succeeded)
	if m, _ := markOf(target.claim("shop-new", "data")); m.kind != spec.MarkLive || e.Run.Facts.Volumes[1].Mark != spec.MarkLive {
		t.Errorf("marked %q, in the ledger %q", m, e.Run.Facts.Volumes[1].Mark)
	}
}

// At the plan's end the target gets the policy that the source had, and
// nobody ever puts the source's back.
func TestClosingAMovedPlan(t *testing.T) {
	source, target, e := movedWorld(t)
	want(t, drive(t, e), reconciler.Succeeded)
	want(t, drive(t, at(e, "live", "mover.live")), reconciler.Succeeded)
	want(t, drive(t, at(e, "clean-up-movers", "mover.clean-up")), reconciler.Succeeded)
	before := source.writes
	want(t, drive(t, at(e, "policies", "mover.policies")), reconciler.Succeeded)
	want(t, drive(t, at(e, "claims", "mover.close-claims")), reconciler.Succeeded)
	pv, from := target.volume(e.Run.Facts.Volumes[0].TargetPV), source.volume("pv-data")
	if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || pv.Annotations[kube.AnnotationPrevious] != "" {
		t.Errorf("the target's volume is at %s", pv.Spec.PersistentVolumeReclaimPolicy)
	}
	if source.writes != before || from.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || from.Annotations[kube.AnnotationMoved] == "" {
		t.Errorf("the source's volume is %+v", from)
	}
}

// The move is killed at every API write of either cluster, before and after it
// took effect, and ends the same way; its undo likewise.
func TestMoveKilledAtEveryCall(t *testing.T) {
	source, target, e := movedWorld(t)
	steps := []struct{ step, verb string }{{"move", "mover.move"}, {"move", "mover.move-undo"}}
	var writes [2][2]int // direction, cluster
	for d, s := range steps {
		on := []int{source.writes, target.writes}
		want(t, drive(t, at(e, s.step, s.verb)), reconciler.Succeeded)
		writes[d] = [2]int{source.writes - on[0], target.writes - on[1]}
	}
	if writes != [2][2]int{{2, 4}, {2, 4}} {
		t.Fatalf("%v writes for two volumes", writes)
	}
	for _, late := range []bool{false, true} {
		for d := range steps {
			for on := range 2 {
				for i := 1; i <= writes[d][on]; i++ {
					t.Run(fmt.Sprintf("late=%t/%s/%d/%d", late, steps[d].verb, on, i), func(t *testing.T) {
						source, target, e := movedWorld(t)
						w := []*world{source, target}[on]
						for k, s := range steps {
							w.killAt, w.late = 0, late
							if k == d {
								w.killAt = w.writes + i
							}
							want(t, drive(t, at(e, s.step, s.verb)), reconciler.Succeeded)
							if k == 0 {
								handedOver(t, source, target, e)
							}
						}
						takenBack(t, source, target, e)
					})
				}
			}
		}
	}
}

// An undo starts from every state in which a move can stop.
func TestMoveUndoFromEveryState(t *testing.T) {
	for i := 0; i <= 6; i++ {
		source, target, e := movedWorld(t)
		v := Verbs()["mover.move"]
		for n := 0; source.writes+target.writes < i && n < 20; n++ {
			left := i - source.writes - target.writes
			source.killAt, target.killAt = source.writes+left, target.writes+left
			source.late, target.late = true, true
			if err := v.Ensure(t.Context(), at(e, "move", "mover.move")); err != nil && !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
		}
		source.killAt, target.killAt = 0, 0
		want(t, drive(t, at(e, "move", "mover.move-undo")), reconciler.Succeeded)
		takenBack(t, source, target, e)
	}
}

func TestMoveRefusesAndWaits(t *testing.T) {
	pod := func(ns, claim string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "user"}, Spec: podSpec(claim)}
	}
	cases := map[string]struct {
		change func(source, target *world, e *kube.Env)
		seen   reconciler.Seen
		reason string
	}{
		"a pod on the source": {func(s, _ *world, _ *kube.Env) { s.add(pod("shop", "data")) }, reconciler.Working, "ClaimInUse"},
		"still attached": {func(s, _ *world, _ *kube.Env) {
			s.add(&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv-data")}}})
		}, reconciler.Working, "StillAttached"},
		"not at Retain": {func(s, _ *world, _ *kube.Env) {
			pv := s.volume("pv-data")
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
			s.put(pv)
		}, reconciler.Broken, "NotRetained"},
		"the source's claim has another volume": {func(_, _ *world, e *kube.Env) { e.Run.Facts.Volumes[0].SourcePV = "pv-media" }, reconciler.Broken, "VolumeMissing"},
		"the source's claim is gone": {func(s, _ *world, _ *kube.Env) {
			_ = s.Tracker().Delete(claimResource, "shop", "data")
		}, reconciler.Broken, "ClaimMissing"},
		"a claim of that name is there": {func(_, w *world, _ *kube.Env) {
			c, _ := sourceClaim("data", nil)
			c.Namespace = "shop-new"
			w.add(c)
		}, reconciler.Broken, "ClaimExists"},
		"a volume of that name is there": {func(_, w *world, e *kube.Env) {
			_, pv := sourceClaim("data", nil)
			pv.Name = movedName(e, &e.Run.Facts.Volumes[0])
			w.add(pv)
		}, reconciler.Broken, "ForeignVolume"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			source, target, e := movedWorld(t)
			e.Run.Facts.Volumes = e.Run.Facts.Volumes[:1]
			c.change(source, target, e)
			if o := drive(t, e); o.Seen != c.seen || o.Reason != c.reason {
				t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
			}
			if source.writes+target.writes > 0 {
				t.Fatal("something was written all the same")
			}
		})
	}
}

// Whoever starts the source again before the target does keeps it from starting.
func TestLiveLooksAtTheSourceOnceMore(t *testing.T) {
	source, target, e := movedWorld(t)
	want(t, drive(t, e), reconciler.Succeeded)
	source.add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "back"}, Spec: podSpec("media")})
	before := target.writes
	if o := drive(t, at(e, "live", "mover.live")); o.Seen != reconciler.Working || o.Reason != "ClaimInUse" || target.writes != before {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
}

// The undo waits for the target's pods, and says what it cannot take back.
func TestMoveUndoProvesTheTargetGone(t *testing.T) {
	source, target, e := movedWorld(t)
	want(t, drive(t, e), reconciler.Succeeded)
	target.add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop-new", Name: "web"}, Spec: podSpec("data")})
	before := target.writes
	if o := drive(t, at(e, "move", "mover.move-undo")); o.Seen != reconciler.Working || o.Reason != "ClaimInUse" {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
	if target.claim("shop-new", "data") == nil || target.writes > before+2 {
		t.Fatal("the claim of a running pod was deleted")
	}
	_ = target.Tracker().Delete(podResource, "shop-new", "web")
	target.add(&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To(e.Run.Facts.Volumes[0].TargetPV)}}})
	if o := drive(t, at(e, "move", "mover.move-undo")); o.Seen != reconciler.Working || o.Reason != "StillAttached" {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
	if source.volume("pv-data").Annotations[kube.AnnotationMoved] == "" {
		t.Fatal("the source's volume lost its note while the target has it attached")
	}
	_ = target.Tracker().Delete(storagev1.SchemeGroupVersion.WithResource("volumeattachments"), "", "a")
	started := metav1.NewMicroTime(time.Now())
	e.Run.Steps = []spec.Step{{Name: "start", Verb: "workload.start", Started: &started, State: spec.StepUndone}}
	e.Run.Facts.Volumes = append(e.Run.Facts.Volumes, spec.Volume{Namespace: "shop", Claim: "db", Action: "copy"})
	want(t, drive(t, at(e, "move", "mover.move-undo")), reconciler.Succeeded)
	w := e.Run.Facts.Volumes[0].Warnings
	if len(w) != 1 || !strings.Contains(w[0], "a plan with moved and copied volumes: shop/db") {
		t.Errorf("the record says %q", w)
	}
	e.Run.Facts.Volumes = e.Run.Facts.Volumes[:2]
	takenBack(t, source, target, e)
}

// A target that is dead and was never live does not keep the source down, and
// what is left there is said; one that was live does.
func TestMoveUndoOfADeadTarget(t *testing.T) {
	long, now := metav1.NewMicroTime(time.Now().Add(-2*kube.TargetPatience)), metav1.NewMicroTime(time.Now())
	for name, c := range map[string]struct {
		since metav1.MicroTime
		live  bool
		dead  string
		done  bool
	}{
		"an outage of a moment":     {now, false, "", false},
		"for long, never live":      {long, false, "", true},
		"for long, and live":        {long, true, "", false},
		"live, and said to be dead": {now, true, "ada said so", true},
	} {
		t.Run(name, func(t *testing.T) {
			source, _, e := movedWorld(t)
			want(t, drive(t, e), reconciler.Succeeded)
			at(e, "move", "mover.move-undo")
			e.Target, e.Step.Undid, e.Undo, e.Run.Status.TargetDead = nil, &spec.Undid{Started: &c.since}, true, c.dead
			if c.live {
				e.Run.Steps = []spec.Step{{Name: "live", Verb: "mover.live", Started: &long}}
			}
			o, err := Verbs()["mover.move-undo"].Look(t.Context(), e)
			if (err == nil) != c.done || c.done != (o.Seen == reconciler.Succeeded) {
				t.Fatalf("%+v %v", o, err)
			}
			if c.done && (len(o.Facts.Volumes[0].Warnings) != 1 || o.Facts.Volumes[0].TargetPV == "" || source.volume("pv-data").Annotations[kube.AnnotationMoved] == "") {
				t.Fatalf("%+v", o.Facts.Volumes[0])
			}
		})
	}
}

func usable(c *corev1.PersistentVolumeClaim) bool { return c != nil && c.DeletionTimestamp == nil }

// TestNeverTwoWriters takes random verbs in random order, with kills, pods on
// both sides and lost facts in between (safety property 7): the storage is
// never offered to the target while the source uses it, and never given back
// while the target does.
func TestNeverTwoWriters(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		source, target, e := movedWorld(t)
		e.Run.Facts.Volumes = e.Run.Facts.Volumes[:1]
		frozen := e.Run.Facts.Volumes[0]
		users := map[*world]string{source: "shop", target: "shop-new"}
		uses := func(w *world) bool { _, err := w.Tracker().Get(podResource, users[w], "p"); return err == nil }
		verbs := []string{"mover.move", "mover.move-undo", "mover.live", "mover.policies"}
		for i := range rapid.IntRange(5, 40).Draw(rt, "length") {
			w := rapid.SampledFrom([]*world{source, target}).Draw(rt, "side")
			switch {
			case uses(w):
				_ = w.Tracker().Delete(podResource, users[w], "p")
			case rapid.Bool().Draw(rt, "pod") && (w == source || usable(target.claim("shop-new", "data"))):
				w.add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: users[w], Name: "p"}, Spec: podSpec("data")})
			}
			had, wasBusy := target.volume(movedName(e, &frozen)) != nil, uses(source)
			at(e, "move", rapid.SampledFrom(verbs).Draw(rt, fmt.Sprintf("verb-%d", i)))
			source.killAt, target.killAt = 0, 0
			source.late, target.late = rapid.Bool().Draw(rt, "late-s"), rapid.Bool().Draw(rt, "late-t")
			if rapid.Bool().Draw(rt, "kill") {
				source.killAt, target.killAt = source.writes+rapid.IntRange(1, 3).Draw(rt, "at-s"), target.writes+rapid.IntRange(1, 4).Draw(rt, "at-t")
			}
			play(rt, e)
			pv, from := target.volume(movedName(e, &frozen)), source.volume("pv-data")
			if pv != nil && (from.Annotations[kube.AnnotationMoved] == "" || from.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain) {
				rt.Fatalf("%s: the target has the storage, and the source's volume says %v at %s", e.Verb, from.Annotations, from.Spec.PersistentVolumeReclaimPolicy)
			}
			if pv != nil && !had && wasBusy {
				rt.Fatalf("%s offered the storage to the target while the source used it", e.Verb)
			}
			if uses(target) && (pv == nil || !usable(target.claim("shop-new", "data")) || from.Annotations[kube.AnnotationMoved] == "") {
				rt.Fatalf("%s gave the storage back while the target used it", e.Verb)
			}
			if rapid.IntRange(0, 9).Draw(rt, "journal") == 0 {
				e.Run.Facts.Volumes = []spec.Volume{frozen}
			}
		}
		if source.claim("shop", "data") == nil || len(source.lost)+len(target.lost)+len(target.stolen) > 0 {
			rt.Fatalf("lost %v and %v, anybody's %v", source.lost, target.lost, target.stolen)
		}
	})
}

package mover

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

func TestGrow(t *testing.T) {
	const gi = 1 << 30
	for name, c := range map[string]struct {
		action, capacity string
		disk             int64
		want             string
	}{
		"nothing copied yet":    {"copy", "1Gi", 0, "1Gi"},
		"room enough":           {"copy", "1Gi", gi * 89 / 100, "1Gi"},
		"nearly full":           {"copy", "1Gi", gi * 91 / 100, "1165Mi"},
		"fuller than its size":  {"copy", "1Gi", 3 * gi, "3840Mi"},
		"only copies are grown": {"skip", "1Gi", 3 * gi, "1Gi"},
	} {
		v := spec.Volume{Action: c.action, Capacity: c.capacity, DiskBytes: c.disk}
		grow(&v)
		if v.Capacity != c.want || (len(v.Notes) > 0) != (c.want != c.capacity) {
			t.Errorf("%s: %s, want %s; notes %q", name, v.Capacity, c.want, v.Notes)
		}
		again := v
		if grow(&again); again.Capacity != v.Capacity || len(again.Notes) != len(v.Notes) {
			t.Errorf("%s: growing again makes %s of %s", name, again.Capacity, v.Capacity)
		}
	}
}

// TestClaimsThatDoNotFit: what the plan wants now against the claim that an
// earlier run made: the claim is replaced, grown or left, and never if live.
func TestClaimsThatDoNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*spec.Volume)
		mark   string
		seen   reconciler.Seen
		says   string // of a claim that is neither replaced nor left
		lost   int    // volumes that go with their claims
		class  string // of the claim afterwards
		size   string
	}{
		"as it is":              {change: func(*spec.Volume) {}, seen: reconciler.Succeeded, class: "fast", size: "1Gi"},
		"another class":         {change: func(v *spec.Volume) { v.StorageClassName = "gold" }, seen: reconciler.Succeeded, lost: 1, class: "gold", size: "1Gi"},
		"another mode":          {change: func(v *spec.Volume) { v.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany} }, seen: reconciler.Succeeded, lost: 1, class: "fast", size: "1Gi"},
		"a larger source":       {change: func(v *spec.Volume) { v.Capacity = "2Gi" }, seen: reconciler.Succeeded, lost: 1, class: "fast", size: "2Gi"},
		"a smaller source":      {change: func(v *spec.Volume) { v.Capacity = "500Mi" }, seen: reconciler.Succeeded, class: "fast", size: "1Gi"},
		"nearly full":           {change: func(v *spec.Volume) { v.DiskBytes = 1 << 30 }, seen: reconciler.Succeeded, lost: 1, class: "fast", size: "1280Mi"},
		"another class, live":   {change: func(v *spec.Volume) { v.StorageClassName = "gold" }, mark: "live since 2026-12-01T10:00:00Z", seen: reconciler.Broken, says: "is not deleted", class: "fast", size: "1Gi"},
		"another class, a mark": {change: func(v *spec.Volume) { v.StorageClassName = "gold" }, mark: "frozen", seen: reconciler.Broken, says: "is not deleted", class: "fast", size: "1Gi"},
	} {
		t.Run(name, func(t *testing.T) {
			_, target, e := copiedWorld(t)
			if err := target.Tracker().Add(class("gold", "x", false)); err != nil {
				t.Fatal(err)
			}
			e.Step.Attempt = 2
			v := &e.Run.Facts.Volumes[0]
			c.change(v)
			if c.mark != "" {
				claim := target.claim(ourNamespace, v.StagingClaim)
				claim.Annotations[kube.AnnotationMark] = c.mark
				target.put(claim)
			}
			intend(t, at(e, "claims", "mover.claims"))
			o := drive(t, e)
			want(t, o, c.seen)
			claim := target.claim(ourNamespace, e.Run.Facts.Volumes[0].StagingClaim)
			if claim == nil || *claim.Spec.StorageClassName != c.class || claim.Spec.Resources.Requests.Storage().String() != c.size || len(target.lost) != c.lost || !strings.Contains(o.Message, c.says) {
				t.Fatalf("%s\nclaim %+v, lost %v", o.Message, claim, target.lost)
			}
			if m, _ := markOf(claim); c.lost > 0 && m.kind != spec.MarkNone {
				t.Errorf("a new claim is marked %q", m)
			}
			if c.lost > 0 && e.Run.Facts.Volumes[0].TargetPV != "" {
				t.Errorf("the ledger still knows the volume that is gone: %+v", e.Run.Facts.Volumes[0])
			}
		})
	}
}

// intend saves a step's facts with its intent, as the loop does.
func intend(t *testing.T, e *kube.Env) {
	t.Helper()
	o, err := Verbs()[e.Verb].Look(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if o.Facts != nil {
		e.Run.Facts.Volumes = o.Facts.Volumes
	}
}

// A class that can grow its volumes is waited for.
func TestClaimsGrow(t *testing.T) {
	_, target, e := copiedWorld(t)
	fast := class("fast", "csi", true)
	fast.AllowVolumeExpansion = ptr.To(true)
	if err := target.Tracker().Update(storagev1.SchemeGroupVersion.WithResource("storageclasses"), fast, ""); err != nil {
		t.Fatal(err)
	}
	e.Step.Attempt = 2
	v := &e.Run.Facts.Volumes[0]
	claim := target.claim(ourNamespace, v.StagingClaim)
	claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	target.put(claim)
	v.Capacity = "2Gi"
	if o := drive(t, at(e, "claims", "mover.claims")); o.Seen != reconciler.Working || o.Reason != "Enlarging" {
		t.Fatalf("%d %s: %s", o.Seen, o.Reason, o.Message)
	}
	pv := target.volume(claim.Spec.VolumeName)
	pv.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	target.put(pv)
	want(t, drive(t, e), reconciler.Succeeded)
	if got := target.claim(ourNamespace, v.StagingClaim).Spec.Resources.Requests.Storage().String(); got != "2Gi" || len(target.lost) > 0 {
		t.Errorf("the claim asks for %s, lost %v", got, target.lost)
	}
}

// A source that has grown since the claim was made must not keep the hand-over
// waiting for a volume that is large enough.
func TestHandOverAsksForNoMoreThanThereIs(t *testing.T) {
	_, target, e := copiedWorld(t)
	v := &e.Run.Facts.Volumes[0]
	pv := target.volume(target.claim(ourNamespace, v.StagingClaim).Spec.VolumeName)
	pv.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	target.put(pv)
	v.Capacity = "2Gi"
	want(t, drive(t, at(e, "hand-over", "mover.hand-over")), reconciler.Succeeded)
	if got := target.claim("shop-new", "data").Spec.Resources.Requests.Storage().String(); got != "1Gi" {
		t.Errorf("the application's claim asks for %s", got)
	}
}

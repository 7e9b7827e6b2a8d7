package reconciler

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestConflict: two plans, of which the one called young was recorded an hour
// after old; each row changes one of them.
func TestConflict(t *testing.T) {
	labels := func(text string) *metav1.LabelSelector {
		s, err := metav1.ParseToLabelSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	select2 := func(a, b string) func(w *Desired, r *Recorded) {
		return func(w *Desired, _ *Recorded) {
			w.Closures["old"].Plan.Spec.LabelSelector, w.Closures["young"].Plan.Spec.LabelSelector = labels(a), labels(b)
		}
	}
	claims := func(change func(a, b *spec.Volume)) func(w *Desired, r *Recorded) {
		return func(w *Desired, r *Recorded) {
			select2("app=web", "app=db")(w, r)
			a := spec.Volume{Namespace: "shop", Claim: "a", TargetNamespace: "shop", TargetClaim: "a", Action: "copy"}
			b := spec.Volume{Namespace: "shop", Claim: "b", TargetNamespace: "shop", TargetClaim: "b", Action: "copy"}
			change(&a, &b)
			r.Plans["old"].Volumes, r.Plans["young"].Volumes = []spec.Volume{a}, []spec.Volume{b}
		}
	}
	plan := func(w *Desired, name string) *spec.PlanSpec { return &w.Closures[name].Plan.Spec }
	for name, c := range map[string]struct {
		change  func(w *Desired, r *Recorded)
		refused string // "" means that neither is
		says    string
	}{
		"the same namespace": {func(*Desired, *Recorded) {}, "young", "namespace shop of source cluster old"},
		"another namespace":  {func(w *Desired, _ *Recorded) { plan(w, "old").Namespaces[0].Name = "bank" }, "", ""},
		"another source cluster": {func(w *Desired, _ *Recorded) {
			plan(w, "old").SourceCluster = "third"
			plan(w, "old").TargetCluster = "fourth"
		}, "", ""},
		"mapped to one namespace": {func(w *Desired, _ *Recorded) {
			plan(w, "old").Namespaces[0] = spec.NamespaceMapping{Name: "bank", TargetName: "shop"}
		}, "young", "namespace shop of target cluster new"},
		"mapped apart": {func(w *Desired, _ *Recorded) {
			plan(w, "old").Namespaces[0] = spec.NamespaceMapping{Name: "bank", TargetName: "shop"}
			plan(w, "young").Namespaces[0] = spec.NamespaceMapping{Name: "shop", TargetName: "bank"}
		}, "", ""},
		"one cluster with two names": {func(w *Desired, _ *Recorded) {
			plan(w, "old").SourceCluster = "alias"
			for _, c := range w.Closures {
				c.Source.Spec.Server = "https://api.old:6443"
			}
		}, "young", "namespace shop"},
		"other labels":                 {select2("app=web", "app=db"), "", ""},
		"labels that may meet":         {select2("app=web", "tier=front"), "young", "namespace shop"},
		"in and notin":                 {select2("app in (web, db)", "app notin (web, db, x)"), "", ""},
		"in and notin of a part":       {select2("app in (web, db)", "app notin (web)"), "young", "namespace shop"},
		"exists and does not":          {select2("app", "!app"), "", ""},
		"in and does not exist":        {select2("!app", "app in (web)"), "", ""},
		"notin and does not exist":     {select2("!app", "app notin (web)"), "young", "namespace shop"},
		"claims of their own":          {claims(func(a, b *spec.Volume) {}), "", ""},
		"a source claim of both":       {claims(func(a, b *spec.Volume) { b.Claim = "a" }), "young", "claim shop/a of source cluster old"},
		"a target claim of both":       {claims(func(a, b *spec.Volume) { b.TargetClaim = "a" }), "young", "claim shop/a of target cluster new"},
		"a claim that one skips":       {claims(func(a, b *spec.Volume) { b.Claim, b.TargetClaim, b.Action = "a", "a", "skip" }), "", ""},
		"the older is closed":          {func(_ *Desired, r *Recorded) { r.Plans["old"].Recorded.State = spec.Closed }, "", ""},
		"the older is gone":            {func(w *Desired, _ *Recorded) { delete(w.Closures, "old") }, "", ""},
		"the younger has migrated":     {func(_ *Desired, r *Recorded) { r.Plans["young"].Recorded.Cutover = "young-migrate-1" }, "old", "namespace shop"},
		"recorded by an older version": {func(_ *Desired, r *Recorded) { r.Plans["young"].Recorded.Since = nil }, "old", "namespace shop"},
		"recorded at once":             {func(_ *Desired, r *Recorded) { r.Plans["young"].Recorded.Since = r.Plans["old"].Recorded.Since }, "young", "namespace shop"},
		"the older is broken, but runs": {func(w *Desired, r *Recorded) {
			r.Plans["old"].Recorded.OpenRun = "old-stage-1"
			r.Open = map[string]*spec.Run{"old-stage-1": {Spec: spec.RunSpec{Plan: "old", Closure: *w.Closures["old"]}}}
			delete(w.Closures, "old")
		}, "young", "namespace shop"},
		"the younger runs": {func(w *Desired, r *Recorded) {
			r.Plans["young"].Recorded.OpenRun = "young-migrate-1"
			r.Open = map[string]*spec.Run{"young-migrate-1": {Spec: spec.RunSpec{Plan: "young", Closure: *w.Closures["young"]}}}
		}, "old", "namespace shop"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &Desired{Closures: map[string]*spec.Closure{"old": closureIn(spec.Staged, 1), "young": closureIn(spec.Staged, 1)}}
			r := &Recorded{Plans: map[string]*spec.PlanStatus{"old": newStatus("old"), "young": newStatus("young")}}
			for plan, at := range map[string]time.Time{"old": noon, "young": noon.Add(time.Hour)} {
				since := metav1.NewTime(at)
				r.Plans[plan].Recorded.Since = &since
			}
			c.change(w, r)
			for _, plan := range []string{"old", "young"} {
				clash := Conflict(plan, w, r)
				if (clash != nil) != (plan == c.refused) {
					t.Fatalf("%s: %+v", plan, clash)
				}
				if clash == nil {
					continue
				}
				d := Decide(PlanInput{Now: noon, Plan: plan, Closure: w.Closures[plan], Status: newStatus(plan), Conflict: clash})
				if say := find(d.Status, "Ready").Message; !strings.Contains(say, c.says) || !strings.Contains(say, "plans old and young ") && !strings.Contains(say, "plans young and old ") {
					t.Errorf("it says %q", say)
				}
			}
		})
	}
}

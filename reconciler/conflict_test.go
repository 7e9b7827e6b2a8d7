package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
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
		"the older is gone, and nobody can read what it staged": {func(w *Desired, r *Recorded) {
			r.Plans["old"].Covers = coveredBy(w.Closures["old"])
			delete(w.Closures, "old")
		}, "young", "the document of old is gone or broken"},
		"the older is gone and was closed": {func(w *Desired, r *Recorded) {
			r.Plans["old"].Covers, r.Plans["old"].Recorded.State = coveredBy(w.Closures["old"]), spec.Closed
			delete(w.Closures, "old")
		}, "", ""},
		"the older is gone, and staged another namespace": {func(w *Desired, r *Recorded) {
			r.Plans["old"].Covers = coveredBy(w.Closures["old"])
			r.Plans["old"].Covers.Namespaces = []spec.NamespaceMapping{{Name: "bank"}}
			delete(w.Closures, "old")
		}, "", ""},
		"the older is gone, its claims are not ours": {func(w *Desired, r *Recorded) {
			claims(func(a, b *spec.Volume) {})(w, r)
			r.Plans["old"].Covers = coveredBy(w.Closures["old"])
			delete(w.Closures, "old")
		}, "", ""},
		"the older was narrowed after its cutover": {func(w *Desired, r *Recorded) {
			r.Plans["old"].Covers = coveredBy(w.Closures["old"])
			r.Plans["old"].Recorded.Cutover, r.Plans["old"].Recorded.State = "old-migrate-1", spec.Migrated
			plan(w, "old").Namespaces = []spec.NamespaceMapping{{Name: "bank"}}
		}, "young", "namespace shop of source cluster old"},
		"the older was narrowed before it": {func(w *Desired, r *Recorded) {
			r.Plans["old"].Covers = coveredBy(w.Closures["old"])
			plan(w, "old").Namespaces = []spec.NamespaceMapping{{Name: "bank"}}
		}, "", ""},
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
				clash := newOverlaps(w, r).conflict(plan, w, r)
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

// TestIndexKnowsEveryMeeting compares the index with asking every pair, while
// plans come, go, change and are closed.
func TestIndexKnowsEveryMeeting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &Desired{Closures: map[string]*spec.Closure{}}
		r := &Recorded{Plans: map[string]*spec.PlanStatus{}, Open: map[string]*spec.Run{}}
		o := newOverlaps(w, r)
		few := func(label string, n int) int { return rapid.IntRange(0, n).Draw(t, label) }
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			plan := fmt.Sprint("p", few("plan", 4))
			c := closureIn(spec.Staged, 1)
			c.Plan.Metadata.Name = plan
			c.Plan.Spec.SourceCluster, c.Plan.Spec.TargetCluster = fmt.Sprint("s", few("source", 1)), fmt.Sprint("t", few("target", 1))
			c.Source.Spec.Server = []string{"", "https://a", "https://b"}[few("server", 2)]
			c.Target.Spec.InCluster = few("in", 1) == 1
			c.Plan.Spec.Namespaces = []spec.NamespaceMapping{{Name: fmt.Sprint("n", few("ns", 3)), TargetName: []string{"", "n0"}[few("to", 1)]}}
			if r.Plans[plan] == nil {
				r.Plans[plan] = newStatus(plan)
			}
			st := copyStatus(r.Plans[plan])
			switch few("what", 4) {
			case 0:
				w.Closures[plan] = c
			case 1:
				delete(w.Closures, plan)
			case 2:
				st.Covers = coveredBy(c)
			case 3:
				st.Recorded.State = []spec.State{spec.Closed, spec.Staged}[few("closed", 1)]
			case 4:
				st.Recorded.OpenRun = plan
				r.Open[plan] = &spec.Run{Spec: spec.RunSpec{Closure: *c}}
			}
			r.Plans[plan] = st
			o.set(plan, w, r)
		}
		fresh := newOverlaps(w, r)
		for a := range r.Plans {
			for b := range r.Plans {
				meet := a != b && slices.ContainsFunc(coverages(a, w, r), func(x coverage) bool {
					return slices.ContainsFunc(coverages(b, w, r), func(y coverage) bool { return shared(x, y) != "" })
				})
				if meet != o.meets(a)[b] || meet != fresh.meets(a)[b] {
					t.Fatalf("%s and %s meet: %v, the index says %v, a new one %v", a, b, meet, o.meets(a)[b], fresh.meets(a)[b])
				}
			}
		}
	})
}

// A version that did not keep what a plan covers has recorded its run: what the
// run was frozen with counts when the document is gone.
func TestRecallFromTheRecord(t *testing.T) {
	l := idle(closureIn(spec.Staged, 1), newStatus("shop"))
	run := &spec.Run{Metadata: spec.Metadata{Name: "old-stage-1"}, Spec: spec.RunSpec{Plan: "old", Kind: spec.RunStage, Number: 1, Closure: *closureIn(spec.Staged, 1)}}
	l.ledger.(*memory).runs["old-stage-1"] = run
	st := newStatus("old")
	st.Recorded.LastRunPath, st.Recorded.Removed, st.Recorded.Numbers = spec.RunPath(run), true, map[spec.RunKind]int{spec.RunStage: 1}
	l.rec.Plans["old"] = st
	l.recall(t.Context())
	if clash := l.input("shop").Conflict; clash == nil || clash.Plan != "old" || l.ledger.(*memory).plans["old"].Covers == nil {
		t.Fatalf("%+v", clash)
	}
}

// What a run takes hold of is in the status as soon as it is frozen, and stays
// when the plan's document goes.
func TestARunsGroundIsKept(t *testing.T) {
	s := &story{st: newStatus("shop"), at: noon}
	s.say(doc(spec.Staged))
	s.say(doc(spec.Migrated))
	s.end(spec.RunFailed)
	Remove(s.st)
	if v := s.st.Covers; v == nil || v.Source.Cluster != "old" || v.Target.Cluster != "new" || v.Namespaces[0].Name != "shop" {
		t.Fatalf("%+v", v)
	}
}

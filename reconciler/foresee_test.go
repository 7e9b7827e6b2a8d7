package reconciler

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tipWith is a state of the manifests with some plans.
func tipWith(commit string, closures ...*spec.Closure) *Desired {
	d := &Desired{Commit: commit, Approval: spec.Approval{Commit: commit, Time: metav1.NewTime(noon)}, Closures: map[string]*spec.Closure{}, Problems: map[string][]spec.Problem{}}
	for _, c := range closures {
		d.Closures[c.Plan.Metadata.Name] = c
	}
	return d
}

// merging adds what the commit changes.
func merging(before, after *Desired) *Desired {
	after.Approval.Time = metav1.NewTime(noon.Add(time.Second)) // what came first goes on
	pc := PlanCommit{Approval: after.Approval, Plans: map[string]PlanFlip{}}
	for name, c := range after.Closures {
		was, p := before.Closures[name], &c.Plan.Spec
		if was == nil || was.Plan.Spec.State != p.State || was.Plan.Spec.Cutover.AttemptOrDefault() != p.Cutover.AttemptOrDefault() {
			pc.Plans[name] = PlanFlip{State: p.State, Attempt: p.Cutover.AttemptOrDefault(), Digest: c.Digest(), Appeared: was == nil}
		}
	}
	for name := range before.Closures {
		if after.Closures[name] == nil {
			pc.Removed = append(pc.Removed, name)
		}
	}
	after.Commits = []PlanCommit{pc}
	return after
}

func other(c *spec.Closure) *spec.Closure {
	c.Plan.Metadata.Name = "other"
	return c
}

func TestForesee(t *testing.T) {
	nightlyStages := func(p *spec.PlanSpec) { p.Stage.Schedule = "0 1 * * *" }
	elsewhere := func(p *spec.PlanSpec) { p.Namespaces[0].Name = "elsewhere" }
	rows := []struct {
		name          string
		before, after *spec.Closure
		start         spec.RunKind
		at            time.Duration // after noon
		reason        string
		stalled       bool
	}{
		{"a flip to Migrated", closureIn(spec.Staged, 1), closureIn(spec.Migrated, 1), spec.RunMigrate, 0, "CuttingOver", false},
		{"a flip outside of windows", nightly(spec.Staged), nightly(spec.Migrated), spec.RunMigrate, 10 * time.Hour, "OutsideWindow", false},
		{"a schedule", closureIn(spec.Staged, 1), closureIn(spec.Staged, 1, nightlyStages), spec.RunStage, 13 * time.Hour, "Staged", false},
		{"suspended for ever", closureIn(spec.Staged, 1), closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.Suspend = &spec.Suspend{Reason: "freeze"} }), "", 0, "Suspended", false},
		{"suspended for an hour", closureIn(spec.Staged, 1), closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) {
			until := metav1.NewTime(noon.Add(time.Hour))
			p.Suspend = &spec.Suspend{Reason: "freeze", Until: &until}
		}), spec.RunMigrate, time.Hour, "Suspended", false},
		{"rolled back", closureIn(spec.Migrated, 1), closureIn(spec.RolledBack, 1, discard), spec.RunRollback, 0, "RollingBack", false},
		{"rolled back without targetWrites", closureIn(spec.Migrated, 1), closureIn(spec.RolledBack, 1), "", 0, "TargetWritesRequired", true},
		{"back to Staged", closureIn(spec.Migrated, 1), closureIn(spec.Staged, 1), "", 0, "StagedAfterCutover", true},
		{"edited after its cutover", closureIn(spec.Migrated, 1), closureIn(spec.Migrated, 1, elsewhere), "", 0, "ChangedAfterCutover", false},
		{"closed", closureIn(spec.Staged, 1), closureIn(spec.Closed, 1), spec.RunClose, 0, "Closing", false},
		{"reopened", closureIn(spec.Closed, 1), closureIn(spec.Staged, 1), "", 0, "PlanClosed", true},
		{"appears as Migrated", nil, closureIn(spec.Migrated, 1), "", 0, "Unrecorded", true},
		{"meets an older plan", nil, other(closureIn(spec.Staged, 1)), "", 0, "PlanConflict", true},
		{"a field that is not supported", closureIn(spec.Staged, 1), closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Volumes.Defaults.Method = "unheard-of" }), "", 0, "NotSupported", true},
	}
	for _, r := range rows {
		before := tipWith("before", closureIn(spec.Staged, 1))
		if r.before != nil {
			before = tipWith("before", r.before)
		}
		after := merging(before, tipWith("after", r.after))
		if r.after.Plan.Metadata.Name == "other" {
			after = merging(before, tipWith("after", closureIn(spec.Staged, 1), r.after))
		} else if r.before == nil {
			before = tipWith("before")
			after = merging(before, tipWith("after", r.after))
		}
		rec := Presume(noon, before)
		will := Foresee(noon, rec, after)
		f := will.Plans[r.after.Plan.Metadata.Name]
		start := spec.RunKind("")
		if f.Order != nil {
			start = f.Order.Kind
		}
		var at time.Time
		if r.at != 0 {
			at = noon.Add(r.at)
		}
		if start != r.start || !f.At.Equal(at) || f.Condition.Reason != r.reason || f.Stalled != r.stalled || f.Acts() != (r.start != "") {
			t.Errorf("%s: starts %q at %s, %s: %s, stalled %v", r.name, start, f.At, f.Condition.Reason, f.Condition.Message, f.Stalled)
		}
		touched := Touched(before, after, Foresee(noon, rec, before), will)
		if strings.Join(touched, " ") != f.Plan {
			t.Errorf("%s: touches %v", r.name, touched)
		}
		if len(rec.Plans) != len(before.Closures) {
			t.Errorf("%s: what is recorded was changed", r.name)
		}
	}
}

func TestForeseeWaitsForDependencies(t *testing.T) {
	waits := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Namespaces[0].Name, p.DependsOn = "elsewhere", []string{"shop"} })
	flipped := closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.Namespaces[0].Name, p.DependsOn = "elsewhere", []string{"shop"} })
	before := tipWith("before", closureIn(spec.Staged, 1), other(waits))
	f := Foresee(noon, Presume(noon, before), merging(before, tipWith("after", closureIn(spec.Staged, 1), other(flipped)))).Plans["other"]
	if f.Condition.Reason != "DependsOn" || f.Order != nil || f.Stalled {
		t.Errorf("got %+v", f)
	}
}

func TestForeseeUndoesARunningCutover(t *testing.T) {
	before := tipWith("before", closureIn(spec.Migrated, 1))
	after := merging(before, tipWith("after", closureIn(spec.Staged, 1)))
	rec := underWay(before, spec.RunMigrate)
	f := Foresee(noon, rec, after).Plans["shop"]
	if !strings.HasPrefix(f.Cancel, "StateChanged") || f.Order != nil || !f.Acts() {
		t.Errorf("got %+v", f)
	}
}

func TestForeseeWaitsForTheStageThatIsGoingOn(t *testing.T) {
	before := tipWith("before", closureIn(spec.Staged, 1))
	f := Foresee(noon, underWay(before, spec.RunStage), merging(before, tipWith("after", closureIn(spec.Migrated, 1)))).Plans["shop"]
	if f.Order == nil || f.Order.Kind != spec.RunMigrate || f.After != "shop-stage-1" || f.Condition.Reason != "Running" {
		t.Errorf("got %+v", f)
	}
}

// underWay is a record in which a run of the plan shop is going on.
func underWay(want *Desired, kind spec.RunKind) *Recorded {
	rec := Presume(noon, want)
	st := rec.Plans["shop"]
	st.Recorded.State, st.Recorded.Cutover, st.Recorded.CutoverPath = "", "", ""
	run := Freeze(noon, Order{Kind: kind, Plan: "shop", Closure: want.Closures["shop"], Approval: &want.Approval, Commit: want.Commit}, st)
	rec.Plans["shop"], rec.Open[run.Metadata.Name] = Started(st, run), run
	return rec
}

func TestForeseeHoldsWhenManyPlansAreGone(t *testing.T) {
	var all []*spec.Closure
	for _, name := range []string{"a", "b", "c"} {
		c := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Namespaces[0].Name = name })
		c.Plan.Metadata.Name = name
		all = append(all, c)
	}
	before := tipWith("before", all...)
	out := Foresee(noon, Presume(noon, before), merging(before, tipWith("after")))
	if out.Hold == nil || out.Hold.Reason != "ManyPlansRemoved" || !out.Plans["a"].Stalled {
		t.Errorf("got %+v", out)
	}
}

func TestAnEditOfCommentsTouchesNothing(t *testing.T) {
	before := tipWith("before", closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Stage.Schedule = "0 1 * * *" }))
	after := merging(before, tipWith("after", closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Stage.Schedule = "0 1 * * *" })))
	rec := Presume(noon, before)
	if got := Touched(before, after, Foresee(noon, rec, before), Foresee(noon, rec, after)); len(got) != 0 {
		t.Errorf("touched %v", got)
	}
}

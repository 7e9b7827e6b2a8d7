package reconciler

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDependsOn: shop names platform in dependsOn; each row is what is recorded
// of platform, and whether a cutover and a stage run of shop wait for it.
func TestDependsOn(t *testing.T) {
	state := func(s spec.State, edit ...func(r *spec.Recorded)) Dependency {
		st := newStatus("platform")
		st.Recorded.State = s
		for _, e := range edit {
			e(&st.Recorded)
		}
		return Dependency{Plan: "platform", Status: st, Stages: true}
	}
	cutover := func(r *spec.Recorded) { r.Cutover = "platform-migrate-1" }
	rolling := state(spec.Migrated)
	rolling.Open = &spec.Run{Metadata: spec.Metadata{Name: "platform-rollback-1"}, Spec: spec.RunSpec{Kind: spec.RunRollback}}
	closing := state(spec.Migrated)
	closing.Open = &spec.Run{Spec: spec.RunSpec{Kind: spec.RunClose}}
	staged := state(spec.Staged)
	staged.Status.LastStage = &spec.StageNote{Result: spec.RunSucceeded}
	failing := state(spec.Staged)
	failing.Status.LastStage = &spec.StageNote{Result: spec.RunFailed}
	later := state(spec.Staged)
	later.Status.LastStage, later.Status.Estimate = &spec.StageNote{Result: spec.RunFailed}, &spec.Estimate{}
	idle := state(spec.Staged)
	idle.Stages = false
	for name, c := range map[string]struct {
		dep          Dependency
		cuts, stages bool
		says         string
	}{
		"nothing is recorded":               {Dependency{Plan: "platform", Stages: true}, false, false, "of which nothing is recorded yet"},
		"staged, no run yet":                {state(""), false, false, "it is Staged"},
		"staged once":                       {staged, false, true, "until it is Migrated; it is Staged"},
		"its first stage run failed":        {failing, false, false, "it is Staged"},
		"staged once, the newest failed":    {later, false, true, "it is Staged"},
		"no stage run is ever due":          {idle, false, true, "it is Staged"},
		"migrated":                          {state(spec.Migrated), true, true, ""},
		"migrated, a rollback is going on":  {rolling, false, false, "in its run platform-rollback-1"},
		"migrated, a rollback is approved":  {state(spec.Migrated, func(r *spec.Recorded) { r.Flip = &spec.Flip{To: spec.RolledBack} }), false, false, "it is Migrated"},
		"migrated, the rollback failed":     {state(spec.Migrated, func(r *spec.Recorded) { r.RollbackFailed = true }), false, false, "half rolled back"},
		"migrated, it is being closed":      {closing, true, true, ""},
		"rolled back":                       {state(spec.RolledBack), false, false, "it is RolledBack"},
		"closed after its cutover":          {state(spec.Closed, cutover), true, true, ""},
		"closed without one":                {state(spec.Closed), false, false, "will never be"},
		"its document is gone for a moment": {state(spec.Staged, func(r *spec.Recorded) { r.Removed = true }), false, false, "removed from Git"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &story{st: newStatus("shop"), at: noon}
			s.say(doc(spec.Staged))
			ask := func(state spec.State) PlanDecision {
				s.at = noon.Add(time.Hour)
				s.commit(doc(state))
				return Decide(PlanInput{Now: s.at, Plan: "shop", Closure: s.c, Status: s.st, Approval: &spec.Approval{}, Depends: []Dependency{c.dep}})
			}
			for state, starts := range map[spec.State]bool{spec.Migrated: c.cuts, spec.Staged: c.stages} {
				d := ask(state)
				if (d.Start != nil) != starts {
					t.Fatalf("%s: starts %v, says %s", state, d.Start != nil, reasonOf(d.Status))
				}
				say := find(d.Status, "Ready").Message
				if !starts && (reasonOf(d.Status) != "DependsOn" || !strings.Contains(say, "plan platform") || !strings.Contains(say, c.says)) {
					t.Errorf("%s: %s, it says %q", state, reasonOf(d.Status), say)
				}
			}
		})
	}
}

// A rollback, a cancel and a close wait for no other plan.
func TestDependsOnGatesStartsOnly(t *testing.T) {
	waits := []Dependency{{Plan: "platform"}}
	for name, play := range map[string]func(s *story){
		"rollback": func(s *story) { s.migrated(); s.commit(doc(spec.RolledBack, discard)) },
		"close":    func(s *story) { s.say(doc(spec.Staged)); s.commit(doc(spec.Closed)) },
		"cancel":   func(s *story) { s.say(doc(spec.Staged)); s.say(doc(spec.Migrated)); s.commit(doc(spec.Staged)) },
	} {
		s := &story{st: newStatus("shop"), at: noon}
		play(s)
		d := Decide(PlanInput{Now: s.at, Plan: "shop", Closure: s.c, Status: s.st, Open: s.open, Approval: &spec.Approval{}, Depends: waits})
		if d.Start == nil && d.Cancel == "" {
			t.Errorf("%s waits: %s", name, reasonOf(d.Status))
		}
	}
}

// A slot that another plan holds up is missed when its deadline has passed, and
// the approval of a cutover lapses: both are noticed by time alone.
func TestWaitingForAPlanEnds(t *testing.T) {
	for _, state := range []spec.State{spec.Staged, spec.Migrated} {
		s := &story{st: newStatus("shop"), at: noon}
		s.say(doc(spec.Staged, func(p *spec.PlanSpec) { p.Stage.StartingDeadline = &metav1.Duration{Duration: 10 * time.Minute} }))
		s.at = noon.Add(time.Hour)
		if state == spec.Migrated {
			s.commit(doc(state))
		}
		in := PlanInput{Now: s.at, Plan: "shop", Closure: s.c, Status: s.st, Approval: &spec.Approval{}, Depends: []Dependency{{Plan: "platform", Stages: true}}}
		d := Decide(in)
		if reasonOf(d.Status) != "DependsOn" || d.Wake.IsZero() {
			t.Fatalf("%s: %s, wakes at %s", state, reasonOf(d.Status), d.Wake)
		}
		in.Now, in.Status = d.Wake, d.Status
		switch d = Decide(in); {
		case state == spec.Staged && (len(d.Status.Missed) != 1 || reasonOf(d.Status) != "Staged"):
			t.Errorf("%d missed, %s", len(d.Status.Missed), reasonOf(d.Status))
		case state == spec.Migrated && reasonOf(d.Status) != "ApprovalLapsed":
			t.Errorf("%s", reasonOf(d.Status))
		}
	}
}

// A plan is asked about again as soon as the one that it waits for has arrived.
func TestTheWaitingPlanIsAskedAgain(t *testing.T) {
	l, want := estate(t, 3)
	want.Closures["plan-00001"].Plan.Spec.DependsOn = []string{"plan-00000"}
	l.want = want
	l.askChanged(nil, nil)
	l.everything(t)
	st := copyStatus(l.rec.Plans["plan-00000"])
	st.Recorded.State = spec.Migrated
	l.know("plan-00000", st)
	if !l.agenda.changed["plan-00001"] || l.agenda.changed["plan-00002"] {
		t.Errorf("asked about: %v", l.agenda.changed)
	}
}

package reconciler

import (
	"fmt"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PlanInput is everything that the decision about one plan may depend on.
type PlanInput struct {
	Now      time.Time
	Plan     string
	Closure  *spec.Closure  // nil: broken, incomplete or removed
	Problems []spec.Problem // of the documents; non-empty holds the plan
	Status   *spec.PlanStatus
	Open     *spec.Run     // the run that is going on
	Hold     *spec.Waiting // everything is held
	Conflict *Clash        // the older plan that covers the same objects
	Depends  []Dependency  // the plans of dependsOn, in its order
	Commit   string        // the accepted tip
	Approval *spec.Approval
	Trust    *Trust // what approvals must show now
}

// PlanDecision is what Decide wants: at most one run to start, or a reason to
// undo the open one. Status is the plan's new status.
type PlanDecision struct {
	Status *spec.PlanStatus
	Start  *Order
	Cancel string
	// Wake is when the answer may change by time alone; zero means never.
	Wake time.Time
	// Untrusted: the documents hold what nobody approved, so that no cluster
	// that they name is asked.
	Untrusted bool
}

// notAfterDefault is how long an approval lives without cutover.notAfter.
const notAfterDefault = 7 * 24 * time.Hour

// verdict is what one rule says; the first rule with an answer wins.
type verdict struct {
	start  *Order
	cancel string
	cond   *condition // why nothing starts
	drop   bool       // the flip is answered with a refusal
	wake   time.Time
}

// rule is one line of the table below.
type rule struct {
	name string
	ask  func(in *PlanInput) (verdict, bool)
}

// rules are asked in order. Every plan state and event finds its answer here;
// ARCHITECTURE.md shows the same table.
var rules = []rule{
	{"removed", removed},
	{"held", heldAll},
	{"broken documents", brokenDocuments},
	{"cancel", cancelOpen},
	{"a run is going on", busy},
	{"closed", closedForEver},
	{"unapproved", pending},
	{"unrecorded", unrecorded},
	{"flip", flip},
	{"may not start", mayNotStart},
	{"stage", stageDue},
}

// gates keep stage runs and cutovers from starting; a rollback and a close
// pass them.
var gates = []func(in *PlanInput) (verdict, bool){notSupported, suspended, conflict, untrusted}

func mayNotStart(in *PlanInput) (verdict, bool) {
	for _, ask := range gates {
		if v, ok := ask(in); ok {
			return v, true
		}
	}
	return verdict{}, false
}

// Decide is pure: the same input gives the same decision.
func Decide(in PlanInput) PlanDecision {
	st := copyStatus(in.Status)
	in.Status = st
	st.NextStage = nil // only a plan that waits for a slot has a next one
	noteClosure(&in)
	for _, r := range rules {
		v, ok := r.ask(&in)
		if !ok {
			continue
		}
		if v.drop {
			st.Recorded.Flip = nil
		}
		summarize(st, &in, v.cond)
		return PlanDecision{Status: st, Start: v.start, Cancel: v.cancel, Wake: v.wake, Untrusted: in.untrusted()}
	}
	summarize(st, &in, nil)
	return PlanDecision{Status: st, Untrusted: in.untrusted()}
}

func (in *PlanInput) untrusted() bool {
	if in.Closure == nil {
		return false
	}
	_, yes := untrusted(in)
	return yes
}

func noteClosure(in *PlanInput) {
	if in.Hold != nil { // the tip was not accepted
		return
	}
	in.Status.Problems = in.Problems
	if in.Closure != nil {
		if d := in.Closure.Digest(); d != in.Status.Digest {
			in.Status.Digest, in.Status.Commit = d, in.Commit
		}
	}
}

func removed(in *PlanInput) (verdict, bool) {
	if !in.Status.Recorded.Removed {
		return verdict{}, false
	}
	v := verdict{cond: stalled("Removed", "the plan's document is gone, or belongs to another shard now; nothing is put back or deleted, and a document of that name continues it")}
	if in.Open != nil && stoppable(in.Open) {
		v.cancel = "Removed: the plan's document is gone, or belongs to another shard now"
	}
	return v, true
}

// stoppable: a stage run always, a cutover until the stop.
func stoppable(run *spec.Run) bool {
	for _, s := range run.Steps {
		if s.Name == "stop" && s.State != spec.StepPending {
			return false
		}
	}
	return run.Spec.Kind == spec.RunStage || run.Spec.Kind == spec.RunMigrate
}

func brokenDocuments(in *PlanInput) (verdict, bool) {
	if len(in.Problems) == 0 && in.Closure != nil {
		return verdict{}, false
	}
	say := "the plan's documents cannot be read"
	if len(in.Problems) > 0 {
		p := in.Problems[0]
		say = fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
		if n := len(in.Problems) - 1; n > 0 {
			say += fmt.Sprintf(" (and %d more)", n)
		}
	}
	return verdict{cond: stalled("InvalidDocuments", say)}, true
}

// cancelOpen: going back to Staged or to RolledBack undoes a running cutover.
func cancelOpen(in *PlanInput) (verdict, bool) {
	run, state := in.Open, in.Closure.Plan.Spec.State
	if run == nil || run.Spec.Kind != spec.RunMigrate || (state != spec.Staged && state != spec.RolledBack) {
		return verdict{}, false
	}
	if defs, err := definitions(run); err != nil || committed(defs, run) {
		return verdict{}, false // it ends as a cutover; the flip is served afterwards
	}
	return verdict{cancel: fmt.Sprintf("StateChanged: Git says %s since commit %.12s", state, in.Commit), cond: reconciling("Canceling", "the running cutover is being undone")}, true
}

func busy(in *PlanInput) (verdict, bool) {
	if in.Open == nil {
		return verdict{}, false
	}
	return verdict{cond: progress(in.Open)}, true
}

func closedForEver(in *PlanInput) (verdict, bool) {
	if in.Status.Recorded.State != spec.Closed {
		return verdict{}, false
	}
	if in.Closure.Plan.Spec.State != spec.Closed {
		return verdict{cond: stalled("PlanClosed", "the plan is closed for ever; write a new plan with another name"), drop: true}, true
	}
	return verdict{cond: ready("Closed", "the plan is closed"), drop: true}, true
}

func notSupported(in *PlanInput) (verdict, bool) {
	ps := spec.NotSupported(in.Closure)
	if len(ps) == 0 {
		return verdict{}, false
	}
	return verdict{cond: stalled("NotSupported", ps[0].Path+": "+ps[0].Message)}, true
}

func unrecorded(in *PlanInput) (verdict, bool) {
	if !in.Status.Recorded.Unrecorded {
		return verdict{}, false
	}
	return verdict{cond: stalled("Unrecorded", fmt.Sprintf("the plan appeared as %s, which no record explains: raise cutover.attempt, or run `tranship ledger adopt`", in.Closure.Plan.Spec.State))}, true
}

// heldAll: the tip was not accepted. What runs goes on with its frozen plan.
func heldAll(in *PlanInput) (verdict, bool) {
	if in.Hold == nil {
		return verdict{}, false
	}
	if in.Open != nil && in.Hold.Reason != reasonLedgerChanged {
		return verdict{cond: progress(in.Open)}, true
	}
	return verdict{cond: stalled(in.Hold.Reason, in.Hold.Message)}, true
}

func suspended(in *PlanInput) (verdict, bool) {
	s := in.Closure.Plan.Spec.Suspend
	if s == nil || (s.Until != nil && !in.Now.Before(s.Until.Time)) {
		return verdict{}, false
	}
	v := verdict{cond: reconciling("Suspended", "suspended: "+s.Reason)}
	if s.Until != nil {
		v.wake = s.Until.Time
	}
	return v, true
}

func conflict(in *PlanInput) (verdict, bool) {
	c := in.Conflict
	if c == nil {
		return verdict{}, false
	}
	way := fmt.Sprintf("close %s, or narrow one of the two", c.Plan)
	if c.Mute {
		way = fmt.Sprintf("the document of %s is gone or broken, and its record says that it has hold of objects: put it right and close it, or narrow %s", c.Plan, in.Plan)
	}
	return verdict{cond: stalled("PlanConflict", fmt.Sprintf("the plans %s and %s both cover %s; %s came first, so that %s starts nothing: %s",
		c.Plan, in.Plan, c.What, c.Plan, in.Plan, way))}, true
}

// stageDue answers for plans whose desired state is Staged.
func stageDue(in *PlanInput) (verdict, bool) {
	p, rec := &in.Closure.Plan.Spec, &in.Status.Recorded
	if p.State != spec.Staged || rec.State == spec.Migrated {
		return verdict{}, false
	}
	rec.CutoverFailed = false
	if at := p.Stage.RequestedAt; at != nil && !at.After(in.Now) && (rec.HandledRequest == nil || rec.HandledRequest.Before(at)) {
		if v, held := heldUp(in, spec.WindowStage); held {
			return v, true
		}
		rec.HandledRequest = at
		return verdict{start: order(in, spec.RunStage, nil), cond: reconciling("Staging", "a stage run was asked for")}, true
	}
	if p.Stage.Schedule == "" {
		return verdict{}.asked(in), true
	}
	sch, err := spec.ParseSchedule(p.Stage.Schedule, p.Stage.TimeZone)
	if err != nil {
		return verdict{cond: stalled("InvalidSchedule", err.Error())}, true
	}
	if rec.LastSlot == nil || rec.LastSlot.After(in.Now.Add(clockDoubt)) {
		now := metav1.NewTime(in.Now)
		rec.LastSlot = &now // a schedule begins when it is first seen
	}
	run, missed := sch.Due(rec.LastSlot.Time, in.Now, p.Stage.StartingDeadlineOrDefault())
	for _, m := range missed {
		if servable(in, m) {
			noteMissed(in.Status, m)
		}
	}
	if run != nil && servable(in, *run) {
		if v, held := heldUp(in, spec.WindowStage); held {
			return v.by(run.Add(p.Stage.StartingDeadlineOrDefault()).Add(time.Nanosecond)), true
		}
		slot := metav1.NewTime(*run)
		rec.LastSlot = &slot
		return verdict{start: order(in, spec.RunStage, &slot), cond: reconciling("Staging", "a stage run is due")}, true
	}
	return whenStaging(in, sch).asked(in), true
}

// by makes a verdict count until then at most.
func (v verdict) by(then time.Time) verdict {
	if v.wake.IsZero() || then.Before(v.wake) {
		v.wake = then
	}
	return v
}

// asked makes it count until a stage run is asked for.
func (v verdict) asked(in *PlanInput) verdict {
	if at := in.Closure.Plan.Spec.Stage.RequestedAt; at != nil && at.After(in.Now) {
		return v.by(at.Time)
	}
	return v
}

// clockDoubt is how far in the future a recorded slot is believed: a clock that
// was set back waits until it is there again, so that no slot runs twice. More
// than that was written by a clock that was wrong, and would end the schedule
// for as long.
const clockDoubt = 25 * time.Hour

func noteMissed(st *spec.PlanStatus, m time.Time) {
	slot := metav1.NewTime(m)
	st.Missed = append(st.Missed, slot)
	if n := len(st.Missed); n > 20 {
		st.Missed = st.Missed[n-20:]
	}
	if st.Recorded.LastSlot.Before(&slot) {
		st.Recorded.LastSlot = &slot
	}
}

func order(in *PlanInput, kind spec.RunKind, slot *metav1.Time) *Order {
	return &Order{Kind: kind, Plan: in.Plan, Closure: in.Closure, Commit: in.Commit, Approval: in.Approval, Slot: slot, Volumes: in.Status.Volumes}
}

package reconciler

import (
	"fmt"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	reasonOutside  = "OutsideWindow"
	reasonTooShort = "WindowTooShort"
)

// outside holds a start for which no window is open, or none for long enough.
// What it says changes with the windows and the estimate only, never with the
// minute: it is a condition, and conditions are commits.
func outside(in *PlanInput, what string) (verdict, bool) {
	p, need := &in.Closure.Plan.Spec, need(in.Status, what)
	now, err := p.WindowsAt(what, in.Now)
	if err != nil {
		return verdict{cond: stalled("InvalidSchedule", err.Error())}, true
	}
	if now.Open && (now.Until.IsZero() || now.Until.Sub(in.Now)+slack >= need) {
		return verdict{}, false
	}
	next, err := p.FirstFit(what, in.Now, need)
	if err != nil {
		return verdict{cond: stalled("InvalidSchedule", err.Error())}, true
	}
	name, reason, say := activity[what], reasonOutside, "no window is open"
	if now.Open {
		reason = reasonTooShort
		say = fmt.Sprintf("the stop is estimated to take %s, and the window closes at %s", need.Round(time.Second), stamp(now.Until))
	}
	if next.IsZero() {
		return verdict{cond: stalled(reason, fmt.Sprintf("%s cannot start: %s, and none opens in the next years that is long enough; change spec.windows", name, say))}, true
	}
	return verdict{wake: next, cond: reconciling(reason, fmt.Sprintf("%s waits for the window that opens at %s: %s", name, stamp(next), say))}, true
}

var activity = map[string]string{spec.WindowStage: "the stage run", spec.WindowCutover: "the cutover"}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// slack is how much of a window may pass before its opening is noticed: one that
// is just long enough must not be too short by that.
const slack = time.Minute

// need is how long the windows must stay open from a start on: for a cutover the
// stop of the application, as the newest stage run estimates it. What comes
// before the stop may find the window closed: the gate before the stop asks
// again. A stage run disturbs nobody, and may end later.
func need(st *spec.PlanStatus, what string) time.Duration {
	if what != spec.WindowCutover || st == nil || st.Estimate == nil {
		return 0
	}
	return time.Duration(st.Estimate.StopSeconds * float64(time.Second))
}

// windowGate asks the windows again right before the stop, when what is left
// is the stop alone.
func windowGate(in *PlanInput) (Gate, bool) {
	does := in.Closure.Plan.Spec.Cutover.OnWindowCloseOrDefault()
	if does == spec.OnCloseFinish {
		return Gate{}, false
	}
	v, closed := outside(in, spec.WindowCutover)
	if !closed {
		return Gate{}, false
	}
	return Gate{Cancel: does == spec.OnCloseCancel, Reason: v.cond.reason, Say: v.cond.message}, true
}

// servable says whether a slot's run could start before the slot is too late.
// One that no window allows is neither run nor missed: it never was to run.
func servable(in *PlanInput, slot time.Time) bool {
	p := &in.Closure.Plan.Spec
	start, err := p.FirstFit(spec.WindowStage, slot, 0)
	return err != nil || !start.IsZero() && start.Sub(slot) <= p.Stage.StartingDeadlineOrDefault()
}

// slotsLooked bounds the search for a slot that a window lets start.
const slotsLooked = 500

// nextSlot is when the next stage run can start: at a slot inside a window, or
// when one opens within a slot's deadline. Without one it is the zero time.
func nextSlot(in *PlanInput, sch *spec.Schedule) time.Time {
	p, slot := &in.Closure.Plan.Spec, in.Now
	for range slotsLooked {
		slot = sch.Next(slot)
		start, err := p.FirstFit(spec.WindowStage, slot, 0)
		if err != nil || start.IsZero() {
			return time.Time{}
		}
		if start.Sub(slot) <= p.Stage.StartingDeadlineOrDefault() {
			return start
		}
		slot = start.Add(-p.Stage.StartingDeadlineOrDefault()).Add(-time.Nanosecond)
	}
	return time.Time{}
}

// whenStaging names the next stage run in the status, or says why there is none.
func whenStaging(in *PlanInput, sch *spec.Schedule) verdict {
	v := verdict{wake: sch.Next(in.Now)}
	if start := nextSlot(in, sch); !start.IsZero() {
		next := metav1.NewTime(start)
		in.Status.NextStage = &next
	} else {
		v.cond = stalled(reasonOutside, "no slot of stage.schedule lies in a window, or so near before one that its startingDeadline reaches it; change one of them")
	}
	return v
}

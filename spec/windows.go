package spec

import (
	"fmt"
	"slices"
	"time"
)

// What a window applies to; an entry without applies is for both.
const (
	WindowStage   = "Stage"
	WindowCutover = "Cutover"
)

// What becomes of a cutover that has not stopped the application yet when its
// window closes.
const (
	OnCloseFinish = "Finish"
	OnClosePause  = "PauseAtSafePoint"
	OnCloseCancel = "Cancel"
)

// WindowState is what a plan's windows say of one moment.
type WindowState struct {
	Open bool
	// Until is when Open may be different; zero: never.
	Until time.Time
}

// windowHorizon is how far ahead a change is looked for, and windowTurns how
// many openings and closings one question looks at: a document must not keep
// the loop busy, whatever it says. After that it is asked again.
const (
	windowHorizon = 4 * 366 * 24 * time.Hour
	windowTurns   = 5000
)

// WindowsAt says whether what (WindowStage or WindowCutover) may start at a
// moment: no window that applies means always; an active Deny wins; where there
// is an Allow, one must be active. A recurring window opens when its schedule
// says so, in its zone, and stays open for its duration in elapsed time, also
// when clocks change. The error is about a schedule that validation refuses.
func (p *PlanSpec) WindowsAt(what string, at time.Time) (WindowState, error) {
	ws, err := p.windowsFor(what)
	if err != nil || len(ws) == 0 {
		return WindowState{Open: true}, err
	}
	turns := windowTurns
	return ws.at(at, &turns), nil
}

// FirstFit is the first moment, not before from, at which what may start and
// the windows stay open for need; zero when there is none within four years, or
// within the next 5000 openings and closings.
func (p *PlanSpec) FirstFit(what string, from time.Time, need time.Duration) (time.Time, error) {
	ws, err := p.windowsFor(what)
	if err != nil || len(ws) == 0 {
		return from, err
	}
	at := from
	for turns := windowTurns; turns > 0; turns-- {
		s := ws.at(at, &turns)
		if s.Open && (s.Until.IsZero() || s.Until.Sub(at) >= need) {
			return at, nil
		}
		if s.Until.IsZero() || s.Until.Sub(from) > windowHorizon {
			break
		}
		at = s.Until
	}
	return time.Time{}, nil
}

// OnWindowCloseOrDefault is PauseAtSafePoint unless the plan says otherwise.
func (c *Cutover) OnWindowCloseOrDefault() string {
	if c.OnWindowClose == "" {
		return OnClosePause
	}
	return c.OnWindowClose
}

// aperture is one window, ready to be asked.
type aperture struct {
	deny     bool
	from, to time.Time // once
	schedule *Schedule // recurring
	duration time.Duration
}

type apertures []aperture

func (p *PlanSpec) windowsFor(what string) (apertures, error) {
	var all apertures
	for i, w := range p.Windows {
		if len(w.Applies) > 0 && !slices.Contains(w.Applies, what) {
			continue
		}
		a := aperture{deny: w.Kind == "Deny"}
		if w.From != nil && w.To != nil {
			a.from, a.to = w.From.Time, w.To.Time
		} else {
			var err error
			if a.schedule, err = ParseSchedule(w.Schedule, w.TimeZone); err != nil {
				return nil, fmt.Errorf("spec.windows[%d]: %w", i, err)
			}
			a.duration = orDefault(w.Duration, 0)
		}
		all = append(all, a)
	}
	return all, nil
}

// at is the state at t, and when it changes; turns is what may still be looked at.
func (ws apertures) at(t time.Time, turns *int) WindowState {
	open, next := ws.look(t)
	for ; !next.IsZero() && *turns > 0 && next.Sub(t) < windowHorizon; *turns-- {
		then, after := ws.look(next)
		if then != open {
			return WindowState{Open: open, Until: next}
		}
		next = after
	}
	return WindowState{Open: open, Until: next} // as far as it was looked; it is asked again then
}

// look says whether the windows are open at t, and when the next of them
// begins or ends.
func (ws apertures) look(t time.Time) (open bool, next time.Time) {
	allowed, needed, denied := false, false, false
	for _, a := range ws {
		active, change := a.look(t)
		if a.deny {
			denied = denied || active
		} else {
			needed, allowed = true, allowed || active
		}
		if !change.IsZero() && (next.IsZero() || change.Before(next)) {
			next = change
		}
	}
	return !denied && (allowed || !needed), next
}

// look says whether a window is active at t, and a moment after t until which
// that stays so; zero means for ever.
func (a aperture) look(t time.Time) (active bool, until time.Time) {
	if a.schedule == nil {
		switch {
		case t.Before(a.from):
			return false, a.from
		case t.Before(a.to):
			return true, a.to
		}
		return false, time.Time{}
	}
	// The slot that opened it lies in (t-duration, t]. A later one of them keeps
	// it open for longer; halving finds one that is late enough.
	for back := a.duration; back > 0; back /= 2 {
		slot := a.schedule.Next(t.Add(-back))
		if slot.After(t) {
			break
		}
		active, until = true, slot.Add(a.duration)
	}
	if !active {
		until = a.schedule.Next(t)
	}
	return active, until
}

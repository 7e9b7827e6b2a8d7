package reconciler

import "time"

// jumpWorthTelling is how far a clock must have been set for somebody to be
// told: less is what time servers do every day.
const jumpWorthTelling = 30 * time.Second

// steady is the clock of one run in one process: it begins at the wall clock's
// time and goes on by the time that has really passed (the monotonic reading of
// time.Time). Whoever sets the machine's clock in the middle of a run thereby
// neither ends its deadlines nor extends them, and what the record says of
// durations stays true. Windows and approvals go by the wall clock: the loop
// judges them. It is used by one goroutine.
type steady struct {
	Clock
	began time.Time
	told  time.Duration
}

func newSteady(c Clock) *steady { return &steady{Clock: c, began: c.Now()} }

// Now is when the run began here, and the time that has passed since.
func (s *steady) Now() time.Time { return s.began.Add(s.Clock.Now().Sub(s.began)) }

// set says how far the wall clock was set since the run began here, or since
// it was said last; zero where that is not worth telling. Forward is positive.
func (s *steady) set() time.Duration {
	now := s.Clock.Now()
	ahead := now.Round(0).Sub(s.began.Add(now.Sub(s.began)).Round(0))
	if change := ahead - s.told; change.Abs() >= jumpWorthTelling {
		s.told = ahead
		return change
	}
	return 0
}

// restUntil is how much of the pause before an attempt is left. A beginning
// that lies in the future was written by another clock: the pause is never
// longer than it was meant to be.
func restUntil(begun, now time.Time, attempt int) time.Duration {
	return min(begun.Add(pause(attempt)).Sub(now), pause(attempt))
}

package reconciler

import (
	"testing"
	"time"
	"unsafe"

	"github.com/tranship/tranship/spec"
)

// setForward is a reading of the same instant after the wall clock was set by
// whole seconds: the monotonic part stays. Package time has no way to make one,
// so that this writes where it keeps the seconds (bits 30 to 62 of the first word).
func setForward(t time.Time, seconds int) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(seconds) << 30
	return t
}

// jumpy is the machine's clock, with somebody's hand on it.
type jumpy struct{ by int }

func (j *jumpy) Now() time.Time                       { return setForward(time.Now(), j.by) }
func (*jumpy) After(d time.Duration) <-chan time.Time { return time.After(d) }

func TestSetForward(t *testing.T) {
	was := time.Now()
	now := setForward(was, 3600)
	if by := now.Round(0).Sub(was.Round(0)); by != time.Hour || now.Sub(was) != 0 {
		t.Fatalf("the test's own clock is wrong: wall %s, passed %s", by, now.Sub(was))
	}
}

func TestClockSetInARun(t *testing.T) {
	for _, by := range []int{3600, -3600, 86400 * 400} {
		j := &jumpy{}
		s := newSteady(j)
		began := s.Now()
		j.by = by
		if passed := s.Now().Round(0).Sub(began.Round(0)); passed < 0 || passed > time.Minute {
			t.Errorf("set by %d s: the run's clock went on by %s", by, passed)
		}
		if got := s.set(); (got - time.Duration(by)*time.Second).Abs() > time.Second {
			t.Errorf("set by %d s: said %s", by, got)
		}
		if again := s.set(); again != 0 {
			t.Errorf("said twice: %s", again)
		}
	}
}

func TestRestUntil(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		begun   time.Time
		attempt int
		want    time.Duration
	}{
		"first attempt":             {now, 1, 0},
		"third, just begun":         {now, 3, 2 * time.Second},
		"third, a second ago":       {now.Add(-time.Second), 3, time.Second},
		"third, long ago":           {now.Add(-time.Hour), 3, 2*time.Second - time.Hour},
		"written by a faster clock": {now.Add(3 * time.Hour), 3, 2 * time.Second},
	} {
		if got := restUntil(c.begun, now, c.attempt); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A stage schedule under a clock that somebody sets: back by less than a day
// repeats no slot, and a clock that was years ahead for a while does not end
// the schedule for years.
func TestScheduleWhenTheClockIsSet(t *testing.T) {
	hourly := closureIn(spec.Staged, 1, func(p *spec.PlanSpec) { p.Stage.Schedule = "0 * * * *" })
	s := &story{st: &spec.PlanStatus{}, at: noon.Add(-time.Minute)}
	s.commit(hourly)
	s.decide()
	ran := func(at time.Time) bool {
		s.at = at
		started := s.decide().Start != nil
		if started {
			s.end(spec.RunSucceeded)
		}
		return started
	}
	for _, c := range []struct {
		what string
		at   time.Time
		want bool
	}{
		{"the first slot", noon, true},
		{"set back an hour, the slot comes again", noon.Add(-time.Hour), false},
		{"and the hour passes", noon.Add(time.Minute), false},
		{"the next slot", noon.Add(time.Hour), true},
		{"ten years ahead", noon.AddDate(10, 0, 0), true},
		{"put right, the schedule begins anew", noon.Add(90 * time.Minute), false},
		{"and runs", noon.Add(2 * time.Hour), true},
	} {
		if got := ran(c.at); got != c.want {
			t.Errorf("%s: started %v, want %v", c.what, got, c.want)
		}
	}
}

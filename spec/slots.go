package spec

import "time"

// dayMatches joins day of month and day of week as cron does: by "and" when
// one of them is a wildcard, by "or" otherwise.
func (s *Schedule) dayMatches(year int, month time.Month, day int) bool {
	if s.spec.Month&(1<<month) == 0 {
		return false
	}
	weekday := time.Date(year, month, day, 12, 0, 0, 0, time.UTC).Weekday()
	dom, dow := s.spec.Dom&(1<<day) != 0, s.spec.Dow&(1<<weekday) != 0
	if s.spec.Dom&starBit != 0 || s.spec.Dow&starBit != 0 {
		return dom && dow
	}
	return dom || dow
}

// horizon is how many days may lie between two slots: 29 February is missing
// in 1900 and 2100, so that eight years lie between two of them.
const horizon = 9 * 366

// nextFixed goes through the times of the day as a calendar has them, each
// turned into the one instant at which it runs. The order of the times is the
// order of the instants, so the first later one is the next.
func (s *Schedule) nextFixed(after time.Time) time.Time {
	// The day before: clocks may skip its times into the day of "after".
	y, m, d := after.In(s.zone).Date()
	for i := -1; i < horizon; i++ {
		day := time.Date(y, m, d+i, 0, 0, 0, 0, time.UTC)
		if !s.dayMatches(day.Date()) || !s.instant(day, 23, 59).After(after) {
			continue
		}
		if t, ok := s.firstOn(day, after); ok {
			return t
		}
	}
	return time.Time{} // ParseSchedule refuses what never fires
}

func (s *Schedule) firstOn(day time.Time, after time.Time) (time.Time, bool) {
	for hour := range 24 {
		if s.spec.Hour&(1<<hour) == 0 || !s.instant(day, hour, 59).After(after) {
			continue
		}
		for minute := range 60 {
			if s.spec.Minute&(1<<minute) == 0 {
				continue
			}
			if t := s.instant(day, hour, minute); t.After(after) {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

// instant is when a time of the day runs: the first time that clocks show it,
// or the end of the gap when they skip it.
func (s *Schedule) instant(day time.Time, hour, minute int) time.Time {
	y, m, d := day.Date()
	t := time.Date(y, m, d, hour, minute, 0, 0, s.zone)
	start, end := t.ZoneBounds()
	if h, min, _ := t.Clock(); h != hour || min != minute || t.Day() != d {
		return gapEnd(t, start, end, wall(y, m, d, hour, minute))
	}
	if start.IsZero() {
		return t
	}
	// time.Date may answer with the second of two passes: what the clocks
	// showed before the change tells.
	_, now := t.Zone()
	_, before := start.Add(-time.Nanosecond).Zone()
	if first := t.Add(time.Duration(now-before) * time.Second); before > now && first.Before(start) {
		return first
	}
	return t
}

// gapEnd finds the change that skipped a local time. time.Date answers for
// such a time with an instant on either side of the change.
func gapEnd(t, start, end time.Time, asked time.Time) time.Time {
	if shown := wall(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute()); shown.After(asked) {
		return start
	}
	return end
}

// wall makes local times comparable, whatever the zone.
func wall(y int, m time.Month, d, hour, minute int) time.Time {
	return time.Date(y, m, d, hour, minute, 0, 0, time.UTC)
}

// nextRhythm goes through instants and asks what the clocks show, in leaps
// that never cross a change of clocks.
func (s *Schedule) nextRhythm(after time.Time) time.Time {
	t := fullMinute(after.In(s.zone).Add(time.Nanosecond))
	limit := after.AddDate(10, 0, 0)
	for t.Before(limit) {
		hour, minute, _ := t.Clock()
		var leap time.Duration
		switch {
		case !s.dayMatches(t.Date()):
			leap = time.Duration(24*60-hour*60-minute) * time.Minute
		case s.spec.Hour&(1<<hour) == 0:
			leap = time.Duration(60-minute) * time.Minute
		case s.spec.Minute&(1<<minute) == 0:
			leap = time.Minute
		default:
			return t
		}
		if _, end := t.ZoneBounds(); !end.IsZero() && t.Add(leap).After(end) {
			t = fullMinute(end.In(s.zone))
			continue
		}
		t = t.Add(leap)
	}
	return time.Time{} // ParseSchedule refuses what never fires
}

// fullMinute is the first instant, not before t, at which local clocks show a
// full minute. Old zones differ from UTC by odd seconds, so this is not Truncate.
func fullMinute(t time.Time) time.Time {
	t = t.Add(time.Second - time.Nanosecond).Truncate(time.Second)
	if s := t.Second(); s != 0 {
		t = t.Add(time.Duration(60-s) * time.Second)
	}
	return t
}

package spec

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"sync"
	"time"

	"github.com/robfig/cron/v3"
)

// MaxMissed is how many missed slots are recorded: the newest ones.
const MaxMissed = 20

// Schedule is a cron expression in a time zone. Only the parser of robfig/cron
// is used: its Next loses or repeats runs when clocks change (measured, and
// known upstream as robfig/cron#541).
//
// An expression whose hour is fixed ("30 2 * * *", "0 1,13 * * *") means times
// of the day: each comes once a day, also when clocks change. A time that the
// clocks skip runs when they have skipped it, once for all that is skipped; a
// time that comes twice runs the first time.
//
// An expression with a wildcard or step in the hour ("0 * * * *",
// "*/15 */2 * * *") means a rhythm: it runs whenever the local clock shows a
// matching time, in both passes of a repeated hour, and not in skipped ones.
type Schedule struct {
	expr  string
	zone  *time.Location
	spec  cron.SpecSchedule
	fixed bool
}

// starBit of a cron.SpecSchedule field says that it was written as * or ?.
const starBit = 1 << 63

var cronParser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// ParseSchedule reads a five-field cron expression and an IANA zone; an empty
// zone is UTC. Expressions that never fire and unknown zones are errors.
func ParseSchedule(expr, zone string) (*Schedule, error) {
	loc, err := parseZone(zone)
	if err != nil {
		return nil, err
	}
	if err := plainCron(expr); err != nil {
		return nil, err
	}
	parsed, err := cronParser.Parse(expr)
	if err != nil {
		return nil, fmt.Errorf("schedule %s cannot be understood: %w", quote(expr), err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("schedule %s cannot be understood", quote(expr))
	}
	s := &Schedule{expr: expr, zone: loc, spec: *spec, fixed: !strings.ContainsAny(strings.Fields(expr)[1], "*?/")}
	if !s.fires() {
		return nil, fmt.Errorf("schedule %s never fires: no month that it names has such a day", quote(expr))
	}
	return s, nil
}

// plainCron refuses what the parser reads in its own way: zones inside the
// expression (it panics on "TZ=x"), descriptors, "*-5" (it ignores the 5), a
// lone comma (it finds nothing), and 7 for Sunday (it only knows 0).
func plainCron(expr string) error {
	fields := strings.Fields(expr)
	switch {
	case strings.Contains(expr, "TZ="):
		return fmt.Errorf("schedule %s must not hold a time zone: write it into timeZone", quote(expr))
	case strings.HasPrefix(expr, "@"):
		return fmt.Errorf("schedule %s must be written as five fields, such as \"0 1 * * *\" for every night at one", quote(expr))
	case len(fields) != 5 || len(expr) > 256:
		return fmt.Errorf("schedule %s must have five fields: minute, hour, day of month, month, day of week, such as \"0 1 * * *\"", quote(expr))
	}
	for _, f := range fields {
		for _, part := range strings.Split(f, ",") {
			if part == "" || strings.Contains(part, "*-") || strings.Contains(part, "?-") {
				return fmt.Errorf("schedule %s cannot be understood: %s is no range", quote(expr), quote(f))
			}
		}
	}
	if dow := fields[4]; dow == "7" {
		return fmt.Errorf("schedule %s cannot be understood: Sunday is 0, not 7", quote(expr))
	}
	return nil
}

var zones sync.Map // name -> *time.Location; only names that exist, a few hundred at most

// parseZone refuses "Local": the same plan must mean the same on every machine.
// Each zone is loaded once, from the system's or the program's own tables.
func parseZone(zone string) (*time.Location, error) {
	if zone == "" {
		return time.UTC, nil
	}
	if loc, ok := zones.Load(zone); ok {
		return loc.(*time.Location), nil
	}
	loc, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" {
		return nil, errors.New("timeZone " + quote(zone) + " is not known: write an IANA name such as Europe/Berlin, or nothing for UTC")
	}
	zones.Store(zone, loc)
	return loc, nil
}

var daysIn = [13]int{1: 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

// fires is false when no day ever matches. A restricted day of week is enough,
// because cron joins it with the day of month by "or".
func (s *Schedule) fires() bool {
	for _, f := range []uint64{s.spec.Minute, s.spec.Hour, s.spec.Dom, s.spec.Month, s.spec.Dow} {
		if f&^starBit == 0 {
			return false
		}
	}
	if s.spec.Dom&starBit != 0 || s.spec.Dow&starBit == 0 {
		return true
	}
	first := bits.TrailingZeros64(s.spec.Dom)
	for m := 1; m <= 12; m++ {
		if s.spec.Month&(1<<m) != 0 && first <= daysIn[m] {
			return true
		}
	}
	return false
}

// String is the expression with its zone.
func (s *Schedule) String() string { return s.expr + " " + s.zone.String() }

// Next is the first slot after a moment, in UTC.
func (s *Schedule) Next(after time.Time) time.Time {
	if s.fixed {
		return s.nextFixed(after).UTC()
	}
	return s.nextRhythm(after).UTC()
}

// Due says which slots lie after last, the newest slot that was run or missed,
// and not after now. Only the newest of them runs, and only within deadline;
// the others are missed, oldest first, the newest MaxMissed of them. A zero
// last means that the plan is new: nothing is due yet.
func (s *Schedule) Due(last, now time.Time, deadline time.Duration) (run *time.Time, missed []time.Time) {
	if last.IsZero() || !now.After(last) {
		return nil, nil
	}
	slots := s.newest(last, now)
	if len(slots) == 0 {
		return nil, nil
	}
	if newest := slots[len(slots)-1]; now.Sub(newest) <= deadline {
		run, slots = &newest, slots[:len(slots)-1]
	}
	return run, slots[max(0, len(slots)-MaxMissed):]
}

// newest lists the last slots in (last, now], at least MaxMissed+1 if there
// are as many. It looks back twice as far each time, so that a year of
// downtime does not mean to count a year of minutes.
func (s *Schedule) newest(last, now time.Time) []time.Time {
	for back := time.Hour; ; back *= 2 {
		from := now.Add(-back)
		if from.Before(last) || back > 100*365*24*time.Hour {
			from = last
		}
		var slots []time.Time
		for t := s.Next(from); !t.After(now); t = s.Next(t) {
			slots = append(slots, t)
		}
		if len(slots) > MaxMissed || !from.After(last) {
			return slots
		}
	}
}

package spec

import (
	"fmt"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the same rules on every machine

	"pgregory.net/rapid"
)

func mustSchedule(t testing.TB, expr, zone string) *Schedule {
	t.Helper()
	s, err := ParseSchedule(expr, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t testing.TB, zone, local string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	moment, err := time.ParseInLocation("2006-01-02 15:04", local, loc)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

// The first three rows are what robfig/cron v3.0.1 gets wrong: it skips the
// day, runs twice, and loses a week.
func TestNextWhenClocksChange(t *testing.T) {
	for _, tc := range []struct{ zone, expr, after, want string }{
		{"America/New_York", "30 2 * * *", "2026-03-07 12:00", "2026-03-08 03:00 EDT, 2026-03-09 02:30 EDT"},
		{"America/New_York", "30 1 * * *", "2026-10-31 12:00", "2026-11-01 01:30 EDT, 2026-11-02 01:30 EST"},
		{"Europe/Berlin", "30 2 * * 0", "2026-03-22 12:00", "2026-03-29 03:00 CEST, 2026-04-05 02:30 CEST"},
		{"America/New_York", "*/20 2 * * *", "2026-03-07 12:00", "2026-03-08 03:00 EDT, 2026-03-09 02:00 EDT"},
		{"America/New_York", "0 2,3 * * *", "2026-03-07 12:00", "2026-03-08 03:00 EDT, 2026-03-09 02:00 EDT"},
		{"America/New_York", "*/30 1 * * *", "2026-10-31 12:00", "2026-11-01 01:00 EDT, 2026-11-01 01:30 EDT, 2026-11-02 01:00 EST"},
		{"America/New_York", "0 * * * *", "2026-11-01 00:30", "2026-11-01 01:00 EDT, 2026-11-01 01:00 EST, 2026-11-01 02:00 EST"},
		{"America/New_York", "0 * * * *", "2026-03-08 00:30", "2026-03-08 01:00 EST, 2026-03-08 03:00 EDT, 2026-03-08 04:00 EDT"},
		{"America/New_York", "0 */2 * * *", "2026-03-08 00:00", "2026-03-08 04:00 EDT, 2026-03-08 06:00 EDT"},
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-03 12:00", "2026-10-04 02:30 +11, 2026-10-05 02:15 +11"},
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-04 12:00", "2026-04-05 01:45 +11, 2026-04-06 01:45 +1030"},
		{"America/Santiago", "15 0 * * *", "2026-09-05 12:00", "2026-09-06 01:00 -03, 2026-09-07 00:15 -03"}, // midnight is skipped
		{"Pacific/Apia", "0 12 * * *", "2011-12-29 11:00", "2011-12-29 12:00 -10, 2011-12-31 00:00 +14, 2011-12-31 12:00 +14"},
		{"Asia/Kolkata", "0 1 29 2 *", "2026-01-01 00:00", "2028-02-29 01:00 IST, 2032-02-29 01:00 IST"},
		{"UTC", "0 1 29 2 *", "2097-01-01 00:00", "2104-02-29 01:00 UTC"},
		{"UTC", "0 0 13 * 5", "2026-11-01 00:00", "2026-11-06 00:00 UTC, 2026-11-13 00:00 UTC, 2026-11-20 00:00 UTC"},
		{"UTC", "59 23 31 12 *", "2026-12-31 23:59", "2027-12-31 23:59 UTC"},
	} {
		s := mustSchedule(t, tc.expr, tc.zone)
		var got []string
		for moment := at(t, tc.zone, tc.after); len(got) <= strings.Count(tc.want, ","); {
			moment = s.Next(moment)
			got = append(got, moment.In(s.zone).Format("2006-01-02 15:04 MST"))
		}
		if strings.Join(got, ", ") != tc.want {
			t.Errorf("%s %s after %s:\n got %s\nwant %s", tc.expr, tc.zone, tc.after, strings.Join(got, ", "), tc.want)
		}
	}
}

var dstZones = []string{"America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "America/St_Johns",
	"America/Santiago", "Africa/Casablanca", "Pacific/Apia", "Europe/London", "UTC", "America/Sao_Paulo", "Asia/Tehran", "Antarctica/Troll"}

// walkMinutes is the model: it looks at the clock every minute, and at what
// the clock skipped since the minute before. A schedule with a fixed hour never
// runs for a time of the day that the clock has shown before.
func walkMinutes(s *Schedule, from, to time.Time) []time.Time {
	var out []time.Time
	shown := localMinute(from.In(s.zone).Add(-time.Hour))
	for t := from.Add(-time.Hour); !t.After(to); t = t.Add(time.Minute) {
		now := localMinute(t.In(s.zone))
		run := false
		if s.fixed {
			for m := shown + 1; m <= now; m++ {
				run = run || s.shows(m)
			}
			shown = max(shown, now)
		} else {
			run = s.shows(now)
		}
		if run && t.After(from) {
			out = append(out, t)
		}
	}
	return out
}

// localMinute numbers the minutes that clocks show.
func localMinute(t time.Time) int64 {
	_, offset := t.Zone()
	return (t.Unix() + int64(offset)) / 60
}

func (s *Schedule) shows(minute int64) bool {
	t := time.Unix(minute*60, 0).UTC()
	return s.spec.Hour&(1<<t.Hour()) != 0 && s.spec.Minute&(1<<t.Minute()) != 0 && s.dayMatches(t.Date())
}

func drawExpr(t *rapid.T) string {
	field := func(name string, lo, hi int, star []string) string {
		if rapid.Bool().Draw(t, name+" is a wildcard") {
			return rapid.SampledFrom(star).Draw(t, name)
		}
		a := rapid.IntRange(lo, hi).Draw(t, name)
		b := rapid.IntRange(a, hi).Draw(t, name)
		return rapid.SampledFrom([]string{fmt.Sprint(a), fmt.Sprintf("%d,%d", a, b), fmt.Sprintf("%d-%d", a, b), fmt.Sprintf("%d-%d/2", a, b), fmt.Sprintf("%d/7", a)}).Draw(t, name)
	}
	return strings.Join([]string{
		field("minute", 0, 59, []string{"*", "*/7", "0", "30", "*/20"}), field("hour", 0, 23, []string{"*", "*/2", "*/5", "0", "1", "2", "3"}),
		field("day", 1, 31, []string{"*", "*/2", "?"}), field("month", 1, 12, []string{"*"}), field("weekday", 0, 6, []string{"*", "?", "mon-fri"}),
	}, " ")
}

// Next agrees with the walk around every change of clocks.
func TestNextAgreesWithAWalkOfEveryMinute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(dstZones).Draw(t, "zone")
		s, err := ParseSchedule(drawExpr(t), zone)
		if err != nil {
			t.Skip(err)
		}
		year := rapid.SampledFrom([]int{2011, 2018, 2024, 2026, 2027, 2031}).Draw(t, "year")
		from := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 365*24*60).Draw(t, "minute")) * time.Minute)
		if _, change := from.In(s.zone).ZoneBounds(); !change.IsZero() && change.Year() < 2040 {
			from = change.Truncate(time.Minute).Add(-time.Duration(rapid.IntRange(0, 48*60).Draw(t, "minutes before a change")) * time.Minute)
		}
		to := from.Add(80 * time.Hour)
		want := walkMinutes(s, from, to)
		var got []time.Time
		for next := s.Next(from); !next.After(to); next = s.Next(next) {
			got = append(got, next)
		}
		if len(got) != len(want) {
			t.Fatalf("%s from %s: %d slots, want %d\n%v\n%v", s, from, len(got), len(want), got, want)
		}
		for i := range got {
			if !got[i].Equal(want[i]) {
				t.Fatalf("%s from %s: slot %d is %s, want %s", s, from, i, got[i], want[i].UTC())
			}
		}
	})
}

// A time of the day runs once on each of its days, in every zone there is a
// test for and for twenty years.
func TestADailyScheduleRunsOnceADay(t *testing.T) {
	for _, zone := range dstZones {
		for _, clock := range []string{"0 0", "30 1", "0 2", "15 2", "59 23"} {
			s := mustSchedule(t, clock+" * * *", zone)
			from := time.Date(2020, 1, 1, 12, 0, 0, 0, s.zone)
			days := 0
			for next := s.Next(from); next.Before(from.AddDate(20, 0, 0)); next = s.Next(next) {
				days++
			}
			if days != 7305 {
				t.Errorf("%s: %d runs in 7305 days", s, days)
			}
		}
	}
}

func TestParseScheduleRefuses(t *testing.T) {
	for _, tc := range []struct{ expr, zone, say string }{
		{"", "", "five fields"}, {"* * * *", "", "five fields"}, {"0 0 1 * * *", "", "five fields"}, {"@daily", "", "five fields"}, {"@every 1h", "", "five fields"},
		{"TZ=UTC 0 1 * * *", "", "timeZone"}, {"CRON_TZ=x", "", "timeZone"}, {"TZ=0", "", "timeZone"},
		{"60 * * * *", "", "above maximum"}, {"* 24 * * *", "", "above maximum"}, {"* * 0 * *", "", "below minimum"}, {"* * * 13 *", "", "above maximum"},
		{"0 1 * * 7", "", "Sunday is 0"}, {"0 1 * * fun", "", "cannot be understood"}, {"*/0 * * * *", "", "positive number"}, {"5-1 * * * *", "", "beyond end"},
		{"*-5 * * * *", "", "no range"}, {", * * * *", "", "no range"}, {"1,,2 * * * *", "", "no range"}, {"- * * * *", "", "cannot be understood"},
		{"0 0 30 2 *", "", "never fires"}, {"0 0 31 4,6,9,11 *", "", "never fires"}, {strings.Repeat("1,", 300) + "1 * * * *", "", "five fields"},
		{"0 1 * * *", "Local", "IANA"}, {"0 1 * * *", "Europe/Bonn", "IANA"}, {"0 1 * * *", "../../etc/passwd", "IANA"}, {"0 1 * * *", "CEST", "IANA"},
	} {
		if s, err := ParseSchedule(tc.expr, tc.zone); err == nil || s != nil || !strings.Contains(err.Error(), tc.say) {
			t.Errorf("%q %q: %v", tc.expr, tc.zone, err)
		}
	}
	for _, expr := range []string{"0 0 29 2 *", "0 0 30 2 1", "0 0 31 * *", "0 0 31 2,3 *", "? ? ? ? ?", "0-59/15 1-3 1,15 jan-jun mon"} {
		mustSchedule(t, expr, "Europe/Berlin")
	}
}

func TestDue(t *testing.T) {
	s := mustSchedule(t, "0 1 * * *", "Europe/Berlin")
	day := func(d, hour, minute int) time.Time { return time.Date(2026, 6, d, hour, minute, 0, 0, s.zone) }
	for _, tc := range []struct {
		name      string
		last, now time.Time
		run       time.Time
		missed    int
	}{
		{"new plan", time.Time{}, day(5, 1, 0), time.Time{}, 0},
		{"nothing yet", day(4, 1, 0), day(5, 0, 59), time.Time{}, 0},
		{"on the minute", day(4, 1, 0), day(5, 1, 0), day(5, 1, 0), 0},
		{"at the deadline", day(4, 1, 0), day(5, 2, 0), day(5, 1, 0), 0},
		{"after the deadline", day(4, 1, 0), day(5, 2, 1), time.Time{}, 1},
		{"already done", day(5, 1, 0), day(5, 1, 30), time.Time{}, 0},
		{"a short night", day(1, 1, 0), day(5, 1, 30), day(5, 1, 0), 3},
		{"a long sleep", day(1, 1, 0).AddDate(-3, 0, 0), day(5, 1, 30), day(5, 1, 0), MaxMissed},
		{"a long sleep until noon", day(1, 1, 0).AddDate(-3, 0, 0), day(5, 12, 0), time.Time{}, MaxMissed},
		{"clock set back", day(5, 1, 0), day(4, 1, 30), time.Time{}, 0},
	} {
		run, missed := s.Due(tc.last, tc.now, time.Hour)
		if (run == nil) != tc.run.IsZero() || run != nil && !run.Equal(tc.run) || len(missed) != tc.missed {
			t.Errorf("%s: run %v, missed %v", tc.name, run, missed)
		}
	}
}

// Over any series of looks, each slot is run or missed exactly once, in order,
// and what runs is never older than the deadline.
func TestDueLosesAndRepeatsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := ParseSchedule(drawExpr(t), rapid.SampledFrom(dstZones).Draw(t, "zone"))
		if err != nil {
			t.Skip(err)
		}
		deadline := time.Duration(rapid.IntRange(1, 300).Draw(t, "deadline")) * time.Minute
		began := time.Date(2026, 10, 24, 0, 0, 0, 0, time.UTC)
		last, now := began, began
		var handled []time.Time
		for range rapid.IntRange(1, 20).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "minutes")) * time.Minute)
			run, missed := s.Due(last, now, deadline)
			all := missed
			if run != nil {
				if now.Sub(*run) > deadline {
					t.Fatalf("%s runs at %s, after its deadline", run, now)
				}
				all = append(all, *run)
			}
			if len(all) > MaxMissed { // the cap may have dropped older ones
				return
			}
			for _, slot := range all {
				if !slot.After(last) || slot.After(now) {
					t.Fatalf("slot %s is not in (%s, %s]", slot, last, now)
				}
				last = slot
				handled = append(handled, slot)
			}
		}
		for i, next := 0, s.Next(began); !next.After(now); i, next = i+1, s.Next(next) {
			if i >= len(handled) && len(handled) < MaxMissed {
				t.Fatalf("%s: lost %s, handled %v", s, next, handled)
			}
		}
	})
}

func TestDueAfterYearsIsQuick(t *testing.T) {
	began := time.Now()
	for _, expr := range []string{"* * * * *", "* 1 * * *", "0 0 29 2 *", "* 0 1 1 *"} {
		s := mustSchedule(t, expr, "Europe/Berlin")
		now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
		_, missed := s.Due(now.AddDate(-50, 0, 0), now, time.Minute)
		if len(missed) < 12 {
			t.Errorf("%s: missed %d", expr, len(missed))
		}
	}
	if d := time.Since(began); d > 30*time.Second { // far above what it takes: machines may be busy
		t.Errorf("took %s", d)
	}
}

package spec

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func moment(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func recurring(kind, schedule, zone string, d time.Duration, applies ...string) Window {
	return Window{Kind: kind, Schedule: schedule, TimeZone: zone, Duration: &metav1.Duration{Duration: d}, Applies: applies}
}

func once(kind string, from, to time.Time) Window {
	return Window{Kind: kind, From: &metav1.Time{Time: from}, To: &metav1.Time{Time: to}}
}

func TestWindowsAt(t *testing.T) {
	friday := recurring("Allow", "0 22 * * 5", "Europe/Berlin", 6*time.Hour, WindowCutover)
	freeze := once("Deny", moment(t, "2026-12-18T00:00:00Z"), moment(t, "2027-01-04T00:00:00Z"))
	for name, c := range map[string]struct {
		windows []Window
		what    string
		at      string
		open    bool
		until   string // "" for never
	}{
		"none":                              {nil, WindowCutover, "2026-11-23T12:00:00Z", true, ""},
		"only for cutovers":                 {[]Window{friday}, WindowStage, "2026-11-23T12:00:00Z", true, ""},
		"before":                            {[]Window{friday}, WindowCutover, "2026-11-23T12:00:00Z", false, "2026-11-27T21:00:00Z"},
		"as it opens":                       {[]Window{friday}, WindowCutover, "2026-11-27T21:00:00Z", true, "2026-11-28T03:00:00Z"},
		"its last second":                   {[]Window{friday}, WindowCutover, "2026-11-28T02:59:59Z", true, "2026-11-28T03:00:00Z"},
		"as it closes":                      {[]Window{friday}, WindowCutover, "2026-11-28T03:00:00Z", false, "2026-12-04T21:00:00Z"},
		"deny wins":                         {[]Window{friday, freeze}, WindowCutover, "2026-12-18T22:00:00Z", false, "2027-01-08T21:00:00Z"},
		"only a deny, before it":            {[]Window{freeze}, WindowStage, "2026-11-23T12:00:00Z", true, "2026-12-18T00:00:00Z"},
		"only a deny, after it":             {[]Window{freeze}, WindowStage, "2027-01-04T00:00:00Z", true, ""},
		"an allow that is over":             {[]Window{once("Allow", moment(t, "2026-01-01T00:00:00Z"), moment(t, "2026-01-02T00:00:00Z"))}, WindowStage, "2026-11-23T12:00:00Z", false, ""},
		"six hours over the end of summer":  {[]Window{recurring("Allow", "0 0 25 10 *", "Europe/Berlin", 6*time.Hour)}, WindowCutover, "2026-10-24T22:00:00Z", true, "2026-10-25T04:00:00Z"},
		"two that touch are one":            {[]Window{recurring("Allow", "0 1,7 * * *", "", 6*time.Hour)}, WindowCutover, "2026-11-23T02:00:00Z", true, "2026-11-23T13:00:00Z"},
		"an allow inside an allow":          {[]Window{recurring("Allow", "0 1 * * *", "", 6*time.Hour), recurring("Allow", "0 2 * * *", "", time.Hour)}, WindowCutover, "2026-11-23T02:30:00Z", true, "2026-11-23T07:00:00Z"},
		"a deny in the middle of an allow":  {[]Window{recurring("Allow", "0 1 * * *", "", 6*time.Hour), recurring("Deny", "0 3 * * *", "", time.Hour)}, WindowCutover, "2026-11-23T02:30:00Z", true, "2026-11-23T03:00:00Z"},
		"a schedule denser than its length": {[]Window{recurring("Deny", "*/5 1-3 * * *", "", time.Hour)}, WindowCutover, "2026-11-23T01:07:00Z", false, "2026-11-23T04:55:00Z"},
	} {
		got, err := (&PlanSpec{Windows: c.windows}).WindowsAt(c.what, moment(t, c.at))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		until := ""
		if !got.Until.IsZero() {
			until = got.Until.UTC().Format(time.RFC3339)
		}
		if got.Open != c.open || until != c.until {
			t.Errorf("%s: open %v until %q, want %v until %q", name, got.Open, until, c.open, c.until)
		}
	}
}

func TestFirstFit(t *testing.T) {
	nights := []Window{recurring("Allow", "0 22 * * 1-5", "Europe/Berlin", 2*time.Hour), recurring("Allow", "0 20 * * 6", "Europe/Berlin", 10*time.Hour)}
	for name, c := range map[string]struct {
		windows []Window
		from    string
		need    time.Duration
		want    string
	}{
		"no windows":           {nil, "2026-11-23T12:00:00Z", time.Hour, "2026-11-23T12:00:00Z"},
		"the next night":       {nights, "2026-11-23T12:00:00Z", time.Hour, "2026-11-23T21:00:00Z"},
		"inside, and it fits":  {nights, "2026-11-23T21:30:00Z", time.Hour, "2026-11-23T21:30:00Z"},
		"inside, and too late": {nights, "2026-11-23T22:30:00Z", time.Hour, "2026-11-24T21:00:00Z"},
		"only Saturday fits":   {nights, "2026-11-23T12:00:00Z", 3 * time.Hour, "2026-11-28T19:00:00Z"},
		"none is long enough":  {nights, "2026-11-23T12:00:00Z", 24 * time.Hour, "0001-01-01T00:00:00Z"},
	} {
		got, err := (&PlanSpec{Windows: c.windows}).FirstFit(WindowCutover, moment(t, c.from), c.need)
		if err != nil || got.UTC().Format(time.RFC3339) != c.want {
			t.Errorf("%s: %s %v, want %s", name, got.UTC().Format(time.RFC3339), err, c.want)
		}
	}
}

// TestWindowsAgainstEveryMinute: an evaluator that only knows whether a slot is
// at a minute goes through days around the changes of clocks, and must agree.
func TestWindowsAgainstEveryMinute(t *testing.T) {
	zones := []string{"", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"}
	crons := []string{"0 22 * * *", "30 2 * * *", "0 1,13 * * *", "0 * * * *", "*/20 * * * *", "15 */6 * * 0", "45 1 * * 6,0"}
	starts := []time.Time{moment(t, "2026-03-07T00:00:00Z"), moment(t, "2026-03-28T00:00:00Z"), moment(t, "2026-10-24T00:00:00Z"), moment(t, "2026-10-31T12:00:00Z"), moment(t, "2026-04-04T06:00:00Z")}
	const minutes = 3 * 24 * 60
	rapid.Check(t, func(r *rapid.T) {
		start := rapid.SampledFrom(starts).Draw(r, "start")
		var p PlanSpec
		for i := range rapid.IntRange(1, 3).Draw(r, "windows") {
			kind := rapid.SampledFrom([]string{"Allow", "Deny"}).Draw(r, fmt.Sprint("kind", i))
			zone, cron := rapid.SampledFrom(zones).Draw(r, fmt.Sprint("zone", i)), rapid.SampledFrom(crons).Draw(r, fmt.Sprint("cron", i))
			d := time.Duration(rapid.IntRange(1, 600).Draw(r, fmt.Sprint("minutes", i))) * time.Minute
			p.Windows = append(p.Windows, recurring(kind, cron, zone, d))
		}
		var active [][]bool // a window -> the minutes since start at which it is active
		for _, w := range p.Windows {
			sch, err := ParseSchedule(w.Schedule, w.TimeZone)
			if err != nil {
				r.Fatal(err)
			}
			on := make([]bool, minutes)
			for slot := sch.Next(start.Add(-w.Duration.Duration - time.Minute)); slot.Before(start.Add(minutes * time.Minute)); slot = sch.Next(slot) {
				first := int(slot.Sub(start) / time.Minute)
				for m := max(first, 0); m < min(first+int(w.Duration.Minutes()), minutes); m++ {
					on[m] = true
				}
			}
			active = append(active, on)
		}
		slow := func(at time.Time) bool {
			needed, allowed := false, false
			for i, w := range p.Windows {
				on := active[i][at.Sub(start)/time.Minute]
				if w.Kind == "Deny" && on {
					return false
				}
				needed, allowed = needed || w.Kind == "Allow", allowed || w.Kind == "Allow" && on
			}
			return allowed || !needed
		}
		at := start.Add(time.Duration(rapid.IntRange(0, minutes-1).Draw(r, "at")) * time.Minute)
		got, err := p.WindowsAt(WindowStage, at)
		if err != nil || got.Open != slow(at) {
			r.Fatalf("at %s: open %v, by the minute %v (%v)", at, got.Open, slow(at), err)
		}
		for m := at; m.Before(start.Add(minutes * time.Minute)); m = m.Add(time.Minute) {
			changed := slow(m) != got.Open
			if changed && (got.Until.IsZero() || m.Before(got.Until)) {
				r.Fatalf("at %s it says %v until %s, but it changes at %s", at, got.Open, got.Until, m)
			}
			if changed {
				break
			}
			if m.Equal(got.Until) {
				r.Fatalf("at %s it says %v until %s, and nothing changes there", at, got.Open, got.Until)
			}
		}
	})
}

// A document whose windows never end must not keep the loop busy: all that one
// question looks at comes out of one budget.
func TestWindowsAreLookedAtSoOften(t *testing.T) {
	always := recurring("Deny", "* * * * *", "", time.Minute)
	ws, err := (&PlanSpec{Windows: []Window{always}}).windowsFor(WindowStage)
	if err != nil {
		t.Fatal(err)
	}
	now := moment(t, "2026-11-23T12:00:30Z")
	turns := 100
	if s := ws.at(now, &turns); s.Open || turns != 0 || s.Until.Sub(now) > 101*time.Minute {
		t.Errorf("%+v, %d turns left", s, turns)
	}
	turns = 0
	if s := ws.at(now, &turns); s.Open || s.Until.Sub(now) > time.Minute {
		t.Errorf("with nothing left: %+v", s)
	}
	if fit, err := (&PlanSpec{Windows: []Window{always}}).FirstFit(WindowStage, now, 0); err != nil || !fit.IsZero() {
		t.Errorf("fits at %v: %v", fit, err)
	}
}

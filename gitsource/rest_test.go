package gitsource

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tranship/tranship/gitsource/gittest"
)

func TestRetryAfterIsUnderstood(t *testing.T) {
	now := time.Date(2026, 11, 3, 4, 5, 6, 0, time.UTC)
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, c := range []struct {
		status      int
		after, date string
		want        time.Duration
	}{
		{429, "30", "", 30 * time.Second},
		{503, "30", "", 30 * time.Second},
		{500, "30", "", 0},
		{429, "", "", 0},
		{429, "soon", "", 0},
		{429, "0", "", 0},
		{429, "-5", "", -5 * time.Second},
		{429, "99999", "", maxRest},
		{429, "99999999999999999999", "", 0},
		{503, date(time.Minute), "", time.Minute},
		{503, date(time.Minute), date(-time.Hour), maxRest},
		{503, date(-time.Hour), "", -time.Hour},
		{503, date(time.Hour + time.Minute), date(time.Hour), time.Minute}, // the server's clock is off
	} {
		h := http.Header{}
		h.Set("Retry-After", c.after)
		h.Set("Date", c.date)
		if got := askedRest(c.status, h, now).left(now, maxRest); got != c.want && (got > 0 || c.want > 0) {
			t.Errorf("%d, %q, %q: %s, want %s", c.status, c.after, c.date, got, c.want)
		}
	}
}

// A server that asks to be left alone is not asked before it is time, neither
// for the branch nor for a pack.
func TestReadingLeavesATiredServerAlone(t *testing.T) {
	for name, proto := range map[string]int{"poll": 2, "fetch": 1} { // with 1 the POST is the fetch
		for _, status := range []int{429, 503} {
			s := gittest.New(t)
			r := s.Repo("plans.git")
			r.Clone().Write("common.yaml", commonYAML).Push("first")
			src := openSource(t, testConfig(t, s, r))
			src.remote.remember(func() { src.remote.proto = proto })
			s.Inject(uploadPack, 1, gittest.Later(status, "3600"))
			if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnreachable) {
				t.Errorf("%s: %v", name, err)
			}
			before, _ := s.Traffic()
			if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "next attempt is in 15m0s") {
				t.Errorf("%s: %v", name, err)
			}
			if after, _ := s.Traffic(); after != before {
				t.Errorf("%s: %d requests while the server rests", name, after-before)
			}
			src.remote.now = func() time.Time { return time.Now().Add(maxRest) }
			read(t, src, "")
		}
	}
}

// A push that a run waits for honours the server's wish for a moment only;
// what nobody waits for honours all of it.
func TestPushLeavesATiredServerAloneForAMoment(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	if l.remote.most != urgentRest || urgentRest >= pushWait {
		t.Errorf("one push of %s must outlast a rest of %s", pushWait, l.remote.most)
	}
	s.Inject(receivePack, 1, gittest.Later(429, "3600"))
	must(t, l.Record(testContext(t), planChange("shop", "x")))
	if err := l.Push(triedOnce(t, l)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	before, _ := s.Traffic()
	if err := l.Push(triedOnce(t, l)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if after, _ := s.Traffic(); after != before {
		t.Errorf("%d requests while the server rests", after-before)
	}
	l.remote.now = func() time.Time { return time.Now().Add(urgentRest) }
	if left := l.remote.resting(maxRest); left <= 0 {
		t.Error("what nobody waits for does not wait as long as the server asked")
	}
	must(t, l.Push(testContext(t)))
	if got := waits(t, load(t, l), "shop"); got != "x" {
		t.Error(got)
	}
	r.Fsck()
}

func TestServeLeavesATiredServerAlone(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	l.batch = time.Millisecond
	var asked atomic.Int64
	l.remote.now = func() time.Time { asked.Add(1); return time.Now().Add(2 * urgentRest) }
	l.remote.remember(func() { l.remote.rest = rest{time.Now(), maxRest} })
	must(t, l.Record(testContext(t), planChange("shop", "x")))
	before, _ := s.Traffic()
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, func(error) {}) }()
	for asked.Load() < 20 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if after, _ := s.Traffic(); after != before {
		t.Errorf("%d requests while the server rests", after-before)
	}
	l.remote.remember(func() { l.remote.rest = rest{} })
	for l.Health().Unpushed > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	cancel()
	must(t, <-done)
	if got := waits(t, load(t, l), "shop"); got != "x" || commits(r) != 2 {
		t.Errorf("%q, %d commits", got, commits(r))
	}
}

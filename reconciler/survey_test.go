package reconciler

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// binding is a cluster whose claim waits for its volume until it is bound.
type binding struct {
	*cluster
	bound bool // guarded by cluster.mu
	asked int
}

func (b *binding) Survey(context.Context, *spec.Closure, []spec.Volume) (Survey, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	v := spec.Volume{Namespace: "shop", Claim: "data", Action: "copy"}
	if !b.bound {
		v.Action = "skip"
	}
	return Survey{Volumes: []spec.Volume{v}, Pending: !b.bound}, nil
}

// leaping is a clock that stands still until the test sets it forward.
type leaping struct {
	realClock
	mu  sync.Mutex
	now time.Time
}

func (c *leaping) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *leaping) leap(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// TestAPendingClaimIsLookedAtAgain: a plan that was merged before its claim was
// bound says so in time, and not only when its first run starts.
func TestAPendingClaimIsLookedAtAgain(t *testing.T) {
	b, m, clock := &branch{}, newMemory(), &leaping{now: time.Now()}
	c := &binding{cluster: &cluster{made: map[string]int{}}}
	b.commit(closureIn(spec.Staged, 1))
	ctx, cancel := context.WithCancel(t.Context())
	l := New(Config{Source: b, Ledger: m, Executor: c, Clock: clock, Notifier: quiet{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Interval: func() time.Duration { return 5 * time.Millisecond }, Slots: always(4, 0)})
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	defer func() { cancel(); <-done }()

	action := func(want string) func() bool {
		return func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			st := m.plans["shop"]
			return st != nil && len(st.Volumes) == 1 && st.Volumes[0].Action == want
		}
	}
	eventually(t, "the claim to be left out", action("skip"))
	c.mu.Lock()
	c.bound = true
	asked := c.asked
	c.mu.Unlock()
	if asked != 1 {
		t.Errorf("asked %d times within a minute, want once", asked)
	}
	clock.leap(pendingAgain)
	eventually(t, "the claim to be copied", action("copy"))
}

func TestSurveyDue(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		was  surveyed
		want bool
	}{
		"never asked":                   {surveyed{}, true},
		"asked":                         {surveyed{digest: "a"}, false},
		"asked about something else":    {surveyed{digest: "b"}, true},
		"pending, before its time":      {surveyed{digest: "a", again: now.Add(1)}, false},
		"pending, and its time is here": {surveyed{digest: "a", again: now}, true},
	} {
		if got := c.was.due("a", now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

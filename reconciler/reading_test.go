package reconciler

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

func TestPatience(t *testing.T) {
	for _, c := range []struct {
		name     string
		interval time.Duration
		busy     bool
		want     []int // intervals between reads that fail
	}{
		{"idle", 30 * time.Second, false, []int{1, 2, 4, 8, 16, 30, 30}},
		{"busy", 15 * time.Second, true, []int{1, 2, 4, 4, 4, 4, 4}},
		{"rare", time.Hour, false, []int{1, 1, 1, 1, 1, 1, 1}},
		{"never twice the maximum", 10 * time.Minute, false, []int{1, 1, 1, 1, 1, 1, 1}},
	} {
		var p patience
		var got []int
		for range c.want {
			p.read(errors.New("down"))
			n := 1
			for ; !p.tick(c.interval, c.busy); n++ {
			}
			got = append(got, n)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		p.read(nil)
		if !p.tick(c.interval, c.busy) {
			t.Errorf("%s: a success does not end the pause", c.name)
		}
	}
}

// fails is a branch that cannot be read while err is set.
type fails struct {
	branch
	mu    sync.Mutex
	err   error
	reads int
}

func (f *fails) Read(ctx context.Context, since string) (*Desired, error) {
	f.mu.Lock()
	err := f.err
	f.reads++
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.branch.Read(ctx, since)
}

func (f *fails) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// stepped lets the test pass the interval of a second.
type stepped struct {
	realClock
	ticks chan time.Time
}

func (s stepped) After(d time.Duration) <-chan time.Time {
	if d == time.Second {
		return s.ticks
	}
	return s.realClock.After(d)
}

// A server that is down is asked more and more rarely, and at once when
// somebody asks for it.
func TestLoopBacksOff(t *testing.T) {
	src, m := &fails{err: errors.New("down")}, newMemory()
	src.commit(closureIn(spec.Staged, 1))
	clock := stepped{ticks: make(chan time.Time)}
	l := New(Config{Source: src, Ledger: m, Executor: &cluster{made: map[string]int{}}, Clock: clock, Notifier: quiet{},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Interval: func() time.Duration { return time.Second }, Slots: always(4, 0)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for range 250 {
		before := src.count()
		clock.ticks <- time.Now()
		if before < 2 { // the first ones are to be seen as failed one by one
			eventually(t, "the poll", func() bool { return src.count() > before })
		}
	}
	if n := src.count(); n < 3 || n > 16 {
		t.Errorf("%d reads in 250 intervals", n)
	}
	src.mu.Lock()
	src.err = nil
	src.mu.Unlock()
	l.Trigger <- struct{}{}
	eventually(t, "a request cuts the pause short", func() bool { return m.status().Accepted != "" })
}

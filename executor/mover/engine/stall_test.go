package engine

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A copy that moves, however slowly, goes on for as long as it likes; one that
// stands still ends with a reason.
func TestSlowIsNotStalled(t *testing.T) {
	var c counters
	ctx, stop := c.watch(t.Context(), slog.New(slog.DiscardHandler), 5*time.Millisecond, 150*time.Millisecond)
	for range 20 {
		time.Sleep(20 * time.Millisecond)
		c.read.Add(1)
	}
	if ctx.Err() != nil {
		t.Fatalf("a slow copy was ended: %v", context.Cause(ctx))
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("a copy that stands still goes on")
	}
	stop()
	if err := context.Cause(ctx); reasonOf(err) != ReasonStalled {
		t.Errorf("%v", err)
	}
}

// Whoever waits for somebody else has no limit, and the log says how long
// nothing has moved.
func TestStillSecondsAreLogged(t *testing.T) {
	var c counters
	var log bytes.Buffer
	ctx, stop := c.watch(t.Context(), slog.New(slog.NewJSONHandler(&log, nil)), 100*time.Millisecond, 0)
	time.Sleep(1300 * time.Millisecond)
	if ctx.Err() != nil {
		t.Error("ended without a limit")
	}
	stop()
	if !strings.Contains(log.String(), `"stillSeconds":1`) {
		t.Errorf("the log: %s", &log)
	}
}

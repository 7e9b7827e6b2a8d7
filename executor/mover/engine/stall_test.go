package engine

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A copy that moves, however slowly, goes on for as long as it likes; one that
// stands still ends with a reason.
func TestSlowIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no machine is too busy for its clock
		var c counters
		ctx, stop := c.watch(t.Context(), slog.New(slog.DiscardHandler), 5*time.Millisecond, 150*time.Millisecond)
		defer stop()
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			c.read.Add(1)
		}
		if ctx.Err() != nil {
			t.Fatalf("a slow copy was ended: %v", context.Cause(ctx))
		}
		time.Sleep(200 * time.Millisecond)
		if err := context.Cause(ctx); reasonOf(err) != ReasonStalled {
			t.Errorf("a copy that stands still: %v", err)
		}
	})
}

// Whoever waits for somebody else has no limit, and the log says how long
// nothing has moved.
func TestStillSecondsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counters
		var log bytes.Buffer
		ctx, stop := c.watch(t.Context(), slog.New(slog.NewJSONHandler(&log, nil)), 100*time.Millisecond, 0)
		time.Sleep(1350 * time.Millisecond)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Error("ended without a limit")
		}
		stop()
		synctest.Wait()
		if !strings.Contains(log.String(), `"stillSeconds":1`) {
			t.Errorf("the log: %s", &log)
		}
	})
}

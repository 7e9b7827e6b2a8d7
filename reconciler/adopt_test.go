package reconciler

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// A plan that appeared as Migrated and was adopted has no run that did it, so a
// rollback has nothing to read backwards: it is refused, and the daemon goes on.
func TestRollbackOfAnAdoptedCutover(t *testing.T) {
	b, m := &branch{}, newMemory()
	b.commit(closureIn(spec.Migrated, 1))
	ctx, cancel := context.WithCancel(t.Context())
	l := New(Config{Source: b, Ledger: m, Executor: &cluster{made: map[string]int{}}, Clock: realClock{}, Notifier: quiet{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Interval: func() time.Duration { return 5 * time.Millisecond }, Slots: always(4, 0)})
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	eventually(t, "Unrecorded", func() bool { return m.reason("shop") == "Unrecorded" })
	l.Adopt()
	eventually(t, "Migrated", func() bool { return m.reason("shop") == "Migrated" })
	b.commit(closureIn(spec.RolledBack, 1, discard))
	eventually(t, "a refusal", func() bool { return m.reason("shop") == "NothingToRollBack" })
	b.commit(closureIn(spec.Closed, 1))
	eventually(t, "the close, which needs no record", func() bool { return m.reason("shop") == "Closed" })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

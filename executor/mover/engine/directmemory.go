package engine

import (
	"context"
	"math"
	"runtime/debug"
	"time"

	"golang.org/x/sync/semaphore"
)

// listMemory bounds what the lists of a direct transfer take, in bytes. How long they are is up to the
// sizes of files and the number of links, which whoever writes to the volume chooses, and for a receiver
// up to what a sender says. Safe for concurrent use.
type listMemory struct {
	*semaphore.Weighted
	limit int64
	// patience is how long a receiver waits: what a sender has finished may still be on another line.
	patience time.Duration
}

const (
	listPatience = 10 * time.Second
	// What a map of arrivals takes for a path, and for a piece of a file with several paths.
	heldBytes, linkedBytes = 64, 96
)

// listMemoryOf is the half of what the mover may take: GOMEMLIMIT, which its pod has, or that of a pod
// without settings.
func listMemoryOf() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		limit = 435 << 20
	}
	return limit / 2
}

func newListMemory(limit int64) *listMemory {
	return &listMemory{Weighted: semaphore.NewWeighted(limit), limit: limit, patience: listPatience}
}

// listBytes is how long the list of a file of size bytes is.
func listBytes(size int64) int64 { return int64(pieceCount(size)) * nameSize }

// take waits until there are n bytes for the file at rel; give returns them.
func (m *listMemory) take(ctx context.Context, n int64, rel string) error {
	var err error
	if n <= m.limit {
		if err = m.Acquire(ctx, n); err == nil {
			return nil
		}
	}
	return fail(ReasonDirectTooLarge, err, "what is to be remembered of the volume's files, at %q, takes more than the %d MiB that a direct transfer may take", rel, m.limit>>20)
}

// wait is take for a receiver.
func (m *listMemory) wait(n int64, rel string) error {
	if m.TryAcquire(n) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.patience)
	defer cancel()
	return m.take(ctx, n, rel)
}

func (m *listMemory) give(n int64) { m.Release(n) }

package engine

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxWarnings   = 20
	progressEvery = 2 * time.Second
)

// counters are what a volume's tasks add to while they run.
type counters struct {
	files, bytes, disk                         atomic.Int64
	read, uploaded                             atomic.Int64
	fetched, written, sent                     atomic.Int64
	changed, unchanged, changedMeta, deletions atomic.Int64
	verifiedFiles, verifiedBytes               atomic.Int64
	verified                                   atomic.Pointer[Verified] // set at the end of a verification
}

// fill copies the counters into a result.
func (c *counters) fill(v *VolumeResult) {
	v.Files, v.Bytes, v.DiskBytes = c.files.Load(), c.bytes.Load(), c.disk.Load()
	v.ReadBytes, v.UploadedBytes, v.WrittenBytes = c.read.Load(), c.uploaded.Load(), c.written.Load()
	v.FetchedBytes, v.SentBytes = c.fetched.Load(), c.sent.Load()
	v.ChangedFiles, v.UnchangedFiles = c.changed.Load(), c.unchanged.Load()
	v.ChangedMetadata, v.DeletedEntries = c.changedMeta.Load(), c.deletions.Load()
	if v.Verified = c.verified.Load(); v.Verified != nil {
		v.Verified.Files, v.Verified.Bytes = c.verifiedFiles.Load(), c.verifiedBytes.Load()
	}
}

// warnings keeps the first few and counts the rest.
type warnings struct {
	mu    sync.Mutex
	first []string
	count int64
}

func (w *warnings) add(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	if len(w.first) < maxWarnings {
		w.first = append(w.first, fmt.Sprintf(format, args...))
	}
}

// stallLimit is how long nothing at all may be read, written, sent or compared:
// a slow copy goes on, one that stands still ends and is tried again.
const stallLimit = 10 * time.Minute

// steps is a number that grows with whatever is done.
func (c *counters) steps() (n int64) {
	for _, a := range []*atomic.Int64{&c.files, &c.bytes, &c.disk, &c.read, &c.uploaded, &c.fetched, &c.written, &c.sent,
		&c.changed, &c.unchanged, &c.changedMeta, &c.deletions, &c.verifiedFiles, &c.verifiedBytes} {
		n += a.Load()
	}
	return n
}

// watch logs a volume's progress every so often until the returned function is
// called. The context that it returns is cancelled, with a reason of its own,
// when nothing has moved for the limit; zero means no limit.
func (c *counters) watch(ctx context.Context, log *slog.Logger, every, limit time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		since, steps := time.Now(), c.steps()
		for last := int64(0); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if n := c.steps(); n != steps {
				since, steps = time.Now(), n
			}
			still := time.Since(since)
			moved := c.read.Load() + c.written.Load()
			log.Info("progress", "files", c.files.Load(), "bytes", c.bytes.Load(), "movedBytes", moved, "uploadedBytes", c.uploaded.Load(),
				"bytesPerSecond", int64(float64(moved-last)/every.Seconds()), "stillSeconds", int64(still.Seconds()))
			if last = moved; limit > 0 && still >= limit {
				cancel(fail(ReasonStalled, nil, "nothing was read or written for %s: look at the store, the volume and the network between them", limit))
				return
			}
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

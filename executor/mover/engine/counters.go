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

// report logs a volume's progress until the returned function is called.
func report(ctx context.Context, log *slog.Logger, op Op, volume string, c *counters) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for last := int64(0); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			moved := c.read.Load() + c.written.Load()
			log.Info("progress", "op", string(op), "volume", volume, "files", c.files.Load(),
				"bytes", c.bytes.Load(), "movedBytes", moved, "uploadedBytes", c.uploaded.Load(),
				"bytesPerSecond", int64(float64(moved-last)/progressEvery.Seconds()))
			last = moved
		}
	}()
	return func() { cancel(); <-done }
}

package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
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

	// other grows with what is done and in no result, such as an entry that was looked at.
	other atomic.Int64
	// traffic is the run's with its store; it may be nil.
	traffic *traffic
	// waiting is set while somebody else has to do something, who has the limit.
	waiting atomic.Bool
	// syncing is set while the kernel writes out what was written; see synced.
	syncing atomic.Bool
}

// traffic counts what goes to a store and comes from it while it does: bytes of objects, names of a
// listing, answers. It is safe for concurrent use, and nil counts nothing.
type traffic struct{ n atomic.Int64 }

func (t *traffic) add(n int) {
	if t != nil {
		t.n.Add(int64(n))
	}
}

// through counts what is written to w.
func (t *traffic) through(w io.Writer) io.Writer { return &counted{w, t} }

type counted struct {
	io.Writer
	t *traffic
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.t.add(n)
	return n, err
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

const (
	// StallLimit is how long nothing at all may be read, written, sent, received or compared: a slow
	// copy goes on, one that stands still ends and is tried again.
	StallLimit = 10 * time.Minute
	// SyncLimit is the same for a sync. The kernel does not say how far it is: it may have to bring all
	// that its cache took to a slow volume.
	SyncLimit = time.Hour
)

// step notes that something was done that no other counter shows.
func (c *counters) step() { c.other.Add(1) }

// steps is a number that changes with whatever is done.
func (c *counters) steps() (n int64) {
	for _, a := range []*atomic.Int64{&c.files, &c.bytes, &c.disk, &c.read, &c.uploaded, &c.fetched, &c.written, &c.sent,
		&c.changed, &c.unchanged, &c.changedMeta, &c.deletions, &c.verifiedFiles, &c.verifiedBytes, &c.other} {
		n += a.Load()
	}
	if c.traffic != nil {
		n += c.traffic.n.Load()
	}
	return n
}

// stalled judges that nothing has moved for so long; nil says that it may be so.
func stalled(still time.Duration, waiting, syncing bool) error {
	switch {
	case waiting:
	case syncing && still >= SyncLimit:
		return fail(ReasonStalled, nil, "the file system or device was not synced within %s: look at the volume and its node", SyncLimit)
	case !syncing && still >= StallLimit:
		return fail(ReasonStalled, nil, "nothing was read or written for %s: look at the store, the volume and the network between them", StallLimit)
	}
	return nil
}

// watch logs a volume's progress every so often until the returned function is
// called. The context that it returns is cancelled, with a reason of its own,
// when nothing has moved for too long. It goes on saying so: a task that hangs in
// the kernel cannot be ended from here.
func (c *counters) watch(ctx context.Context, log *slog.Logger, every time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		since, steps := time.Now(), c.steps()
		for last := int64(0); ; {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			// Before the steps: who ends a wait takes a step first, and whoever read them the other
			// way round would count the time of waiting.
			waiting, syncing := c.waiting.Load(), c.syncing.Load()
			if n := c.steps(); n != steps {
				since, steps = time.Now(), n
			}
			still := time.Since(since)
			moved := c.read.Load() + c.written.Load()
			log.Info("progress", "files", c.files.Load(), "bytes", c.bytes.Load(), "movedBytes", moved, "uploadedBytes", c.uploaded.Load(),
				"bytesPerSecond", int64(float64(moved-last)/every.Seconds()), "stillSeconds", int64(still.Seconds()), "syncing", syncing)
			last = moved
			if err := stalled(still, waiting, syncing); err != nil {
				cancel(err)
			}
		}
	}()
	return ctx, func() { close(quit); cancel(nil); <-done }
}

// synced waits for a sync of what fd refers to. One that cannot be interrupted is left behind when the
// context ends: it has a descriptor of its own.
func (c *counters) synced(ctx context.Context, fd int, sync func(fd int) error) error {
	own, err := retryInterrupted(func() (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	c.step() // its time begins now, and that of what follows afterwards
	c.syncing.Store(true)
	defer func() { c.step(); c.syncing.Store(false) }()
	done := make(chan error, 1)
	go func() {
		defer unix.Close(own)
		done <- sync(own)
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return err
}

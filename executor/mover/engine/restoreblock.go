package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sys/unix"
)

// blockRestorer makes one device equal to one snapshot.
type blockRestorer struct {
	*session
	objects *objects
	dev     *device
	count   *counters
	warn    *warnings
	writes  pieceWrites
}

// extents are what a snapshot says of a device.
type extents struct {
	tree *tree
	size int64
}

func (x *extents) child(name string) *node {
	if x == nil {
		return nil
	}
	return x.tree.child(name)
}

// restoreBlock makes a device equal to a snapshot and returns its ID. What the device
// has beyond the snapshot's size reads as zeros afterwards, so that nothing of an
// earlier content looks like a part of it, such as the second header of a partition
// table. A device that is smaller is refused before anything is written.
func (s *session) restoreBlock(ctx context.Context, v VolumeRequest, c *counters, w *warnings) (string, error) {
	want, err := s.extents(ctx, v.Name, v.Snapshot)
	if err != nil {
		return "", err
	}
	// Exclusive: the kernel refuses what is mounted, or written by another mover of this node.
	d, err := openDevice(v.Path, unix.O_RDWR|unix.O_EXCL)
	if errors.Is(err, unix.EBUSY) {
		return "", fail(ReasonWriteFailed, err, "the target device %s is mounted or used by another program", v.Path)
	}
	if err != nil {
		return "", fail(ReasonWriteFailed, err, "cannot open the target device %s", v.Path)
	}
	defer d.close()
	if d.size < want.size {
		return "", fail(ReasonNoSpace, nil, "the target device has %d bytes and the snapshot has %d; nothing was written", d.size, want.size)
	}
	r := &blockRestorer{session: s, objects: newObjects(s.repo, &c.fetched), dev: d, count: c, warn: w}
	r.writes.wanted = v.Verify == VerifyChanged
	if err := r.device(ctx, want, r.held(ctx, v)); err != nil {
		return "", err
	}
	// The claim is about to be recorded as clean: everything has to be on the device before that.
	if err := c.synced(ctx, int(d.f.Fd()), unix.Fsync); err != nil {
		return "", targetFailed(err, "sync", v.Path)
	}
	if v.Verify != VerifyNothing {
		found, err := r.verify(ctx, v.Verify, want)
		if err != nil {
			return "", err
		}
		c.verified.Store(found)
	}
	return v.Snapshot, nil
}

// extents loads what a snapshot says of a device.
func (s *session) extents(ctx context.Context, volume, id string) (*extents, error) {
	m, err := s.manifestOf(ctx, volume, id, ModeBlock)
	if err != nil {
		return nil, err
	}
	t, err := readTree(ctx, s.repo, m.RootEntry.ObjectID)
	switch {
	case errors.Is(err, errUnknownSnapshot):
		return nil, fail(ReasonSnapshotUnknown, err, "snapshot %q of volume %s cannot be restored", id, volume)
	case err != nil:
		return nil, storeFailed(err, "cannot read the extents of snapshot %q", id)
	}
	x := &extents{tree: t}
	for range t.nodes {
		n := t.child(extentName(x.size))
		if n == nil || n.kind != kindFile || n.size <= 0 || n.size > extentSize {
			return nil, fail(ReasonSnapshotUnknown, nil, "snapshot %q of volume %s has no whole extent at %d", id, volume, x.size)
		}
		x.size += n.size
	}
	return x, nil
}

// held loads what the device is said to hold; nil makes everything be compared by its content.
func (r *blockRestorer) held(ctx context.Context, v VolumeRequest) *extents {
	if v.Held == "" || v.Content {
		return nil
	}
	x, err := r.extents(ctx, v.Name, v.Held)
	if err != nil {
		r.warn.add("the whole device is compared: the snapshot that the target holds cannot be used: %v", err)
		return nil
	}
	return x
}

// device restores every extent, and makes the rest of the device read as zeros.
func (r *blockRestorer) device(ctx context.Context, want, held *extents) error {
	for start := int64(0); start < want.size; start += extentSize {
		n := want.tree.child(extentName(start))
		if err := r.extent(ctx, start, n, held.child(n.name)); err != nil {
			return err
		}
		r.count.files.Add(1)
		r.count.bytes.Add(n.size)
	}
	if held != nil && held.size == want.size {
		return nil
	}
	return r.rest(ctx, want.size)
}

// extent writes the pieces of one extent that differ: from those of the snapshot
// that the device holds, or, with was nil, from what the device has there.
func (r *blockRestorer) extent(ctx context.Context, start int64, want, was *node) error {
	if was != nil && was.object == want.object && was.size == want.size {
		r.count.unchanged.Add(1)
		return nil
	}
	pieces, err := r.objects.pieces(ctx, want.object, want.size)
	if err != nil {
		return storeFailed(err, "cannot read extent %q of the snapshot", want.name)
	}
	if was != nil {
		old, err := r.objects.pieces(ctx, was.object, was.size)
		if err != nil {
			r.warn.add("extent %q is compared: its record cannot be used: %v", want.name, err)
			was = nil
		}
		if pieces = differing(pieces, old); was != nil {
			r.objects.announce(ctx, pieces)
		}
	}
	written := r.count.written.Load()
	g := r.pool.group()
	for len(pieces) > 0 && ctx.Err() == nil {
		part := pieces[:min(piecesPerTask, len(pieces))]
		pieces = pieces[len(part):]
		g.do(func() error { return r.section(ctx, start, part, was == nil) })
	}
	if err := g.wait(ctx); err != nil {
		return err
	}
	if r.count.written.Load() == written {
		r.count.unchanged.Add(1)
	} else {
		r.count.changed.Add(1)
	}
	return nil
}

// section writes some pieces of the extent that begins at start; with compare it
// leaves alone what the device has already.
func (r *blockRestorer) section(ctx context.Context, start int64, pieces []object.IndirectObjectEntry, compare bool) error {
	buf := alignedBuffer(pieceSize)
	var zeroFrom, zeroTo int64 // pieces of zeros side by side are zeroed together
	flush := func() error {
		from, n := zeroFrom, zeroTo-zeroFrom
		zeroFrom, zeroTo = 0, 0
		if n == 0 {
			return nil
		}
		r.count.written.Add(n)
		return deviceFailed(r.dev.zero(from, n), from)
	}
	for _, p := range pieces {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.Length > int64(len(buf)) {
			return fail(ReasonSnapshotUnknown, nil, "a piece of the snapshot has %d bytes; this version knows %d", p.Length, pieceSize)
		}
		at := start + p.Start
		if compare {
			if same, err := r.same(ctx, at, p, buf[:p.Length]); err != nil || same {
				if err != nil {
					return err
				}
				continue
			}
		}
		zero, err := r.piece(ctx, p, buf[:p.Length])
		if err != nil {
			return err
		}
		switch {
		case zero && zeroTo == at && zeroTo > zeroFrom:
			zeroTo = at + p.Length
		case zero:
			if err := flush(); err != nil {
				return err
			}
			zeroFrom, zeroTo = at, at+p.Length
		default:
			if _, err := r.dev.f.WriteAt(buf[:p.Length], at); err != nil {
				return deviceFailed(err, at)
			}
			r.count.written.Add(p.Length)
		}
		r.writes.add(at, p)
		r.afterWrite(extentName(at))
	}
	return flush()
}

// same says whether the device holds a piece already; buf is as long as the piece.
func (r *blockRestorer) same(ctx context.Context, at int64, p object.IndirectObjectEntry, buf []byte) (bool, error) {
	if _, err := r.dev.f.ReadAt(buf, at); err != nil {
		return false, targetFailed(err, "read", fmt.Sprintf("the device at %d", at))
	}
	r.count.read.Add(p.Length)
	same, err := r.objects.is(ctx, p.Object, buf)
	if err != nil {
		return false, storeFailed(err, "cannot compare the device at %d", at)
	}
	return same, nil
}

// piece fetches a piece into buf, or says that it is zeros.
func (r *blockRestorer) piece(ctx context.Context, p object.IndirectObjectEntry, buf []byte) (zero bool, err error) {
	if r.objects.zero(p.Object, p.Length) {
		return true, nil
	}
	data, err := r.objects.read(ctx, p.Object, p.Length)
	if err != nil {
		return false, storeFailed(err, "cannot read the snapshot's piece for %d", p.Start)
	}
	copy(buf, data)
	return allZero(data), nil
}

// deviceFailed wraps an error met while writing to the target's device; nil stays nil.
func deviceFailed(err error, at int64) error {
	if err == nil {
		return nil
	}
	return targetFailed(err, "write", fmt.Sprintf("the device at %d", at))
}

// rest zeroes what the device has beyond the snapshot, where it is not zero already.
func (r *blockRestorer) rest(ctx context.Context, from int64) error {
	buf := alignedBuffer(readBuffer)
	for at := from; at < r.dev.size; at += int64(len(buf)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		buf = buf[:min(int64(len(buf)), r.dev.size-at)]
		if _, err := r.dev.f.ReadAt(buf, at); err != nil {
			return targetFailed(err, "read", fmt.Sprintf("the device at %d", at))
		}
		r.count.read.Add(int64(len(buf)))
		if allZero(buf) {
			continue
		}
		if err := r.dev.zero(at, int64(len(buf))); err != nil {
			return deviceFailed(err, at)
		}
		r.count.written.Add(int64(len(buf)))
	}
	return nil
}

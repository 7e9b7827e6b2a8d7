package engine

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sys/unix"
)

// patch changes one file of the target in place: only the pieces that differ are fetched and written.
//
// Killed in the middle it leaves a file that is neither the old nor the new one. That is safe because
// of what is around it: the claim is marked as being written before the first byte is, so that the
// next run trusts no record of it and compares every piece; and the time of the last change, which
// each write sets to now, becomes the wanted one only after the last piece.
type patch struct {
	r    *restorer
	f    *os.File
	want *node
	rel  string
	// size is the file's before the change: what lies behind it is a hole.
	size int64
	// old are the pieces that the file has by the record; nil if there is none to trust. Then the
	// bytes themselves are compared.
	old  []object.IndirectObjectEntry
	read *atomic.Int64 // counts the bytes that were compared
	// touched says that the file was written to.
	touched atomic.Bool
}

// worthPatching says whether a file is changed in place. One of a single piece is written anew: that
// costs no more and replaces the old one in one instant.
func worthPatching(want *node, have *unix.Stat_t) bool {
	return have != nil && have.Size > 0 && want.size > pieceSize
}

// patchFile makes the target's file equal to want. handled is false if it cannot be opened for
// writing: then it has to be replaced.
func (r *restorer) patchFile(ctx context.Context, d *dir, want, was *node, rel string) (changed, handled bool, err error) {
	fd, err := d.open(want.name, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ETXTBSY) {
			return false, false, nil
		}
		return false, false, targetFailed(err, "open", rel)
	}
	f := os.NewFile(uintptr(fd), rel)
	p := &patch{r: r, f: f, want: want, rel: rel, read: &r.count.read}
	if err = p.run(ctx, was); err == nil && p.touched.Load() {
		_, err = r.fixFD(fd, want, true, rel) // a write takes setuid and capabilities away
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = targetFailed(cerr, "write file", rel)
	}
	return p.touched.Load(), true, err
}

func (p *patch) run(ctx context.Context, was *node) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(p.f.Fd()), &st); err != nil {
		return targetFailed(err, "look at", p.rel)
	}
	p.size = st.Size
	pieces, err := p.r.objects.pieces(ctx, p.want.object, p.want.size)
	if err != nil {
		return storeFailed(err, "cannot read file %q of the snapshot", p.rel)
	}
	if was != nil {
		if p.old, err = p.r.objects.pieces(ctx, was.object, was.size); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			p.r.warn.add("file %q is compared piece by piece: its record cannot be used: %v", p.rel, err)
		}
	}
	if p.size != p.want.size {
		p.touched.Store(true)
		if err := p.f.Truncate(p.want.size); err != nil {
			return targetFailed(err, "set the size of file", p.rel)
		}
	}
	if p.old != nil {
		pieces = differing(pieces, p.old)
	} else if pieces, err = p.compared(ctx, pieces); err != nil {
		return err
	}
	p.r.objects.announce(ctx, pieces)
	return p.r.inSections(ctx, pieces, p.putAll)
}

// differing are the wanted pieces which the record does not have at the same place.
func differing(pieces, old []object.IndirectObjectEntry) []object.IndirectObjectEntry {
	var out []object.IndirectObjectEntry
	for i, e := range pieces {
		if i >= len(old) || old[i] != e {
			out = append(out, e)
		}
	}
	return out
}

// compared are the wanted pieces which the file does not have at the same place.
func (p *patch) compared(ctx context.Context, pieces []object.IndirectObjectEntry) ([]object.IndirectObjectEntry, error) {
	var (
		mu  sync.Mutex
		out []object.IndirectObjectEntry
	)
	err := p.r.inSections(ctx, pieces, func(ctx context.Context, part []object.IndirectObjectEntry) error {
		var buf []byte
		for _, e := range part {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if int64(cap(buf)) < e.Length {
				buf = make([]byte, e.Length)
			}
			same, err := p.holds(ctx, e, buf[:e.Length])
			if err != nil {
				return err
			}
			if !same {
				mu.Lock()
				out = append(out, e)
				mu.Unlock()
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b object.IndirectObjectEntry) int { return cmp.Compare(a.Start, b.Start) })
	return out, err
}

// putAll brings pieces into the file.
func (p *patch) putAll(ctx context.Context, pieces []object.IndirectObjectEntry) error {
	for _, e := range pieces {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := p.put(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// holds compares the bytes at the place of a piece with its name. A hole is not read.
func (p *patch) holds(ctx context.Context, e object.IndirectObjectEntry, buf []byte) (bool, error) {
	p.r.count.step() // asking a file server about holes takes time
	if p.r.objects.zero(e.Object, e.Length) && p.hole(e) {
		return true, nil
	}
	n, err := p.f.ReadAt(buf, e.Start)
	p.read.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		return false, targetFailed(err, "read", p.rel)
	}
	same, err := p.r.objects.is(ctx, e.Object, buf[:n])
	if err != nil {
		return false, storeFailed(err, "cannot compare file %q", p.rel)
	}
	return same && n == len(buf), nil
}

// hole says whether the file has nothing at all at the place of a piece.
func (p *patch) hole(e object.IndirectObjectEntry) bool {
	if e.Start >= p.size {
		return true
	}
	next, err := unix.Seek(int(p.f.Fd()), e.Start, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO) || (err == nil && next >= e.Start+e.Length)
}

// put writes a piece to its place.
func (p *patch) put(ctx context.Context, e object.IndirectObjectEntry) error {
	p.r.count.step()
	data, err := p.r.fetch(ctx, e, p.rel)
	if err != nil {
		return err
	}
	if data == nil && e.Start >= p.size {
		return nil // the truncation has made this hole
	}
	p.touched.Store(true)
	if data == nil {
		err = unix.Fallocate(int(p.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.Start, e.Length)
		if err == nil {
			p.r.afterPiece(p.rel)
			return nil
		}
		data = make([]byte, e.Length) // a file system without holes, or one that failed: the write will tell
	}
	p.r.count.written.Add(e.Length)
	if _, err := p.f.WriteAt(data, e.Start); err != nil {
		return targetFailed(err, "write file", p.rel)
	}
	p.r.afterPiece(p.rel)
	return nil
}

// fetch reads a piece from the repository; nil if it is nothing but zeros.
func (r *restorer) fetch(ctx context.Context, e object.IndirectObjectEntry, rel string) ([]byte, error) {
	if r.objects.zero(e.Object, e.Length) {
		return nil, nil
	}
	if data, err := r.arrivals.piece(e.Object, e.Length); data != nil || err != nil {
		return data, err
	}
	data, err := r.objects.read(ctx, e.Object, e.Length)
	if err != nil {
		if r.objects.elsewhere.Load() && errors.Is(err, object.ErrObjectNotFound) {
			return nil, fail(ReasonContentElsewhere, err, "the content of %q went straight to a target and is not in the repository", rel)
		}
		return nil, storeFailed(err, "cannot read file %q of the snapshot", rel)
	}
	if allZero(data) {
		return nil, nil
	}
	return data, nil
}

// inSections runs do on the pieces of a file, sections of a large one at once.
func (r *restorer) inSections(ctx context.Context, pieces []object.IndirectObjectEntry, do func(context.Context, []object.IndirectObjectEntry) error) error {
	if len(pieces) == 1 {
		return do(ctx, pieces)
	}
	g := r.pool.group()
	for len(pieces) > 0 && ctx.Err() == nil {
		part := pieces[:min(piecesPerTask, len(pieces))]
		pieces = pieces[len(part):]
		g.do(func() error { return do(ctx, part) })
	}
	return g.wait(ctx)
}

// piecesPerTask is how much of a file one task brings: a few megabytes, so that the scattered pieces
// of one file are fetched by all tasks at once.
const piecesPerTask = 64

package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kopia/kopia/repo/object"
)

// pieceWrites remembers the pieces that a restore wrote, by where they lie on the device.
type pieceWrites struct {
	mu     sync.Mutex
	wanted bool
	pieces []object.IndirectObjectEntry
}

// maxPieces is how many are remembered, some 60 GiB of them; of more, everything is verified.
const maxPieces = 500_000

func (w *pieceWrites) add(at int64, p object.IndirectObjectEntry) {
	if !w.wanted {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pieces) <= maxPieces {
		p.Start = at
		w.pieces = append(w.pieces, p)
	}
}

// verify reads a device back, past the page cache, and compares it with the snapshot: all of it, or
// the pieces that this run wrote.
func (r *blockRestorer) verify(ctx context.Context, how Verify, want *extents) (*Verified, error) {
	v := &blockVerifier{blockRestorer: r}
	begin := time.Now()
	r.count.verifiedFiles.Add(1)
	var err error
	if v.out.Complete = how == VerifyAll || len(r.writes.pieces) > maxPieces; v.out.Complete {
		for start := int64(0); start < want.size && err == nil; start += extentSize {
			err = v.extent(ctx, start, want.tree.child(extentName(start)))
		}
	} else {
		err = v.inParts(ctx, 0, r.writes.pieces)
	}
	v.out.DurationMS = time.Since(begin).Milliseconds()
	return &v.out, err
}

type blockVerifier struct {
	*blockRestorer
	mu  sync.Mutex
	out Verified
}

func (v *blockVerifier) extent(ctx context.Context, start int64, want *node) error {
	pieces, err := v.objects.pieces(ctx, want.object, want.size)
	if err != nil {
		return storeFailed(err, "cannot read extent %q of the snapshot", want.name)
	}
	return v.inParts(ctx, start, pieces)
}

// inParts compares pieces, many at once, of an extent that begins at start.
func (v *blockVerifier) inParts(ctx context.Context, start int64, pieces []object.IndirectObjectEntry) error {
	g := v.pool.group()
	for len(pieces) > 0 && ctx.Err() == nil {
		part := pieces[:min(piecesPerTask, len(pieces))]
		pieces = pieces[len(part):]
		g.do(func() error { return v.pieces(ctx, start, part) })
	}
	return g.wait(ctx)
}

func (v *blockVerifier) pieces(ctx context.Context, start int64, pieces []object.IndirectObjectEntry) error {
	buf := alignedBuffer(pieceSize)
	for _, p := range pieces {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.Length > int64(len(buf)) {
			return fail(ReasonSnapshotUnknown, nil, "a piece of the snapshot has %d bytes; this version knows %d", p.Length, pieceSize)
		}
		at := start + p.Start
		if _, err := v.dev.f.ReadAt(buf[:p.Length], at); err != nil {
			v.wrong("the device cannot be read back at %d: %v", at, err)
			continue
		}
		v.count.verifiedBytes.Add(p.Length)
		same, err := v.objects.is(ctx, p.Object, buf[:p.Length])
		if err != nil {
			return storeFailed(err, "cannot compare the device at %d", at)
		}
		if !same {
			v.wrong("the device differs in the piece at %d", at)
		}
	}
	return nil
}

// wrong notes a piece that is not as it should be.
func (v *blockVerifier) wrong(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Errors++
	if len(v.out.First) < maxWarnings {
		v.out.First = append(v.out.First, fmt.Sprintf(format, args...))
	}
}

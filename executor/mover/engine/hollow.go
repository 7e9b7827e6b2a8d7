package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"
	"github.com/zeebo/blake3"
)

// A hollow object stands for a file whose bytes went straight to the target and are not in the
// repository: it is the list of the names that the file's pieces would have there. It is an ordinary
// object with a prefix of its own, so that the repository's own care (listing, verifying, collecting
// what nothing refers to) needs to know nothing about it.

const (
	hollowPrefix content.IDPrefix = "h"
	nameSize                      = 16
	// plainListLimit is the size above which the list of a file is more than one piece long itself,
	// and its object an index that does not show the prefix.
	plainListLimit = int64(pieceSize/nameSize) * pieceSize
)

// digest is a keyed hash as the repository makes it: the name of a piece.
type digest [nameSize]byte

// named says whether the repository names pieces the way that digest does.
func (o *objects) named() error {
	if o.key == nil {
		return fail(ReasonSnapshotUnknown, nil, "the repository names its pieces in a way that a direct transfer does not know")
	}
	return nil
}

// digest is the name that the repository gives to a piece; named must have been asked before.
func (o *objects) digest(data []byte) (d digest) {
	h, ok := o.hashers.Get().(*blake3.Hasher)
	if !ok {
		h, _ = blake3.NewKeyed(o.key) // fails only for a key of another length
	}
	defer o.hashers.Put(h)
	h.Reset()
	_, _ = h.Write(data)
	var sum [32]byte
	copy(d[:], h.Sum(sum[:0]))
	return d
}

// pieceCount is how many pieces a file of size bytes has.
func pieceCount(size int64) int {
	n := size / pieceSize // a size may be any number: nothing is added to it
	if size%pieceSize > 0 {
		n++
	}
	return int(n)
}

// hollow says whether an object of a file of size bytes is hollow.
func (o *objects) hollow(ctx context.Context, id object.ID, size int64) (bool, error) {
	if cid, _, ok := id.ContentID(); ok {
		return cid.Prefix() == hollowPrefix, nil
	}
	if size <= plainListLimit {
		return false, nil
	}
	total, err := o.indexed(ctx, id)
	return err == nil && total == int64(pieceCount(size))*nameSize, err
}

// indexed is how many bytes the index of an object speaks of.
func (o *objects) indexed(ctx context.Context, id object.ID) (int64, error) {
	index, ok := id.IndexObjectID()
	if !ok {
		return 0, fmt.Errorf("%w: object %v has no index", errDamaged, id)
	}
	p, err := object.LoadIndexObject(ctx, contents{o.repo.ContentReader()}, index)
	if err != nil || len(p) == 0 {
		return 0, err
	}
	return p[len(p)-1].Start + p[len(p)-1].Length, nil
}

// list reads the names that a hollow object holds.
func (o *objects) list(ctx context.Context, id object.ID, size int64) ([]byte, error) {
	return o.read(ctx, id, int64(pieceCount(size))*nameSize)
}

// names is the list of an object's pieces, hollow or not; nil if they are not cut or named as ours.
func (o *objects) names(ctx context.Context, id object.ID, size int64) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	hollow, err := o.hollow(ctx, id, size)
	if err != nil {
		return nil, err
	}
	if hollow {
		return o.list(ctx, id, size)
	}
	pieces, err := o.pieces(ctx, id, size)
	if err != nil {
		return nil, err
	}
	if o.key == nil || len(pieces) != pieceCount(size) {
		return nil, nil
	}
	list := make([]byte, 0, len(pieces)*nameSize)
	for i, p := range pieces {
		cid, compressed, ok := p.Object.ContentID()
		if !ok || compressed || cid.Prefix() != "" || p.Start != int64(i)*pieceSize || len(cid.Hash()) != nameSize {
			return nil, nil
		}
		list = append(list, cid.Hash()...)
	}
	return list, nil
}

// hollowPieces is what pieces gives for a hollow object: the pieces as they would be stored. Their
// bytes cannot be read, but they can be compared with.
func (o *objects) hollowPieces(ctx context.Context, id object.ID, size int64) ([]object.IndirectObjectEntry, error) {
	list, err := o.list(ctx, id, size)
	if err != nil {
		return nil, err
	}
	o.elsewhere.Store(true)
	out := make([]object.IndirectObjectEntry, pieceCount(size))
	for i := range out {
		cid, err := content.IDFromHash("", list[i*nameSize:(i+1)*nameSize])
		if err != nil {
			return nil, fmt.Errorf("%w: object %v: %w", errDamaged, id, err)
		}
		start := int64(i) * pieceSize
		out[i] = object.IndirectObjectEntry{Start: start, Length: min(pieceSize, size-start), Object: object.DirectObjectID(cid)}
	}
	return out, nil
}

// listDigest is the hash of a hollow object's list.
func (o *objects) listDigest(ctx context.Context, id object.ID, size int64) (d digest, err error) {
	if cid, _, ok := id.ContentID(); ok {
		copy(d[:], cid.Hash()) // a list of one piece is called what its hash is
		return d, nil
	}
	list, err := o.list(ctx, id, size)
	if err != nil {
		return d, err
	}
	return o.digest(list), nil
}

// zeroNames gives the names of pieces that hold nothing but zeros.
type zeroNames struct {
	objects *objects
	mu      sync.Mutex
	by      map[int]digest
}

func newZeroNames(o *objects) *zeroNames { return &zeroNames{objects: o, by: map[int]digest{}} }

var zeroPiece [pieceSize]byte

func (z *zeroNames) of(length int) digest {
	z.mu.Lock()
	defer z.mu.Unlock()
	d, ok := z.by[length]
	if !ok {
		d = z.objects.digest(zeroPiece[:length])
		z.by[length] = d
	}
	return d
}

package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"
	"github.com/zeebo/blake3"
)

// objects reads objects of a repository and knows what their pieces are called.
type objects struct {
	repo repo.DirectRepository
	// key is the repository's secret for naming pieces; nil if it names them another way than ours.
	key []byte
	// zeros is the name of a full piece of zeros, which never has to be fetched.
	zeros   object.ID
	fetched *atomic.Int64 // bytes
	hashers sync.Pool
	// elsewhere: pieces were asked for whose bytes went straight to a target.
	elsewhere atomic.Bool

	mu    sync.Mutex
	packs map[blob.ID]*pack
	// fetching bounds how many packs, of some 20 MiB each, are in memory at once.
	fetching chan struct{}
}

// pack is a blob of the store that holds the contents of many objects.
type pack struct {
	announced, read demand
	look, fetch     sync.Once
	length          int64 // of the blob; 0 until it was looked at, and if that failed
}

// demand is how much is wanted of a pack.
type demand struct{ reads, bytes int64 }

func (d *demand) add(bytes int64) { d.reads++; d.bytes += bytes }

// cost is in bytes of traffic.
func (d demand) cost() int64 { return d.bytes + d.reads*requestCost }

const (
	// fewReads is after how many reads from a pack it is worth asking how long it is.
	fewReads = 4
	// requestCost is what a request costs among eight at a time, in bytes that could come instead.
	requestCost = 32 << 10
	packsAtOnce = 3
)

func newObjects(r repo.DirectRepository, fetched *atomic.Int64) *objects {
	o := &objects{repo: r, fetched: fetched, packs: map[blob.ID]*pack{}, fetching: make(chan struct{}, packsAtOnce)}
	if f := r.FormatManager(); f.GetHashFunction() == hashName && len(f.GetHmacSecret()) == 32 {
		o.key = f.GetHmacSecret()
		if cid, err := content.IDFromHash("", o.name(make([]byte, pieceSize))); err == nil {
			o.zeros = object.DirectObjectID(cid)
		}
	}
	return o
}

// contents gives a content reader the method that the object package asks for.
type contents struct{ content.Reader }

// PrefetchContents implements what object.LoadIndexObject wants; an index is read in one go anyway.
func (contents) PrefetchContents(context.Context, []content.ID, string) []content.ID { return nil }

// pieces lists the parts of an object in order: where they begin, how long they are, their names.
func (o *objects) pieces(ctx context.Context, id object.ID, size int64) ([]object.IndirectObjectEntry, error) {
	switch hollow, err := o.hollow(ctx, id, size); {
	case err != nil:
		return nil, err
	case hollow:
		return o.hollowPieces(ctx, id, size)
	}
	index, ok := id.IndexObjectID()
	if !ok {
		return []object.IndirectObjectEntry{{Length: size, Object: id}}, nil
	}
	p, err := object.LoadIndexObject(ctx, contents{o.repo.ContentReader()}, index)
	if err != nil {
		return nil, damaged(ctx, err)
	}
	var at int64
	for _, e := range p {
		if e.Start != at || e.Length <= 0 {
			return nil, fmt.Errorf("%w: the index of object %v has a gap at %d", errDamaged, id, at)
		}
		at += e.Length
	}
	if at != size {
		return nil, fmt.Errorf("%w: object %v has %d bytes and should have %d", errDamaged, id, at, size)
	}
	return p, nil
}

// read returns a whole object, which must be small.
func (o *objects) read(ctx context.Context, id object.ID, size int64) ([]byte, error) {
	o.warm(ctx, id)
	r, err := o.repo.OpenObject(ctx, id)
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer r.Close()
	data := make([]byte, size)
	switch n, err := io.ReadFull(r, data); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: object %v has %d bytes and should have %d", errDamaged, id, n, size)
	case err != nil:
		return nil, damaged(ctx, err)
	}
	if n, _ := r.Read(make([]byte, 1)); n > 0 {
		return nil, fmt.Errorf("%w: object %v has more bytes than the %d it should have", errDamaged, id, size)
	}
	return data, nil
}

// is says whether data is what an object holds. A piece's name is a keyed hash of its content, so
// that nothing has to be fetched to know; only what is named another way is fetched and compared.
func (o *objects) is(ctx context.Context, id object.ID, data []byte) (bool, error) {
	if cid, compressed, ok := id.ContentID(); ok && !compressed && cid.Prefix() == "" && o.key != nil {
		return bytes.Equal(cid.Hash(), o.name(data)), nil
	}
	want, err := o.read(ctx, id, int64(len(data)))
	if err != nil {
		return false, err
	}
	return bytes.Equal(want, data), nil
}

// name is the name that the repository gives to a piece.
func (o *objects) name(data []byte) []byte {
	h, err := blake3.NewKeyed(o.key)
	if err != nil {
		panic(err) // the length of the key was looked at
	}
	_, _ = h.Write(data)
	return h.Sum(nil)[:16]
}

// zero says whether a piece is known to hold nothing but zeros.
func (o *objects) zero(id object.ID, length int64) bool {
	return length == pieceSize && o.zeros != object.EmptyID && id == o.zeros
}

// announce tells which objects are going to be read, so that a pack of which much is wanted is
// fetched as a whole from the first read on.
func (o *objects) announce(ctx context.Context, pieces []object.IndirectObjectEntry) {
	for _, e := range pieces {
		if o.zero(e.Object, e.Length) {
			continue
		}
		if p, at := o.pack(ctx, e.Object); p != nil {
			o.mu.Lock()
			p.announced.add(int64(at.PackedLength))
			o.mu.Unlock()
		}
	}
}

// pack says where an object lies; nil if it is in no pack, and then the read itself will say so.
func (o *objects) pack(ctx context.Context, id object.ID) (*pack, content.Info) {
	cid, _, ok := id.ContentID()
	if !ok {
		return nil, content.Info{}
	}
	at, err := o.repo.ContentInfo(ctx, cid)
	if err != nil {
		return nil, at
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.packs[at.PackBlobID]
	if p == nil {
		p = &pack{}
		o.packs[at.PackBlobID] = p
	}
	return p, at
}

// warm sees to it that a pack of which much is wanted is fetched as a whole, with one request
// instead of one for each of its thousands of small files. Which packs those are is announced, or
// shows while reading: what one snapshot added lies together.
func (o *objects) warm(ctx context.Context, id object.ID) {
	p, at := o.pack(ctx, id)
	if p == nil {
		return
	}
	o.mu.Lock()
	p.read.add(int64(at.PackedLength))
	reads := max(p.announced.reads, p.read.reads)
	cost := max(p.announced.cost(), p.read.cost())
	o.mu.Unlock()
	if reads >= fewReads {
		p.look.Do(func() {
			if m, err := o.repo.BlobReader().GetMetadata(ctx, at.PackBlobID); err == nil {
				p.length = m.Length
			}
		})
		if p.length > 0 && cost >= p.length*4/5 {
			p.fetch.Do(func() {
				o.fetching <- struct{}{}
				defer func() { <-o.fetching }()
				o.fetched.Add(p.length)
				o.repo.PrefetchContents(ctx, []content.ID{at.ContentID}, "blobs")
			})
			return
		}
	}
	o.fetched.Add(int64(at.PackedLength))
}

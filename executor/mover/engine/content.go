package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

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

	mu    sync.Mutex
	packs map[blob.ID]*pack
	// fetching bounds how many packs, of some 20 MiB each, are in memory at once.
	fetching chan struct{}
}

// pack is a blob of the store that holds the contents of many objects.
type pack struct {
	reads int
	fetch sync.Once
}

const (
	fewReads    = 8
	packsAtOnce = 3
)

func newObjects(r repo.DirectRepository) *objects {
	o := &objects{repo: r, packs: map[blob.ID]*pack{}, fetching: make(chan struct{}, packsAtOnce)}
	if f := r.FormatManager(); f.GetHashFunction() == hashName && len(f.GetHmacSecret()) == 32 {
		o.key = f.GetHmacSecret()
	}
	return o
}

// contents gives a content reader the method that the object package asks for.
type contents struct{ content.Reader }

// PrefetchContents implements what object.LoadIndexObject wants; an index is read in one go anyway.
func (contents) PrefetchContents(context.Context, []content.ID, string) []content.ID { return nil }

// pieces lists the parts of an object in order: where they begin, how long they are, their names.
func (o *objects) pieces(ctx context.Context, id object.ID, size int64) ([]object.IndirectObjectEntry, error) {
	index, ok := id.IndexObjectID()
	if !ok {
		return []object.IndirectObjectEntry{{Length: size, Object: id}}, nil
	}
	p, err := object.LoadIndexObject(ctx, contents{o.repo.ContentReader()}, index)
	if err != nil {
		return nil, err
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
		return nil, err
	}
	defer r.Close()
	data := make([]byte, size)
	switch n, err := io.ReadFull(r, data); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: object %v has %d bytes and should have %d", errDamaged, id, n, size)
	case err != nil:
		return nil, err
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
		h, err := blake3.NewKeyed(o.key)
		if err != nil {
			return false, err
		}
		_, _ = h.Write(data)
		return bytes.Equal(cid.Hash(), h.Sum(nil)[:16]), nil
	}
	want, err := o.read(ctx, id, int64(len(data)))
	if err != nil {
		return false, err
	}
	return bytes.Equal(want, data), nil
}

// warm sees to it that a pack of which much is wanted is fetched as a whole, with one request
// instead of one for each of its thousands of small files. Which packs those are shows while reading:
// what one snapshot added lies together, so that the first few reads from a pack announce the rest.
func (o *objects) warm(ctx context.Context, id object.ID) {
	cid, _, ok := id.ContentID()
	if !ok {
		return
	}
	info, err := o.repo.ContentInfo(ctx, cid)
	if err != nil {
		return // the read itself will say so
	}
	o.mu.Lock()
	p := o.packs[info.PackBlobID]
	if p == nil {
		p = &pack{}
		o.packs[info.PackBlobID] = p
	}
	p.reads++
	many := p.reads > fewReads
	o.mu.Unlock()
	if many {
		p.fetch.Do(func() {
			o.fetching <- struct{}{}
			defer func() { <-o.fetching }()
			o.repo.PrefetchContents(ctx, []content.ID{cid}, "blobs")
		})
	}
}

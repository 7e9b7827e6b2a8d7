package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
)

// front stands before a store and answers what is known already: every round trip that it saves is
// time in which an application is stopped.
type front struct {
	blob.Storage
	number int64
	format []byte // of the repository, read before it is opened

	mu      sync.Mutex
	listing *listing
}

const (
	// indexPrefix begins the names of everything that tells the state of the indexes, which the
	// library lists by six longer prefixes in two rounds.
	indexPrefix blob.ID = "x"
	// listingAge is how long one listing of all of them may answer.
	listingAge = 5 * time.Second
)

// listing is one look at the index blobs. It answers each question once: who asks again wants to
// know what has changed.
type listing struct {
	once     sync.Once
	at       time.Time
	answered []blob.ID // guarded by the front
	blobs    []blob.Metadata
	err      error
}

// newFront begins to list in the background, while the repository is looked for and its key derived.
func newFront(ctx context.Context, st blob.Storage) *front {
	registerFronts()
	l := &listing{at: time.Now()}
	f := &front{Storage: st, number: lastFront.Add(1), listing: l}
	fronts.Store(f.number, f)
	go l.load(ctx, st)
	return f
}

func (l *listing) load(ctx context.Context, st blob.Storage) {
	l.once.Do(func() { l.blobs, l.err = blob.ListAllBlobs(ctx, st, indexPrefix) })
}

// current is a listing that may answer the question.
func (f *front) current(prefix blob.ID) *listing {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.listing; l == nil || time.Since(l.at) > listingAge || slices.Contains(l.answered, prefix) {
		f.listing = &listing{at: time.Now()}
	}
	f.listing.answered = append(f.listing.answered, prefix)
	return f.listing
}

// changed forgets the listing after an index blob was written or deleted by us.
func (f *front) changed(id blob.ID) {
	if strings.HasPrefix(string(id), string(indexPrefix)) {
		f.mu.Lock()
		f.listing = nil
		f.mu.Unlock()
	}
}

// ListBlobs implements blob.Storage.
func (f *front) ListBlobs(ctx context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	if !strings.HasPrefix(string(prefix), string(indexPrefix)) || prefix == indexPrefix {
		return f.Storage.ListBlobs(ctx, prefix, each)
	}
	l := f.current(prefix)
	if l.load(ctx, f.Storage); l.err != nil { // perhaps of another's context: ask ourselves
		f.changed(indexPrefix)
		return f.Storage.ListBlobs(ctx, prefix, each)
	}
	for _, m := range l.blobs {
		if strings.HasPrefix(string(m.BlobID), string(prefix)) {
			if err := each(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// GetBlob implements blob.Storage. There is no configuration blob: see newFormatBlob.
func (f *front) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	switch {
	case id == format.KopiaBlobCfgBlobID:
		return blob.ErrBlobNotFound
	case id == format.KopiaRepositoryBlobID && f.format != nil && length < 0:
		out.Reset()
		_, err := out.Write(f.format)
		return err
	}
	return f.Storage.GetBlob(ctx, id, offset, length, out)
}

// PutBlob implements blob.Storage.
func (f *front) PutBlob(ctx context.Context, id blob.ID, data blob.Bytes, opts blob.PutOptions) error {
	if strings.HasPrefix(string(id), string(content.BlobIDPrefixSession)) && opts.GetModTime != nil {
		// The library asks when a session's marker was written and looks at it in its own tests only.
		*opts.GetModTime, opts.GetModTime = time.Now(), nil
	}
	defer f.changed(id)
	return f.Storage.PutBlob(ctx, id, data, opts)
}

// DeleteBlob implements blob.Storage.
func (f *front) DeleteBlob(ctx context.Context, id blob.ID) error {
	defer f.changed(id)
	return f.Storage.DeleteBlob(ctx, id)
}

// ConnectionInfo implements blob.Storage: it is the front's number in this process.
func (f *front) ConnectionInfo() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: frontType, Config: &frontConfig{Number: f.number}}
}

// Close implements blob.Storage.
func (f *front) Close(ctx context.Context) error {
	fronts.Delete(f.number)
	return f.Storage.Close(ctx)
}

const frontType = "tranship"

// frontConfig is what the library's configuration file holds of a store: no credentials.
type frontConfig struct {
	Number int64 `json:"number"`
}

// The library opens repositories by a configuration file only. These lead it from there to the store
// that we have opened.
var (
	fronts         sync.Map // number → *front
	lastFront      atomic.Int64
	registerFronts = sync.OnceFunc(func() {
		blob.AddSupportedStorage(frontType, frontConfig{}, func(_ context.Context, c *frontConfig, _ bool) (blob.Storage, error) {
			if f, ok := fronts.Load(c.Number); ok {
				return f.(*front), nil
			}
			return nil, errors.New("the store was closed")
		})
	})
)

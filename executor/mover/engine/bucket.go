package engine

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/minio/minio-go/v7"
)

// bucket is a prefix of an object store as the library wants to see it. The library's own S3 storage
// computes an MD5 of everything that it sends, which costs more than hashing and encrypting together,
// keeps two connections only, and tries a refused request again as if it were a lost one.
type bucket struct {
	blob.DefaultProviderImplementation
	client       minio.Core
	name, prefix string
	secure       bool
	// patience is how long an operation is repeated while the store does not answer as a store.
	patience time.Duration
	traffic  *traffic
}

// storePatience outlives a store that restarts; whoever waits for the mover has a deadline of his own.
const (
	storePatience = 2 * time.Minute
	firstPause    = 100 * time.Millisecond
	longestPause  = 5 * time.Second
)

// try repeats what may succeed later: no answer, or the store's own failure. A refusal is final.
func (b *bucket) try(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(b.patience)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := translated(do())
		if err == nil {
			b.traffic.add(1)
		}
		if err == nil || ctx.Err() != nil || !transient(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// transient says whether the same request may succeed in a moment.
func transient(err error) bool {
	var resp minio.ErrorResponse
	if errors.As(err, &resp) && resp.StatusCode != 0 {
		return resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
	}
	return storeReason(err) == ReasonRepositoryUnreachable
}

// translated turns the store's answers into the errors that the library knows.
func translated(err error) error {
	var resp minio.ErrorResponse
	switch {
	case !errors.As(err, &resp):
		return err
	case resp.Code == minio.NoSuchKey:
		return blob.ErrBlobNotFound
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return blob.ErrInvalidRange
	}
	return err
}

func (b *bucket) key(id blob.ID) string { return b.prefix + string(id) }

// GetBlob implements blob.Storage.
func (b *bucket) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	out.Reset()
	if length == 0 { // the question is only whether it exists
		_, err := b.GetMetadata(ctx, id)
		return err
	}
	opts := minio.GetObjectOptions{}
	if length > 0 {
		if err := opts.SetRange(offset, offset+length-1); err != nil {
			return blob.ErrInvalidRange
		}
	}
	err := b.try(ctx, func() error {
		out.Reset()
		body, _, _, err := b.client.GetObject(ctx, b.name, b.key(id), opts)
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(b.traffic.through(out), body)
		return err
	})
	if err != nil {
		return err
	}
	return blob.EnsureLengthExactly(out.Length(), length)
}

// GetMetadata implements blob.Storage.
func (b *bucket) GetMetadata(ctx context.Context, id blob.ID) (m blob.Metadata, err error) {
	err = b.try(ctx, func() error {
		o, err := b.client.StatObject(ctx, b.name, b.key(id), minio.StatObjectOptions{})
		m = blob.Metadata{BlobID: id, Length: o.Size, Timestamp: o.LastModified}
		return err
	})
	return m, err
}

// PutBlob implements blob.Storage. The checksum is one that processors compute; stores that do not
// know it ignore it, and every content is authenticated by its cipher besides.
func (b *bucket) PutBlob(ctx context.Context, id blob.ID, data blob.Bytes, opts blob.PutOptions) error {
	switch {
	case opts.DoNotRecreate, opts.HasRetentionOptions():
		return blob.ErrUnsupportedPutBlobOption
	case !opts.SetModTime.IsZero():
		return blob.ErrSetTimeUnsupported
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := data.WriteTo(sum); err != nil {
		return err
	}
	put := minio.PutObjectOptions{
		ContentType: "application/x-kopia", DisableMultipart: true, DisableContentSha256: b.secure,
		UserMetadata: map[string]string{
			"x-amz-checksum-crc32c": base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum.Sum32())),
		},
	}
	err := b.try(ctx, func() error {
		body := &lent{from: data.Reader(), left: int64(data.Length()), count: b.traffic}
		defer body.takeBack()
		_, err := b.client.PutObject(ctx, b.name, b.key(id), body, body.left, "", "", put)
		return err
	})
	if err != nil || opts.GetModTime == nil {
		return err
	}
	m, err := b.GetMetadata(ctx, id)
	*opts.GetModTime = m.Timestamp
	return err
}

// lent is a body that belongs to the library again as soon as there is an answer. The transport may
// look for its end, or even still be reading it, after that.
type lent struct {
	mu    sync.Mutex
	from  io.Reader
	left  int64
	count *traffic
}

// Read implements io.Reader.
func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.left == 0:
		return 0, io.EOF
	case l.from == nil:
		return 0, io.ErrClosedPipe
	}
	n, err := l.from.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	l.count.add(n)
	return n, err
}

func (l *lent) takeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.from = nil
}

// DeleteBlob implements blob.Storage.
func (b *bucket) DeleteBlob(ctx context.Context, id blob.ID) error {
	err := b.try(ctx, func() error {
		return b.client.RemoveObject(ctx, b.name, b.key(id), minio.RemoveObjectOptions{})
	})
	if errors.Is(err, blob.ErrBlobNotFound) {
		return nil
	}
	return err
}

// ListBlobs implements blob.Storage.
func (b *bucket) ListBlobs(ctx context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	var found []blob.Metadata
	err := b.try(ctx, func() error {
		found = nil
		ctx, stop := context.WithCancel(ctx) // ends the lister if it is left early
		defer stop()
		for o := range b.client.Client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: b.key(prefix), Recursive: true}) {
			if o.Err != nil {
				return o.Err
			}
			b.traffic.add(1)
			found = append(found, blob.Metadata{BlobID: blob.ID(o.Key[len(b.prefix):]), Length: o.Size, Timestamp: o.LastModified})
		}
		return nil
	})
	for i := 0; i < len(found) && err == nil; i++ {
		err = each(found[i])
	}
	return err
}

// ConnectionInfo implements blob.Storage; nobody connects by it, see front.
func (b *bucket) ConnectionInfo() blob.ConnectionInfo { return blob.ConnectionInfo{} }

// DisplayName implements blob.Storage.
func (b *bucket) DisplayName() string { return "bucket " + b.name }

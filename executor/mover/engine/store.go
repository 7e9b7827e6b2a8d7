package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/format"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// store is the place of a repository, as far as the library does not reach it by itself.
type store interface {
	// open is the store as the library wants to see it; it asks nothing of the store yet. What goes
	// there and comes from there is counted.
	open(ctx context.Context, count *traffic) (blob.Storage, error)
	// read returns the repository's format blob, or nil if there is no repository yet.
	read(ctx context.Context) ([]byte, error)
	// create stores the format blob unless there is one.
	create(ctx context.Context, data []byte) error
}

// storeTimeout bounds the first look at a store, firstPatience how long it is repeated: an address that
// answers nothing fails a run soon.
const (
	storeTimeout  = 30 * time.Second
	firstPatience = 5 * time.Second
	// storeConnections are kept open: more than the tasks that a run usually has at once.
	storeConnections = 32
)

// s3Store is a bucket with a prefix.
type s3Store struct {
	*bucket
	endpoint string
}

func newS3Store(r Repository, s secrets) (store, error) {
	endpoint, plain, err := splitEndpoint(r.Endpoint)
	if err != nil {
		return nil, err
	}
	if r.Bucket == "" {
		return nil, fail(ReasonBadRequest, nil, "the request names no bucket")
	}
	transport, err := transportFor(r)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(s.accessKey, s.secretKey, s.sessionToken),
		Secure: !plain, Region: r.Region, Transport: transport, MaxRetries: 1, // see bucket.try
	})
	if err != nil {
		return nil, fail(ReasonBadRequest, err, "the endpoint %q cannot be used", endpoint)
	}
	return &s3Store{endpoint: endpoint, bucket: &bucket{
		client: minio.Core{Client: client}, name: r.Bucket, prefix: r.Prefix, secure: !plain, patience: storePatience,
	}}, nil
}

// splitEndpoint reads host[:port] or a URL without a path.
func splitEndpoint(endpoint string) (host string, plain bool, err error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil ||
		(u.Scheme != "http" && u.Scheme != "https") {
		// The text is not quoted: a URL can hold a password.
		return "", false, fail(ReasonBadRequest, nil, "the repository's endpoint is not host[:port] nor http(s)://host[:port]")
	}
	return u.Host, u.Scheme == "http", nil
}

func transportFor(r Repository) (*http.Transport, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DialContext: dialer(r.BytesPerSecond),
		MaxIdleConnsPerHost: storeConnections, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: r.InsecureSkipTLSVerify},
	}
	if r.CABundle != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(r.CABundle)) {
			return nil, fail(ReasonUntrustedCertificate, nil, "the repository's caBundle holds no PEM certificate")
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

func (s *s3Store) open(_ context.Context, count *traffic) (blob.Storage, error) {
	b := *s.bucket
	b.traffic = count
	return &b, nil
}

// read gets rather than stats: only the answer to GET has a body that tells a missing bucket from a
// missing object.
func (s *s3Store) read(ctx context.Context) (data []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	first := *s.bucket
	first.patience = firstPatience
	err = first.try(ctx, func() error {
		body, _, _, err := s.client.GetObject(ctx, s.name, s.key(format.KopiaRepositoryBlobID), minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer body.Close()
		data, err = io.ReadAll(io.LimitReader(body, 1<<20))
		return err
	})
	if errors.Is(err, blob.ErrBlobNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, s.failed(err, "read the repository in")
	}
	return data, nil
}

// create relies on If-None-Match: *, which makes the store refuse a second creator with 412.
func (s *s3Store) create(ctx context.Context, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	opts := minio.PutObjectOptions{ContentType: "application/x-kopia", DisableMultipart: true, SendContentMd5: true}
	opts.SetMatchETagExcept("*")
	err := s.put(ctx, data, opts)
	var resp minio.ErrorResponse
	if errors.As(err, &resp) {
		switch {
		case resp.StatusCode == http.StatusPreconditionFailed, resp.StatusCode == http.StatusConflict:
			return nil // another creator was first; the caller reads what it wrote
		case resp.StatusCode == http.StatusNotImplemented:
			opts = minio.PutObjectOptions{ContentType: opts.ContentType, DisableMultipart: true, SendContentMd5: true}
			err = s.put(ctx, data, opts)
		}
	}
	if err != nil {
		return s.failed(err, "create the repository in")
	}
	return nil
}

func (s *s3Store) put(ctx context.Context, data []byte, opts minio.PutObjectOptions) error {
	_, err := s.client.Client.PutObject(ctx, s.name, s.key(format.KopiaRepositoryBlobID), bytes.NewReader(data), int64(len(data)), opts)
	return err
}

func (s *s3Store) failed(err error, what string) error {
	return storeFailed(err, "cannot %s bucket %s under %q at %s", what, s.name, s.prefix, s.endpoint)
}

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
	"sync"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/s3"
	"github.com/kopia/kopia/repo/format"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// store is the place of a repository, as far as the library does not reach it by itself.
type store interface {
	// connection tells the library how to reach the store; it holds the credentials.
	connection() blob.ConnectionInfo
	// read returns the repository's format blob, or nil if there is no repository yet.
	read(ctx context.Context) ([]byte, error)
	// create stores the format blob unless there is one.
	create(ctx context.Context, data []byte) error
}

// storeTimeout bounds the first look at a store: an address that answers nothing fails a run soon.
const storeTimeout = 30 * time.Second

// s3Store is a bucket with a prefix.
type s3Store struct {
	client  *minio.Client
	options s3.Options
}

// manyConnections lets connections to the store be used again by as many requests as run at once. The
// library copies Go's default transport, which keeps two and makes all others shake hands anew.
var manyConnections = sync.OnceFunc(func() {
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t.MaxIdleConnsPerHost = 64
	}
})

func newS3Store(r Repository, s secrets) (store, error) {
	manyConnections()
	opts := s3.Options{
		BucketName: r.Bucket, Prefix: r.Prefix, Region: r.Region, RootCA: []byte(r.CABundle),
		DoNotVerifyTLS: r.InsecureSkipTLSVerify,
		AccessKeyID:    s.accessKey, SecretAccessKey: s.secretKey, SessionToken: s.sessionToken,
	}
	var err error
	if opts.Endpoint, opts.DoNotUseTLS, err = splitEndpoint(r.Endpoint); err != nil {
		return nil, err
	}
	if r.Bucket == "" {
		return nil, fail(ReasonBadRequest, nil, "the request names no bucket")
	}
	transport, err := transportFor(r)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(opts.Endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(s.accessKey, s.secretKey, s.sessionToken),
		Secure: !opts.DoNotUseTLS, Region: r.Region, Transport: transport, MaxRetries: 3,
	})
	if err != nil {
		return nil, fail(ReasonBadRequest, err, "the endpoint %q cannot be used", opts.Endpoint)
	}
	return &s3Store{client: client, options: opts}, nil
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
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: time.Minute,
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

func (s *s3Store) connection() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: "s3", Config: &s.options}
}

// read gets rather than stats: only the answer to GET has a body that tells a missing bucket from a
// missing object.
func (s *s3Store) read(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	obj, err := s.client.GetObject(ctx, s.options.BucketName, s.key(), minio.GetObjectOptions{})
	if err != nil {
		return nil, s.failed(err, "reach")
	}
	defer obj.Close()
	data, err := io.ReadAll(io.LimitReader(obj, 1<<20))
	if resp := (minio.ErrorResponse{}); errors.As(err, &resp) && resp.Code == minio.NoSuchKey {
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
	_, err := s.client.PutObject(ctx, s.options.BucketName, s.key(), bytes.NewReader(data), int64(len(data)), opts)
	return err
}

func (s *s3Store) key() string { return s.options.Prefix + format.KopiaRepositoryBlobID }

func (s *s3Store) failed(err error, what string) error {
	return storeFailed(err, "cannot %s bucket %s under %q at %s", what, s.options.BucketName,
		s.options.Prefix, s.options.Endpoint)
}

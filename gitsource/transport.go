package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/tranship/tranship/spec"
)

// SecretReader returns the entries of a secret by its name. It is asked at
// every exchange with the server, so a rotated secret is used at once.
type SecretReader func(ctx context.Context, from string) (map[string][]byte, error)

const (
	defaultTimeout = 60 * time.Second
	maxAdvertised  = 64 << 20  // bytes of a reference list
	maxPack        = 256 << 20 // bytes of a pack
)

// call is one exchange with a service of Git.
type call struct {
	service string
	body    []byte // nil asks for the service's advertisement
	v2      bool   // protocol version 2 is wanted
	max     int64  // bytes of the answer
	timeout time.Duration
}

// transport carries exchanges. What it returns is what the service says to
// the body, or its advertisement. The context bounds the reading too.
type transport interface {
	do(ctx context.Context, c call) (io.ReadCloser, error)
}

// remote is one reference of one repository, and speaks Git over a transport.
// Safe for concurrent use. Every exchange ends within timeout, and a pack
// within four times that.
type remote struct {
	url     string
	branch  plumbing.ReferenceName // "" with tags
	tags    *semver.Constraints
	field   string // of the configuration, that says what is read
	said    string // what is read, for sentences: "branch main"
	via     transport
	timeout time.Duration
	maxPack int64
	now     func() time.Time
	most    time.Duration // that the server may ask for with Retry-After

	mu    sync.Mutex
	found listed           // by the last tip
	proto int              // 0 not asked yet, else 1 (v0 and v1) or 2
	fetch *capability.List // what git-upload-pack offers
	push  *capability.List // what git-receive-pack offers
	rest  rest             // what the server asked for
}

// newRemote checks the configuration; it does no I/O. AllowLoopbackHTTP
// permits plain HTTP to a loopback address, and credentials on that connection.
func (c *Config) newRemote(repo spec.Repository) (*remote, error) {
	r := &remote{timeout: defaultTimeout, maxPack: maxPack, now: time.Now, most: maxRest}
	if repo.Timeout != nil && repo.Timeout.Duration > 0 {
		r.timeout = repo.Timeout.Duration
	}
	var err error
	if address, ok := spec.SSHAddress(repo.URL); ok {
		r.url = address.String()
		r.via, err = c.overSSH(repo, address)
	} else {
		r.url, r.via, err = c.overHTTP(repo, r)
	}
	if err != nil {
		return nil, err
	}
	if err := r.aim(repo); err != nil {
		return nil, err
	}
	if (repo.Credentials != nil || repo.Proxy != nil) && c.Secrets == nil {
		return nil, fail(ErrMisconfigured, nil, "cannot use %s: it has credentials, and secrets cannot be read here", r.url)
	}
	return r, nil
}

// on is another branch of the same repository.
func (r *remote) on(branch plumbing.ReferenceName) *remote {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &remote{url: r.url, branch: branch, field: "branch", said: "branch " + branch.Short(), via: r.via, timeout: r.timeout, maxPack: r.maxPack, now: r.now, most: r.most, rest: r.rest}
}

func (c *Config) overHTTP(repo spec.Repository, r *remote) (string, transport, error) {
	u, err := url.Parse(repo.URL)
	if err != nil || u.Host == "" {
		return "", nil, fail(ErrMisconfigured, nil, "cannot use the repository's url: it is neither an https:// nor an SSH URL; correct it")
	}
	if u.User != nil {
		return "", nil, fail(ErrMisconfigured, nil, "cannot use the repository's url: it holds a user name or password; put them into the secret that credentials refers to")
	}
	where := strings.TrimSuffix(u.Scheme+"://"+u.Host+u.EscapedPath(), "/")
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && c.AllowLoopbackHTTP && loopback(u.Hostname()):
	case u.Scheme == "http" && repo.Credentials != nil:
		return "", nil, fail(ErrMisconfigured, nil, "cannot use %s: credentials are never sent over plain HTTP; use https", where)
	default:
		return "", nil, fail(ErrMisconfigured, nil, "cannot use %s: only https and SSH are supported; use such a URL of the repository", where)
	}
	if _, err := certPool(repo.CABundle); err != nil {
		return "", nil, err
	}
	return where, &overHTTP{
		secretOf: secretOf{url: where, creds: repo.Credentials, secrets: c.Secrets},
		branch:   repo.Branch, proxy: repo.Proxy, bundle: repo.CABundle, timeout: r.timeout, app: githubApp{made: c.SecretMade},
		busy: func(status int, h http.Header) { r.remember(func() { r.rest = askedRest(status, h, r.now()) }) },
	}, nil
}

// secretOf reads the credentials of one repository.
type secretOf struct {
	url     string
	creds   *spec.SecretRef
	secrets SecretReader
}

// entries are those of the secret now; nil without credentials.
func (s *secretOf) entries(ctx context.Context) (map[string][]byte, error) {
	if s.creds == nil {
		return nil, nil
	}
	entries, err := s.secrets(ctx, s.creds.From)
	if err != nil {
		return nil, fail(ErrMisconfigured, err, "cannot read secret %q for %s; create it or correct credentials", s.creds.From, s.url)
	}
	return entries, nil
}

// text is an entry without the line end that editors leave.
func text(entries map[string][]byte, key string) string {
	return strings.TrimRight(string(entries[key]), "\r\n")
}

// do carries one exchange. The body returned is limited to max bytes and frees
// the exchange's deadline when closed.
func (r *remote) do(ctx context.Context, c call) (io.ReadCloser, error) {
	if left := r.resting(r.most); left > 0 {
		return nil, fail(ErrUnreachable, nil, "cannot use %s: the server has too much to do and asked not to be asked; the next attempt is in %s", r.url, left.Round(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	body, err := r.via.do(ctx, c)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = ctx.Err() // what came with the last moment is no answer to judge by
		}
		cancel()
		return nil, explain(err, r.url)
	}
	return &limited{ReadCloser: body, left: c.max, cancel: cancel, where: r.url}, nil
}

// limited is an answer's body with a size limit and the exchange's deadline.
type limited struct {
	io.ReadCloser
	left   int64
	cancel context.CancelFunc
	where  string
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fail(ErrTooBig, nil, "cannot read %s: the answer is larger than this release accepts; use a smaller repository", l.where)
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.ReadCloser.Read(p)
	l.left -= int64(n)
	return n, err
}

func (l *limited) Close() error {
	defer l.cancel()
	return l.ReadCloser.Close()
}

// readAll reads a whole answer and closes it.
func readAll(body io.ReadCloser, where string) ([]byte, error) {
	defer func() { _ = body.Close() }()
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, explain(fmt.Errorf("reading the answer: %w", err), where)
	}
	return b, nil
}

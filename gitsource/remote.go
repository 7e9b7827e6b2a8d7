package gitsource

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

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

// remote is one branch of one repository over smart HTTP. Safe for concurrent
// use. Every exchange ends within timeout, and a pack within four times that.
type remote struct {
	url     string
	branch  plumbing.ReferenceName
	creds   *spec.SecretRef
	secrets SecretReader
	timeout time.Duration
	client  *http.Client
	now     func() time.Time
	most    time.Duration // that the server may ask for with Retry-After

	mu    sync.Mutex
	proto int              // 0 not asked yet, else 1 (v0 and v1) or 2
	fetch *capability.List // what git-upload-pack offers
	push  *capability.List // what git-receive-pack offers
	rest  rest             // what the server asked for
}

// newRemote checks the configuration; it does no I/O. insecure allows plain
// HTTP to a loopback address, and with it credentials on that connection.
func newRemote(cfg spec.Repository, branch string, secrets SecretReader, insecure bool) (*remote, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" {
		return nil, fail(ErrMisconfigured, nil, "cannot use the repository's url: it is not an https:// URL; correct it")
	}
	if u.User != nil {
		return nil, fail(ErrMisconfigured, nil, "cannot use the repository's url: it holds a user name or password; put them into the secret that credentials refers to")
	}
	where := strings.TrimSuffix(u.Scheme+"://"+u.Host+u.EscapedPath(), "/")
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && insecure && loopback(u.Hostname()):
	case u.Scheme == "http" && cfg.Credentials != nil:
		return nil, fail(ErrMisconfigured, nil, "cannot use %s: credentials are never sent over plain HTTP; use https", where)
	default:
		return nil, fail(ErrMisconfigured, nil, "cannot use %s: only https is supported; use the repository's https URL", where)
	}
	name := plumbing.NewBranchReferenceName(branch)
	if err := name.Validate(); err != nil || strings.Contains(branch, "..") {
		return nil, fail(ErrMisconfigured, nil, "cannot use branch %q of %s: it is not a branch name; correct it", branch, where)
	}
	if cfg.Credentials != nil && secrets == nil {
		return nil, fail(ErrMisconfigured, nil, "cannot use %s: it has credentials, and secrets cannot be read here", where)
	}
	pool, err := certPool(cfg.CABundle)
	if err != nil {
		return nil, err
	}
	timeout := defaultTimeout
	if cfg.Timeout != nil && cfg.Timeout.Duration > 0 {
		timeout = cfg.Timeout.Duration
	}
	r := &remote{url: where, branch: name, creds: cfg.Credentials, secrets: secrets, timeout: timeout, now: time.Now, most: maxRest}
	r.client = &http.Client{Transport: transport(pool, timeout), CheckRedirect: r.redirected}
	return r, nil
}

// on is another branch of the same repository.
func (r *remote) on(branch plumbing.ReferenceName) *remote {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &remote{url: r.url, branch: branch, creds: r.creds, secrets: r.secrets, timeout: r.timeout, client: r.client, now: r.now, most: r.most, rest: r.rest}
}

func transport(pool *x509.CertPool, timeout time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(timeout, 15*time.Second), KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   min(timeout, 15*time.Second),
		ResponseHeaderTimeout: timeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   2,
		ForceAttemptHTTP2:     true,
	}
}

// certPool is the system's pool with the bundle added; nil means the system's.
func certPool(bundle string) (*x509.CertPool, error) {
	if strings.TrimSpace(bundle) == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM([]byte(bundle)) {
		return nil, fail(ErrMisconfigured, nil, "cannot use caBundle: it holds no PEM certificate; paste the authority's certificate, from BEGIN to END")
	}
	return pool, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// redirected refuses every redirect: a POST would lose its body, and the
// credentials are for the host in the configuration.
func (r *remote) redirected(req *http.Request, _ []*http.Request) error {
	to := req.URL.Scheme + "://" + req.URL.Host + strings.TrimSuffix(req.URL.EscapedPath(), "/info/refs")
	return fail(ErrMisconfigured, nil, "cannot use %s: the server redirects to %s; set url to the repository's new address", r.url, oneLine(to, 200))
}

// authorization is the header for one request, "" without credentials. A
// secret holds bearerToken, or username and password, never both kinds; a key
// in the reference names the bearer token's entry.
func (r *remote) authorization(ctx context.Context) (string, error) {
	if r.creds == nil {
		return "", nil
	}
	entries, err := r.secrets(ctx, r.creds.From)
	if err != nil {
		return "", fail(ErrMisconfigured, err, "cannot read secret %q for %s; create it or correct credentials", r.creds.From, r.url)
	}
	get := func(k string) string { return strings.TrimRight(string(entries[k]), "\r\n") }
	key := r.creds.Key
	if key == "" {
		key = "bearerToken"
	}
	token, user, password := get(key), get("username"), get("password")
	switch {
	case token != "" && password != "" && r.creds.Key == "":
		return "", fail(ErrMisconfigured, nil, "cannot use secret %q for %s: it has both bearerToken and password; keep one of them", r.creds.From, r.url)
	case token != "":
		return "Bearer " + token, nil
	case password != "" && r.creds.Key == "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)), nil
	}
	return "", fail(ErrMisconfigured, nil, "cannot use secret %q for %s: it has neither %s nor username and password", r.creds.From, r.url, key)
}

// call is one exchange. The body returned is limited to max bytes and frees
// the exchange's deadline when closed.
type call struct {
	path    string // below the repository's URL
	service string
	body    []byte // nil makes it a GET
	v2      bool
	wants   string // content type that the answer must have
	max     int64
	timeout time.Duration
}

func (r *remote) do(ctx context.Context, c call) (io.ReadCloser, error) {
	if left := r.resting(r.most); left > 0 {
		return nil, fail(ErrUnreachable, nil, "cannot use %s: the server has too much to do and asked not to be asked; the next attempt is in %s", r.url, left.Round(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	res, err := r.send(ctx, c)
	if err != nil {
		cancel()
		return nil, explain(err, r.url)
	}
	if err := r.status(res, c); err != nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 4096)) // lets the connection be used again
		_ = res.Body.Close()
		cancel()
		return nil, err
	}
	return &limited{ReadCloser: res.Body, left: c.max, cancel: cancel, where: r.url}, nil
}

func (r *remote) send(ctx context.Context, c call) (*http.Response, error) {
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if c.body != nil {
		method, body = http.MethodPost, bytes.NewReader(c.body)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url+c.path, body)
	if err != nil {
		return nil, err
	}
	header, err := r.authorization(ctx)
	if err != nil {
		return nil, err
	}
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	if c.body != nil {
		req.Header.Set("Content-Type", "application/x-"+c.service+"-request")
	}
	if c.v2 {
		req.Header.Set("Git-Protocol", "version=2")
	}
	req.Header.Set("Accept", c.wants)
	req.Header.Set("User-Agent", "git/tranship")
	return r.client.Do(req)
}

// status turns an answer that is not the one asked for into a sentence.
func (r *remote) status(res *http.Response, c call) error {
	switch code := res.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusUnauthorized && r.creds == nil:
		return fail(ErrUnauthorized, nil, "cannot read %s: the server asks for credentials; set credentials to a secret with username and password, or bearerToken", r.url)
	case code == http.StatusUnauthorized:
		return fail(ErrUnauthorized, nil, "cannot read %s: the server refused the credentials of secret %q; renew them", r.url, r.creds.From)
	case code == http.StatusForbidden && c.service == "git-receive-pack":
		return fail(ErrUnauthorized, nil, "cannot write to %s: these credentials may not push; give their account write access to branch %s", r.url, r.branch.Short())
	case code == http.StatusForbidden:
		return fail(ErrUnauthorized, nil, "cannot read %s: these credentials may not read it; give their account read access", r.url)
	case code == http.StatusNotFound || code == http.StatusGone:
		return fail(ErrNotFound, nil, "cannot find the repository %s; correct the url, or give the credentials' account access (many servers hide what it may not see)", r.url)
	default:
		r.remember(func() { r.rest = askedRest(code, res.Header, r.now()) })
		return fail(ErrUnreachable, nil, "cannot use %s: the server answered %d %s; try later or ask its administrator", r.url, code, http.StatusText(code))
	}
	if got := res.Header.Get("Content-Type"); got != c.wants {
		return fail(ErrNotFound, nil, "cannot use %s: the answer is %q, not Git's; correct the url (a web page's address is not a repository's)", r.url, oneLine(got, 80))
	}
	return nil
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

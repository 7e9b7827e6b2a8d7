package gitsource

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/spec"
)

// overHTTP speaks smart HTTP with one repository. Its client is kept until the
// certificates or the proxy in the secrets change.
type overHTTP struct {
	secretOf
	branch  string
	proxy   *spec.SecretRef
	bundle  string
	timeout time.Duration
	app     githubApp
	busy    func(status int, h http.Header) // told of answers that may ask for a rest

	mu       sync.Mutex
	client   *http.Client
	material [sha256.Size]byte // of what the client was made from
}

// clientFor returns the client for what the secrets hold now.
func (r *overHTTP) clientFor(ctx context.Context, entries map[string][]byte) (*http.Client, error) {
	via, err := r.proxyURL(ctx)
	if err != nil {
		return nil, err
	}
	address := ""
	if via != nil {
		address = via.String()
	}
	var all []byte
	for _, part := range []string{address, string(entries["ca.crt"]), string(entries["tls.crt"]), string(entries["tls.key"])} {
		all = binary.BigEndian.AppendUint64(all, uint64(len(part)))
		all = append(all, part...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := sha256.Sum256(all)
	if r.client != nil && sum == r.material {
		return r.client, nil
	}
	cfg, err := r.tls(entries)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(r.timeout, 15*time.Second), KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       cfg,
		TLSHandshakeTimeout:   min(r.timeout, 15*time.Second),
		ResponseHeaderTimeout: r.timeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   2,
		ForceAttemptHTTP2:     true,
	}
	if via != nil {
		t.Proxy = http.ProxyURL(via)
	}
	if r.client != nil {
		r.client.CloseIdleConnections()
	}
	r.client, r.material = &http.Client{Transport: t, CheckRedirect: r.redirected}, sum
	return r.client, nil
}

// tls is made of caBundle and the entries ca.crt, tls.crt and tls.key.
func (r *overHTTP) tls(entries map[string][]byte) (*tls.Config, error) {
	pool, err := certPool(r.bundle, string(entries["ca.crt"]))
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	cert, key := entries["tls.crt"], entries["tls.key"]
	if len(cert) == 0 && len(key) == 0 {
		return cfg, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fail(ErrMisconfigured, err, "cannot use the client certificate in secret %q for %s; its entries tls.crt and tls.key must be a PEM certificate and its key", r.creds.From, r.url)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// proxyURL is the proxy of the secret, nil when the environment decides.
func (r *overHTTP) proxyURL(ctx context.Context) (*url.URL, error) {
	if r.proxy == nil {
		return nil, nil
	}
	entries, err := r.secrets(ctx, r.proxy.From)
	if err != nil {
		return nil, fail(ErrMisconfigured, err, "cannot read secret %q with the proxy for %s; create it or correct proxy", r.proxy.From, r.url)
	}
	u, err := url.Parse(text(entries, "address"))
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		// The cause is left out: it would show the address.
		return nil, fail(ErrMisconfigured, nil, "cannot use the proxy in secret %q for %s: its entry address must be an http:// or https:// URL without user and password, which go into the entries username and password", r.proxy.From, r.url)
	}
	if name := text(entries, "username"); name != "" {
		u.User = url.UserPassword(name, text(entries, "password"))
	}
	return u, nil
}

// certPool is the system's pool with the bundles added; nil means the system's.
func certPool(bundles ...string) (*x509.CertPool, error) {
	if strings.TrimSpace(strings.Join(bundles, "")) == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for i, bundle := range bundles {
		if strings.TrimSpace(bundle) != "" && !pool.AppendCertsFromPEM([]byte(bundle)) {
			return nil, fail(ErrMisconfigured, nil, "cannot use %s: it holds no PEM certificate; paste the authority's certificate, from BEGIN to END", []string{"caBundle", "the secret's entry ca.crt"}[i])
		}
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
func (r *overHTTP) redirected(req *http.Request, _ []*http.Request) error {
	to := req.URL.Scheme + "://" + req.URL.Host + strings.TrimSuffix(req.URL.EscapedPath(), "/info/refs")
	return fail(ErrMisconfigured, nil, "cannot use %s: the server redirects to %s; set url to the repository's new address", r.url, oneLine(to, 200))
}

// authorization is the header for one request, "" without one. A secret holds
// one kind of credential; a key in the reference names the bearer token's entry.
func (r *overHTTP) authorization(ctx context.Context, client *http.Client, entries map[string][]byte) (string, error) {
	if r.creds == nil {
		return "", nil
	}
	key := r.creds.Key
	if key != "" {
		entries = map[string][]byte{key: entries[key], "tls.crt": entries["tls.crt"]}
	} else {
		key = "bearerToken"
	}
	token, password, app := text(entries, key), text(entries, "password"), text(entries, "githubAppID")
	var kinds []string
	for _, kind := range []struct{ name, value string }{{key, token}, {"password", password}, {"githubAppID", app}} {
		if kind.value != "" {
			kinds = append(kinds, kind.name)
		}
	}
	switch {
	case len(kinds) > 1:
		return "", fail(ErrMisconfigured, nil, "cannot use secret %q for %s: it has both %s; keep one of them", r.creds.From, r.url, strings.Join(kinds, " and "))
	case token != "":
		return "Bearer " + token, nil
	case password != "":
		return basic(text(entries, "username"), password), nil
	case app != "":
		return r.app.authorization(ctx, client, r, entries)
	case len(entries["tls.crt"]) > 0:
		return "", nil
	}
	return "", fail(ErrMisconfigured, nil, "cannot use secret %q for %s: it has neither %s nor username and password, githubAppID or tls.crt", r.creds.From, r.url, key)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// do implements transport. A token of a GitHub App that the server refuses is
// made anew once: it may have been revoked before its time.
func (r *overHTTP) do(ctx context.Context, c call) (io.ReadCloser, error) {
	res, err := r.send(ctx, c)
	if err == nil && res.StatusCode == http.StatusUnauthorized && r.app.drop() {
		discard(res)
		res, err = r.send(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	if err := r.status(res, c); err != nil {
		discard(res)
		return nil, err
	}
	return res.Body, nil
}

// discard lets the connection be used again.
func discard(res *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 4096))
	_ = res.Body.Close()
}

func (r *overHTTP) send(ctx context.Context, c call) (*http.Response, error) {
	method, path, body := http.MethodGet, "/info/refs?service="+c.service, io.Reader(http.NoBody)
	if c.body != nil {
		method, path, body = http.MethodPost, "/"+c.service, bytes.NewReader(c.body)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, body)
	if err != nil {
		return nil, err
	}
	entries, err := r.entries(ctx)
	if err != nil {
		return nil, err
	}
	client, err := r.clientFor(ctx, entries)
	if err != nil {
		return nil, err
	}
	header, err := r.authorization(ctx, client, entries)
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
	req.Header.Set("Accept", c.contentType())
	req.Header.Set("User-Agent", "git/tranship")
	return client.Do(req)
}

// contentType is what the answer must have.
func (c call) contentType() string {
	if c.body == nil {
		return "application/x-" + c.service + "-advertisement"
	}
	return "application/x-" + c.service + "-result"
}

// status turns an answer that is not the one asked for into a sentence.
func (r *overHTTP) status(res *http.Response, c call) error {
	switch code := res.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusUnauthorized && r.creds == nil:
		return fail(ErrUnauthorized, nil, "cannot read %s: the server asks for credentials; set credentials to a secret with username and password, or bearerToken", r.url)
	case code == http.StatusUnauthorized:
		return fail(ErrUnauthorized, nil, "cannot read %s: the server refused the credentials of secret %q; renew them", r.url, r.creds.From)
	case code == http.StatusForbidden && c.service == "git-receive-pack":
		return fail(ErrUnauthorized, nil, "cannot write to %s: these credentials may not push; give their account write access to branch %s", r.url, r.branch)
	case code == http.StatusForbidden:
		return fail(ErrUnauthorized, nil, "cannot read %s: these credentials may not read it; give their account read access", r.url)
	case code == http.StatusNotFound || code == http.StatusGone:
		return fail(ErrNotFound, nil, "cannot find the repository %s; correct the url, or give the credentials' account access (many servers hide what it may not see)", r.url)
	default:
		r.busy(code, res.Header)
		return fail(ErrUnreachable, nil, "cannot use %s: the server answered %d %s; try later or ask its administrator", r.url, code, http.StatusText(code))
	}
	if got := res.Header.Get("Content-Type"); got != c.contentType() {
		return fail(ErrNotFound, nil, "cannot use %s: the answer is %q, not Git's; correct the url (a web page's address is not a repository's)", r.url, oneLine(got, 80))
	}
	return nil
}

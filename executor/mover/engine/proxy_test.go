package engine

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// storeProxy stands between a lab and the bed's object store: it sees every request, and can be
// slow, deaf or hostile without touching the store that everybody uses.
type storeProxy struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string // "GET tranship/…"
	// answer, if set, replies in the store's place and says so.
	answer func(w http.ResponseWriter, r *http.Request) bool
	delay  time.Duration // before each request
}

// throughProxy puts a proxy in front of the lab's store.
func (l *lab) throughProxy(t testing.TB) *storeProxy {
	t.Helper()
	to := must1(url.Parse(l.req.Repository.Endpoint))
	forward := &httputil.ReverseProxy{
		// The signature covers the name that the client called: it is passed on as it came.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		Transport:    &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 64}, //nolint:gosec // the bed's own
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p := &storeProxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, fmt.Sprintf("%s %s?%s", r.Method, r.URL.Path, r.URL.RawQuery))
		answer, delay := p.answer, p.delay
		p.mu.Unlock()
		time.Sleep(delay)
		if answer == nil || !answer(w, r) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.Close)
	l.req.Repository.Endpoint, l.req.Repository.CABundle = p.URL, ""
	return p
}

// requests returns what came since the last call.
func (p *storeProxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// set changes how the proxy behaves from the next request on.
func (p *storeProxy) set(delay time.Duration, answer func(http.ResponseWriter, *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay, p.answer = delay, answer
}

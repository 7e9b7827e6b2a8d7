package kube

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tranship/tranship/spec"
)

// recheck is how long a connection is used before the document's secrets are
// read again: a rotated token is noticed within it.
const recheck = 10 * time.Second

// Pool keeps connections open between calls. It is safe for concurrent use.
type Pool struct {
	secrets Secrets
	now     func() time.Time

	mu    sync.Mutex
	conns map[poolKey]*pooled
	// failed is when Try last failed.
	failed map[poolKey]time.Time
}

type poolKey struct {
	side spec.Side
	name string
}

type pooled struct {
	mu      sync.Mutex // held while connecting, so that one caller does
	print   string
	checked time.Time
	cluster *Cluster
	opened  atomic.Pointer[Cluster] // cluster, for those who do not wait
}

// NewPool returns an empty pool that resolves references with secrets.
func NewPool(secrets Secrets) *Pool {
	return &Pool{secrets: secrets, now: time.Now, conns: map[poolKey]*pooled{}, failed: map[poolKey]time.Time{}}
}

// Get returns the connection of a document, opening it if it is new or if the
// document or one of its secrets changed.
func (p *Pool) Get(ctx context.Context, side spec.Side, doc *spec.Cluster) (*Cluster, error) {
	p.mu.Lock()
	// Two runs may be frozen with different versions of one document; each
	// keeps its own connection.
	key := poolKey{side, documentDigest(doc)}
	e := p.conns[key]
	if e == nil {
		e = &pooled{}
		p.conns[key] = e
	}
	p.mu.Unlock()

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cluster != nil && p.now().Sub(e.checked) < recheck {
		return e.cluster, nil
	}
	print, err := fingerprint(ctx, doc, p.secrets)
	if err != nil {
		return nil, err
	}
	if e.cluster != nil && e.print == print {
		e.checked = p.now()
		return e.cluster, nil
	}
	c, err := Connect(ctx, side, doc, p.secrets)
	if err != nil {
		return nil, err
	}
	e.cluster, e.print, e.checked = c, print, p.now()
	e.opened.Store(c)
	return c, nil
}

// tryTimeout is how long a verb waits for a cluster that it can do without,
// and tryAgain how long a failure of that is remembered.
const (
	tryTimeout = 3 * time.Second
	tryAgain   = time.Minute
)

// Try is Get for a cluster that the caller can do without: an open connection
// as it is, or else one short attempt a minute. Nil means that there is none.
func (p *Pool) Try(ctx context.Context, side spec.Side, doc *spec.Cluster) *Cluster {
	key := poolKey{side, documentDigest(doc)}
	p.mu.Lock()
	e, failed := p.conns[key], p.failed[key]
	p.mu.Unlock()
	if e != nil {
		if c := e.opened.Load(); c != nil {
			return c
		}
	}
	if p.now().Sub(failed) < tryAgain {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	c, err := p.Get(ctx, side, doc)
	if err != nil {
		p.mu.Lock()
		p.failed[key] = p.now()
		p.mu.Unlock()
		return nil
	}
	return c
}

// Forget drops the connections of a document: the next Get opens a new one.
func (p *Pool) Forget(side spec.Side, doc *spec.Cluster) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, poolKey{side, documentDigest(doc)})
}

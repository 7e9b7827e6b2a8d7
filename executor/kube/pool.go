package kube

import (
	"context"
	"sync"
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
}

// NewPool returns an empty pool that resolves references with secrets.
func NewPool(secrets Secrets) *Pool {
	return &Pool{secrets: secrets, now: time.Now, conns: map[poolKey]*pooled{}}
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
	return c, nil
}

// Forget drops the connections of a document: the next Get opens a new one.
func (p *Pool) Forget(side spec.Side, doc *spec.Cluster) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, poolKey{side, documentDigest(doc)})
}

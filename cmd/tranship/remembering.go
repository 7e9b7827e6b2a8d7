package main

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

// forgetAfter is how long the values of a plan are looked for after its last
// run read them; a run reads them every ten minutes.
const forgetAfter = time.Hour

// secretStore is where secrets are.
type secretStore interface {
	kube.Secrets
	// Entries returns every entry of a secret, by its name.
	Entries(ctx context.Context, from string) (map[string][]byte, error)
}

// maxMade is how many short-lived values are kept: a day of hourly tokens.
const maxMade = 24

// remembering keeps every value that was read, and those of Secrets in the
// namespaces of the plans that run, so that the ledger can redact them wherever
// they turn up. Safe for concurrent use.
type remembering struct {
	secretStore

	mu      sync.Mutex
	seen    [][]byte // our own, always looked for
	made    [][]byte // of our own too: the newest tokens
	learned []lesson
	all     [][]byte // both; replaced and never changed
}

// lesson is what is known of a plan's namespaces on one side.
type lesson struct {
	plan   string
	side   spec.Side
	at     time.Time
	values [][]byte
	plain  int // values that are not among them
}

// Read implements kube.Secrets.
func (r *remembering) Read(ctx context.Context, ref spec.SecretRef, defaultKey string) ([]byte, error) {
	v, err := r.secretStore.Read(ctx, ref, defaultKey)
	if err != nil {
		return nil, err
	}
	v = bytes.TrimSpace(v)
	r.keep(v)
	return v, nil
}

// keep remembers a value of our own.
func (r *remembering) keep(v []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.ContainsFunc(r.seen, func(b []byte) bool { return bytes.Equal(b, v) }) {
		r.seen = append(r.seen, bytes.Clone(v))
		r.join()
	}
}

// rememberMade keeps a token that was made of other secrets.
func (r *remembering) rememberMade(v []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, bytes.Clone(v))
	r.made = r.made[max(0, len(r.made)-maxMade):]
	r.join()
}

// learn replaces what is known of a plan's namespaces on one side. Values that
// could be ordinary words are counted and not looked for.
func (r *remembering) learn(plan string, side spec.Side, values [][]byte) (kept, plain int) {
	now := lesson{plan: plan, side: side, at: time.Now()}
	for _, v := range values {
		if gitsource.WorthRedacting(v) {
			now.values = append(now.values, v)
		}
	}
	now.plain = len(values) - len(now.values)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.learned = slices.DeleteFunc(r.learned, func(l lesson) bool {
		return l.plan == plan && l.side == side || time.Since(l.at) > forgetAfter
	})
	r.learned = append(r.learned, now)
	r.join()
	return len(now.values), now.plain
}

// tooPlain is how many values of a plan's namespaces, on both sides, are not looked for.
func (r *remembering) tooPlain(plan string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.learned {
		if l.plan == plan {
			n += l.plain
		}
	}
	return n
}

// join makes the list anew. The caller holds the lock.
func (r *remembering) join() {
	r.all = slices.Concat(r.seen, r.made)
	for _, l := range r.learned {
		r.all = append(r.all, l.values...)
	}
}

// values are all that must not be shown; not to be changed.
func (r *remembering) values() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

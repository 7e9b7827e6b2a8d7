package kube

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// epochHolds is for how long the answer of a Guard lets the requests of an effect
// through. A process that was paused in the middle of one asks again when it wakes
// up: another daemon may have taken over, and undone what this one has made.
const epochHolds = 5 * time.Second

// fence is what the requests of one effect share. Safe for concurrent use.
type fence struct {
	settings Settings
	mu       sync.Mutex
	asked    map[*Cluster]time.Time
}

type fenceKey struct{}

// Fenced makes every request that changes something, and is sent with this context,
// ask for the epoch first where that was not done in the last five seconds.
func Fenced(ctx context.Context, s Settings) context.Context {
	return context.WithValue(ctx, fenceKey{}, &fence{settings: s, asked: map[*Cluster]time.Time{}})
}

func fenceOf(ctx context.Context) *fence {
	f, _ := ctx.Value(fenceKey{}).(*fence)
	return f
}

// unfenced is for the question itself.
func unfenced(ctx context.Context) context.Context {
	return context.WithValue(ctx, fenceKey{}, (*fence)(nil))
}

// holds says whether the cluster was asked lately. Neither clock is enough: one
// stands still while the machine is suspended, and the other one can be set.
func (f *fence) holds(c *Cluster) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, now := f.asked[c], time.Now()
	return !at.IsZero() && now.Sub(at) < epochHolds && now.Round(0).Sub(at.Round(0)).Abs() < epochHolds
}

func (f *fence) note(c *Cluster, asked time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[c] = asked
}

// fenced asks before it lets an effect's request through.
type fenced struct {
	next    http.RoundTripper
	cluster *Cluster
}

func (c *Cluster) fence(next http.RoundTripper) http.RoundTripper { return fenced{next, c} }

// RoundTrip implements http.RoundTripper.
func (t fenced) RoundTrip(req *http.Request) (*http.Response, error) {
	f := fenceOf(req.Context())
	if f == nil || req.Method == http.MethodGet || req.Method == http.MethodHead || f.holds(t.cluster) {
		return t.next.RoundTrip(req)
	}
	s := f.settings
	if err := t.cluster.Guard(req.Context(), &s); err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // as its contract demands
		}
		return nil, err
	}
	return t.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go see through the wrapper.
func (t fenced) WrappedRoundTripper() http.RoundTripper { return t.next }

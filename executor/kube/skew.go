package kube

import (
	"net/http"
	"sync/atomic"
	"time"
)

// skew remembers how far a cluster's clock is ahead of this machine's, as the
// Date of its answers says (RFC 9110 §6.6.1: whole seconds). Safe for
// concurrent use.
type skew struct{ ahead atomic.Pointer[time.Duration] }

// tooSlow is an answer that says too little: the clock was read at some moment
// between the question and it.
const tooSlow = 2 * time.Second

func (s *skew) wrap(next http.RoundTripper) http.RoundTripper { return clocked{next, s} }

type clocked struct {
	next http.RoundTripper
	skew *skew
}

func (c clocked) RoundTrip(req *http.Request) (*http.Response, error) {
	asked := time.Now()
	resp, err := c.next.RoundTrip(req)
	if err == nil {
		c.skew.learn(resp.Header.Get("Date"), asked, time.Since(asked))
	}
	return resp, err
}

// WrappedRoundTripper lets client-go see through the wrapper.
func (c clocked) WrappedRoundTripper() http.RoundTripper { return c.next }

func (s *skew) learn(date string, asked time.Time, took time.Duration) {
	at, err := http.ParseTime(date)
	if err != nil || took > tooSlow {
		return
	}
	ahead := at.Add(time.Second / 2).Sub(asked.Add(took / 2))
	s.ahead.Store(&ahead)
}

// Ahead is how far the cluster's clock is ahead of this machine's, to about a
// second; zero while nothing is known. Negative is behind.
func (c *Cluster) Ahead() time.Duration {
	if a := c.clock.ahead.Load(); a != nil {
		return *a
	}
	return 0
}

// Now is the time by the cluster's clock, to about a second: what instants
// that the cluster has written are to be compared with.
func (c *Cluster) Now() time.Time { return time.Now().Add(c.Ahead()) }

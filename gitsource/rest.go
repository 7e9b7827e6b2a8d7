package gitsource

import (
	"net/http"
	"strconv"
	"time"
)

const (
	// maxRest bounds what a server may ask for with Retry-After.
	maxRest = 15 * time.Minute
	// urgentRest bounds it for the ledger: a push that a stopped application
	// waits for has until cutover.gitOutage, and must be tried in that time.
	urgentRest = 15 * time.Second
)

// rest is the wish of a server that has too much to do to be left alone.
type rest struct {
	since time.Time
	wish  time.Duration // at most maxRest
}

// left is how long that still lasts for somebody who waits no longer than most.
func (q rest) left(now time.Time, most time.Duration) time.Duration {
	return min(q.wish, most) - now.Sub(q.since)
}

// askedRest reads the answer to a request; zero when it asks for nothing.
func askedRest(status int, h http.Header, now time.Time) rest {
	after := h.Get("Retry-After")
	if after == "" || status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return rest{}
	}
	if seconds, err := strconv.ParseInt(after, 10, 32); err == nil {
		return rest{now, min(time.Duration(seconds)*time.Second, maxRest)}
	}
	at, err := http.ParseTime(after)
	if err != nil {
		return rest{}
	}
	sent := now
	if t, err := http.ParseTime(h.Get("Date")); err == nil { // the server's clock may be off
		sent = t
	}
	return rest{now, min(at.Sub(sent), maxRest)}
}

// resting says how long the server is to be left alone.
func (r *remote) resting(most time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rest.left(r.now(), most)
}

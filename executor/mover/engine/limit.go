package engine

import (
	"context"
	"net"
	"sync"
	"time"
)

// limiter spreads bytes over time: after a pause it lets a tenth of a second's worth through at once.
type limiter struct {
	perByte float64 // nanoseconds
	mu      sync.Mutex
	free    time.Time // when everything that was let through is paid for
}

const burst = 100 * time.Millisecond

func newLimiter(bytesPerSecond int64) *limiter {
	return &limiter{perByte: float64(time.Second) / float64(bytesPerSecond)}
}

// pay returns how long to wait after n bytes. It is safe for concurrent use.
func (l *limiter) pay(n int, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if earliest := now.Add(-burst); l.free.Before(earliest) {
		l.free = earliest
	}
	l.free = l.free.Add(time.Duration(l.perByte * float64(n)))
	return l.free.Sub(now)
}

// limitStep is how much passes between two looks at the limit.
const limitStep = 16 << 10

// limitedConn is a connection whose bytes are counted in each direction, together with those of the
// other connections of its run: encryption and headers included, as a network's owner counts them.
type limitedConn struct {
	net.Conn
	in, out *limiter
}

// Read implements net.Conn.
func (c *limitedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), limitStep)])
	time.Sleep(c.in.pay(n, time.Now()))
	return n, err
}

// Write implements net.Conn.
func (c *limitedConn) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = c.Conn.Write(p[n:min(len(p), n+limitStep)])
		n += k
		time.Sleep(c.out.pay(k, time.Now()))
	}
	return n, err
}

// dialer makes connections that together keep below a limit in each direction; 0 is none.
func dialer(bytesPerSecond int64) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if bytesPerSecond <= 0 {
		return d.DialContext
	}
	in, out := newLimiter(bytesPerSecond), newLimiter(bytesPerSecond)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &limitedConn{Conn: conn, in: in, out: out}, nil
	}
}

package engine

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// TestLimit moves a known amount over four limited connections at once and looks at the clock.
func TestLimit(t *testing.T) {
	const rate, amount, conns = 8 << 20, 8 << 20, 4
	ln := must1(net.Listen("tcp", "127.0.0.1:0"))
	defer ln.Close()
	go func() { // sends back what it gets
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.(*net.TCPConn).CloseWrite() }()
		}
	}()
	dial := dialer(rate)
	begin, done := time.Now(), make(chan error, conns)
	for range conns {
		go func() {
			c, err := dial(context.Background(), "tcp", ln.Addr().String())
			if err != nil {
				done <- err
				return
			}
			defer c.Close()
			go func() { _, _ = c.Write(make([]byte, amount/conns)) }()
			_, err = io.ReadFull(c, make([]byte, amount/conns))
			done <- err
		}()
	}
	for range conns {
		must(t, <-done)
	}
	// Both directions have the limit for themselves. A loaded machine may be slower, never faster.
	if got := amount / time.Since(begin).Seconds(); got > 1.2*rate {
		t.Errorf("%.0f bytes per second with a limit of %d", got, rate)
	} else if got < 0.8*rate {
		t.Logf("%.0f bytes per second with a limit of %d: is the machine busy?", got, rate)
	}
}

// TestLimiterPaysExactly is the same without a machine: the clock is ours.
func TestLimiterPaysExactly(t *testing.T) {
	now := time.Unix(0, 0)
	begin, l, sent := now, newLimiter(1_000_000), 0
	for range 1000 {
		sent += 16 << 10
		if d := l.pay(16<<10, now); d > 0 {
			now = now.Add(d)
		}
	}
	if got := float64(sent) / now.Sub(begin).Seconds(); got < 0.98e6 || got > 1.02e6 {
		t.Errorf("%.0f bytes per second with a limit of a million", got)
	}
	now = now.Add(time.Hour) // a pause is not saved up
	if d := l.pay(1_000_000, now); d != time.Second-burst {
		t.Errorf("after a pause a second's worth waits %v", d)
	}
}

// TestBedLimit uploads and restores with a limit and compares with the clock what reached the store.
func TestBedLimit(t *testing.T) {
	long(t)
	l := newBedLab(t)
	l.bigFile(12 << 20)
	l.req.Repository.BytesPerSecond = 4 << 20
	up := l.upload("")
	down := l.restore(up.Snapshot, "")
	l.equal()
	for what, ms := range map[string]int64{"upload": up.DurationMS, "restore": down.DurationMS} {
		got := float64(12<<20) / float64(ms) * 1000
		t.Logf("%s: %.0f bytes per second with a limit of %d", what, got, 4<<20)
		if got > 1.2*(4<<20) { // slower is the machine's own affair
			t.Errorf("%s is far from the limit", what)
		}
	}
}

package engine

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// line is one connection, used by one goroutine at a time.
type line struct {
	conn net.Conn
	w    *cork
	out  []byte // the frame being built
	in   []byte // the frame that was read last
	// moved counts what was read, and the data that was written; nil counts nothing.
	moved *atomic.Int64
}

// cork holds small writes of TLS records together, so that a window costs a few system calls
// instead of sixty-four. It is safe for concurrent use: a line is closed, with a last record, while
// its own goroutine waits in it.
type cork struct {
	mu sync.Mutex
	w  *bufio.Writer
}

// Write implements io.Writer.
func (c *cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.w.Write(p)
}

// Flush sends what was held together.
func (c *cork) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.w.Flush()
}

// corked is a connection whose writes go through a cork.
type corked struct {
	net.Conn
	w *cork
}

func (c corked) Write(p []byte) (int, error) { return c.w.Write(p) }

// newLine speaks TLS on a connection; the handshake is done when it returns.
func newLine(ctx context.Context, raw net.Conn, config *tls.Config, receiving bool) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	end := tls.Client
	if receiving {
		end = tls.Server
	}
	if err := raw.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return nil, err
	}
	w := &cork{w: bufio.NewWriterSize(raw, writeBuffer)}
	conn := end(flushing{corked{raw, w}}, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = w.Flush() // the alert that says why
		return nil, err
	}
	return &line{conn: conn, w: w}, nil
}

// flushing sends what was written before it waits for what comes back.
type flushing struct{ corked }

func (f flushing) Read(p []byte) (int, error) {
	if err := f.w.Flush(); err != nil {
		return 0, err
	}
	return f.Conn.Read(p)
}

func (l *line) close() {
	_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_ = l.w.Flush()
	_ = l.conn.Close()
}

// begin starts a frame; what follows is appended to l.out, and finish sends it.
func (l *line) begin(f frame) {
	l.out = append(l.out[:0], byte(f), 0, 0, 0, 0)
}

// finish sends the frame begun, followed by more bytes that belong to it.
func (l *line) finish(more ...[]byte) error {
	n := len(l.out) - 5
	for _, m := range more {
		n += len(m)
	}
	if n > frameLimit {
		return fmt.Errorf("a frame of %d bytes is too long", n)
	}
	binary.BigEndian.PutUint32(l.out[1:], uint32(n))
	if err := l.write(l.out); err != nil {
		return err
	}
	for _, m := range more {
		if err := l.write(m); err != nil {
			return err
		}
		l.count(len(m))
	}
	if err := l.conn.SetWriteDeadline(time.Now().Add(linePatience)); err != nil {
		return err
	}
	return l.w.Flush()
}

func (l *line) write(p []byte) error {
	err := l.conn.SetWriteDeadline(time.Now().Add(linePatience))
	if err == nil {
		_, err = l.conn.Write(p)
	}
	return err
}

// read fills p.
func (l *line) read(p []byte) error {
	for len(p) > 0 {
		if err := l.conn.SetReadDeadline(time.Now().Add(linePatience)); err != nil {
			return err
		}
		n, err := io.ReadFull(l.conn, p[:min(len(p), pieceSize)])
		if err != nil {
			return err
		}
		l.count(n)
		p = p[n:]
	}
	return nil
}

func (l *line) count(n int) {
	if l.moved != nil {
		l.moved.Add(int64(n))
	}
}

// send sends a frame in one go.
func (l *line) send(f frame, body []byte) error {
	l.begin(f)
	return l.finish(body)
}

// receive reads the next frame; its body is good until the next call.
func (l *line) receive() (frame, []byte, error) {
	for {
		var head [5]byte
		if err := l.read(head[:]); err != nil {
			return 0, nil, err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > frameLimit {
			return 0, nil, fmt.Errorf("a frame of %d bytes is too long", n)
		}
		if int(n) > cap(l.in) {
			l.in = make([]byte, n)
		}
		l.in = l.in[:n]
		if err := l.read(l.in); err != nil {
			return 0, nil, err
		}
		if f := frame(head[0]); f != frameAlive {
			return f, l.in, nil
		}
	}
}

// ask sends the frame begun and reads the answer.
func (l *line) ask(want frame, more ...[]byte) ([]byte, error) {
	if err := l.finish(more...); err != nil {
		return nil, l.why(err)
	}
	f, body, err := l.receive()
	switch {
	case err != nil:
		return nil, broken(err)
	case f == frameFailed:
		return nil, failedThere(body)
	case f != want:
		return nil, broken(fmt.Errorf("the answer %q is not the one that is due", f))
	}
	return body, nil
}

// why looks for the receiver's own word on a connection that broke while writing.
func (l *line) why(err error) error {
	_ = l.conn.SetReadDeadline(time.Now().Add(time.Second))
	var head [5]byte
	if _, rerr := io.ReadFull(l.conn, head[:]); rerr == nil && frame(head[0]) == frameFailed {
		if n := binary.BigEndian.Uint32(head[1:]); n <= frameLimit {
			body := make([]byte, n)
			if _, rerr := io.ReadFull(l.conn, body); rerr == nil {
				return failedThere(body)
			}
		}
	}
	return broken(err)
}

func broken(err error) error {
	return fail(ReasonDirectBroken, err, "the connection between the movers broke")
}

// farError is how one end tells the other what happened.
type farError struct {
	Reason Reason `json:"reason"`
	Text   string `json:"text"`
}

func failedThere(body []byte) error {
	var e farError
	if err := json.Unmarshal(body, &e); err != nil || e.Text == "" {
		return broken(errors.New("the target's mover gave up"))
	}
	return fail(e.Reason, nil, "the target's mover gave up: %s", e.Text)
}

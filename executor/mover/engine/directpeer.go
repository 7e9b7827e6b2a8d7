package engine

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/maphash"
	"net"
	"sync"
	"time"
)

// peer is the receiver as the sender sees it: a set of lines, each used by one task at a time.
type peer struct {
	objects *objects
	zeros   *zeroNames
	count   *counters
	memory  *listMemory
	// byContent: what the target holds is not known, so it is asked about every piece.
	byContent bool
	n         int
	lines     chan *line // that are free
	// barriers take all lines, one barrier after another.
	barriers sync.Mutex
	stop     func() bool
	alive    chan struct{}

	mu sync.Mutex
	// parents are the recorded entries of the files that are being read, by path.
	parents map[string]*node
	// sent are the hashes of the paths that were sent.
	sent map[uint64]struct{}
	seed maphash.Seed
}

// send takes a snapshot of a volume whose file contents go straight to the target's mover.
func (s *session) send(ctx context.Context, v VolumeRequest, c *counters, w *warnings) (string, error) {
	p, err := s.dialPeer(ctx, v, c)
	if err != nil {
		return "", err
	}
	defer p.close()
	id, err := s.uploadTo(ctx, v, p, c, w)
	if err != nil {
		return "", err
	}
	// Only now, when the snapshot can be read by others, is there something to restore.
	return id, p.done(ctx, id)
}

// dialPeer connects to the receiver. It is expected to be listening, or about to.
func (s *session) dialPeer(ctx context.Context, v VolumeRequest, c *counters) (*peer, error) {
	config, err := directTLS(s.req.Direct.Dir, false)
	if err != nil {
		return nil, err
	}
	o := newObjects(s.repo, &c.fetched)
	if err := o.named(); err != nil {
		return nil, err
	}
	lines := cap(s.pool.slots) + 1
	p := &peer{
		objects: o, zeros: newZeroNames(o), count: c, memory: newListMemory(s.listMemory), byContent: v.Content, n: lines,
		lines: make(chan *line, lines), alive: make(chan struct{}), parents: map[string]*node{},
		sent: map[uint64]struct{}{}, seed: maphash.MakeSeed(),
	}
	h := hello{Volume: v.Name, Session: newSession(), Lines: lines, Parent: v.Parent}
	if v.Content {
		h.Parent = ""
	}
	var all []*line
	closeAll := func() {
		for _, l := range all {
			l.close()
		}
	}
	for h.Line = range lines {
		raw, err := dial(ctx, v.Peer, s.dialPatience)
		if err == nil {
			var l *line
			if l, err = greet(ctx, raw, config, h); err == nil {
				l.moved = &c.other
				all = append(all, l)
				p.lines <- l
				continue
			}
			raw.Close()
		}
		closeAll()
		return nil, err
	}
	// A task that waits for the other end is woken by the end of the run.
	p.stop = context.AfterFunc(ctx, func() {
		for _, l := range all {
			_ = l.conn.SetDeadline(time.Unix(1, 0))
		}
	})
	go p.keepAlive()
	return p, nil
}

func newSession() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// dial tries until somebody answers.
func dial(ctx context.Context, address string, patience time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		d := net.Dialer{Timeout: greetTimeout, KeepAlive: aliveEvery}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, fail(ReasonDirectUnreachable, err, "nobody answers at %s for %s", address, patience)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// greet makes sure that the other end is who it should be, and that it wants what comes.
func greet(ctx context.Context, raw net.Conn, config *tls.Config, h hello) (*line, error) {
	l, err := newLine(ctx, raw, config, false)
	if err != nil {
		return nil, greetFailed(err, raw)
	}
	body, err := json.Marshal(h)
	if err != nil {
		return nil, fail(ReasonBadRequest, err, "cannot encode a greeting")
	}
	l.begin(frameHello)
	if _, err := l.ask(frameHello, body); err != nil {
		var e *Error
		if errors.As(err, &e) && e.Reason == ReasonDirectBroken {
			return nil, greetFailed(e.Err, raw)
		}
		return nil, err
	}
	return l, nil
}

func greetFailed(err error, raw net.Conn) error {
	var refused *net.OpError
	if untrusted(err) || (errors.As(err, &refused) && refused.Op == "remote error") {
		return fail(ReasonDirectUntrusted, err, "%s is not the target's mover of this run, or does not take us for the source's", raw.RemoteAddr())
	}
	return fail(ReasonDirectUnreachable, err, "%s does not speak as the target's mover does", raw.RemoteAddr())
}

// keepAlive tells the receiver now and then that there is nothing to say: a walk over many unchanged
// files sends nothing for long.
func (p *peer) keepAlive() {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.alive:
			return
		case <-tick.C:
		}
		for range p.n {
			select {
			case l := <-p.lines:
				_ = l.send(frameAlive, nil) // a line that is broken will say so to the next task
				p.lines <- l
			default: // in use
			}
		}
	}
}

func (p *peer) close() {
	close(p.alive)
	p.stop()
	for range p.n {
		(<-p.lines).close()
	}
}

// with runs fn with a free line. It must not be nested.
func (p *peer) with(fn func(l *line) error) error {
	l := <-p.lines
	defer func() { p.lines <- l }()
	return fn(l)
}

// barrier waits until everything sent so far has been written.
func (p *peer) barrier(then func(l *line) error) error {
	p.barriers.Lock()
	defer p.barriers.Unlock()
	var (
		taken []*line
		err   error
	)
	for range p.n {
		taken = append(taken, <-p.lines)
	}
	for _, l := range taken {
		l.begin(frameSync)
		if _, serr := l.ask(frameSync); err == nil {
			err = serr
		}
	}
	if err == nil && then != nil {
		err = then(taken[0])
	}
	for _, l := range taken {
		p.lines <- l
	}
	return err
}

func (p *peer) done(ctx context.Context, id string) error {
	err := p.barrier(func(l *line) error {
		l.begin(frameDone)
		_, err := l.ask(frameDone, []byte(id))
		return err
	})
	return p.cause(ctx, err)
}

// cause is why a task failed: what ended the run, if that came first.
func (p *peer) cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// remember keeps what the parent says of a file while that is read; the returned function forgets it.
func (p *peer) remember(rel string, was *node) (forget func()) {
	if was == nil || was.kind != kindFile {
		return func() {}
	}
	p.mu.Lock()
	p.parents[rel] = was
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		delete(p.parents, rel)
		p.mu.Unlock()
	}
}

// first says whether a path is sent for the first time. A second time is a file that changed while it
// was read: what comes now must not be overtaken by what is still on its way.
func (p *peer) first(rel string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := maphash.String(p.seed, rel)
	_, again := p.sent[k]
	p.sent[k] = struct{}{}
	return !again
}

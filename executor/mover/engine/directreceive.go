package engine

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
)

// receiver is the target's end of direct transfers: one address, and behind it every volume of the
// request, each with lines of its own.
type receiver struct {
	*session
	config  *tls.Config
	log     *slog.Logger
	volumes map[string]*receiving
	memory  *listMemory
	// greeting bounds how many strangers may be in a handshake at once.
	greeting chan struct{}
	wg       sync.WaitGroup
}

const greetingsAtOnce = 32

// receiving is one volume of a receiver.
type receiving struct {
	want     hello // of its sender; Session is "" until one has come
	arrivals *arrivals
	ready    chan struct{} // closed when arrivals is set

	mu    sync.Mutex
	conns map[net.Conn]bool
	whole bool // everything has come
	ended bool
	// outcome gets the snapshot, or why there is none.
	outcome chan outcome
	wg      sync.WaitGroup
}

type outcome struct {
	snapshot string
	err      error
}

// receive serves all volumes of the request at once: their senders may be several, in any order.
func (s *session) receive(parent context.Context, res *Result) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	config, err := directTLS(s.req.Direct.Dir, true)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{KeepAlive: aliveEvery}).Listen(ctx, "tcp", s.req.Direct.Listen)
	if err != nil {
		return fail(ReasonDirectUnreachable, err, "cannot listen at %s", s.req.Direct.Listen)
	}
	s.listening(listener.Addr())
	r := &receiver{session: s, config: config, log: s.log, volumes: map[string]*receiving{}, memory: newListMemory(s.listMemory), greeting: make(chan struct{}, greetingsAtOnce)}
	for _, v := range s.req.Volumes {
		h := hello{Volume: v.Name, Parent: v.Held}
		if v.Content {
			h.Parent = ""
		}
		r.volumes[v.Name] = &receiving{want: h, ready: make(chan struct{}), conns: map[net.Conn]bool{}, outcome: make(chan outcome, 1)}
	}
	defer r.wg.Wait()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	defer listener.Close()
	r.wg.Go(func() { r.accept(ctx, listener) })
	return r.all(ctx, res)
}

// all runs the volumes side by side and reports those that failed last.
func (r *receiver) all(ctx context.Context, res *Result) error {
	results, errs := make([]Result, len(r.req.Volumes)), make([]error, len(r.req.Volumes))
	op := operation{volume: func(s *session, ctx context.Context, v VolumeRequest, c *counters, w *warnings) (string, error) {
		return r.volume(ctx, v, c, w)
	}}
	var wg sync.WaitGroup
	for i, v := range r.req.Volumes {
		wg.Go(func() {
			if errs[i] = r.session.volume(ctx, op, v, &results[i]); errs[i] != nil {
				r.pool.stop(errs[i])
			}
		})
	}
	wg.Wait()
	var failed []VolumeResult
	for i := range results {
		if errs[i] != nil {
			failed = append(failed, results[i].Volumes...)
			continue
		}
		res.Volumes = append(res.Volumes, results[i].Volumes...)
	}
	if len(failed) > 0 { // the first error stopped the others
		res.Volumes = append(res.Volumes, failed...)
		return context.Cause(ctx)
	}
	return nil
}

// volume takes what comes for one volume, and then restores the snapshot that it belongs to.
func (r *receiver) volume(ctx context.Context, v VolumeRequest, c *counters, w *warnings) (string, error) {
	root, err := openRoot(v.Path)
	if err != nil {
		return "", fail(ReasonWriteFailed, err, "cannot open the target directory %s", v.Path)
	}
	defer root.close()
	a, err := newArrivals(root, newObjects(r.repo, &c.fetched), c, r.memory)
	if err != nil {
		return "", err
	}
	defer a.close()
	a.trusted = !v.Content && v.Held != ""
	g := r.volumes[v.Name]
	g.arrivals = a
	c.waiting.Store(true) // for the sender, which has the limit
	close(g.ready)
	var got outcome
	select {
	case <-ctx.Done():
		got.err = context.Cause(ctx)
	case got = <-g.outcome:
	}
	g.end()
	g.wg.Wait() // nobody writes any more
	c.step()
	c.waiting.Store(false)
	if got.err != nil {
		return "", got.err
	}
	if len(a.open) > 0 {
		return "", broken(errors.New("the sender ended in the middle of a file"))
	}
	if err := r.repo.Refresh(ctx); err != nil {
		return "", storeFailed(err, "cannot read what is new in the repository")
	}
	v.Snapshot = got.snapshot
	return r.restoreWith(ctx, v, a, c, w)
}

func (r *receiver) accept(ctx context.Context, listener net.Listener) {
	for {
		raw, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			r.pool.stop(fail(ReasonDirectBroken, err, "cannot accept connections"))
			return
		}
		select {
		case r.greeting <- struct{}{}:
			r.wg.Go(func() { r.greet(ctx, raw) })
		default:
			raw.Close()
		}
	}
}

// greet makes sure who it is and hands the line over. What goes wrong before that concerns the
// stranger only.
func (r *receiver) greet(ctx context.Context, raw net.Conn) {
	done := sync.OnceFunc(func() { <-r.greeting })
	defer done()
	l, err := newLine(ctx, raw, r.config, true)
	if err != nil {
		r.log.Warn("refused a connection", "from", raw.RemoteAddr().String(), "err", err)
		raw.Close()
		return
	}
	f, body, err := l.receive()
	var h hello
	if err == nil && f == frameHello {
		err = json.Unmarshal(body, &h)
	}
	g := r.volumes[h.Volume]
	if err != nil || f != frameHello || g == nil {
		r.log.Warn("refused a connection that does not greet", "from", raw.RemoteAddr().String(), "volume", h.Volume, "err", err)
		l.close()
		return
	}
	done()
	r.serve(ctx, g, l, h)
}

// serve answers what comes on a line until the transfer ends.
func (r *receiver) serve(ctx context.Context, g *receiving, l *line, h hello) {
	defer l.close()
	if err := g.join(l.conn, h); err != nil {
		_ = l.send(frameFailed, farErrorOf(err, secrets{}))
		return
	}
	defer g.wg.Done()
	select {
	case <-g.ready:
	case <-ctx.Done():
		return
	}
	if err := l.send(frameHello, nil); err != nil {
		g.finish(broken(err))
		return
	}
	for {
		f, body, err := l.receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the sender went away")
			}
			g.finish(broken(err))
			return
		}
		if f == frameDone {
			// The snapshot is there whether or not the sender hears the answer. What its lines say
			// from now on is that it goes.
			id := string(body)
			g.complete()
			_ = l.send(frameDone, nil)
			g.outcome <- outcome{snapshot: id}
			return
		}
		if err := r.answer(g, l, f, body); err != nil {
			g.finish(err)
			return
		}
	}
}

func (r *receiver) answer(g *receiving, l *line, f frame, body []byte) error {
	answer, out, err := g.arrivals.handle(f, body)
	if errors.Is(err, errFrame) {
		err = broken(err)
	}
	if err != nil {
		_ = l.send(frameFailed, farErrorOf(err, secrets{}))
		return err
	}
	if answer == 0 {
		return nil
	}
	if err := l.send(answer, out); err != nil {
		return broken(err)
	}
	return nil
}

// join takes a line into the transfer of a volume.
func (g *receiving) join(conn net.Conn, h hello) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.ended:
		return fail(ReasonDirectBroken, nil, "the transfer of volume %s has ended", h.Volume)
	case h.Session == "" || (g.want.Session != "" && g.want.Session != h.Session):
		return fail(ReasonDirectBroken, nil, "another sender of volume %s is connected", h.Volume)
	case h.Parent != g.want.Parent:
		return fail(ReasonBadRequest, nil, "the sender builds on snapshot %q of volume %s and the target holds %q", h.Parent, h.Volume, g.want.Parent)
	}
	g.want.Session = h.Session
	g.conns[conn] = true
	g.wg.Add(1)
	return nil
}

// complete says that everything has come.
func (g *receiving) complete() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.whole = true
}

// finish ends the transfer with an error, unless it has an outcome already.
func (g *receiving) finish(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.whole {
		return
	}
	select {
	case g.outcome <- outcome{err: err}:
	default:
	}
}

// end closes every line.
func (g *receiving) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	for c := range g.conns {
		_ = c.Close()
	}
}

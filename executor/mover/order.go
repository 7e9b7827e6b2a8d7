package mover

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/tranship/tranship/executor/mover/engine"
)

// A mover that stands by has its volumes mounted and its repository open, and
// waits for the order: a request that comes through `mover tell`, which the
// daemon runs in the mover's own container. No other pod can reach the socket.
const (
	orderSocket  = "order.sock"
	orderLimit   = 4 << 20 // bytes
	orderTaken   = "taken"
	orderTimeout = 30 * time.Second
	standByFor   = 15 * time.Minute
)

// reasonStandByOver is given by a mover that was not told in time what to do:
// nothing has happened, and an ordinary Job does the work.
const reasonStandByOver engine.Reason = "StandByOver"

// standBy opens the repository and does what it is told.
func standBy(ctx context.Context, a Assignment) (engine.Result, error) {
	orders, err := listenForOrders(filepath.Join(a.Request.CacheDir, orderSocket))
	if err != nil {
		return engine.Result{Reason: reasonStandByOver, Error: err.Error()}, err
	}
	defer orders.close()
	warm, err := engine.Open(ctx, a.Request)
	if err != nil {
		// The order comes all the same, and its run says what is wrong.
		slog.Warn("the repository could not be opened ahead", "error", err)
	}
	slog.Info("standing by", "for", standByFor.String())
	select {
	case <-ctx.Done():
		return engine.Result{Reason: reasonStandByOver, Error: "ended before any order came"}, ctx.Err()
	case <-time.After(standByFor):
		err := fmt.Errorf("no order came within %s", standByFor)
		return engine.Result{Reason: reasonStandByOver, Error: err.Error()}, err
	case req := <-orders.first:
		return obey(ctx, warm, req)
	}
}

func obey(ctx context.Context, warm *engine.Warm, req engine.Request) (engine.Result, error) {
	switch {
	case len(req.Volumes) == 0 && warm == nil:
		return engine.Result{}, nil
	case len(req.Volumes) == 0:
		return engine.Result{RepositoryExists: true}, warm.Close(ctx)
	case warm == nil:
		return engine.Run(ctx, req)
	}
	return warm.Run(ctx, req)
}

// orders is the socket of a mover that stands by.
type orders struct {
	socket net.Listener
	first  chan engine.Request
	mu     sync.Mutex
	taken  []byte
}

func listenForOrders(path string) (*orders, error) {
	socket, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot wait for an order: %w", err)
	}
	o := &orders{socket: socket, first: make(chan engine.Request, 1)}
	go func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return // closed
			}
			go o.serve(c)
		}
	}()
	return o, nil
}

func (o *orders) close() { _ = o.socket.Close() }

func (o *orders) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(orderTimeout))
	raw, err := io.ReadAll(io.LimitReader(c, orderLimit))
	if err == nil {
		err = o.take(raw)
	}
	answer := orderTaken
	if err != nil {
		answer = err.Error()
	}
	_, _ = io.WriteString(c, answer)
}

// take accepts one order. A daemon that was killed while it gave the order
// gives the same one again: that changes nothing.
func (o *orders) take(raw []byte) error {
	var req engine.Request
	if err := json.Unmarshal(raw, &req); err != nil {
		return fmt.Errorf("the order cannot be read: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.taken != nil {
		if !bytes.Equal(o.taken, raw) {
			return fmt.Errorf("another order was taken before")
		}
		return nil
	}
	o.taken = raw
	o.first <- req
	return nil
}

// Tell hands the order that in holds to the mover that stands by in this
// container. It is `tranship mover tell`.
func Tell(ctx context.Context, in io.Reader) error {
	ctx, stop := context.WithTimeout(ctx, orderTimeout)
	defer stop()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", filepath.Join(cacheDir, orderSocket))
	if err != nil {
		return fmt.Errorf("no mover stands by here: %w", err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(orderTimeout))
	if _, err := io.Copy(c, in); err != nil {
		return fmt.Errorf("cannot hand the order over: %w", err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return fmt.Errorf("cannot hand the order over: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(c, messageLimit))
	if err != nil {
		return fmt.Errorf("the mover did not answer: %w", err)
	}
	if string(answer) != orderTaken {
		return fmt.Errorf("the mover refused: %s", answer)
	}
	return nil
}

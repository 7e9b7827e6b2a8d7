package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The client's pace.
const (
	writePause = 100 * time.Millisecond
	writeLimit = time.Second
	lookEvery  = time.Second // for the address of the application
)

// write is one write that was acknowledged.
type write struct {
	id   string
	side int
	turn int
	leg  int // the phase that was going on
}

// client writes to both sides all the time, under a new id each time, as
// users would who know neither which side is live nor that there are two.
type client struct {
	sides     [2]*side
	namespace string
	cancel    context.CancelFunc
	done      chan struct{}

	mu    sync.Mutex
	at    [2]string
	leg   int
	turn  int // of the newest writes
	lost  int // the last turn whose writes on the target are given up
	acked []write
}

func startClient(ctx context.Context, sides [2]*side, namespace string) *client {
	c := &client{sides: sides, namespace: namespace, done: make(chan struct{})}
	ctx, c.cancel = context.WithCancel(ctx)
	go func() {
		defer close(c.done)
		c.write(ctx)
	}()
	return c
}

func (c *client) stop() {
	c.cancel()
	<-c.done
}

func (c *client) write(ctx context.Context) {
	var looked time.Time
	for n := 1; ctx.Err() == nil; n++ {
		if time.Since(looked) > lookEvery {
			c.look(ctx)
			looked = time.Now()
		}
		for side := range c.sides {
			c.put(ctx, side, n)
		}
		select {
		case <-ctx.Done():
		case <-time.After(writePause):
		}
	}
}

// look keeps an address that it cannot read: an API server may be down.
func (c *client) look(ctx context.Context) {
	for i, s := range c.sides {
		if at, err := s.address(ctx, c.namespace); err == nil {
			c.mu.Lock()
			c.at[i] = at
			c.mu.Unlock()
		}
	}
}

func (c *client) put(ctx context.Context, side, turn int) {
	id := fmt.Sprintf("%d-%s", turn, c.sides[side].name)
	c.mu.Lock()
	at := c.at[side]
	c.turn = turn
	c.mu.Unlock()
	if at == "" {
		return
	}
	answer, err := fetch(ctx, at, "put?"+id, writeLimit)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && strings.TrimSpace(answer) == "ok "+id {
		c.acked = append(c.acked, write{id, side, turn, c.leg})
	}
}

// nextLeg begins a phase.
func (c *client) nextLeg() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leg++
	return c.leg
}

// discard notes that all writes on the target are given up.
func (c *client) discard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = c.turn
}

// dropped says that a write was given up with the target that it was made on.
func (c *client) dropped(w write) bool { return w.side == target && w.turn <= c.lost }

// switches counts how often the acknowledging side changed since a leg began,
// against the side that was live then.
func (c *client) switches(leg, live int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, w := range c.acked {
		if w.leg >= leg && w.side != live {
			n, live = n+1, w.side
		}
	}
	return n
}

// expected are the writes that the live side must have, and those that it must
// not have.
func (c *client) expected() (must []string, never func(id string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.acked {
		if !c.dropped(w) {
			must = append(must, w.id)
		}
	}
	lost := c.lost
	return must, func(id string) bool {
		turn, side, _ := strings.Cut(id, "-")
		n, err := strconv.Atoi(turn)
		return err != nil || side == c.sides[target].name && n <= lost
	}
}

func (c *client) count(side int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, w := range c.acked {
		if w.side == side && !c.dropped(w) {
			n++
		}
	}
	return n
}

func (c *client) address(side int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at[side]
}

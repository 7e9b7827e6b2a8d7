package engine

import (
	"context"
	"sync"
)

// pool bounds how much runs at once in a whole run.
type pool struct {
	slots chan struct{}
	// stop ends the run with the first error.
	stop context.CancelCauseFunc
}

func newPool(n int, stop context.CancelCauseFunc) *pool {
	if n <= 0 {
		n = defaultParallel
	}
	return &pool{slots: make(chan struct{}, n-1), stop: stop}
}

// group is a set of tasks that are waited for together.
type group struct {
	pool *pool
	wg   sync.WaitGroup
}

func (p *pool) group() *group { return &group{pool: p} }

// do runs fn beside the caller if a slot is free and in the caller otherwise: a task may start a
// group of its own without a deadlock. The first error stops the run.
func (g *group) do(fn func() error) {
	run := func() {
		if err := fn(); err != nil {
			g.pool.stop(err)
		}
	}
	select {
	case g.pool.slots <- struct{}{}:
		g.wg.Go(func() {
			defer func() { <-g.pool.slots }()
			run()
		})
	default:
		run()
	}
}

// wait waits for the tasks and returns the run's first error.
func (g *group) wait(ctx context.Context) error {
	g.wg.Wait()
	return context.Cause(ctx)
}

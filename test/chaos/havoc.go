package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// A phase sees this many faults at a step that was aimed at, and this many at
// any instant.
const (
	maxAimed  = 4
	maxRandom = 3
)

// fault is one kind of trouble. It ends before strike returns, and says what
// it did; outage is how long the daemon could not work because of it.
type fault struct {
	name   string
	weight int
	// foreign: something else than the daemon suffers, so that a run may fail.
	foreign bool
	strike  func(h *havoc, ctx context.Context) (did string, outage time.Duration, err error)
}

// faults is every kind. daemon, mover and cut harm nobody else on the bed.
var faults = []fault{
	{name: "daemon", weight: 10, strike: (*havoc).killDaemon},
	{name: "mover", weight: 3, foreign: true, strike: (*havoc).killMover},
	{name: "velero", weight: 2, foreign: true, strike: (*havoc).killVelero},
	{name: "cut", weight: 3, foreign: true, strike: (*havoc).cutOff},
	{name: "git", weight: 1, foreign: true, strike: (*havoc).gitDown},
	{name: "store", weight: 1, foreign: true, strike: (*havoc).storeDown},
	{name: "api", weight: 1, foreign: true, strike: (*havoc).killAPIServer},
	{name: "etcd", weight: 1, foreign: true, strike: (*havoc).killEtcd},
}

func faultNames() (names []string) {
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

func knownFaults(names []string) error {
	for _, n := range names {
		if !slices.Contains(faultNames(), n) {
			return fmt.Errorf("there is no fault %q", n)
		}
	}
	return nil
}

// havoc makes the faults of one phase.
type havoc struct {
	*scenario
	rnd    *rand.Rand
	aims   []string
	random int
}

// unleash lets faults happen until the returned function is called, which
// waits for the end of the one that is going on. kinds names the steps to aim at.
func (s *scenario) unleash(ctx context.Context, wanted bool, kinds ...string) (stop func()) {
	if err := s.eventually(ctx, phaseLimit, func() error { return s.veleroRuns(ctx) }); err != nil && ctx.Err() == nil {
		s.book.giveUp("%s: what was killed before does not run again: %v", s.plan, err)
	}
	s.trouble.reset()
	if !wanted || !s.early() {
		return func() {}
	}
	h := &havoc{scenario: s, rnd: rand.New(rand.NewPCG(s.rnd.Uint64(), s.rnd.Uint64())), random: s.rnd.IntN(maxRandom + 1)}
	missing := s.book.missing(s.way, kinds...)
	for _, i := range h.rnd.Perm(len(missing))[:min(maxAimed, len(missing))] {
		h.aims = append(h.aims, missing[i])
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.rage(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// rage strikes whenever the run is in a step that was aimed at, and a few
// times at any instant.
func (h *havoc) rage(ctx context.Context) {
	for ctx.Err() == nil && (len(h.aims) > 0 || h.random > 0) {
		patience := time.Hour
		if h.random > 0 {
			patience = 500*time.Millisecond + time.Duration(h.rnd.Int64N(int64(8*time.Second)))
		}
		wait, cancel := context.WithTimeout(ctx, patience)
		aimed := h.watch.until(wait, h.plan, func(step string) bool { return slices.Contains(h.aims, step) })
		cancel()
		if ctx.Err() != nil {
			return
		}
		if aimed && h.rnd.IntN(2) == 0 {
			time.Sleep(time.Duration(h.rnd.Int64N(int64(40 * time.Millisecond))))
		}
		if !aimed {
			h.random--
		}
		h.strike(ctx)
	}
}

func (h *havoc) strike(ctx context.Context) {
	f := h.draw()
	step := h.watch.now(h.plan).step()
	h.trouble.add(f.foreign, 0) // before it: the daemon may fail at once
	did, outage, err := f.strike(h, ctx)
	if err != nil && ctx.Err() == nil {
		h.book.say("%s: fault %s could not be made: %v", h.plan, f.name, err)
	}
	h.trouble.add(f.foreign, outage)
	h.book.struck(f.name)
	if f.foreign {
		h.aims = slices.DeleteFunc(h.aims, func(s string) bool { return s == step })
	}
	h.book.say("%s: %s", h.plan, did)
}

// draw picks a fault by weight among those that are wanted.
func (h *havoc) draw() fault {
	var lot []fault
	for _, f := range faults {
		if len(h.faults) == 0 || slices.Contains(h.faults, f.name) {
			for range f.weight {
				lot = append(lot, f)
			}
		}
	}
	return lot[h.rnd.IntN(len(lot))]
}

// killDaemon ends the daemon with SIGKILL, loses its journal a third of the
// time, and starts it again after up to three seconds.
func (h *havoc) killDaemon(ctx context.Context) (did string, outage time.Duration, err error) {
	pause := time.Duration(max(0, h.rnd.Int64N(int64(6*time.Second))-int64(3*time.Second)))
	lose := h.rnd.IntN(3) == 0
	if err := h.daemon.kill(); err != nil {
		if foreign, _ := h.trouble.get(); !foreign {
			h.book.violation("%v", err)
		}
	}
	step := h.watch.now(h.plan).step()
	h.book.kill(step)
	h.aims = slices.DeleteFunc(h.aims, func(s string) bool { return s == step })
	if step == "" {
		step = "no step"
	}
	did = fmt.Sprintf("daemon killed in %s, down for %.1f s", step, pause.Seconds())
	if lose {
		did += ", journal emptied"
		h.book.struck("daemon with its journal")
		err = h.daemon.empty()
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done(): // it is started at once: the checks want it
	}
	if again := h.daemon.start(); again != nil {
		h.book.giveUp("%v", again)
	}
	return did, pause, err
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/bench/estate"
)

// worker is the worker itself.
type worker struct {
	config gitsource.Config
	source *gitsource.Source
	ledger *gitsource.Ledger
	since  string
}

// runWorker holds the product's own reader and ledger and does with them what
// its standard input says, one order a line. It is a process of its own, as the
// daemon is: its processor time and memory are those of the product.
func runWorker(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("work takes the repository's URL and a folder")
	}
	debug.SetGCPercent(gitsource.GCPercent) // as the daemon does
	w := &worker{config: estate.Config(args[0], args[1])}
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var o estate.Order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return fmt.Errorf("cannot read the order: %w", err)
		}
		if err := out.Encode(w.measured(ctx, o)); err != nil {
			return fmt.Errorf("cannot answer: %w", err)
		}
	}
	return in.Err()
}

func (w *worker) measured(ctx context.Context, o estate.Order) (a estate.Answer) {
	deeds := map[string]func(context.Context, estate.Order, *estate.Answer) error{"read": w.read, "ledger": w.acquire, "plans": w.plans, "event": w.event, "batch": w.batch}
	do, known := deeds[o.Do]
	if !known {
		return estate.Answer{Error: "no such order"}
	}
	cpu, wall := processorTime(), time.Now()
	for i := range max(1, o.Times) {
		step := o
		step.From += i
		if err := do(ctx, step, &a); err != nil {
			a.Error = err.Error()
			return a
		}
	}
	a.CPU = float64(processorTime()-cpu) / 1e6
	a.Wall = float64(time.Since(wall)) / 1e6
	var err error
	if a.RSS, a.Peak, err = estate.Memory(); err != nil {
		a.Error = err.Error()
	}
	return a
}

// read is one poll, which reads what is new.
func (w *worker) read(ctx context.Context, _ estate.Order, a *estate.Answer) error {
	if w.source == nil {
		s, err := gitsource.OpenSource(w.config)
		if err != nil {
			return err
		}
		w.source = s
	}
	d, err := w.source.Read(ctx, w.since)
	if err != nil {
		return err
	}
	w.since = d.Commit
	a.Plans, a.Commits = len(d.Closures), len(d.Commits)
	return nil
}

func (w *worker) acquire(ctx context.Context, _ estate.Order, _ *estate.Answer) error {
	l, err := gitsource.OpenLedger(w.config)
	if err != nil {
		return err
	}
	w.ledger = l
	if _, err := l.Acquire(ctx, "bench", false); err != nil {
		return err
	}
	_, err = l.Load(ctx)
	return err
}

// plans records the status of every plan of the estate, in one change each.
func (w *worker) plans(ctx context.Context, _ estate.Order, _ *estate.Answer) error {
	for f := range estate.Folders {
		var all []*spec.PlanStatus
		for n := range estate.PerFolder {
			all = append(all, estate.Status(f, n, 0))
		}
		if err := w.ledger.Record(ctx, reconciler.Change{Plans: all, Message: "observe"}); err != nil {
			return err
		}
	}
	ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
	defer stop()
	return w.ledger.Push(ctx)
}

// event records that something of one plan changed, and pushes it.
func (w *worker) event(ctx context.Context, o estate.Order, _ *estate.Answer) error {
	st := estate.Status(o.From*37%estate.Folders, o.From%estate.PerFolder, o.From+1)
	c := reconciler.Change{Plans: []*spec.PlanStatus{st}, Message: "status of " + st.Metadata.Name + ": Staged", Trailers: map[string]string{"Migration-Plan": st.Metadata.Name}}
	if err := w.ledger.Record(ctx, c); err != nil {
		return err
	}
	return w.ledger.Push(ctx)
}

// batch records 100 plans, each in a change of its own, and pushes once.
func (w *worker) batch(ctx context.Context, o estate.Order, _ *estate.Answer) error {
	for i := range 100 {
		st := estate.Status(i, i%estate.PerFolder, o.From)
		if err := w.ledger.Record(ctx, reconciler.Change{Plans: []*spec.PlanStatus{st}, Message: "status of " + st.Metadata.Name + ": Staged"}); err != nil {
			return err
		}
	}
	return w.ledger.Push(ctx)
}

// processorTime is what this process has used so far, children excluded.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"

	"github.com/tranship/tranship/test/bench/estate"
)

const (
	fleetFolders = 100
	fleetPlans   = fleetFolders * estate.PerFolder
)

// fleetDue measures fleet.due: so many plans have a stage run due in the same
// minute. The clusters are simulated, whatever is asked of them is done at
// once; Git, the ledger and its journal are real.
func fleetDue(ctx context.Context, e *host) ([]row, error) {
	bare := filepath.Join(filepath.Dir(e.bare), "fleet.git")
	due := time.Now().UTC().Truncate(time.Minute).Add(2 * time.Minute)
	if err := errors.Join(os.MkdirAll(bare, 0o755), gitRun(ctx, bare, "init", "-q", "--bare", "-b", "main", "."), gitRun(ctx, bare, "config", "http.receivepack", "true")); err != nil {
		return nil, err
	}
	err := fastImport(ctx, bare, func(w io.Writer) {
		files := []file{{"common.yaml", estate.Common}}
		for f := range fleetFolders {
			for n := range estate.PerFolder {
				files = append(files, file{estate.File(f, n), estate.Plan(f, n, 0, fmt.Sprintf("%d %d * * *", due.Minute(), due.In(berlin()).Hour()))})
			}
		}
		importCommit(w, "refs/heads/main", "", 1_700_000_000, files...)
	})
	if err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp(e.dir, "fleet-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	sim := &simulated{done: map[string]bool{}, first: map[string]time.Time{}}
	rss, finished, err := runFleet(ctx, estate.Config(e.server.URL+"/fleet.git", data), sim)
	if err != nil {
		return nil, err
	}
	started, first, last := sim.started()
	if started != fleetPlans {
		return nil, fmt.Errorf("%d runs of %d were started", started, fleetPlans)
	}
	commits, err := gitCommand(ctx, bare, "rev-list", "--count", ledgerRef).Output()
	note := fmt.Sprintf("the first after %.1f s, all of them over after %.1f s; %.0f MiB; %s commits in the ledger", first.Sub(due).Seconds(), finished.Sub(due).Seconds(), rss, commits[:max(len(commits)-1, 0)])
	return []row{fixed("fleet.due", "s", sample{last.Sub(due).Seconds()}, "the minute that they are due in", 60, note)}, err
}

func berlin() *time.Location {
	l, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return time.UTC
	}
	return l
}

// runFleet runs the real loop until every plan has had its run.
func runFleet(ctx context.Context, c gitsource.Config, sim *simulated) (rss float64, finished time.Time, err error) {
	ctx, stop := context.WithTimeout(ctx, 10*time.Minute)
	defer stop()
	ledger, err := gitsource.OpenLedger(c)
	if err != nil {
		return 0, finished, err
	}
	defer ledger.Close()
	epoch, err := ledger.Acquire(ctx, "bench", false)
	if err != nil {
		return 0, finished, err
	}
	source, err := gitsource.OpenSource(c)
	if err != nil {
		return 0, finished, err
	}
	defer source.Close()
	over := &finishes{all: make(chan struct{}), seen: map[string]bool{}}
	loop := reconciler.New(reconciler.Config{Source: source, Ledger: ledger, Executor: sim, Clock: wallClock{}, Notifier: over, Log: slog.New(slog.DiscardHandler),
		Interval: func() time.Duration { return 10 * time.Second }, Slots: func() reconciler.Slots { return reconciler.Slots{Total: fleetPlans} }, Epoch: epoch, Holder: "bench", Version: "bench"})
	inner, end := context.WithCancel(ctx)
	var parts sync.WaitGroup
	var failed, served error
	parts.Go(func() { failed = loop.Run(inner) })
	parts.Go(func() { served = ledger.Serve(inner, loop.LedgerChanged) })
	select {
	case <-over.all:
		finished = time.Now()
	case <-ctx.Done():
		err = fmt.Errorf("%d of %d runs were over in time", over.count(), fleetPlans)
	}
	rss, _, failedRSS := estate.Memory()
	end()
	parts.Wait()
	return rss, finished, errors.Join(err, failed, served, failedRSS)
}

// simulated are clusters that do at once what they are asked.
type simulated struct {
	mu    sync.Mutex
	done  map[string]bool
	first map[string]time.Time // of each run's first effect
}

func (s *simulated) Look(_ context.Context, c reconciler.Call) (reconciler.Observation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range reconciler.Itineraries[c.Run.Spec.Kind] {
		if d.Name == c.Step.Name && d.ReadOnly {
			return reconciler.Observation{Seen: reconciler.Succeeded}, nil
		}
	}
	if s.done[c.Run.Metadata.Name+" "+c.Step.Name] {
		return reconciler.Observation{Seen: reconciler.Succeeded}, nil
	}
	return reconciler.Observation{}, nil
}

func (s *simulated) Ensure(_ context.Context, c reconciler.Call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[c.Run.Metadata.Name+" "+c.Step.Name] = true
	if _, known := s.first[c.Run.Metadata.Name]; !known {
		s.first[c.Run.Metadata.Name] = time.Now()
	}
	return nil
}

func (s *simulated) Survey(_ context.Context, c *spec.Closure, _ []spec.Volume) (reconciler.Survey, error) {
	return reconciler.Survey{Volumes: []spec.Volume{{Namespace: c.Plan.Spec.Namespaces[0].Name, Claim: "data", Action: "copy"}}}, nil
}

// started is how many runs had an effect, and when the first and the last did.
func (s *simulated) started() (n int, first, last time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.first {
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return len(s.first), first, last
}

// finishes counts runs that are over.
type finishes struct {
	mu   sync.Mutex
	seen map[string]bool
	all  chan struct{}
}

func (f *finishes) Notify(e reconciler.Event) {
	if e.Run == "" || e.Step != "" || e.State != string(spec.RunSucceeded) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen[e.Run] = true; len(f.seen) == fleetPlans {
		close(f.all)
	}
}

func (f *finishes) Progress(string, []reconciler.Progress) {}

func (f *finishes) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seen)
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

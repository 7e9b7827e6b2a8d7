package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tranship/tranship/reconciler"
)

// board shows how far the copies are that are going on: as metrics and at
// GET /progress. It changes too often to be recorded in Git.
type board struct {
	mu     sync.Mutex
	plans  map[string][]reconciler.Progress
	gauges []gauge
}

// gauge is one figure of a copy.
type gauge struct {
	vec  *prometheus.GaugeVec
	take func(p reconciler.Progress) (value float64, known bool)
}

func newBoard(r *prometheus.Registry) *board {
	b := &board{plans: map[string][]reconciler.Progress{}}
	add := func(name, help string, take func(p reconciler.Progress) (float64, bool)) {
		vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tranship_copy_" + name, Help: help}, []string{"plan", "volume", "operation"})
		r.MustRegister(vec)
		b.gauges = append(b.gauges, gauge{vec, take})
	}
	add("files", "Files that a running copy has dealt with.", func(p reconciler.Progress) (float64, bool) { return float64(p.Files), true })
	add("bytes", "Bytes of files that a running copy has dealt with, changed or not.", func(p reconciler.Progress) (float64, bool) { return float64(p.Bytes), true })
	add("total_bytes", "Bytes of the volume's newest known snapshot.", func(p reconciler.Progress) (float64, bool) { return float64(p.TotalBytes), p.TotalBytes > 0 })
	add("moved_bytes", "Bytes that a running copy has read and written.", func(p reconciler.Progress) (float64, bool) { return float64(p.MovedBytes), true })
	add("bytes_per_second", "Rate of a running copy.", func(p reconciler.Progress) (float64, bool) { return p.BytesPerSecond, true })
	add("remaining_seconds", "Time that a running copy will still take at its present rate.", func(p reconciler.Progress) (float64, bool) {
		left, known := p.Remaining()
		return left.Seconds(), known
	})
	return b
}

// Progress is a part of reconciler.Notifier.
func (b *board) Progress(plan string, now []reconciler.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.plans[plan]) == 0 && len(now) == 0 {
		return
	}
	delete(b.plans, plan)
	if len(now) > 0 {
		b.plans[plan] = now
	}
	for _, g := range b.gauges {
		g.vec.DeletePartialMatch(prometheus.Labels{"plan": plan})
		for _, p := range now {
			if value, known := g.take(p); known {
				g.vec.WithLabelValues(plan, p.Volume, p.Operation).Set(value)
			}
		}
	}
}

// ServeHTTP answers GET /progress.
func (b *board) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	now := maps.Clone(b.plans)
	b.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = writeJSON(w, now)
}

// askProgress reads what a daemon shows at GET /progress.
func askProgress(ctx context.Context, daemon string) (map[string][]reconciler.Progress, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(daemon, "/")+"/progress", nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the daemon at %s: %w", daemon, err)
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the daemon: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the daemon at %s answered %s: give the address of its --listen", daemon, resp.Status)
	}
	plans := map[string][]reconciler.Progress{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&plans); err != nil {
		return nil, fmt.Errorf("the daemon at %s gave no progress: %w", daemon, err)
	}
	return plans, nil
}

// tellProgress prints a line a volume that is being copied.
func tellProgress(w io.Writer, ps []reconciler.Progress) {
	for _, p := range ps {
		of := ""
		if p.TotalBytes > 0 {
			of = " of " + size(p.TotalBytes)
		}
		left := ""
		if d, ok := p.Remaining(); ok {
			left = fmt.Sprintf(", about %s left", d.Round(time.Second))
		}
		fmt.Fprintf(w, "copying   %s  %s: %d files, %s%s, %s/s%s\n", p.Volume, p.Operation, p.Files, size(p.Bytes), of, size(int64(p.BytesPerSecond)), left)
	}
}

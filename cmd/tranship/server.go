package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/fluxcd/pkg/runtime/pprof"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/tranship/tranship/reconciler"
)

// missed is how many intervals may pass without a successful read before the
// daemon stops calling itself ready.
const missed = 3

// server answers probes, metrics and requests to poll now.
type server struct {
	loop     *reconciler.Loop
	interval time.Duration
	token    []byte // bearer token of POST /reconcile; empty: no such path
	registry *prometheus.Registry
	progress http.Handler // of the copies that are going on
	hooks    *webhooks
	profile  bool
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /progress", s.progress)
	mux.Handle("POST "+webhookPaths, s.hooks)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	if len(s.token) > 0 {
		mux.HandleFunc("POST /reconcile", s.authorized(func(*http.Request) { trigger(s.loop) }))
		mux.HandleFunc("POST /acknowledge", s.authorized(s.acknowledge))
		mux.HandleFunc("POST /target-is-dead", s.authorized(func(r *http.Request) { s.loop.TargetIsDead(r.FormValue("plan")) }))
		mux.HandleFunc("POST /adopt", s.authorized(func(*http.Request) { s.loop.Adopt() }))
	}
	if s.profile {
		for path, h := range pprof.GetHandlers() {
			mux.Handle(path, h)
		}
	}
	return mux
}

// ready fails until the branch was read, and when it could not be read for
// three intervals.
func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	last, err := s.loop.Healthy()
	switch {
	case last.IsZero() && err != nil:
		http.Error(w, "the manifests have not been read: "+err.Error(), http.StatusServiceUnavailable)
	case last.IsZero():
		http.Error(w, "the manifests have not been read yet", http.StatusServiceUnavailable)
	case time.Since(last) > missed*s.interval+time.Minute:
		http.Error(w, fmt.Sprintf("the manifests were last read at %s: %v", last.UTC().Format(time.RFC3339), err), http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}

func (s *server) acknowledge(r *http.Request) {
	if commit := r.FormValue("commit"); commit != "" {
		s.loop.Acknowledge(commit)
	}
}

// authorized guards what changes something with the bearer token.
func (s *server) authorized(do func(*http.Request)) http.HandlerFunc {
	want := append([]byte("Bearer "), s.token...)
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, "a bearer token is wanted", http.StatusUnauthorized)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
		do(r)
		w.WriteHeader(http.StatusAccepted)
	}
}

func trigger(l *reconciler.Loop) {
	select {
	case l.Trigger <- struct{}{}:
	default: // a poll is already wanted
	}
}

// serve listens until ctx ends. An empty address means no server.
func (s *server) serve(ctx context.Context, address string) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen for probes and metrics: %w", err)
	}
	h := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 16}
	go func() {
		<-ctx.Done()
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		_ = h.Shutdown(ctx)
	}()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// metrics counts what the loop tells.
type metrics struct {
	*board
	log    logger
	steps  *prometheus.CounterVec
	took   *prometheus.HistogramVec
	runs   *prometheus.CounterVec
	status *prometheus.GaugeVec
}

// logger is the part of slog that events need.
type logger interface {
	Info(msg string, args ...any)
	Warn(msg string, args ...any)
}

func newMetrics(r *prometheus.Registry, log logger) *metrics {
	m := &metrics{
		board:  newBoard(r),
		log:    log,
		steps:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tranship_step_transitions_total", Help: "Transitions of steps by step and state."}, []string{"step", "state"}),
		took:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tranship_step_duration_seconds", Help: "Time that finished steps took.", Buckets: prometheus.ExponentialBuckets(0.05, 2, 16)}, []string{"step"}),
		runs:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tranship_runs_finished_total", Help: "Finished runs by phase."}, []string{"phase"}),
		status: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tranship_plan_ready", Help: "1 when the plan's Ready condition is true, by plan and reason."}, []string{"plan", "reason"}),
	}
	r.MustRegister(m.steps, m.took, m.runs, m.status, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Notify implements reconciler.Notifier.
func (m *metrics) Notify(e reconciler.Event) {
	args := []any{"plan", e.Plan, "state", e.State}
	for _, kv := range [][2]string{{"run", e.Run}, {"step", e.Step}, {"reason", e.Reason}, {"detail", e.Message}} {
		if kv[1] != "" {
			args = append(args, kv[0], kv[1])
		}
	}
	if e.Took > 0 {
		args = append(args, "seconds", e.Took.Round(time.Millisecond).Seconds())
	}
	switch {
	case e.Step != "":
		m.steps.WithLabelValues(e.Step, e.State).Inc()
		if e.Took > 0 {
			m.took.WithLabelValues(e.Step).Observe(e.Took.Seconds())
		}
	case e.Run != "":
		m.runs.WithLabelValues(e.State).Inc()
	default:
		m.status.DeletePartialMatch(prometheus.Labels{"plan": e.Plan})
		value := 0.0
		if e.State == "True" {
			value = 1
		}
		m.status.WithLabelValues(e.Plan, e.Reason).Set(value)
	}
	if e.State == "Failed" || e.State == "UndoFailed" {
		m.log.Warn("event", args...)
		return
	}
	m.log.Info("event", args...)
}

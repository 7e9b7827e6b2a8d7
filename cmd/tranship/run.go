package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/fluxcd/pkg/runtime/jitter"
	flux "github.com/fluxcd/pkg/runtime/logger"
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/tranship/tranship/executor"
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
)

// runFlags are the flags of the daemon.
type runFlags struct {
	common    configFlags
	dataDir   string
	listen    string
	tokenFile string
	takeOver  bool
	lease     string
	leaseAt   string
	profile   bool
	log       flux.Options
}

func runCommand() *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon: poll Git, stage, cut over, record",
		Long: "Polls the repository of manifests, runs stage copies on their schedules and the cutover when a\n" +
			"merged commit flips a plan, and records everything in Git. It needs no cluster for itself.\n" +
			"SIGHUP reads the configuration again and polls now; SIGTERM ends it at the next turn of each run.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return f.serve(ctx)
		},
	}
	f.common.bind(c)
	c.Flags().StringVar(&f.dataDir, "data-dir", "/var/lib/tranship", "journal and Git cache; keep it on a disk that survives restarts")
	c.Flags().StringVar(&f.listen, "listen", ":9440", "address of /healthz, /readyz, /metrics, /progress, /hook/ and /reconcile; empty for none")
	c.Flags().StringVar(&f.tokenFile, "reconcile-token-file", "", "file with the bearer token that allows POST /reconcile")
	c.Flags().BoolVar(&f.takeOver, "take-over", false, "take the ledger over from another daemon that is known to be gone")
	c.Flags().StringVar(&f.lease, "lease", "", "NAMESPACE/NAME of the Lease that all daemons of this ledger share; one acts, the others wait")
	c.Flags().StringVar(&f.leaseAt, "lease-kubeconfig", "", "file that leads to the cluster of the Lease; empty for the one this daemon runs in")
	c.Flags().BoolVar(&f.profile, "enable-pprof", false, "serve /debug/pprof")
	f.log.BindFlags(c.Flags())
	return c
}

// daemon is everything that `tranship run` holds.
type daemon struct {
	takeOver bool // it was allowed to take over, by hand or by the Lease
	log      *slog.Logger
	config   *live
	secrets  *remembering
	ledger   *gitsource.Ledger
	source   *gitsource.Source
	executor *executor.Executor
	server   *server
	loop     *reconciler.Loop
	epoch    int64
	// fixed is what verbs need of the configuration as it was at the start: another
	// namespace or ledger in the middle of a run would not find what the run has made.
	fixed kube.Settings
}

// serve runs the daemon, under a Lease where there is one: whoever holds that may
// take the ledger over from the holder before.
func (f *runFlags) serve(ctx context.Context) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gitsource.GCPercent)
	}
	sink := flux.NewLogger(f.log)
	klog.SetLogger(sink)
	log := slog.New(logr.ToSlogHandler(sink))
	// From the first moment on: one that starts, or waits for its Lease, must not end of it.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if f.lease == "" {
		return f.run(ctx, log, hup)
	}
	f.takeOver = true
	if err := f.usable(); err != nil {
		return err
	}
	waited, err := standBy(f.listen)
	if err != nil {
		return err
	}
	defer waited()
	return underLease(ctx, log, f.lease, f.leaseAt, func(ctx context.Context) error {
		waited() // the address is the daemon's now
		return f.run(ctx, log, hup)
	})
}

// usable says what would keep a daemon that gets the Lease from acting, before it
// says that it is ready to: a rollout would go on to the one that acts.
func (f *runFlags) usable() error {
	cfg, err := f.common.load()
	if err == nil {
		_, err = f.common.secrets(cfg)
	}
	if err == nil && f.tokenFile != "" {
		_, err = readToken(f.tokenFile)
	}
	return err
}

func (f *runFlags) run(ctx context.Context, log *slog.Logger, hup <-chan os.Signal) error {
	d := &daemon{log: log, takeOver: f.takeOver}
	cfg, err := f.common.load()
	if err != nil {
		return err
	}
	d.config = &live{flags: &f.common, now: cfg}
	if d.secrets, err = f.common.secrets(cfg); err != nil {
		return err
	}
	if err := d.open(ctx, f); err != nil {
		return err
	}
	defer d.close()
	field, value := cfg.Spec.Source.Reads()
	d.log.Info("the daemon runs", "version", version, "epoch", d.epoch, "source", cfg.Spec.Source.URL, field, value)
	return d.serve(ctx, f, hup)
}

// open acquires the ledger and wires everything to it.
func (d *daemon) open(ctx context.Context, f *runFlags) (err error) {
	cfg := d.config.get()
	if len(cfg.Spec.Webhooks) > 0 && f.listen == "" {
		return errors.New("spec.webhooks has entries, and --listen is empty: give the address at which they arrive")
	}
	d.fixed = kube.Settings{Namespace: cfg.Spec.Namespace, Shard: shard(cfg.Spec.Ledger.Repository, cfg.Spec.Source), Ledger: place(cfg.Spec.Ledger.Repository, cfg.Spec.Source)}
	git := gitConfig(cfg, f.dataDir, d.secrets, d.log)
	if d.ledger, err = gitsource.OpenLedger(git); err != nil {
		return err
	}
	holder, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot learn this machine's name, which the ledger records: %w", err)
	}
	if d.epoch, err = d.ledger.Acquire(ctx, holder, f.takeOver); err != nil && (!f.takeOver || f.lease != "") && ctx.Err() == nil {
		d.epoch, err = d.ledger.Resume(holder, err)
	}
	if err != nil {
		return errors.Join(err, d.ledger.Close())
	}
	if d.source, err = gitsource.OpenSource(git); err != nil {
		return errors.Join(err, d.ledger.Close())
	}
	d.executor = executor.New(d.secrets, d.settings, d.log)
	d.executor.Tell(func(plan string, side spec.Side, values [][]byte) {
		kept, plain := d.secrets.learn(plan, side, values)
		d.log.Info("values of Secrets are redacted", "plan", plan, "side", side, "values", kept, "tooPlain", plain)
	})
	registry := prometheus.NewRegistry()
	told := newMetrics(registry, d.log)
	d.loop = reconciler.New(reconciler.Config{
		Source: d.source, Ledger: d.ledger, Executor: d.executor, Clock: clock{}, Notifier: told, Log: d.log,
		Interval: d.intervals(), Slots: d.slots, Epoch: d.epoch, Holder: holder, Version: version,
	})
	d.server = &server{loop: d.loop, interval: cfg.Spec.Interval.Duration, registry: registry, progress: told.board, hooks: newWebhooks(d, registry), profile: f.profile}
	d.server.hooks.refresh(ctx)
	if f.tokenFile != "" {
		if d.server.token, err = readToken(f.tokenFile); err != nil {
			return errors.Join(err, d.ledger.Close(), d.source.Close())
		}
		d.secrets.keep(d.server.token)
	}
	return nil
}

// settings is what verbs need of the configuration; asked at every call.
func (d *daemon) settings() kube.Settings {
	s := d.config.get().Spec
	out := d.fixed
	out.Mover, out.Limits, out.Epoch = s.Mover, s.Limits, d.ledger.Epoch()
	if d.takeOver {
		out.RaiseAbove = d.ledger.RaiseAbove
	}
	return out
}

// intervals are those of the configuration, a tenth longer or shorter at most: many
// daemons shall not ask one server at the same instants.
func (d *daemon) intervals() func() time.Duration {
	spread := jitter.Percent(0.1, nil)
	return func() time.Duration { return spread(d.config.get().Spec.Interval.Duration) }
}

// slots are the limits of the configuration, also after SIGHUP.
func (d *daemon) slots() reconciler.Slots {
	s := d.config.get().Spec
	return reconciler.Slots{Total: s.Concurrency, PerPair: s.ConcurrencyPerPair}
}

// shard tells our ledger from others on the same clusters.
func shard(ledger, source spec.Repository) string {
	sum := sha256.Sum256([]byte(cmp.Or(ledger.URL, source.URL) + " " + ledger.Branch))
	return hex.EncodeToString(sum[:5])
}

// place is where our ledger is, for people.
func place(ledger, source spec.Repository) string {
	at := cmp.Or(ledger.URL, source.URL)
	if u, err := url.Parse(at); err == nil {
		u.User = nil
		at = u.String()
	}
	return strings.TrimSpace(at + " " + ledger.Branch)
}

// serve runs until ctx ends or a part fails for good.
func (d *daemon) serve(ctx context.Context, f *runFlags, hup <-chan os.Signal) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.loop.Run(ctx) })
	g.Go(func() error { return d.ledger.Serve(ctx, d.loop.LedgerChanged) })
	g.Go(func() error { return d.server.serve(ctx, f.listen) })
	g.Go(func() error { return d.reload(ctx, hup) })
	g.Go(func() error { return d.checkRights(ctx, gitConfig(d.config.get(), "", d.secrets, nil)) })
	err := g.Wait()
	if errors.Is(err, reconciler.ErrSuperseded) {
		d.log.Error("stopped", "error", err)
		return fmt.Errorf("%w; this daemon acts on nothing any more. If the other one is gone for good, start with --take-over", err)
	}
	d.log.Info("the daemon stops", "error", err)
	return err
}

func (d *daemon) close() {
	if err := errors.Join(d.ledger.Close(), d.source.Close()); err != nil {
		d.log.Error("not everything could be closed", "error", err)
	}
}

// reload reads the configuration again on each signal and polls at once. A broken
// configuration is reported and the old one kept.
func (d *daemon) reload(ctx context.Context, hup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			err := d.config.reload()
			if err == nil {
				err = d.source.SetTrust(d.config.get().Spec.Trust)
			}
			if err != nil {
				d.log.Error("the configuration was not reloaded; the old one holds", "error", err)
			}
			trigger(d.loop)
		}
	}
}

// clock is the real one.
type clock struct{}

func (clock) Now() time.Time                         { return time.Now() }
func (clock) After(d time.Duration) <-chan time.Time { return time.After(d) }

var _ reconciler.Clock = clock{}

func gitConfig(cfg *spec.DaemonConfig, dataDir string, s *remembering, log *slog.Logger) gitsource.Config {
	return gitsource.Config{Spec: cfg.Spec, DataDir: dataDir, Secrets: s.entries, SecretValues: s.values, SecretsPlain: s.tooPlain, SecretMade: s.rememberMade, Version: version, Log: log}
}

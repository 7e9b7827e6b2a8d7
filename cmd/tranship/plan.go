package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/executor"
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// planFlags are the flags of `tranship plan`.
type planFlags struct {
	ledgerFlags
	configured bool
	against    string
	head       string
	ledger     string
	offline    bool
	output     string
}

func planCommand() *cobra.Command {
	f := &planFlags{}
	c := &cobra.Command{
		Use:   "plan [PATH]",
		Short: "Say what merging a change would make the daemon do; for the CI of a pull request",
		Long: "Run it in a clone of the repository of plans. It puts what the working tree (or --head) has changed on\n" +
			"top of the branch that it is to be merged into, and says of each plan that this touches what the daemon\n" +
			"will do: by the daemon's own rules, with the ledger and both clusters as they are now. It changes nothing.\n\n" +
			"Without --config it reads the clone alone. With it the ledger is read too, and the clusters are asked unless\n" +
			"--offline is given; what is then not known is said. A cluster or repository is asked only if its document is\n" +
			"the same on the branch: a change must not choose where credentials are sent.\n\n" +
			"PATH is a folder of the clone; only documents below it count (default: source.path of the configuration).\n" +
			"With a shard's configuration only the plans of that shard count: run it with that of each.\n\n" +
			"Exit 0: the daemon would do nothing about it; 2: it would do something, now or later;\n" +
			"1: something is wrong, in the documents, in what the clusters say, or because the daemon would refuse it.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f.configured = c.Flags().Changed("config")
			ctx, stop := context.WithTimeout(c.Context(), planTimeout)
			defer stop()
			r, err := f.report(ctx, append(args, ".")[0], len(args) > 0)
			if err != nil {
				return err
			}
			if err := printPlan(c.OutOrStdout(), f.output, r); err != nil {
				return err
			}
			if code := r.exitCode(); code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
	f.bind(c)
	c.Flags().StringVar(&f.against, "against", "", "commit, branch or tag that the change is merged into (default: origin/ and source.branch)")
	c.Flags().StringVar(&f.head, "head", "", "commit, branch or tag of the change (default: the working tree as it is)")
	c.Flags().StringVar(&f.ledger, "ledger", "", "commit or branch of this clone that holds the ledger; instead of the configured one")
	c.Flags().BoolVar(&f.offline, "offline", false, "ask no cluster")
	c.Flags().StringVarP(&f.output, "output", "o", "text", "text, markdown or json")
	return c
}

// planTimeout bounds all of it: a CI job must not hang on a mute cluster.
const planTimeout = 10 * time.Minute

// printers are the forms of the report.
var printers = map[string]func(w io.Writer, r *planReport) error{
	"text": tellReport,
	"json": func(w io.Writer, r *planReport) error { return writeJSON(w, r) },
	"markdown": func(w io.Writer, r *planReport) error {
		_, err := io.WriteString(w, markdown(r))
		return err
	},
}

func printPlan(w io.Writer, output string, r *planReport) error {
	p := printers[output]
	if p == nil {
		return fmt.Errorf("cannot print as %q: say text, markdown or json", output)
	}
	return p(w, r)
}

// inspector asks the clusters.
type inspector interface {
	Inspect(ctx context.Context, c *spec.Closure, recorded []spec.Volume) (executor.Inspection, error)
}

// runReader reads finished runs.
type runReader interface {
	Run(plan, run string) (*spec.Run, error)
}

// report reads everything and says what it means.
func (f *planFlags) report(ctx context.Context, dir string, below bool) (*planReport, error) {
	cfg, err := f.configuration()
	if err != nil {
		return nil, err
	}
	local, err := gitsource.OpenLocal(dir)
	if err != nil {
		return nil, err
	}
	defer local.Close()
	if cfg == nil {
		cfg = &spec.DaemonConfig{}
	}
	change := gitsource.Change{Into: f.against, Head: f.head, Source: cfg.Spec.Source, Shard: cfg.Spec.Shard, Limits: cfg.Spec.Limits, Now: time.Now()}
	if change.Into == "" {
		change.Into = "origin/" + firstOf(cfg.Spec.Source.Branch, "main")
	}
	if below {
		if change.Path, err = inClone(local.Root(), dir); err != nil {
			return nil, err
		}
	}
	m, err := local.Merge(ctx, change)
	if err != nil {
		return nil, err
	}
	p := &planner{now: change.Now, merge: m, report: newReport(m, f.head)}
	if len(cfg.Spec.Trust.Policies) > 0 {
		p.report.Notes = append(p.report.Notes, "the configuration has approval policies (spec.trust): what is said here holds once the merge has the signatures that they ask for")
	}
	if s := cfg.Spec.Shard; s != nil {
		p.report.Shard = s.Name
		p.report.Notes = append(p.report.Notes, fmt.Sprintf("the configuration is that of shard %q, and nothing is said about plans of others: run this with theirs, too", s.Name))
	}
	view, err := f.readLedger(ctx, local, p)
	if err != nil {
		return nil, err
	}
	if view != nil {
		defer view.Close()
		p.runs = view
	}
	if f.configured && !f.offline {
		s, err := f.secrets(cfg)
		if err != nil {
			return nil, err
		}
		settings := kube.Settings{Namespace: cfg.Spec.Namespace, Mover: cfg.Spec.Mover, Limits: cfg.Spec.Limits, Shard: shard(cfg.Spec.Ledger.Repository, cfg.Spec.Source)}
		p.clusters = executor.New(s, func() kube.Settings { return settings }, slog.New(slog.DiscardHandler))
	}
	p.foresee(ctx)
	return p.report, nil
}

func (f *planFlags) configuration() (*spec.DaemonConfig, error) {
	if !f.configured {
		return nil, nil
	}
	return f.load()
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// inClone is a folder as a path inside the clone; "" is the clone itself.
func inClone(root, dir string) (string, error) {
	full, err := filepath.Abs(dir)
	if err == nil {
		full, err = filepath.EvalSymlinks(full)
	}
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", dir, err)
	}
	rel, err := filepath.Rel(root, full)
	if rel == "." {
		return "", nil
	}
	return filepath.ToSlash(rel), err
}

// readLedger sets what is recorded. Where no ledger can be read, what the
// branch says is taken as done.
func (f *planFlags) readLedger(ctx context.Context, local *gitsource.Local, p *planner) (v *gitsource.View, err error) {
	switch {
	case f.ledger != "":
		v, err = local.View(f.ledger)
	case f.configured:
		v, err = f.view(ctx)
	default:
		p.presume("no ledger was read (--config or --ledger names one)")
		return nil, nil
	}
	if errors.Is(err, gitsource.ErrBranchMissing) && f.ledger == "" {
		p.presume("the ledger is not there yet")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if p.rec, err = v.Recorded(); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	if p.rec.Daemon.Accepted == "" {
		p.presume("the ledger is empty")
		return v, nil
	}
	p.report.Ledger, _ = v.Commit()
	if at := p.rec.Daemon.Accepted; at != p.merge.Into {
		p.report.Notes = append(p.report.Notes, fmt.Sprintf("the daemon has accepted commit %.12s so far, and this goes by commit %.12s of the branch", at, p.merge.Into))
	}
	return v, nil
}

func (p *planner) presume(why string) {
	p.rec = reconciler.Presume(p.now, p.merge.Before)
	p.report.Notes = append(p.report.Notes, why+": what the branch says is taken as done")
}

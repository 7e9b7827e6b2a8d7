package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

// auditFlags say what is verified, and with which keys.
type auditFlags struct {
	configFlags
	options        gitsource.AuditOptions
	branch, plans  string // where there is no configuration
	allowedSigners string
	openPGP        []string
	output         string
}

func auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Prove that the ledger is what daemons wrote"}
	f := &auditFlags{}
	verify := &cobra.Command{
		Use:   "verify",
		Short: "Walk the whole ledger and say exactly what was tampered with",
		Long: "Reads every commit of the ledger and reports what no daemon would have written, a line each: the commit, the\n" +
			"path, what it is and how it should be. With --repository it reads a clone and needs neither configuration nor\n" +
			"network. Keep the checkpoint that it prints, and give it to --known the next time: that is what shows a\n" +
			"history that was rewritten or cut off. docs/audit.md says what this proves.\n\n" +
			"Exit status: 0 nothing was found, 1 something was, 2 it could not be verified.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			report, err := f.verify(c)
			if err != nil {
				fmt.Fprintln(c.ErrOrStderr(), "tranship:", err)
				return exitError(2)
			}
			if f.output == "json" {
				err = writeJSON(c.OutOrStdout(), report)
			} else {
				tellAudit(c.OutOrStdout(), report)
			}
			if err == nil && len(report.Findings) > 0 {
				err = exitError(1)
			}
			return err
		},
	}
	f.bind(verify)
	s := verify.Flags()
	s.StringVar(&f.options.Dir, "repository", "", "directory of a clone to read instead of the configured URL; without --config, nothing else is needed")
	s.StringVar(&f.options.Plans, "plans-repository", "", "directory of a clone of the plans, where it is not --repository")
	s.StringVar(&f.branch, "ledger-branch", spec.DefaultLedgerBranch, "the ledger's branch in --repository, where there is no --config")
	s.StringVar(&f.plans, "plans-branch", spec.DefaultBranch, "the plans' branch, where there is no --config")
	s.StringVar(&f.allowedSigners, "allowed-signers", "", "file with the SSH keys that may have signed (ssh-keygen's format), instead of ledger.signers")
	s.StringArrayVar(&f.openPGP, "openpgp-key", nil, "file with an armored public key that may have signed, instead of ledger.signers")
	s.StringArrayVar(&f.options.Known, "known", nil, "a commit or a checkpoint (\"12 sha256:...\") that somebody has kept: the ledger must hold it")
	s.StringVar(&f.options.From, "from", "", "commit up to which everything has been looked at: what is found there is listed, and does not count")
	s.StringVarP(&f.output, "output", "o", "text", "text or json")
	c.AddCommand(verify)
	return c
}

func (f *auditFlags) verify(c *cobra.Command) (*gitsource.AuditReport, error) {
	cfg := &spec.DaemonConfig{}
	cfg.Spec.Ledger.Branch, cfg.Spec.Source.Branch = f.branch, f.plans
	s := &remembering{}
	var err error
	if f.options.Dir == "" || c.Flags().Changed("config") {
		if cfg, err = f.load(); err != nil {
			return nil, err
		}
	}
	if f.options.Dir == "" && (cfg.Spec.Source.Credentials != nil || cfg.Spec.Ledger.Credentials != nil) {
		if s, err = f.secrets(cfg); err != nil {
			return nil, err
		}
	}
	if f.options.Plans != "" && f.options.Dir == "" {
		return nil, errors.New("--plans-repository goes with --repository only")
	}
	if f.options.Signers, err = f.signers(); err != nil {
		return nil, err
	}
	return gitsource.Audit(c.Context(), gitConfig(cfg, "", s, slog.New(slog.DiscardHandler)), f.options)
}

// signers are the keys of the files that were named; nil when none was.
func (f *auditFlags) signers() ([]spec.TrustedKey, error) {
	var keys []spec.TrustedKey
	if f.allowedSigners != "" {
		data, err := os.ReadFile(f.allowedSigners)
		if err != nil {
			return nil, fmt.Errorf("cannot read the allowed signers: %w", err)
		}
		if keys, err = gitsource.ReadAllowedSigners(data); err != nil {
			return nil, err
		}
	}
	for _, file := range f.openPGP {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read a signer's key: %w", err)
		}
		keys = append(keys, spec.TrustedKey{Name: file, Owner: file, OpenPGP: string(data)})
	}
	return keys, nil
}

// tellAudit prints a report: what was looked at, then a line a finding.
func tellAudit(w io.Writer, r *gitsource.AuditReport) {
	fmt.Fprintf(w, "ledger      %s at %.12s of %s\n", r.Ledger, r.Tip, r.Time.UTC().Format(time.RFC3339))
	fmt.Fprintf(w, "walked      %d commits: %d runs of %d plans, epoch %d\n", r.Commits, r.Runs, r.Plans, r.Epoch)
	for _, key := range slices.Sorted(maps.Keys(r.Signed)) {
		fmt.Fprintf(w, "signed      %d commits by %s\n", r.Signed[key], key)
	}
	if r.Checkpoint != "" {
		fmt.Fprintf(w, "checkpoint  %s\n", r.Checkpoint)
	}
	for _, a := range r.Adoptions {
		fmt.Fprintf(w, "adopted     %.12s by %s at %s: accepts the ledger as it was at %.12s\n", a.Commit, a.By, a.Time.Format(time.RFC3339), a.Accepts)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note        %s\n", n)
	}
	for _, f := range r.Before {
		fmt.Fprintf(w, "known       %s\n", sayFinding(f))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "finding     %s\n", sayFinding(f))
	}
	if n := len(r.Findings); n > 0 {
		fmt.Fprintf(w, "result      %s: this is not what daemons wrote\n", plural(n, "finding"))
		return
	}
	fmt.Fprintln(w, "result      nothing was tampered with, as far as this can show")
}

func sayFinding(f gitsource.Finding) string {
	return strings.TrimSuffix(fmt.Sprintf("%.12s %s", f.Commit, f.Path), " ") + ": " + f.What + "; it should be " + f.Want
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

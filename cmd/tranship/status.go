package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
)

func statusCommand() *cobra.Command {
	var from ledgerFlags
	var output, daemon string
	c := &cobra.Command{
		Use:   "status [PLAN]",
		Short: "Show what is recorded of all plans, or of one, from Git alone; with --daemon also how far copies are",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			v, err := from.view(c.Context())
			if err != nil {
				return err
			}
			defer v.Close()
			plans, err := v.Plans()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if output == "json" {
					return writeJSON(c.OutOrStdout(), plans)
				}
				if err := listPlans(c.OutOrStdout(), plans, time.Now()); err != nil {
					return err
				}
				return tellTrust(c.OutOrStdout(), v)
			}
			st := plans[args[0]]
			if st == nil {
				return fmt.Errorf("the ledger has no plan %s; it has %s", args[0], strings.Join(slices.Sorted(maps.Keys(plans)), ", "))
			}
			run, err := newestRun(v, st)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(c.OutOrStdout(), map[string]any{"status": st, "run": run})
			}
			if err := tellPlan(c.OutOrStdout(), st, run, time.Now()); err != nil || daemon == "" {
				return err
			}
			now, err := askProgress(c.Context(), daemon)
			tellProgress(c.OutOrStdout(), now[args[0]])
			return err
		},
	}
	from.bind(c)
	c.Flags().StringVar(&daemon, "daemon", "", "URL of the daemon's --listen address, to show running copies")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// listPlans prints a line a plan.
func listPlans(w io.Writer, plans map[string]*spec.PlanStatus, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PLAN\tASKED\tRECORDED\tREADY\tREASON\tLAST STAGE\tNEXT STAGE\tSTOP ESTIMATE")
	for _, name := range slices.Sorted(maps.Keys(plans)) {
		st := plans[name]
		ready, reason := "Unknown", ""
		if c := meta.FindStatusCondition(st.Conditions, "Ready"); c != nil {
			ready, reason = string(c.Status), c.Reason
		}
		last, next, estimate := "-", "-", "-"
		if st.LastStage != nil {
			last = age(now, st.LastStage.Ended.Time) + " ago"
		}
		if st.NextStage != nil {
			next = "in " + age(st.NextStage.Time, now)
		}
		if st.Estimate != nil && st.Recorded.State != spec.Migrated {
			estimate = fmt.Sprintf("%.0f s", st.Estimate.StopSeconds)
		}
		recorded := st.Recorded.State
		if recorded == "" {
			recorded = spec.Staged
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, orDash(string(st.Recorded.SeenState)), recorded, ready, reason, last, next, estimate)
	}
	return t.Flush()
}

// tellTrust says which plans no approval policy covers.
func tellTrust(w io.Writer, v *gitsource.View) error {
	d, err := v.Daemon()
	if err != nil || d == nil || d.Trust == "" {
		return err
	}
	_, err = fmt.Fprintf(w, "note: %s\n", d.Trust)
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func age(later, earlier time.Time) string {
	d := later.Sub(earlier)
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

// tellPlan prints one plan with its newest run.
func tellPlan(w io.Writer, st *spec.PlanStatus, run *spec.Run, now time.Time) error {
	fmt.Fprintf(w, "plan      %s\n", st.Metadata.Name)
	for _, c := range st.Conditions {
		fmt.Fprintf(w, "%-9s %s %s: %s\n", strings.ToLower(c.Type), c.Status, c.Reason, c.Message)
	}
	for _, p := range st.Problems {
		fmt.Fprintf(w, "problem   %s:%d: %s: %s\n", p.File, p.Line, p.Path, p.Message)
	}
	fmt.Fprintf(w, "closure   %s, last changed in %.12s\n", orDash(st.Digest), orDash(st.Commit))
	if s := st.Scope; s != nil {
		fmt.Fprintf(w, "scope     %s, %d objects and claims\n", s.Digest, len(s.Entries)+s.More)
	}
	if x := st.WaitsFor; x != nil {
		tellWait(w, x, now)
	}
	if st.NextStage != nil {
		fmt.Fprintf(w, "next      stage run at %s\n", st.NextStage.UTC().Format(time.RFC3339))
	}
	if e := st.Estimate; e != nil && st.Recorded.State != spec.Migrated {
		fmt.Fprintf(w, "estimate  the cutover would stop the application for %.0f s\n", e.StopSeconds)
	}
	if err := tellVolumes(w, st.Volumes); err != nil {
		return err
	}
	if run == nil {
		return nil
	}
	fmt.Fprintln(w)
	return tellRun(w, run)
}

func size(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

func saySigner(s spec.Signer) string {
	return strings.TrimSuffix(fmt.Sprintf("by %s with key %s (%s) %s", s.Owner, s.Key, s.Way, s.Fingerprint), " ")
}

// tellRun prints a run record: who approved it, its steps with their times,
// and how it ended.
func tellRun(w io.Writer, run *spec.Run) error {
	fmt.Fprintf(w, "run       %s  %s %s\n", run.Metadata.Name, run.Status.Phase, run.Status.Reason)
	if a := run.Spec.ApprovedBy; a != nil {
		fmt.Fprintf(w, "approved  %.12s by %s at %s: %s\n", a.Commit, a.Committer, a.Time.UTC().Format(time.RFC3339), a.Subject)
		if a.Asked != "" {
			fmt.Fprintf(w, "asked     in %.12s\n", a.Asked)
		}
		for _, s := range a.Signers {
			fmt.Fprintln(w, "signed   ", saySigner(s))
		}
	}
	fmt.Fprintf(w, "digest    %s\n", run.Spec.Digest)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	done := 0
	for i, s := range run.Steps {
		if s.State == spec.StepDone {
			done++
		}
		fmt.Fprintf(t, "%3d\t%s\t%s\t%s\t%s\n", i+1, s.Name, orDash(string(s.State)), took(s), sayStep(s))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "progress  %d/%d\n", done, len(run.Steps))
	if run.Status.Message != "" {
		fmt.Fprintf(w, "result    %s\n", run.Status.Message)
	}
	for _, x := range run.Status.Warnings {
		fmt.Fprintf(w, "warning   %s\n", x)
	}
	if err := tellOutcome(w, run); err != nil {
		return err
	}
	tellCut(w, run.Cut)
	if run.Status.StopSeconds > 0 {
		fmt.Fprintf(w, "stop time: %.1f s (application's own stop and start: %.1f s)\n", run.Status.StopSeconds, run.Status.OwnSeconds)
		if e := run.Facts.Estimate; e != nil && e.ErrorSeconds != nil {
			fmt.Fprintf(w, "estimate  %.1f s, wrong by %+.1f s\n", e.StopSeconds, *e.ErrorSeconds)
		}
	}
	return nil
}

func took(s spec.Step) string {
	if s.Started == nil || s.Ended == nil {
		return "-"
	}
	return fmt.Sprintf("%.1fs", s.Ended.Sub(s.Started.Time).Seconds())
}

func sayStep(s spec.Step) string {
	say := s.Message
	if s.Reason != "" {
		say = s.Reason + ": " + say
	}
	if s.Undid != nil && s.Undid.Message != "" {
		say += " | undo: " + strings.TrimPrefix(s.Undid.Reason+": "+s.Undid.Message, ": ")
	}
	return strings.ReplaceAll(strings.TrimSuffix(say, ": "), "\n", " ")
}

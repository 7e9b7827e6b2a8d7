package main

import (
	"context"
	"errors"
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

func historyCommand() *cobra.Command {
	var from ledgerFlags
	var since, until, output string
	var all bool
	c := &cobra.Command{
		Use:   "history [PLAN]",
		Short: "Tell what happened to a plan, for people: who approved what, when, and how it went",
		Long: "Tells the story of a plan from the records in Git alone: stage runs, who approved what, cutovers with their\n" +
			"stop time, rollbacks, and failures with their reason. With --all it is a table of all plans.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return errors.New("name a plan, or ask for --all of them")
			}
			when, err := newPeriod(since, until)
			if err != nil {
				return err
			}
			show := histories[output]
			if show.one == nil {
				return fmt.Errorf("there is no output %q: it is text, markdown or json", output)
			}
			v, err := from.view(c.Context())
			if err != nil {
				return err
			}
			defer v.Close()
			told, err := tellings(c.Context(), v, args, when)
			if err != nil {
				return err
			}
			if all {
				return show.all(c.OutOrStdout(), told)
			}
			return show.one(c.OutOrStdout(), told[0])
		},
	}
	from.bind(c)
	c.Flags().BoolVar(&all, "all", false, "all plans, a line each")
	c.Flags().StringVar(&since, "since", "", "leave out runs that started before this day (2026-11-03) or instant (RFC 3339), UTC")
	c.Flags().StringVar(&until, "until", "", "leave out runs that started after this day, or after this instant")
	c.Flags().StringVarP(&output, "output", "o", "text", "text, markdown or json")
	return c
}

// histories are the ways to print one plan and all of them.
var histories = map[string]struct {
	one func(io.Writer, telling) error
	all func(io.Writer, []telling) error
}{
	"text":     {textHistory, textTable},
	"markdown": {markdownHistory, markdownTable},
	"json":     {func(w io.Writer, t telling) error { return writeJSON(w, t) }, func(w io.Writer, t []telling) error { return writeJSON(w, t) }},
}

// period is what --since and --until leave in; zero ends are open.
type period struct{ from, to time.Time }

func newPeriod(since, until string) (p period, err error) {
	if p.from, _, err = instant("--since", since); err != nil {
		return p, err
	}
	var day bool
	if p.to, day, err = instant("--until", until); day {
		p.to = p.to.AddDate(0, 0, 1).Add(-1) // the day itself belongs to it
	}
	if err == nil && !p.to.IsZero() && p.to.Before(p.from) {
		err = errors.New("--until lies before --since")
	}
	return p, err
}

func instant(flag, text string) (at time.Time, day bool, err error) {
	if text == "" {
		return at, false, nil
	}
	if at, err = time.Parse(time.DateOnly, text); err == nil {
		return at, true, nil
	}
	if at, err = time.Parse(time.RFC3339, text); err != nil {
		err = fmt.Errorf("%s %q is neither a day such as 2026-11-03 nor an instant such as 2026-11-03T14:00:00Z", flag, text)
	}
	return at, false, err
}

func (p period) holds(t time.Time) bool {
	return !t.Before(p.from) && (p.to.IsZero() || !t.After(p.to))
}

// telling is the story of one plan.
type telling struct {
	Plan   string     `json:"plan"`
	State  spec.State `json:"state"`
	Now    string     `json:"now,omitempty"` // what the status says
	Events []happened `json:"events"`

	runs []*spec.Run
}

// tellings reads the plans that are asked for, or all of them, by name.
func tellings(ctx context.Context, v *gitsource.View, names []string, when period) ([]telling, error) {
	plans, err := v.Plans()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(plans))
	}
	for _, name := range names {
		if plans[name] == nil {
			return nil, fmt.Errorf("the ledger has no plan %s; it has %s", name, strings.Join(slices.Sorted(maps.Keys(plans)), ", "))
		}
	}
	runs := map[string][]*spec.Run{}
	seen := map[string]bool{} // the newest year first: there a record is as it ended
	err = eachYear(ctx, v, func(v *gitsource.View) (bool, error) {
		_, made := v.Commit()
		if made.Before(when.from) { // all that is in there began before
			return false, nil
		}
		for _, name := range names {
			if err := collect(v, name, when, seen, runs); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	out := []telling{}
	for _, name := range names {
		out = append(out, tellingOf(plans[name], runs[name]))
	}
	return out, err
}

// collect adds the runs of a plan that began in a period.
func collect(v *gitsource.View, name string, when period, seen map[string]bool, runs map[string][]*spec.Run) error {
	paths, err := v.Runs(name)
	if err != nil {
		return err
	}
	for _, p := range paths {
		if seen[p] {
			continue
		}
		seen[p] = true
		run, err := v.Run(name, p)
		if err != nil {
			return err
		}
		if run.Spec.Plan == name && when.holds(run.Status.Started.Time) {
			runs[name] = append(runs[name], run)
		}
	}
	return nil
}

func tellingOf(st *spec.PlanStatus, runs []*spec.Run) telling {
	slices.SortStableFunc(runs, func(a, b *spec.Run) int { return a.Status.Started.Compare(b.Status.Started.Time) })
	t := telling{Plan: st.Metadata.Name, State: st.Recorded.State, Events: []happened{}, runs: runs}
	if t.State == "" {
		t.State = spec.Staged
	}
	if c := meta.FindStatusCondition(st.Conditions, "Ready"); c != nil {
		t.Now = strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
	}
	for _, run := range runs {
		t.Events = append(t.Events, eventsOf(run)...)
	}
	slices.SortStableFunc(t.Events, func(a, b happened) int { return a.Time.Compare(b.Time) })
	return t
}

func textHistory(w io.Writer, t telling) error {
	fmt.Fprintf(w, "plan %s is recorded as %s", t.Plan, t.State)
	if t.Now != "" {
		fmt.Fprintf(w, " (%s)", t.Now)
	}
	fmt.Fprintln(w)
	for _, e := range folded(t.Events) {
		fmt.Fprintf(w, "\n%s  %s\n", e.Time.UTC().Format("2006-01-02 15:04:05 UTC"), e.What)
		for _, d := range e.Details {
			fmt.Fprintf(w, "                         %s\n", d)
		}
	}
	if len(t.Events) == 0 {
		fmt.Fprintln(w, "\nno run is recorded in this time")
	}
	return nil
}

func markdownHistory(w io.Writer, t telling) error {
	fmt.Fprintf(w, "# History of plan %s\n\nRecorded as **%s**.", mark(t.Plan), t.State)
	if t.Now != "" {
		fmt.Fprintf(w, " %s", mark(t.Now))
	}
	fmt.Fprint(w, "\n\n")
	for _, e := range folded(t.Events) {
		fmt.Fprintf(w, "- **%s** %s\n", e.Time.UTC().Format("2006-01-02 15:04:05 UTC"), mark(e.What))
		for _, d := range e.Details {
			fmt.Fprintf(w, "  - %s\n", mark(d))
		}
	}
	if len(t.Events) == 0 {
		fmt.Fprintln(w, "No run is recorded in this time.")
	}
	return nil
}

// mark keeps text from being read as markup: names and messages come from
// manifests and programs.
func mark(text string) string {
	return markup.Replace(text)
}

var markup = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;", "|", `\|`, "#", `\#`)

// columns of the table of all plans.
var columns = []string{"PLAN", "STATE", "STAGES", "CUTOVERS", "ROLLBACKS", "LAST CUTOVER", "STOPPED", "APPROVED BY", "LAST FAILURE"}

// row is one plan in the table: what was tried and how often it failed, and the
// newest cutover that succeeded.
func row(t telling) []string {
	tried, failed := map[spec.RunKind]int{}, map[spec.RunKind]int{}
	at, stop, who, why := "-", "-", "-", "-"
	for _, run := range t.runs {
		kind := run.Spec.Kind
		tried[kind]++
		switch ok := run.Status.Phase == spec.RunSucceeded; {
		case run.Status.Ended == nil:
		case !ok:
			failed[kind]++
			why = run.Metadata.Name + ": " + orDash(run.Status.Reason)
		case kind == spec.RunMigrate:
			at, stop = run.Status.Ended.UTC().Format("2006-01-02 15:04"), fmt.Sprintf("%.1f s", run.Status.StopSeconds)
			if a := run.Spec.ApprovedBy; a != nil {
				who = a.Committer
			}
		}
	}
	counts := func(k spec.RunKind) string {
		if failed[k] > 0 {
			return fmt.Sprintf("%d (%d failed)", tried[k], failed[k])
		}
		return fmt.Sprint(tried[k])
	}
	return []string{t.Plan, string(t.State), counts(spec.RunStage), counts(spec.RunMigrate), counts(spec.RunRollback), at, stop, who, why}
}

func textTable(w io.Writer, all []telling) error {
	tab := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tab, strings.Join(columns, "\t"))
	for _, t := range all {
		fmt.Fprintln(tab, strings.Join(row(t), "\t"))
	}
	return tab.Flush()
}

func markdownTable(w io.Writer, all []telling) error {
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, t := range all {
		cells := row(t)
		for i := range cells {
			cells[i] = mark(cells[i])
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	return nil
}

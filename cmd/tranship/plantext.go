package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tranship/tranship/spec"
)

// tellReport prints the report for a terminal.
func tellReport(w io.Writer, r *planReport) error {
	fmt.Fprintf(w, "against   %.12s\n", r.Against)
	if r.Ledger != "" {
		fmt.Fprintf(w, "ledger    %.12s\n", r.Ledger)
	}
	if r.Hold != nil {
		fmt.Fprintf(w, "held      %s: %s\n", r.Hold.Reason, printable(r.Hold.Message))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note      %s\n", printable(n))
	}
	tellProblems(w, r.Problems)
	for _, p := range r.Plans {
		fmt.Fprintln(w)
		if err := p.tell(w); err != nil {
			return err
		}
	}
	if len(r.Plans) == 0 {
		fmt.Fprintln(w, "no plan is touched")
	}
	return nil
}

func tellProblems(w io.Writer, all []spec.Problem) {
	for _, x := range all {
		fmt.Fprintf(w, "problem   %s\n", printable(sayProblem(x)))
	}
}

func sayProblem(x spec.Problem) string {
	say := x.Message
	if x.Path != "" {
		say = x.Path + ": " + say
	}
	if x.File == "" {
		return x.Document + ": " + say
	}
	return fmt.Sprintf("%s:%d: %s", x.File, x.Line, say)
}

func (p *foreseenPlan) tell(w io.Writer) error {
	fmt.Fprintf(w, "plan      %s\n", printable(p.Name))
	fmt.Fprintf(w, "merging   %s\n", p.headline())
	fmt.Fprintf(w, "because   %s: %s\n", p.Reason, printable(p.Message))
	if p.Digest != "" {
		fmt.Fprintf(w, "closure   %s, %s\n", p.Digest, p.digestNews())
	}
	for _, fact := range p.facts() {
		fmt.Fprintf(w, "%-9s %s\n", fact[0], printable(fact[1]))
	}
	for _, c := range p.Objects {
		fmt.Fprintf(w, "objects   %d %s\n", c.Source, c.Kind)
	}
	if err := tellVolumes(w, p.Volumes); err != nil {
		return err
	}
	tellProblems(w, p.Problems)
	for _, list := range []struct {
		name string
		say  []string
	}{{"error", p.Errors}, {"warning", p.Warnings}, {"unknown", p.Unknown}} {
		for _, x := range list.say {
			fmt.Fprintf(w, "%-9s %s\n", list.name, printable(x))
		}
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for i, s := range p.Steps {
		fmt.Fprintf(t, "%3d\t%s\t%s\n", i+1, s.Name, s.Help)
	}
	return t.Flush()
}

// headlines say what merging does.
var headlines = map[string]string{
	actCutover:  "starts the cutover",
	actRollback: "starts the rollback",
	actClose:    "ends the plan",
	actStage:    "starts a stage run",
	actCancel:   "undoes the cutover that is going on",
	actRemoved:  "removes the plan: nothing is put back or deleted",
	actNothing:  "does nothing",
	actRefused:  "is refused",
}

func (p *foreseenPlan) headline() string {
	say := headlines[p.Action]
	if p.At != nil && p.Action != actRefused {
		say += " at " + p.At.Format(time.RFC3339)
	}
	if p.After != "" && p.Action != actRefused {
		say += " after run " + p.After
	}
	return say
}

func (p *foreseenPlan) digestNews() string {
	switch p.DigestBefore {
	case "":
		return "new"
	case p.Digest:
		return "unchanged"
	}
	return "changed"
}

// facts are names and values, for all forms of the report.
func (p *foreseenPlan) facts() [][2]string {
	var out [][2]string
	add := func(name, format string, args ...any) {
		out = append(out, [2]string{name, fmt.Sprintf(format, args...)})
	}
	switch {
	case p.To == "":
	case p.From == "" || p.From == p.To:
		add("state", "%s, attempt %d", p.To, p.Attempt)
	default:
		add("state", "%s -> %s, attempt %d", p.From, p.To, p.Attempt)
	}
	if p.SourceCluster != "" {
		add("clusters", "%s -> %s", p.SourceCluster, p.TargetCluster)
	}
	if len(p.Namespaces) > 0 {
		add("names", "%s", strings.Join(p.Namespaces, ", "))
	}
	if p.Scope != nil {
		add("scope", "%s, %d objects and claims", p.Scope.Digest, len(p.Scope.Entries)+p.Scope.More)
	}
	if p.StopSeconds != nil {
		add("estimate", "the application is stopped for %.0f s", *p.StopSeconds)
	}
	if p.ApprovalEnds != nil {
		add("approval", "the merge approves it; until %s", p.ApprovalEnds.Format(time.RFC3339))
	}
	return out
}

// printable keeps what others wrote from moving the cursor or hiding text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if hides(r) {
			return -1
		}
		return r
	}, s)
}

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tranship/tranship/spec"
)

// shown is how many lines of a list people get; the record holds all.
const shown = 20

// tellOutcome prints what a cutover made of the application: where users
// reach it, how many objects came over, what was left and what was changed.
func tellOutcome(w io.Writer, run *spec.Run) error {
	if run.Spec.Kind != spec.RunMigrate { // a rollback carries the cutover's facts
		return nil
	}
	f := &run.Facts
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	lines(t, len(f.Traffic), "traffic", func(n int) string {
		x := f.Traffic[n]
		return fmt.Sprintf("%s %s\t%s -> %s", x.Kind, x.Namespace+"/"+x.Name, orDash(x.OldAddress), orDash(x.NewAddress))
	})
	if err := t.Flush(); err != nil {
		return err
	}
	if slices.ContainsFunc(f.Counts, func(c spec.Count) bool { return c.Target > 0 }) {
		fmt.Fprintf(w, "objects   %s\n", sayCounts(f.Counts))
	}
	lines(w, len(f.Skipped), "skipped", func(n int) string {
		x := f.Skipped[n]
		return fmt.Sprintf("%s %s was on the target before and is left as it is", x.Kind, strings.TrimPrefix(x.Namespace+"/"+x.Name, "/"))
	})
	lines(w, len(f.Updated), "updated", func(n int) string {
		x := f.Updated[n]
		return fmt.Sprintf("%s %s was on the target before and is made what the source has; a rollback puts it back", x.Kind, strings.TrimPrefix(x.Namespace+"/"+x.Name, "/"))
	})
	lines(t, len(f.Changes), "changed", func(n int) string { return sayChange(&f.Changes[n]) })
	return t.Flush()
}

// tellCut says what a record lacks of what was said, and that it is too large.
func tellCut(w io.Writer, c *spec.Cut) {
	if c == nil {
		return
	}
	if c.Bytes > 0 {
		fmt.Fprintf(w, "left out  %d bytes: %d sentences were shortened, and %d entries of lists are gone\n", c.Bytes, c.Messages, c.Entries)
	}
	if c.Over != "" {
		fmt.Fprintf(w, "record    %s\n", c.Over)
	}
}

// lines prints at most shown lines of a list of n, each with the same title.
func lines(w io.Writer, n int, title string, line func(int) string) {
	for k := range min(n, shown) {
		fmt.Fprintf(w, "%-9s %s\n", title, line(k))
	}
	if n > shown {
		fmt.Fprintf(w, "%-9s and %d more, see the run's record (-o json)\n", title, n-shown)
	}
}

// sayCounts names the kinds that did not come over whole, and sums up the rest.
func sayCounts(counts []spec.Count) string {
	var source, target int
	var parts []string
	for _, c := range counts {
		source, target = source+c.Source, target+c.Target
		if c.Source != c.Target {
			parts = append(parts, fmt.Sprintf("%s %d -> %d", c.Kind, c.Source, c.Target))
		}
	}
	say := fmt.Sprintf("%d on the source, %d of them on the target", source, target)
	if len(parts) > 0 {
		say += "; " + strings.Join(parts, ", ")
	}
	return say
}

func sayChange(c *spec.Change) string {
	held := ""
	if c.Held {
		held = " (held at first)"
	}
	objects := strings.Join(c.Objects, ", ")
	if c.More > 0 {
		objects += fmt.Sprintf(" and %d more", c.More)
	}
	return fmt.Sprintf("%s\t%s -> %s%s\t%s", c.Field, orDash(c.From), orDash(c.To), held, objects)
}

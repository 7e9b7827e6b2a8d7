package main

import (
	"fmt"
	"html"
	"strings"
	"unicode"

	"github.com/tranship/tranship/spec"
)

// Limits of the comment. Hosts take 64 KiB or more.
const (
	maxComment  = 60_000 // bytes
	maxRows     = 100    // of one table or list
	maxTable    = 8_000  // bytes
	maxList     = 4_000  // bytes
	maxSentence = 1000   // bytes of one text that others wrote
)

// markdown is the report as a comment: a short summary, and details folded. All
// that was read from documents and clusters is escaped.
func markdown(r *planReport) string {
	var b strings.Builder
	b.WriteString(summary(r))
	var cut int
	for _, p := range r.Plans {
		if d := p.details(len(r.Plans) == 1); b.Len()+len(d)+200 <= maxComment {
			b.WriteString(d)
		} else {
			cut++
		}
	}
	if cut > 0 {
		fmt.Fprintf(&b, "\nThe details of %d of %d plans are cut: `tranship plan` prints them all.\n", cut, len(r.Plans))
	}
	return b.String()
}

func summary(r *planReport) string {
	var b strings.Builder
	who := "Tranship"
	if r.Shard != "" {
		who += ", shard " + prose(r.Shard)
	}
	fmt.Fprintf(&b, "### %s: %s\n\n", who, verdictOf(r))
	if r.Hold != nil {
		fmt.Fprintf(&b, "**Everything is held**, %s: %s\n\n", code(r.Hold.Reason), prose(r.Hold.Message))
	}
	if len(r.Plans) > 0 {
		var rows [][]string
		for _, p := range r.Plans {
			rows = append(rows, []string{cell(p.Name), prose(p.headline()), prose(shorten(p.Message, 300))})
		}
		table(&b, []string{"plan", "merging this", "because"}, rows)
	}
	list(&b, "", problemsOf(r.Problems))
	list(&b, "Look at this before you approve", r.doubts())
	list(&b, "", r.Notes)
	fmt.Fprintf(&b, "<sub>Against commit %s", prose(shorten(r.Against, 12))) // no time: what says the same is not posted again
	if r.Ledger != "" {
		fmt.Fprintf(&b, ", with the ledger at %s", prose(shorten(r.Ledger, 12)))
	}
	b.WriteString(".</sub>\n\n")
	return b.String()
}

// doubts are what a reviewer must not miss: they stand above the fold.
func (r *planReport) doubts() []string {
	var all []string
	for _, p := range r.Plans {
		for _, say := range append(append([]string{}, p.Errors...), p.Warnings...) {
			all = append(all, "plan "+p.Name+": "+say)
		}
	}
	return all
}

func verdictOf(r *planReport) string {
	switch n := len(r.Plans); {
	case r.exitCode() == 1:
		return "something is wrong"
	case n == 0:
		return "no plan is touched"
	case r.exitCode() == 0:
		return "merging this does nothing"
	case n == 1:
		return fmt.Sprintf("merging this %s (plan %s)", prose(r.Plans[0].headline()), code(r.Plans[0].Name))
	default:
		return fmt.Sprintf("merging this concerns %d plans", n)
	}
}

func problemsOf(all []spec.Problem) []string {
	var out []string
	for _, x := range all {
		out = append(out, sayProblem(x))
	}
	return out
}

// details is the part of one plan that can be folded; the only one is open.
func (p *foreseenPlan) details(open bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<details%s><summary><code>%s</code> %s</summary>\n\n", map[bool]string{true: " open"}[open], tame(p.Name), tame(p.headline()))
	fmt.Fprintf(&b, "**%s** %s\n\n", prose(p.Reason), prose(p.Message))
	if p.Digest != "" {
		fmt.Fprintf(&b, "- what is approved: %s (%s)\n", code(p.Digest), p.digestNews())
	}
	for _, f := range p.facts() {
		fmt.Fprintf(&b, "- %s: %s\n", f[0], prose(f[1]))
	}
	b.WriteString("\n")
	list(&b, "Problems", problemsOf(p.Problems))
	list(&b, "Errors", p.Errors)
	list(&b, "Warnings", p.Warnings)
	list(&b, "Not known", p.Unknown)
	p.tables(&b)
	b.WriteString("</details>\n\n")
	return b.String()
}

func (p *foreseenPlan) tables(b *strings.Builder) {
	var rows [][]string
	for i := range p.Volumes {
		v := &p.Volumes[i]
		rows = append(rows, []string{cell(named(v)), prose(strings.TrimSpace(v.Action + " " + v.Method)), cell(orDash(v.Capacity)), cell(classes(v)), prose(data(v.Files, v.Bytes)), prose(data(v.ChangedFiles, v.ChangedBytes))})
	}
	table(b, []string{"volume", "action", "size", "storage class", "data", "last change"}, rows)
	var notes []string
	for i := range p.Volumes {
		for _, n := range append(p.Volumes[i].Notes, p.Volumes[i].Warnings...) {
			notes = append(notes, "claim "+named(&p.Volumes[i])+": "+n)
		}
	}
	list(b, "", notes)
	rows = nil
	for _, c := range p.Objects {
		rows = append(rows, []string{cell(c.Kind), fmt.Sprint(c.Source)})
	}
	table(b, []string{"kind", "objects"}, rows)
	rows = nil
	for i, s := range p.Steps {
		rows = append(rows, []string{fmt.Sprint(i + 1), cell(s.Name), prose(s.Help)})
	}
	if len(rows) > 0 {
		fmt.Fprintf(b, "<details><summary>its %d steps</summary>\n\n", len(rows))
		table(b, []string{"", "step", "what it does"}, rows)
		b.WriteString("</details>\n\n")
	}
}

func table(b *strings.Builder, head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	began := b.Len()
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for i, r := range rows {
		if i == maxRows || b.Len()-began > maxTable {
			fmt.Fprintf(b, "\nand %d more\n", len(rows)-i)
			break
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(r, " | "))
	}
	b.WriteString("\n")
}

func list(b *strings.Builder, title string, items []string) {
	if len(items) == 0 {
		return
	}
	if title != "" {
		fmt.Fprintf(b, "%s:\n\n", title)
	}
	began := b.Len()
	for i, x := range items {
		if i == maxRows || b.Len()-began > maxList {
			fmt.Fprintf(b, "- and %d more\n", len(items)-i)
			break
		}
		fmt.Fprintf(b, "- %s\n", prose(x))
	}
	b.WriteString("\n")
}

// prose escapes a sentence: no HTML, no markup, no links, and no mention of
// people, issues or whatever else a host makes of a sign before a word.
func prose(s string) string {
	var b strings.Builder
	for _, r := range limit(printable(s)) {
		switch {
		case r == '<' || r == '>' || r == '&':
			b.WriteString(html.EscapeString(string(r)))
		case strings.ContainsRune("\\`*_{}[]()|~$", r):
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
		if strings.ContainsRune(active, r) {
			b.WriteRune(gap)
		}
	}
	return unlink(b.String())
}

const (
	// active signs turn the word behind them into a link to people, issues and more.
	active = "@#!~$%&"
	// gap has no width and ends such a sign's power.
	gap = '\u200b'
)

// unlink breaks what hosts turn into links by themselves.
func unlink(s string) string {
	return strings.NewReplacer("://", ":"+string(gap)+"//", "www.", "www"+string(gap)+".", "GH-", "GH"+string(gap)+"-").Replace(s)
}

// tame escapes a sentence where HTML stands, and no markup is read.
func tame(s string) string {
	var b strings.Builder
	for _, r := range limit(printable(s)) {
		b.WriteString(html.EscapeString(string(r)))
		if strings.ContainsRune(active, r) {
			b.WriteRune(gap)
		}
	}
	return unlink(b.String())
}

// code is a name that nothing is made of.
func code(s string) string {
	s = limit(printable(s))
	longest, n := 0, 0
	for _, r := range s {
		if n++; r != '`' {
			n = 0
		}
		longest = max(longest, n)
	}
	fence := strings.Repeat("`", longest+1)
	if longest > 0 || strings.TrimSpace(s) == "" {
		s = " " + s + " "
	}
	return fence + s + fence
}

// cell is a name in a table, where a bar ends even code.
func cell(s string) string {
	if strings.ContainsAny(s, "|\\") {
		return prose(s)
	}
	return code(s)
}

func limit(s string) string { return shorten(s, maxSentence) }

// shorten cuts text that is not escaped yet, at a rune.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// hides says that a character changes how others are shown, or shows nothing.
func hides(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar
}

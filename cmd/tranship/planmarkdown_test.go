package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
)

// hostile texts try to leave their place: HTML, markup, mentions, references, links.
var hostile = []string{
	"<img src=x onerror=alert(1)>", "</details></summary><script>", "a | b", `a \| b`, "@everyone see #1, !2 ~bug $3 %4 &5", "o/r#6 GH-7", "[click](https://evil.example.com)",
	"![x](https://evil.example.com/track.png)", "https://evil.example.com www.evil.example.com", "`code` ``` fence", "line\n/close\n# head", "\u202egnp.exe\u200b\x1b[31m", "&lt;b&gt; &#64;you",
}

// harmful is what must never be found outside of code.
var harmful = regexp.MustCompile(`<(img|script)|</summary><script|[@#!~$%]\w|https?://|www\.\w|GH-\d|\n/close|\n# head|` + "\u202e|\x1b")

func TestMarkdownEscapesEverything(t *testing.T) {
	all := strings.Join(hostile, " ")
	r := &planReport{Against: "0", Time: planTime, Hold: &spec.Waiting{Reason: all, Message: all}, Notes: hostile}
	for _, h := range append(hostile, all) {
		stop := 1.0
		r.Problems = append(r.Problems, spec.Problem{File: h, Line: 1, Path: h, Message: h})
		r.Plans = append(r.Plans, &foreseenPlan{
			Name: h, Action: actCutover, After: h, Reason: h, Message: h, From: spec.State(h), To: "x", Digest: h, SourceCluster: h, TargetCluster: h, StopSeconds: &stop,
			Namespaces: []string{h}, Objects: []spec.Count{{Kind: h}}, Steps: []plannedStep{{h, h}}, Errors: []string{h}, Warnings: []string{h}, Unknown: []string{h},
			Volumes: []spec.Volume{{Namespace: h, Claim: h, TargetClaim: h, Action: h, Capacity: h, StorageClassName: h, Notes: []string{h}}},
		})
	}
	for n, line := range strings.Split(markdown(r), "\n") {
		if found := harmful.FindString(withoutCode(line)); found != "" {
			t.Errorf("line %d has %q: %s", n+1, found, line)
		}
	}
	if n, m := strings.Count(markdown(r), "\n<details>"), strings.Count(markdown(r), "\n</details>\n"); n != m || n != 2*len(r.Plans) {
		t.Errorf("%d details are opened and %d closed, of %d plans and their steps", n, m, len(r.Plans))
	}
}

// The heading of a single plan has its name and what will be done, escaped too.
func TestMarkdownHeadingIsEscaped(t *testing.T) {
	for _, h := range hostile {
		r := &planReport{Against: "0", Time: planTime, Plans: []*foreseenPlan{{Name: h, Action: actCutover, After: h, Reason: "Reason", From: spec.State(h), To: "x", Warnings: []string{h}}}}
		for n, line := range strings.Split(markdown(r), "\n") {
			if found := harmful.FindString(withoutCode(line)); found != "" {
				t.Errorf("line %d has %q: %s", n+1, found, line)
			}
		}
	}
}

// withoutCode takes code spans away, as CommonMark finds them.
func withoutCode(line string) string {
	var out strings.Builder
	for line != "" {
		if line[0] == '\\' && len(line) > 1 {
			out.WriteString(line[:2])
			line = line[2:]
			continue
		}
		n := len(line) - len(strings.TrimLeft(line, "`"))
		if n == 0 {
			out.WriteByte(line[0])
			line = line[1:]
			continue
		}
		fence := line[:n]
		rest := line[n:]
		end := regexp.MustCompile("(^|[^`])" + fence + "($|[^`])").FindStringIndex(rest)
		if end == nil {
			out.WriteString(fence)
			line = rest
			continue
		}
		line = strings.TrimLeft(rest[end[0]+1:], "`")
	}
	return out.String()
}

// Every row has as many cells as the head of its table.
func TestMarkdownTablesKeepTheirCells(t *testing.T) {
	var b strings.Builder
	var rows [][]string
	for _, h := range hostile {
		rows = append(rows, []string{cell(h), prose(h)})
	}
	table(&b, []string{"name", "text"}, rows)
	for _, line := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		plain := strings.NewReplacer(`\\`, "", `\|`, "").Replace(line)
		if n := strings.Count(plain, "|"); n != 3 {
			t.Errorf("%d borders: %s", n, line)
		}
	}
}

func TestMarkdownIsBounded(t *testing.T) {
	r := &planReport{Against: "0", Time: planTime}
	for i := range 100 {
		p := &foreseenPlan{Name: fmt.Sprint("plan-", i), Action: actStage, Message: strings.Repeat("<x", 5000)}
		for range 1000 {
			p.Warnings = append(p.Warnings, strings.Repeat("&", 2000))
		}
		r.Plans = append(r.Plans, p)
	}
	text := markdown(r)
	if len(text) > maxComment || !strings.Contains(text, " of 100 plans are cut: `tranship plan` prints them all") || !strings.Contains(text, "more\n") {
		t.Errorf("%d bytes: %.200s … %s", len(text), text, text[len(text)-200:])
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tranship/tranship/spec"
)

// row is one result, as it is written.
type row struct {
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Peer      string  `json:"peer"`
	PeerValue float64 `json:"peerValue"`
	Ratio     float64 `json:"ratio"`
	Bar       float64 `json:"bar"` // 0: there is none, the row is for information
	Pass      bool    `json:"pass"`
	// Note says on what it was measured, or why it was not.
	Note string `json:"note,omitempty"`
}

func writeRow(dir string, r row) error {
	raw, err := json.MarshalIndent([]row{r}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", r.Name, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of the results: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, r.Name+".json"), append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot write the result of %s: %w", r.Name, err)
	}
	return nil
}

func printTable(w io.Writer, rows []row) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tVALUE\tUNIT\tPEER VALUE\tRATIO\tBAR\tPASS\tNOTE")
	for _, r := range rows {
		bar, pass := fmt.Sprintf("%.2f", r.Bar), fmt.Sprint(r.Pass)
		if r.Bar == 0 {
			bar, pass = "-", "-"
		}
		fmt.Fprintf(t, "%s\t%.2f\t%s\t%.2f\t%.2f\t%s\t%s\t%s\n", r.Name, r.Value, r.Unit, r.PeerValue, r.Ratio, bar, pass, r.Note)
	}
	t.Flush()
	fmt.Fprintln(w, "the peers:")
	for _, r := range rows {
		fmt.Fprintf(w, "  %s: %s\n", r.Name, r.Peer)
	}
	fmt.Fprintf(w, "load average %s\n", loadAverage())
}

func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(raw))[:3], " ")
}

// sample is one figure, measured several times.
type sample []float64

func (s sample) sorted() sample {
	c := slices.Clone(s)
	slices.Sort(c)
	return c
}

func (s sample) median() float64 {
	c := s.sorted()
	if len(c) == 0 {
		return 0
	}
	if n := len(c) / 2; len(c)%2 == 0 {
		return (c[n-1] + c[n]) / 2
	}
	return c[len(c)/2]
}

func (s sample) String() string {
	c := s.sorted()
	if len(c) == 0 {
		return "not measured"
	}
	return fmt.Sprintf("min %.2f  median %.2f  max %.2f  (%d runs)", c[0], s.median(), c[len(c)-1], len(c))
}

// parts are named pieces of a whole, in the order in which they came up.
type parts struct {
	names []string
	times map[string]sample
}

func (p *parts) add(name string, d time.Duration) {
	if p.times == nil {
		p.times = map[string]sample{}
	}
	if _, known := p.times[name]; !known {
		p.names = append(p.names, name)
	}
	p.times[name] = append(p.times[name], d.Seconds())
}

// betweenSteps is what no step accounts for: decisions, the journal, pushes.
const betweenSteps = "between steps"

// addSteps adds a run's steps up to the one named last and the rest of the
// time between the run's start and the end given.
func (p *parts) addSteps(r *spec.Run, last string, end time.Time) {
	rest := end.Sub(r.Status.Started.Time)
	for _, s := range r.Steps {
		if s.Started == nil || s.Ended == nil {
			continue
		}
		d := s.Ended.Sub(s.Started.Time)
		p.add(s.Name, d)
		if rest -= d; s.Name == last {
			break
		}
	}
	p.add(betweenSteps, rest)
}

func (p *parts) print(w io.Writer, title string) {
	fmt.Fprintln(w, title)
	for _, n := range p.names {
		fmt.Fprintf(w, "  %-18s %s\n", n, p.times[n])
	}
}

// alternate measures the product and its peer; who goes first alternates.
func alternate(i int, product, peer func() error) error {
	if i%2 == 1 {
		product, peer = peer, product
	}
	if err := product(); err != nil {
		return err
	}
	return peer()
}

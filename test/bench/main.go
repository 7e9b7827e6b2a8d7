// Bench measures the product on the bed against what the same work costs
// without it, and writes one JSON file a row. Whatever falls short, it exits 0;
// it fails only when something could not be measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// How long all benchmarks together may take; with the volumes of -full longer.
const (
	limit     = 40 * time.Minute
	fullLimit = 4 * time.Hour
)

// bench is one measurement, which gives one row or several.
type bench struct {
	name    string
	measure func(ctx context.Context, l *lab, runs int) ([]row, error)
}

// one is a measurement of one row.
func one(name string, measure func(ctx context.Context, l *lab, runs int) (row, error)) bench {
	return bench{name, func(ctx context.Context, l *lab, runs int) ([]row, error) {
		r, err := measure(ctx, l, runs)
		r.Name = name
		return []row{r}, err
	}}
}

// sets are what `make bench`, `make bench-git` and `make bench-data` measure.
var sets = map[string][]bench{
	"overhead": {
		one("overhead.noop-cutover", noopCutover),
		one("stage.nothing-changed", stageNothingChanged),
	},
	"git": {{"git", gitRows}},
	"data": {
		one("stop.bed-100mb", stopBed),
		{"large-file", largeFile},
		{"small-files", smallFiles},
		{"copy", copies},
		one("memory.many-files", moverMemory),
		one("stage.nothing-changed-many", stageManyFiles),
	},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == moverCommand {
		return runMover(ctx, args[1:])
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	bedFile := flags.String("bed", "/var/lib/tranship-bed/bed.json", "the bed's description, made by make bed-up")
	binary := flags.String("tranship", "build/tranship", "the product's binary, made by make build")
	out := flags.String("out", "build/bench", "folder for the results")
	runs := flags.Int("runs", 0, "runs a row, at least 3; 0 means 5, and 3 of the set data")
	set := flags.String("set", "overhead", "what is measured: overhead, git (which needs no bed) or data")
	only := flags.String("only", "", "names of measurements, separated by commas; empty means all of the set")
	full := flags.Bool("full", false, "the volumes' full sizes: needs 60 GB of disk and hours")
	size := sizeFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	within := limit
	if *full {
		within, *size = fullLimit, fullSizes
	}
	if *runs == 0 {
		*runs = map[string]int{"overhead": 5, "git": 5, "data": 3}[*set]
	}
	ctx, stop := context.WithTimeout(ctx, within)
	defer stop()
	if *set == "git" {
		return runGit(ctx, *out, max(3, *runs))
	}
	l, err := newLab(ctx, *bedFile, *binary)
	if err != nil {
		return err
	}
	l.size = *size
	var names []string
	if *only != "" {
		names = strings.Split(*only, ",")
	}
	return errors.Join(l.measureAll(ctx, sets[*set], names, *out, max(3, *runs)), l.cleanUp())
}

// runGit needs nothing but the git program.
func runGit(ctx context.Context, out string, runs int) error {
	dir, err := os.MkdirTemp("", "tranship-bench-git-")
	if err != nil {
		return fmt.Errorf("cannot make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	l := &lab{dir: dir}
	return l.measureAll(ctx, sets["git"], nil, out, runs)
}

// measureAll goes on after a measurement that failed, and prints what there is.
func (l *lab) measureAll(ctx context.Context, benches []bench, names []string, out string, runs int) (err error) {
	var rows []row
	for _, b := range benches {
		if len(names) > 0 && !slices.Contains(names, b.name) {
			continue
		}
		fmt.Printf("\n%s (load average %s)\n", b.name, loadAverage())
		measured, failed := b.measure(ctx, l, runs)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("%s could not be measured: %w\nThe daemon's log ends:\n%s", b.name, failed, l.logTail()))
			continue
		}
		for _, r := range measured {
			rows = append(rows, r)
			err = errors.Join(err, writeRow(out, r))
		}
	}
	printTable(os.Stdout, rows)
	return err
}

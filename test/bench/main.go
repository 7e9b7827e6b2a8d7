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

// limit is how long all benchmarks together may take.
const limit = 40 * time.Minute

// bench is one row of the table.
type bench struct {
	name    string
	measure func(ctx context.Context, l *lab, runs int) (row, error)
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

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	bedFile := flags.String("bed", "/var/lib/tranship-bed/bed.json", "the bed's description, made by make bed-up")
	binary := flags.String("tranship", "build/tranship", "the product's binary, made by make build")
	out := flags.String("out", "build/bench", "folder for the results")
	runs := flags.Int("runs", 5, "runs a row, at least 3")
	only := flags.String("only", "", "names of rows, separated by commas; empty means all")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	l, err := newLab(ctx, *bedFile, *binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.cleanUp()) }()
	var rows []row
	for _, b := range []bench{
		{"overhead.noop-cutover", noopCutover},
		{"stage.nothing-changed", stageNothingChanged},
	} {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), b.name) {
			continue
		}
		fmt.Printf("\n%s (load average %s)\n", b.name, loadAverage())
		r, rerr := b.measure(ctx, l, max(3, *runs))
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("%s could not be measured: %w\nThe daemon's log ends:\n%s", b.name, rerr, l.logTail()))
			continue
		}
		r.Name = b.name
		rows = append(rows, r)
		err = errors.Join(err, writeRow(*out, r))
	}
	printTable(os.Stdout, rows)
	return err
}

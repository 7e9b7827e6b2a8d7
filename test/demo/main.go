// Command demo moves an application with data from one real cluster to another
// because a commit was merged, and proves that nothing was lost on the way.
// It runs on the test bed and drives the product as a person would: with the
// git command and the tranship binary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	bed      string
	tranship string
	branch   string
	ledger   string
	keep     bool
}

func main() {
	var o options
	flag.StringVar(&o.bed, "bed", "/var/lib/tranship-bed/bed.json", "the file that tells where the bed's clusters and services are")
	flag.StringVar(&o.tranship, "tranship", "", "the product's binary")
	flag.StringVar(&o.branch, "branch", "main", "branch of the plans; its history is replaced")
	flag.StringVar(&o.ledger, "ledger", "tranship/ledger", "branch of the records; it is deleted first")
	flag.BoolVar(&o.keep, "keep", false, "leave everything running, and say how to look at it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo failed:", err)
		os.Exit(1)
	}
}

// demo is one demonstration.
type demo struct {
	options
	*teller
	bed    *bed
	dir    string // of everything that this demonstration writes
	images images
	writer *writer
	judge  *judge
	daemon *daemon
	plans  *plans
	merged time.Time
}

func run(ctx context.Context, o options) (err error) {
	d := &demo{options: o, teller: newTeller(os.Stdout)}
	if d.bed, err = readBed(o.bed); err != nil {
		return err
	}
	if d.tranship, err = filepath.Abs(o.tranship); err != nil {
		return err
	}
	if info, err := os.Stat(d.tranship); err != nil || info.IsDir() {
		return fmt.Errorf("--tranship %q is no program: build it with `make build` and give its path", o.tranship)
	}
	d.dir = filepath.Join(filepath.Dir(o.bed), "demo")
	defer func() { err = d.end(err) }()
	for _, stage := range []func(context.Context) error{
		d.clean, d.makeImages, d.installShop, d.startWriter, d.startJudge, d.pushPlans, d.startDaemon,
		d.awaitStages, d.merge, d.awaitCutover, d.check, d.report,
	} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	return nil
}

// end says why it failed, if it did, and takes away what is not to be kept.
// It has its own time: the program's may be over.
func (d *demo) end(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	d.writer.stop()
	if err != nil {
		d.explain(ctx)
	}
	if d.keep {
		d.tellHowToLook()
		return err
	}
	d.judge.stop()
	return errors.Join(err, d.daemon.stop(), d.removeShop(ctx))
}

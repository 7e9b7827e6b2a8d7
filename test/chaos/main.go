// Command chaos migrates small applications on the bed again and again while
// it kills what takes part, and checks after every phase that nothing was
// lost, nothing is left down and nothing is left behind. What it does is drawn
// from the seed; when it happens is up to the machine. The last line of its
// output is
//
//	seed=… kills=… steps=hit/all violations=…
//
// and it exits 1 when a check did not hold, and 2 when the bed kept it from
// making one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tranship/tranship/test/lab"
)

func main() {
	os.Exit(run())
}

func run() int {
	var o options
	flag.StringVar(&o.bed, "bed", "/var/lib/tranship-bed/bed.json", "bed.json of the running bed")
	flag.StringVar(&o.binary, "tranship", "build/tranship", "the product")
	flag.StringVar(&o.bedSource, "bed-source", "test/bed", "folder of the bed's program")
	flag.Int64Var(&o.seed, "seed", 1, "what is done is drawn from it")
	flag.DurationVar(&o.duration, "duration", 5*time.Minute, "no fault is made after that; the scenario that is going on still ends")
	flag.Func("faults", "comma-separated kinds of faults: "+strings.Join(faultNames(), ", ")+" (default all)", func(v string) error {
		o.faults = strings.Split(v, ",")
		return knownFaults(o.faults)
	})
	flag.Func("ways", "comma-separated kinds of plans: "+strings.Join(wayNames(ways), ", ")+" (default all, in turn)", func(v string) error {
		return onlyWays(strings.Split(v, ","))
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	c, err := newChaos(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 2
	}
	c.loop(ctx)
	c.cleanUp()
	c.book.say("%s", c.book.tally())
	violations := c.book.violations()
	fmt.Printf("seed=%d kills=%d steps=%d/%d violations=%d\n", o.seed, c.book.kills(), c.book.hits(), len(c.book.steps), violations)
	switch {
	case violations > 0:
		return 1
	case c.book.givenUp() > 0:
		return 2
	}
	return 0
}

// options are the command line.
type options struct {
	bed, binary, bedSource string
	seed                   int64
	duration               time.Duration
	faults                 []string
}

// chaos is one run of this program.
type chaos struct {
	options
	lab    *lab.Lab
	sides  [2]*side // source, target
	book   *book
	watch  *watch
	daemon *keeper
	end    time.Time
	files  map[string]string // documents that were committed
}

func newChaos(o options) (*chaos, error) {
	bed, err := lab.ReadBed(o.bed)
	if err != nil {
		return nil, err
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return nil, fmt.Errorf("cannot find the product: %w", err)
	}
	dir, err := os.MkdirTemp("", "tranship-chaos-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	l, err := lab.New(bed, o.binary, dir, "chaos-")
	if err != nil {
		return nil, err
	}
	if l.Listen, err = freeAddress(); err != nil {
		return nil, err
	}
	c := &chaos{options: o, lab: l, book: newBook(), watch: newWatch()}
	l.Log.Line = c.watch.line
	c.daemon = newKeeper(l, c.watch)
	for i, cluster := range []lab.Cluster{bed.Source, bed.Target} {
		if c.sides[i], err = newSide([]string{"source", "target"}[i], cluster); err != nil {
			return nil, err
		}
	}
	image, err := l.LoadImage(o.bedSource, filepath.Dir(o.bed))
	if err != nil {
		return nil, err
	}
	if err := l.Configure(image); err != nil {
		return nil, err
	}
	if c.files, err = l.Infrastructure(); err != nil {
		return nil, err
	}
	c.files["hooks.yaml"] = hooks(bed.Images["busybox"])
	if _, err := l.Commit("Describe clusters and repository", c.files); err != nil {
		return nil, err
	}
	if err := lab.Mend(gid); err != nil {
		return nil, err
	}
	c.book.say("lab %s in %s", l.Name, dir)
	return c, c.daemon.start()
}

// freeAddress is where this run's daemons listen, one after the other.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("cannot find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// loop runs one scenario after the other until the time is over.
func (c *chaos) loop(ctx context.Context) {
	c.end = time.Now().Add(c.duration)
	for n := 1; ctx.Err() == nil && (n == 1 || time.Now().Before(c.end)); n++ {
		s := newScenario(c, n)
		err := s.play(ctx)
		switch bed := (bedError{}); {
		case err == nil || ctx.Err() != nil:
		case errors.As(err, &bed):
			c.book.giveUp("scenario %s: %v", s.plan, err)
		default:
			c.book.violation("scenario %s was given up: %v", s.plan, err)
		}
		s.leave()
	}
	c.leaks(ctx)
}

// cleanUp ends the daemon; a folder of a run that ended badly stays for people.
func (c *chaos) cleanUp() {
	_ = c.daemon.kill()
	if err := lab.Mend(gid); err != nil {
		c.book.say("%v", err)
	}
	if c.book.violations()+c.book.givenUp() > 0 {
		if err := c.lab.Write("daemon.log", c.lab.Log.String()); err == nil {
			c.book.say("the daemon's log is %s", filepath.Join(c.lab.Dir, "daemon.log"))
		}
		return
	}
	_ = os.RemoveAll(c.lab.Dir)
}

package reconciler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Config is what the loop is made of.
type Config struct {
	Source   Source
	Ledger   Ledger
	Executor Executor
	Clock    Clock
	Notifier Notifier
	Log      *slog.Logger
	// Interval gives the time until the next poll; asked anew each time, so
	// that many daemons do not poll in step.
	Interval func() time.Duration
	// Slots says how many runs may go on; asked at each pass, so that a changed
	// configuration counts at once.
	Slots   func() Slots
	Epoch   int64
	Holder  string
	Version string
}

// Loop is the shell around the core: this file, pass.go, messages.go and drive.go
// have the effects. One goroutine (Run) owns the statuses and the source; each
// run has a goroutine of its own, which talks to it by messages.
type Loop struct {
	Config
	source   Source
	ledger   Ledger
	executor Executor
	clock    Clock
	log      *slog.Logger

	messages chan message
	gates    chan gateQuestion
	Trigger  chan struct{} // a poll is wanted now; never carries data

	handled   *metav1.Time // when a poll was last asked for
	again     bool         // the tip is to be judged anew
	said      string       // the error of the newest read
	patience  patience
	reading   bool
	readAgain bool
	asked     []gateQuestion
	wake      <-chan time.Time

	limit   Slots // by which the queue was served last
	rec     *Recorded
	want    *Desired
	ground  *overlaps // of rec and want; nil: to be found out
	hold    *spec.Waiting
	doubt   *spec.Waiting       // the ledger is not trusted
	stale   bool                // somebody has adopted another one than is in rec
	agenda  *agenda             // which plans to ask about
	queue   queue               // of runs without a slot
	moved   bool                // the queue is to be looked at: it, or the slots, have changed
	waiters map[string][]string // plans that name a plan in dependsOn, by that
	writes  []writing
	writing map[string]bool     // plans with something in writes
	drivers map[string]*driver  // by plan
	surveys map[string]surveyed // by plan

	toSurvey  []string // plans whose clusters are to be asked
	surveying int      // that are being asked
	runs      sync.WaitGroup
	stop      context.CancelCauseFunc
	gone      chan struct{} // closed when the loop reads no more messages

	mu       sync.Mutex
	lastRead time.Time
	readErr  error
}

// message is what a run or a survey tells the loop.
type message struct {
	run      *spec.Run
	waiting  *spec.Waiting
	progress []Progress
	order    *Order // to be frozen and started
	plan     string
	survey   *Survey
	err      error
	saved    *save
	left     *driver // its run has ended, or goes on with another one
	read     *readResult
	word     *word
}

type readResult struct {
	want  *Desired
	err   error
	asked []gateQuestion
}

// save asks the loop to record a run together with its plan's status.
type save struct {
	run   *spec.Run
	logs  []Log
	ended bool
	done  chan error
}

type gateQuestion struct {
	run    *spec.Run
	answer chan Gate
}

// New makes a loop; Run starts it.
func New(c Config) *Loop {
	return &Loop{Config: c, source: c.Source, ledger: c.Ledger, executor: c.Executor, clock: c.Clock, log: c.Log,
		messages: make(chan message, batch), gates: make(chan gateQuestion), Trigger: make(chan struct{}, 1),
		agenda: newAgenda(), queue: queue{waiting: map[string]*waiter{}}, writing: map[string]bool{},
		drivers: map[string]*driver{}, surveys: map[string]surveyed{}, gone: make(chan struct{})}
}

// Run reconciles until ctx ends or another daemon takes over; runs that are
// going on stop at a turn and continue with the next daemon. The error is
// ErrSuperseded, or why the ledger could not be read at first.
func (l *Loop) Run(ctx context.Context) error {
	ctx, l.stop = context.WithCancelCause(ctx)
	defer l.runs.Wait()
	defer close(l.gone)
	defer l.stop(nil)
	rec, err := l.ledger.Load(ctx)
	if err != nil {
		return fmt.Errorf("cannot read the ledger: %w", err)
	}
	l.rec, l.hold = rec, rec.Daemon.Hold
	if rec.Changed != "" {
		l.doubtful(rec.Changed)
	}
	for _, run := range rec.Open {
		l.resume(ctx, run)
	}
	l.startRead(ctx)
	interval := l.Interval()
	timer := l.clock.After(interval)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-timer:
			due := l.patience.tick(interval, len(l.drivers) > 0)
			interval = l.Interval()
			timer = l.clock.After(interval)
			l.trustAgain(ctx)
			if due {
				l.startRead(ctx)
			}
		case <-l.Trigger:
			l.handled = &metav1.Time{Time: l.clock.Now().UTC()}
			l.startRead(ctx)
		case <-l.wake:
			l.wake = nil
			l.pass(ctx)
		case m := <-l.messages:
			l.handleAll(ctx, m)
		case q := <-l.gates:
			l.asked = append(l.asked, q)
			l.startRead(ctx)
		}
	}
	if err := context.Cause(ctx); errors.Is(err, ErrSuperseded) {
		return err
	}
	return nil
}

// accept records what the new commits mean.
func (l *Loop) accept(ctx context.Context, want *Desired) error {
	if l.want != nil && want.Commit == l.want.Commit && want.Trust == l.want.Trust && !l.again {
		return nil // accepted, or held, already
	}
	l.again = false
	plans, daemon := AcceptAll(l.clock.Now(), l.rec, want)
	daemon.Epoch, daemon.Holder, daemon.Version = l.Epoch, l.Holder, l.Version
	daemon.LastHandledAt = cmp.Or(l.handled, daemon.LastHandledAt)
	change := Change{Daemon: daemon, Plans: plans, Message: fmt.Sprintf("observe %.12s", want.Commit), Trailers: map[string]string{"Source-Commit": want.Commit}}
	if err := l.put(ctx, change); err != nil {
		return err
	}
	if daemon.Trust != "" && (l.want == nil || daemon.Trust != l.rec.Daemon.Trust) { // once, and when it changes
		l.log.Warn("approvals", "note", daemon.Trust)
	}
	old, held := l.want, l.held()
	l.want, l.rec.Daemon, l.hold = want, *daemon, daemon.Hold
	for _, st := range plans {
		l.rec.Plans[st.Metadata.Name] = st
		l.agenda.ask(st.Metadata.Name)
	}
	l.recall(ctx)
	l.askChanged(old, held)
	l.log.Info("observed", "commit", want.Commit, "plans", len(want.Closures), "problems", len(want.Problems))
	return nil
}

// launch looks at the clusters and freezes a run; the frozen run is recorded
// by the loop, in one change with the plan's status.
func (l *Loop) launch(ctx context.Context, o *Order) {
	d := l.newDriver(o.Closure)
	d.back = o.Kind == spec.RunRollback
	ctx, d.halt = context.WithCancel(ctx)
	l.drivers[o.Plan] = d
	o.Epoch = l.Epoch
	rec := l.rec.Plans[o.Plan].Recorded
	l.runs.Add(1)
	go func() {
		defer l.runs.Done()
		defer d.halt()
		l.send(l.prepare(ctx, o, &rec))
	}()
}

// prepare gathers what a run is frozen from: the volumes that the clusters
// have now, or the record of the cutover that is to be undone and of the last
// rollback of it. Records of versions that did not keep the path of that have it
// where the newest run is, last, unless another run has ended since.
func (l *Loop) prepare(ctx context.Context, o *Order, rec *spec.Recorded) message {
	cutover, last := rec.CutoverPath, cmp.Or(rec.LastBackPath, rec.LastRunPath)
	m := message{order: o, plan: o.Plan, survey: &Survey{}}
	if o.Kind != spec.RunStage && o.Kind != spec.RunMigrate { // about what was done; the source may be gone
		if cutover != "" {
			o.Undoes, m.err = l.ledger.Run(ctx, cutover)
		}
		if o.Kind == spec.RunRollback && m.err == nil && last != cutover {
			var run *spec.Run
			if run, m.err = l.ledger.Run(ctx, last); m.err == nil && copiedBack(run, o.Undoes) {
				o.Before = run
			}
		}
		return m
	}
	if o.Kind == spec.RunMigrate {
		if m.err = l.askLedger(ctx); m.err != nil {
			return m
		}
	}
	s, err := l.executor.Survey(ctx, o.Closure, o.Volumes)
	if err == nil && s.Problem == "" {
		o.Volumes = s.Volumes
	}
	m.survey, m.err = &s, err
	return m
}

// start drives a recorded run.
func (l *Loop) start(ctx context.Context, run *spec.Run) {
	d := l.drivers[run.Spec.Plan]
	if d == nil {
		d = l.newDriver(&run.Spec.Closure)
		l.drivers[run.Spec.Plan] = d
	}
	d.run, d.driving, d.back = run, true, undoes(run)
	ctx, d.halt = context.WithCancel(ctx)
	halt := d.halt
	l.runs.Add(1)
	go func() {
		defer l.runs.Done()
		defer halt()
		_ = l.note(d.drive(ctx))
		l.send(message{plan: run.Spec.Plan, left: d})
	}()
}

func (l *Loop) newDriver(c *spec.Closure) *driver {
	return &driver{shell: l, pair: pairOf(c), ledger: l.ledger, executor: l.executor, clock: newSteady(l.clock), log: l.log, cancel: make(chan string, 1), dead: make(chan string, 1)}
}

// stop asks the run to undo itself; the first reason counts.
func (d *driver) stop(why string) {
	select {
	case d.cancel <- why:
	default:
	}
}

func (l *Loop) send(m message) {
	select {
	case l.messages <- m:
	case <-l.gone: // the loop has ended; the record has not
	}
}

// note stops the daemon when it is superseded.
func (l *Loop) note(err error) error {
	if errors.Is(err, ErrSuperseded) {
		l.stop(err)
	}
	return err
}

// Healthy says when the branch was last read, and the error of the newest
// read; for probes. Safe for concurrent use.
func (l *Loop) Healthy() (time.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastRead, l.readErr
}

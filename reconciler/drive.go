package reconciler

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lookTimeout bounds one observation and one effect; both are re-callable.
const lookTimeout = 2 * time.Minute

// driver carries one run from turn to turn. It has no memory that matters:
// killed at any instant, the next driver goes on from the record.
type driver struct {
	shell    shell
	ledger   Ledger
	executor Executor
	clock    *steady
	log      *slog.Logger
	run      *spec.Run
	pair     pair
	halt     context.CancelFunc // ends it at a turn; only the loop calls it
	cancel   chan string        // at most one reason, from the loop
	dead     chan string        // at most one word that the target is gone, from the loop
	why      string
	gone     string
	pushed   string // the step whose own record this process has pushed
	turned   bool   // this process has told Git that the run is on its way back
	push     error
	blind    int       // looks that failed in a row,
	since    time.Time // and the first of them
	said     string    // the last error that was logged
	driving  bool      // the run was frozen; only the loop reads and writes it
	back     bool      // it undoes and takes no slot; only the loop reads and writes it
	passed   string    // the step whose gate was found open: its effect may have begun
	tried    tried
}

// tried is what the last effect of a step came to.
type tried struct {
	step string
	err  error
}

// shell is what a run asks of the loop that owns the statuses.
type shell interface {
	saveRun(ctx context.Context, dec Decision) error
	finishRun(ctx context.Context, run *spec.Run) error
	askGate(ctx context.Context, run *spec.Run) Gate
	tell(run *spec.Run, w *spec.Waiting, p []Progress)
}

// drive runs until the run is finished or the daemon stops; the only error is
// ErrSuperseded.
func (d *driver) drive(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case d.why = <-d.cancel:
		case d.gone = <-d.dead:
		default:
		}
		done, err := d.turn(ctx)
		if errors.Is(err, ErrSuperseded) {
			return err
		}
		if err != nil {
			d.log.Error("the run waits", "run", d.run.Metadata.Name, "error", err)
			d.report(&spec.Waiting{Reason: "Refused", Message: err.Error(), Since: metav1.NewTime(idleSince(d.run))})
			d.sleep(ctx, time.Second, nil)
			continue
		}
		if done {
			return nil
		}
	}
	return nil
}

// turn is look, decide, and one effect.
func (d *driver) turn(ctx context.Context) (done bool, err error) {
	ctx, stop := context.WithCancel(ctx) // ends the watches of this turn
	defer stop()
	call, gated, look, err := OpenCall(d.run)
	if err != nil {
		return false, err
	}
	if by := d.clock.set(); by != 0 {
		d.log.Warn("this machine's clock was set in the middle of a run; its deadlines and durations go on as if it had not been", "run", d.run.Metadata.Name, "by", by.Round(time.Second).String())
	}
	in := Input{Now: d.clock.Now(), Run: d.run, Cancel: d.why, Dead: d.gone, Push: d.push, Pushed: d.pushed == call.Step.Name}
	if d.tried.step == call.Step.Name {
		in.Tried = d.tried.err
	}
	if look {
		in.Seen, in.Err = d.look(ctx, call)
		in.Blind = d.since
		if errors.Is(in.Err, ErrSuperseded) {
			return false, in.Err
		}
	}
	if gated {
		in.Gate = d.gate(ctx, call, in)
	}
	dec, err := Next(in)
	if err != nil {
		return false, err
	}
	if dec.Push {
		if ok, err := d.pushes(ctx, in, call.Step); !ok || err != nil {
			return false, err
		}
		if dec.Kind == Act { // its own record went along
			d.pushed = call.Step.Name
		}
	}
	if dec.Kind == Act && dec.Call.Undo && !d.turned {
		d.turned = true
		if err := d.turnKnown(ctx); err != nil {
			return false, err
		}
	}
	return d.do(ctx, dec, in)
}

// turnTimeout bounds how long the way back waits for Git to know of it.
const turnTimeout = 5 * time.Second

// turnKnown tells Git that the run is on its way back before it takes anything
// back: a daemon that loses its journal would go forward again, and take what the
// undo has stopped for somebody else's work. Git may be away, the way back goes on
// without it.
func (d *driver) turnKnown(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, turnTimeout)
	defer stop()
	err := d.ledger.Push(ctx)
	if errors.Is(err, ErrSuperseded) {
		return err
	}
	if err != nil {
		d.log.Warn("the way back begins before Git knows of it", "run", d.run.Metadata.Name, "error", err)
	}
	return nil
}

// pushes brings everything recorded so far to Git, or says why it cannot and
// waits a moment.
func (d *driver) pushes(ctx context.Context, in Input, s spec.Step) (ok bool, err error) {
	if d.push = d.ledger.Push(ctx); d.push == nil || errors.Is(d.push, ErrSuperseded) {
		return d.push == nil, d.push
	}
	d.passed = "" // nothing has begun, and Git may say something else when it is back
	w := *wait(in, s, 0, "GitUnreachable", "the record cannot be pushed: "+d.push.Error(), "").Waiting
	if errors.Is(d.push, ErrLedgerChanged) {
		w.Reason, w.Message = reasonLedgerChanged, d.push.Error()
		if backFirst(d.run) { // its effect has not begun
			d.why = reasonLedgerChanged + ": " + w.Message
		}
	}
	d.report(&w)
	d.sleep(ctx, time.Second, nil)
	return false, nil
}

// gate asks whether the approval stands, until it was found to: after that
// the effect may have begun, and half an effect must not wait for Git.
func (d *driver) gate(ctx context.Context, c Call, in Input) Gate {
	pending := c.Step.State == spec.StepPending
	if !pending && (d.passed == c.Step.Name || in.Err != nil || in.Seen.Seen != Absent) {
		return Gate{Open: true}
	}
	g := d.shell.askGate(ctx, d.run)
	if g.Open && !pending {
		d.passed = c.Step.Name
	}
	return g
}

func (d *driver) do(ctx context.Context, dec Decision, in Input) (done bool, err error) {
	switch dec.Kind {
	case Save:
		if err := d.shell.saveRun(ctx, dec); err != nil {
			return false, err
		}
		d.run = dec.Run
	case Act:
		ctx, stop := context.WithTimeout(ctx, lookTimeout)
		defer stop()
		err := d.executor.Ensure(ctx, dec.Call)
		d.tried = tried{dec.Call.Step.Name, err}
		if errors.Is(err, ErrSuperseded) {
			return false, err
		} else if err != nil {
			d.report(wait(in, dec.Call.Step, 0, "Retrying", err.Error(), "").Waiting)
			d.log.Warn("an effect is tried again", "run", d.run.Metadata.Name, "step", dec.Step, "error", err)
			d.sleep(ctx, time.Second, nil)
		}
	case Wait:
		d.shell.tell(d.run, dec.Waiting, in.Seen.Progress)
		d.sleep(ctx, d.patience(dec.After), in.Seen.Wake)
	case Finish:
		return true, d.shell.finishRun(ctx, dec.Run)
	}
	return false, nil
}

// look bounds the observation, but not the watch that it leaves behind.
func (d *driver) look(ctx context.Context, c Call) (Observation, error) {
	ctx, stop := context.WithCancelCause(ctx)
	timer := time.AfterFunc(lookTimeout, func() { stop(errors.New("the look took longer than " + lookTimeout.String())) })
	defer timer.Stop()
	seen, err := d.executor.Look(ctx, c)
	if err != nil && context.Cause(ctx) != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		err = errors.Join(err, context.Cause(ctx))
	}
	if err == nil {
		d.blind, d.said, d.since = 0, "", time.Time{}
		return seen, nil
	}
	if d.blind++; d.blind == 1 {
		d.since = d.clock.Now()
	}
	if err.Error() != d.said { // once a sentence, not once a look
		d.said = err.Error()
		d.log.Warn("nothing could be observed", "run", d.run.Metadata.Name, "step", c.Step.Name, "error", err)
	}
	return seen, err
}

// patience is how long to wait before the next look: longer with every look
// that failed in a row, so that a cluster that is down is not hammered.
func (d *driver) patience(after time.Duration) time.Duration {
	if d.blind == 0 {
		return after
	}
	return max(after, min(time.Second<<min(d.blind-1, 4), 15*time.Second))
}

func (d *driver) sleep(ctx context.Context, after time.Duration, wake <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-wake:
	case d.why = <-d.cancel:
	case d.gone = <-d.dead:
	case <-d.clock.After(after):
	}
}

func (d *driver) report(w *spec.Waiting) {
	d.shell.tell(d.run, w, nil)
}

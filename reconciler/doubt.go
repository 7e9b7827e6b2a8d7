package reconciler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reasonLedgerChanged is the reason of everything that waits until somebody has
// adopted the ledger or put it right.
const reasonLedgerChanged = "LedgerChanged"

// backFirst says what becomes of an open run when the record cannot be trusted
// (safety property 12): a copy ends, and an application that was stopped gets
// back to the source, as long as nothing on the target is live. From then on,
// and in every other run, nothing is touched before somebody has looked.
func backFirst(run *spec.Run) bool {
	if run.Spec.Kind != spec.RunStage && run.Spec.Kind != spec.RunMigrate {
		return false
	}
	for _, s := range run.Steps {
		if s.Name == "live" && s.State == spec.StepDone {
			return false
		}
	}
	return true
}

// doubtful holds everything from now on.
func (l *Loop) doubtful(say string) {
	if l.doubt != nil {
		return
	}
	l.askAll()
	l.doubt = &spec.Waiting{Reason: reasonLedgerChanged, Message: say, Since: metav1.NewTime(l.clock.Now())}
	l.log.Error("the ledger is not trusted: nothing starts until it is adopted or put right", "error", say)
}

// LedgerChanged tells the loop what the ledger found while nothing was to be
// done, so that nothing starts on the ground of it: an ErrLedgerChanged or
// ErrAdopted. Safe for concurrent use.
func (l *Loop) LedgerChanged(err error) { l.send(message{word: &word{changed: err}}) }

// put records changes. Where somebody has adopted the ledger since it was loaded,
// nothing is written from memory any more.
func (l *Loop) put(ctx context.Context, changes ...Change) error {
	err := l.ledger.Record(ctx, changes...)
	if errors.Is(err, ErrAdopted) {
		l.standBack()
	}
	return l.note(err)
}

// standBack ends all runs at a turn, and undoes nothing, as if the daemon had been
// stopped: trustAgain loads what was adopted and goes on from there.
func (l *Loop) standBack() {
	if l.stale {
		return
	}
	l.stale = true
	if l.doubt == nil {
		l.doubt = &spec.Waiting{Reason: reasonLedgerChanged, Message: ErrAdopted.Error(), Since: metav1.NewTime(l.clock.Now())}
	}
	l.log.Info("somebody has adopted the ledger; the daemon goes on from what it says")
	for _, d := range l.drivers {
		d.halt()
	}
}

// askLedger brings what is recorded to Git before an approval is used up: a
// ledger that somebody has changed is found before a cutover is frozen, and not
// by its first push. Git that is down is left to that push.
func (l *Loop) askLedger(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, askLedgerWait)
	defer stop()
	if err := l.note(l.ledger.Push(ctx)); errors.Is(err, ErrLedgerChanged) || errors.Is(err, ErrSuperseded) {
		return err
	}
	return nil
}

const askLedgerWait = 10 * time.Second

// resume goes on with an open run after a restart.
func (l *Loop) resume(ctx context.Context, run *spec.Run) {
	if l.doubt == nil {
		l.start(ctx, run)
		return
	}
	if !backFirst(run) {
		l.log.Error("the run is not continued: its claims are live or it undoes, and the ledger is not trusted", "run", run.Metadata.Name)
		return
	}
	d := l.newDriver(&run.Spec.Closure)
	d.stop(fmt.Sprintf("%s: %s", reasonLedgerChanged, l.doubt.Message)) // before its first turn
	l.drivers[run.Spec.Plan] = d
	l.start(ctx, run)
}

// trustAgain looks whether the ledger has been adopted or put right. Nothing
// runs then, so the loop may wait for the answer.
func (l *Loop) trustAgain(ctx context.Context) {
	if l.doubt == nil || len(l.drivers) > 0 || l.reading { // what is being read begins where the old record ends
		return
	}
	rec, err := l.ledger.Load(ctx)
	if err != nil && l.stale {
		l.log.Error("the ledger that was adopted cannot be read: everything waits", "error", err)
	}
	if err != nil || rec.Changed != "" && !l.stale {
		return
	}
	rec.keepTrust(l.rec)
	l.rec, l.hold, l.doubt, l.stale, l.again, l.ground = rec, rec.Daemon.Hold, nil, false, true, nil
	l.agenda.forget(func(plan string) bool { return rec.Plans[plan] != nil })
	clear(l.queue.waiting)
	l.askAll()
	clear(l.surveys)       // the adopted ledger may know no volumes
	if rec.Changed != "" { // once more, after it was adopted
		l.doubtful(rec.Changed)
	} else {
		l.log.Info("the ledger is trusted again")
	}
	for _, run := range rec.Open {
		l.resume(ctx, run)
	}
	l.startRead(ctx)
}

// keepTrust takes over what an older record knows of approvals, where this one
// knows nothing: a ledger that begins anew is not a reason to approve whatever
// is on the branch. What was asked for is asked anew.
func (r *Recorded) keepTrust(old *Recorded) {
	for plan, was := range old.Plans {
		if was.Recorded.Trust == nil || r.Plans[plan] != nil && r.Plans[plan].Recorded.Trust != nil {
			continue
		}
		note := *was.Recorded.Trust
		note.Proposal = nil
		st := newStatus(plan)
		if r.Plans[plan] != nil {
			st = copyStatus(r.Plans[plan])
		}
		st.Recorded.Trust = &note
		r.Plans[plan] = st
	}
}

// held is why nothing starts, nil when everything may.
func (l *Loop) held() *spec.Waiting {
	if l.doubt != nil {
		return l.doubt
	}
	return l.hold
}

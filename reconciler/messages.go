package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// handle serves one message.
func (l *Loop) handle(ctx context.Context, m message) {
	switch {
	case m.read != nil:
		l.handleRead(ctx, m.read)
	case m.saved != nil:
		l.record(ctx, m.saved)
	case m.waiting != nil:
		if m.waiting.Reason == reasonLedgerChanged {
			l.doubtful(m.waiting.Message)
		}
		l.noteWaiting(m.run, m.waiting)
		l.Notifier.Progress(m.run.Spec.Plan, m.progress)
	case m.left != nil && l.drivers[m.plan] == m.left:
		l.free(m.plan)
	case m.order != nil:
		l.begin(ctx, m)
	case m.survey != nil:
		l.surveying--
		l.survey(ctx)
		l.noteSurvey(m)
	case m.word != nil:
		l.hear(ctx, *m.word)
	}
}

// word is what a person told the daemon.
type word struct {
	acknowledge string // a commit
	dead        string // a plan whose target is gone for good
	adopt       bool
	changed     error // how somebody has changed, or adopted, the ledger
}

// Acknowledge takes over a rewritten branch, or one that lost many plans, as
// of commit. Safe for concurrent use.
func (l *Loop) Acknowledge(commit string) { l.send(message{word: &word{acknowledge: commit}}) }

// Adopt takes the states of plans that no record explains as done. Safe for
// concurrent use.
func (l *Loop) Adopt() { l.send(message{word: &word{adopt: true}}) }

// TargetIsDead lets the run that takes a plan back go on without its target.
// Whoever says so answers for it: an application that still runs there would
// write beside the source. Safe for concurrent use.
func (l *Loop) TargetIsDead(plan string) { l.send(message{word: &word{dead: plan}}) }

func (l *Loop) hear(ctx context.Context, w word) {
	if w.dead != "" {
		l.letGo(w.dead)
		return
	}
	if errors.Is(w.changed, ErrAdopted) {
		l.standBack()
		return
	}
	if w.changed != nil {
		l.doubtful(w.changed.Error())
		return
	}
	if w.acknowledge != "" {
		d := l.rec.Daemon
		d.Acknowledged = w.acknowledge
		if err := l.put(ctx, Change{Daemon: &d, Message: "acknowledge " + w.acknowledge, Trailers: map[string]string{"Source-Commit": w.acknowledge}}); err != nil {
			l.log.Error("an acknowledgement could not be recorded", "error", err)
			return
		}
		l.rec.Daemon, l.again = d, true
		l.startRead(ctx)
		return
	}
	if !w.adopt {
		return
	}
	for _, st := range l.rec.Plans {
		if st.Recorded.Unrecorded {
			st = copyStatus(st)
			st.Recorded.Unrecorded, st.Recorded.State = false, st.Recorded.SeenState
			l.keep(st)
		}
	}
}

func (l *Loop) letGo(plan string) {
	d := l.drivers[plan]
	if d == nil {
		l.log.Error("no run of the plan is going on, so its target is not waited for", "plan", plan)
		return
	}
	select {
	case d.dead <- fmt.Sprintf("somebody said at %s that the target is gone for good", l.clock.Now().UTC().Format(time.RFC3339)):
	default: // it was said already
	}
}

// saveRun records a turn of a run: the journal has it before this returns.
// Safe to call from the run's goroutine.
func (l *Loop) saveRun(ctx context.Context, dec Decision) error {
	return l.ask(ctx, &save{run: dec.Run, logs: logsOf(dec.Run, dec.Step, dec.Log), done: make(chan error, 1)})
}

func (l *Loop) tell(run *spec.Run, w *spec.Waiting, p []Progress) {
	l.send(message{run: run, waiting: w, progress: p})
}

func (l *Loop) finishRun(ctx context.Context, run *spec.Run) error {
	return l.ask(ctx, &save{run: run, ended: true, done: make(chan error, 1)})
}

func (l *Loop) ask(ctx context.Context, s *save) error {
	l.send(message{saved: s})
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func logsOf(run *spec.Run, step, text string) []Log {
	if text == "" {
		return nil
	}
	for _, s := range run.Steps {
		if s.Name == step && s.Attempt > 1 {
			step = fmt.Sprintf("%s-%d", step, s.Attempt)
			break
		}
	}
	return []Log{{Plan: run.Spec.Plan, Run: run.Metadata.Name, Name: step + ".log", Text: text}}
}

// record writes a run and, where it changes, its plan's status in one change.
// Who asked for it hears of it when that is on disk.
func (l *Loop) record(ctx context.Context, s *save) {
	run, plan := s.run, s.run.Spec.Plan
	c := Change{Runs: []*spec.Run{run}, Logs: s.logs, Message: runSubject(run), Trailers: runTrailers(run)}
	st := l.rec.Plans[plan]
	switch {
	case s.ended:
		st = Ended(st, run, spec.RunPath(run))
		c.Plans = []*spec.PlanStatus{st}
	case st != nil && st.WaitsFor != nil: // it waits no more
		st = copyStatus(st)
		st.WaitsFor = nil
		c.Plans = []*spec.PlanStatus{st}
	}
	l.write(plan, c, func(err error) {
		if err == nil {
			l.recorded(ctx, s, st)
		}
		s.done <- err
	})
}

// recorded takes over what a run has recorded.
func (l *Loop) recorded(ctx context.Context, s *save, st *spec.PlanStatus) {
	run := s.run
	l.tellStep(run)
	l.rec.Open[run.Metadata.Name] = run
	if d := l.drivers[run.Spec.Plan]; d != nil && !d.back && undoes(run) {
		d.back, l.moved = true, true
	}
	if s.ended {
		delete(l.rec.Open, run.Metadata.Name)
		l.free(run.Spec.Plan)
		l.agenda.ask(run.Spec.Plan)
	}
	if st != nil && st != l.rec.Plans[run.Spec.Plan] {
		l.know(run.Spec.Plan, st)
	}
	if !s.ended {
		return
	}
	l.runs.Add(1)
	go func() { // people wait for the outcome; the next run does not
		defer l.runs.Done()
		if err := l.note(l.ledger.Push(ctx)); errors.Is(err, ErrLedgerChanged) {
			l.LedgerChanged(err)
		}
	}()
}

// tellStep notifies of the step whose state changed last.
func (l *Loop) tellStep(run *spec.Run) {
	old := l.rec.Open[run.Metadata.Name]
	if run.Status.Ended != nil {
		l.Notifier.Notify(Event{Plan: run.Spec.Plan, Run: run.Metadata.Name, State: string(run.Status.Phase), Reason: run.Status.Reason,
			Message: run.Status.Message, Took: run.Status.Ended.Sub(run.Status.Started.Time)})
		return
	}
	for i, s := range run.Steps {
		if old != nil && i < len(old.Steps) && old.Steps[i].State == s.State && old.Steps[i].Attempt == s.Attempt {
			continue
		}
		e := Event{Plan: run.Spec.Plan, Run: run.Metadata.Name, Step: s.Name, State: string(s.State), Reason: s.Reason, Message: s.Message}
		if s.Ended != nil && s.Started != nil {
			e.Took = s.Ended.Sub(s.Started.Time)
		}
		if s.State != spec.StepPending {
			l.Notifier.Notify(e)
			l.Notifier.Progress(e.Plan, nil)
		}
	}
}

func runSubject(run *spec.Run) string {
	if run.Status.Ended != nil {
		return fmt.Sprintf("%s: %s", run.Metadata.Name, run.Status.Phase)
	}
	for i := len(run.Steps) - 1; i >= 0; i-- {
		if s := run.Steps[i]; s.State != spec.StepPending {
			return fmt.Sprintf("%s: %s %s", run.Metadata.Name, s.Name, s.State)
		}
	}
	return run.Metadata.Name + ": frozen"
}

func runTrailers(run *spec.Run) map[string]string {
	t := map[string]string{"Migration-Plan": run.Spec.Plan, "Migration-Run": run.Metadata.Name, "Source-Commit": run.Spec.Commit, "Plan-Digest": run.Spec.Digest}
	for i := len(run.Steps) - 1; i >= 0; i-- {
		if s := run.Steps[i]; s.State != spec.StepPending {
			t["Migration-Step"] = s.Name
			break
		}
	}
	if run.Status.Ended != nil && run.Spec.Previous != "" {
		t["Prev-Record"] = run.Spec.Previous
	}
	return t
}

// begin freezes, records and starts a run that was prepared. Git may have said
// something else meanwhile, so the core is asked again.
func (l *Loop) begin(ctx context.Context, m message) {
	plan := m.plan
	if errors.Is(m.err, ErrLedgerChanged) {
		l.free(plan)
		l.hear(ctx, word{changed: m.err})
		return
	}
	if m.err != nil || m.survey.Problem != "" {
		l.free(plan)
		l.keep(l.cannotStart(plan, m))
		return
	}
	dec := Decide(l.input(plan))
	if dec.Start == nil {
		l.free(plan)
		l.keep(dec.Status)
		return
	}
	if dec.Start.Kind != m.order.Kind || dec.Start.Closure.Digest() != m.order.Closure.Digest() { // what was prepared is something else
		l.launch(ctx, dec.Start)
		return
	}
	o := dec.Start
	if m.survey.Reason, m.survey.Problem = Stale(o, dec.Status, m.survey); m.survey.Problem != "" {
		l.free(plan)
		l.keep(l.cannotStart(plan, m))
		return
	}
	noteScope(dec.Status, o.Closure, m.survey, metav1.NewTime(l.clock.Now()))
	o.Volumes, o.Undoes, o.Before, o.Epoch = m.order.Volumes, m.order.Undoes, m.order.Before, l.Epoch
	run := Freeze(l.clock.Now(), *o, dec.Status)
	st := Started(dec.Status, run)
	c := Change{Plans: []*spec.PlanStatus{st}, Runs: []*spec.Run{run}, Message: runSubject(run), Trailers: runTrailers(run)}
	l.write(plan, c, func(err error) {
		if err != nil {
			l.free(plan)
			l.log.Error("a run could not be recorded", "run", run.Metadata.Name, "error", err)
			return
		}
		l.rec.Open[run.Metadata.Name] = run
		l.know(plan, st)
		l.Notifier.Notify(Event{Plan: plan, Run: run.Metadata.Name, State: string(run.Status.Phase), Reason: "Started", Message: "frozen from commit " + run.Spec.Commit})
		l.start(ctx, run)
	})
}

// cannotStart says in the status why the run that is wanted does not start;
// the approval stays unused and the next pass tries again.
func (l *Loop) cannotStart(plan string, m message) *spec.PlanStatus {
	reason, say := m.survey.Reason, m.survey.Problem
	if m.err != nil {
		reason, say = "ClustersUnreachable", m.err.Error()
	}
	st := copyStatus(l.rec.Plans[plan])
	now := metav1.NewTime(l.clock.Now())
	if st.WaitsFor == nil || st.WaitsFor.Reason != reason {
		st.WaitsFor = &spec.Waiting{Reason: reason, Message: say, Since: now}
	}
	summarize(st, &PlanInput{Now: now.Time, Open: &spec.Run{}}, stalled(reason, say))
	return st
}

// worthTelling is how long a step waits before the status says so: waits that
// are part of the work would be a commit each.
const worthTelling = 10 * time.Second

func (l *Loop) noteWaiting(run *spec.Run, w *spec.Waiting) {
	st := l.rec.Plans[run.Spec.Plan]
	if st == nil || l.clock.Now().Sub(w.Since.Time) < worthTelling {
		return
	}
	if old := st.WaitsFor; old != nil && old.Reason == w.Reason && old.Object == w.Object {
		return
	}
	st = copyStatus(st)
	st.WaitsFor = w
	l.keep(st)
}

func (l *Loop) noteSurvey(m message) {
	st := l.rec.Plans[m.plan]
	if st == nil {
		return
	}
	s, asked := l.surveys[m.plan]
	if asked && m.survey.Pending && st.Recorded.State != spec.Migrated && st.Recorded.State != spec.Closed {
		s.again = l.clock.Now().Add(pendingAgain)
		l.surveys[m.plan] = s
		l.agenda.sooner(m.plan, l.clock.Now(), s.again)
	}
	if st.Recorded.OpenRun != "" {
		return
	}
	st = copyStatus(st)
	c := metav1.Condition{Type: "Checked", Status: metav1.ConditionTrue, Reason: "Checked", LastTransitionTime: metav1.NewTime(l.clock.Now()),
		Message: fmt.Sprintf("both clusters answer; %d volumes are covered", len(m.survey.Volumes))}
	if m.err != nil || m.survey.Problem != "" {
		delete(l.surveys, m.plan) // the next poll looks again
		l.agenda.askLater(m.plan)
	}
	switch {
	case m.err != nil:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "ClustersUnreachable", m.err.Error()
	case m.survey.Problem != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, m.survey.Reason, m.survey.Problem
	default:
		st.Volumes = keepCopied(m.survey.Volumes, st.Volumes)
		noteScope(st, l.want.Closures[m.plan], m.survey, c.LastTransitionTime)
	}
	setCondition(st, c)
	l.keep(st)
}

// keepCopied adds recorded volumes whose claim is gone from the source to
// those that were found: what lies on the target is still to be looked after.
func keepCopied(found, recorded []spec.Volume) []spec.Volume {
	for _, r := range recorded {
		gone := !slices.ContainsFunc(found, func(f spec.Volume) bool { return f.Namespace == r.Namespace && f.Claim == r.Claim })
		if gone && r.TargetPV != "" {
			found = append(found, r)
		}
	}
	return found
}

// askGate asks the loop, which owns the source, whether the approval stands.
// Safe to call from a run's goroutine.
func (l *Loop) askGate(ctx context.Context, run *spec.Run) Gate {
	q := gateQuestion{run, make(chan Gate, 1)}
	select {
	case l.gates <- q:
	case <-ctx.Done():
		return Gate{Reason: "Stopping", Say: "the daemon stops"}
	}
	select {
	case g := <-q.answer:
		return g
	case <-ctx.Done():
		return Gate{Reason: "Stopping", Say: "the daemon stops"}
	}
}

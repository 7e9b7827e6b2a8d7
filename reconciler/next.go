package reconciler

import (
	"fmt"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kind says which single thing the shell does next.
type Kind int

// A turn decides exactly one of these.
const (
	Save   Kind = iota // record Run; do nothing else this turn
	Act                // ensure Call; do nothing else this turn
	Wait               // look again after After, or when woken
	Finish             // record Run, which is over
)

// Decision is what one turn does. Push asks that everything recorded so far
// is in Git before it is done.
type Decision struct {
	Kind    Kind
	Run     *spec.Run
	Call    Call
	Push    bool
	After   time.Duration
	Waiting *spec.Waiting // with Wait: why, and until when
	Log     string
	Step    string // the step that the decision is about
}

// Gate is the answer of the one gate, asked right before a step that has one.
type Gate struct {
	Open   bool
	Cancel bool   // the approval is gone: undo
	Reason string // CamelCase
	Say    string
}

// Input is everything that a turn of a run may depend on.
type Input struct {
	Now    time.Time
	Run    *spec.Run
	Seen   Observation // of the open call
	Err    error       // the look failed: nothing is known, try again
	Blind  time.Time   // with Err: since when this process has seen nothing; zero: unknown
	Tried  error       // the last effect of the open step failed
	Push   error       // the push that the open step waits for failed
	Gate   Gate        // only read when the open step has one
	Cancel string      // why the run must be undone now; "" = go on
	Dead   string      // what somebody said of the target that is gone; "" = nothing
	Pushed bool        // the open step's own record is known to be in Git
}

// pause is how long an undo or an attempt waits after its n-th failure.
func pause(attempt int) time.Duration {
	d := time.Second << min(max(attempt-2, 0), 5)
	if attempt < 2 {
		return 0
	}
	return min(d, 30*time.Second)
}

// Next decides the next turn of a run: no clock, no I/O, no randomness. An
// unknown step or state is an error, never a guess.
func Next(in Input) (Decision, error) {
	defs, err := definitions(in.Run)
	if err != nil {
		return Decision{}, err
	}
	if in.Cancel != "" && in.Run.Status.Cancel == "" && !committed(defs, in.Run) {
		run := clone(in.Run)
		run.Status.Cancel = in.Cancel
		return Decision{Kind: Save, Run: run}, nil
	}
	if in.Dead != "" && in.Run.Status.TargetDead == "" {
		run := clone(in.Run)
		run.Status.TargetDead = in.Dead
		return Decision{Kind: Save, Run: run}, nil
	}
	i, undo := open(defs, in.Run)
	if i < 0 {
		return finish(defs, in), nil
	}
	if undo {
		return undoTurn(defs[i], in, i), nil
	}
	return doTurn(defs, in, i), nil
}

// OpenCall names what the shell has to look at for the next turn; ok is false
// when nothing is to be seen (a pending step without intent, a record, the end).
func OpenCall(run *spec.Run) (c Call, gate, ok bool, err error) {
	defs, err := definitions(run)
	if err != nil {
		return Call{}, false, false, err
	}
	i, undo := open(defs, run)
	if i < 0 {
		return Call{}, false, false, nil
	}
	d, s := defs[i], run.Steps[i]
	c = Call{Run: run, Step: s, Verb: s.Verb, Undo: undo}
	if undo {
		c.Verb = s.Undo
	}
	gate = d.Gate && !undo
	return c, gate, c.Verb != "" && (s.State == spec.StepRunning || s.State == spec.StepUndoing || (s.State == spec.StepPending && d.Intent)), nil
}

// definitions pairs the frozen steps with their rows; a step that this
// version does not know is refused.
func definitions(run *spec.Run) ([]StepDef, error) {
	table := stepTable(run.Spec.Kind)
	defs := make([]StepDef, len(run.Steps))
	for i, s := range run.Steps {
		d, ok := table[s.Name]
		if !ok {
			return nil, fmt.Errorf("run %s has the step %q, which this version of Tranship does not know: use the version that started the run", run.Metadata.Name, s.Name)
		}
		defs[i] = d
	}
	return defs, nil
}

// open finds the one step that the run works on, forwards or backwards.
func open(defs []StepDef, run *spec.Run) (index int, undo bool) {
	if failing(defs, run) {
		for _, i := range undoOrder(defs) {
			if s := run.Steps[i]; s.Undo != "" && undoable(s.State) {
				return i, true
			}
		}
		return -1, true
	}
	for i, s := range run.Steps {
		if s.State != spec.StepDone && s.State != spec.StepFailed {
			return i, false
		}
	}
	return -1, false
}

func undoable(s spec.StepState) bool {
	return s == spec.StepRunning || s == spec.StepDone || s == spec.StepFailed || s == spec.StepUndoing
}

// failing says whether the run is on its way back. A failed step does not
// turn it round when it is soft, or once users reach the target.
func failing(defs []StepDef, run *spec.Run) bool {
	if run.Status.Cancel != "" {
		return true
	}
	stays := committed(defs, run)
	for i, s := range run.Steps {
		switch s.State {
		case spec.StepUndoing, spec.StepUndone, spec.StepUndoFail:
			return true
		case spec.StepFailed:
			if !defs[i].Soft && !stays {
				return true
			}
		}
	}
	return false
}

// committed says whether a step after which nothing is undone by itself has
// begun: from the first traffic object on, unless the plan gave
// rollback.targetWrites: Discard. A record that waits for
// its push counts too.
func committed(defs []StepDef, run *spec.Run) bool {
	discard := run.Spec.Closure.Plan.Spec.Rollback.TargetWrites == "Discard"
	for i, s := range run.Steps {
		begun := s.State == spec.StepRunning || s.State == spec.StepDone || s.State == spec.StepFailed
		if defs[i].NoReturn && begun && s.Started != nil && (!discard || defs[i].Verb == "" || defs[i].Soft) {
			return true
		}
	}
	return false
}

func doTurn(defs []StepDef, in Input, i int) Decision {
	d, s := defs[i], in.Run.Steps[i]
	if d.Gate && !in.Gate.Open && (in.Gate.Cancel || !stopped(defs[:i], in.Run)) && (s.State == spec.StepPending || (in.Err == nil && in.Seen.Seen == Absent)) {
		return gateTurn(d, in, i)
	}
	if s.State == spec.StepPending {
		if in.Err != nil && d.Intent {
			return blind(d, in, i)
		}
		dec := begin(d, in, i, 1)
		dec.Push = firstEffect(defs, i)
		return dec
	}
	if d.Verb == "" {
		dec := settle(in, i, spec.StepDone, "", d.Help)
		dec.Push = d.Push
		return dec
	}
	if in.Err == nil {
		switch in.Seen.Seen {
		case Succeeded:
			return succeeded(d, in, i)
		case Broken:
			return broken(d, in, i)
		}
	}
	if s.Deadline != nil && in.Now.After(s.Deadline.Time) && !d.Forever {
		return settle(in, i, spec.StepFailed, "DeadlineExceeded", overdue(in, s))
	}
	if in.Push != nil && d.PushTimeout != nil && in.Now.After(s.Started.Add(d.PushTimeout(&in.Run.Spec.Closure.Plan.Spec.Cutover))) {
		return settle(in, i, spec.StepFailed, "DeadlineExceeded", overdue(in, s))
	}
	if in.Err != nil {
		return blindStep(d, in, i)
	}
	if dec, ok := saveFacts(in, i); ok {
		return dec
	}
	if in.Seen.Seen == Absent && !d.ReadOnly {
		if rest := restUntil(s.Started.Time, in.Now, s.Attempt); rest > 0 {
			return wait(in, s, rest, "Retrying", s.Message, "")
		}
		return Decision{Kind: Act, Call: Call{Run: in.Run, Step: s, Verb: s.Verb}, Push: d.Push && !in.Pushed, Step: s.Name}
	}
	return wait(in, s, in.Seen.Poll, in.Seen.Reason, in.Seen.Message, in.Seen.Object)
}

// stopped says that one of these steps may have stopped a part of the application.
func stopped(defs []StepDef, run *spec.Run) bool {
	for i, d := range defs {
		if d.Stops && run.Steps[i].State != spec.StepPending {
			return true
		}
	}
	return false
}

// succeeded ends a step.
func succeeded(d StepDef, in Input, i int) Decision {
	s := in.Run.Steps[i]
	push := d.PushEnd && !in.Pushed
	if push && in.Push != nil && s.Deadline != nil && in.Now.After(s.Deadline.Time) && !d.Forever {
		return settle(in, i, spec.StepFailed, "DeadlineExceeded", overdue(in, s))
	}
	dec := settle(in, i, spec.StepDone, in.Seen.Reason, in.Seen.Message)
	dec.Push = push
	return dec
}

// idleSince is when the newest step ended, or the run began.
func idleSince(run *spec.Run) time.Time {
	since := run.Status.Started.Time
	for _, s := range run.Steps {
		if s.Ended != nil && s.Ended.After(since) {
			since = s.Ended.Time
		}
	}
	return since
}

// firstEffect says that nothing before step i can have changed a cluster: the
// frozen run must be in Git before it begins.
func firstEffect(defs []StepDef, i int) bool {
	for _, d := range defs[:i] {
		if !d.ReadOnly {
			return false
		}
	}
	return !defs[i].ReadOnly
}

// begin records the intent of a step, with what its look found beforehand.
func begin(d StepDef, in Input, i, attempt int) Decision {
	run := clone(in.Run)
	now := metav1.NewMicroTime(in.Now)
	s := &run.Steps[i]
	s.State, s.Attempt, s.Started = spec.StepRunning, attempt, &now
	if attempt == 1 {
		s.Reason, s.Message = "", ""
	}
	if d.Timeout != nil && d.Verb != "" {
		end := metav1.NewTime(in.Now.Add(d.Timeout(&run.Spec.Closure.Plan.Spec.Cutover)))
		if attempt == 1 || s.Deadline == nil {
			s.Deadline = &end
		}
	}
	mergeFacts(&run.Facts, in.Seen.Facts)
	return Decision{Kind: Save, Run: run, Step: s.Name}
}

// broken ends an attempt: another one, or the step's failure.
func broken(d StepDef, in Input, i int) Decision {
	s := in.Run.Steps[i]
	late := s.Deadline != nil && in.Now.After(s.Deadline.Time)
	if !d.Forever && (in.Seen.Final || s.Attempt > d.Retries || late) {
		return settle(in, i, spec.StepFailed, in.Seen.Reason, in.Seen.Message)
	}
	dec := begin(d, in, i, s.Attempt+1)
	dec.Run.Steps[i].Reason, dec.Run.Steps[i].Message = in.Seen.Reason, in.Seen.Message
	dec.Log = in.Seen.Log
	return dec
}

// settle records the outcome of a step.
func settle(in Input, i int, state spec.StepState, reason, message string) Decision {
	run := clone(in.Run)
	now := metav1.NewMicroTime(in.Now)
	s := &run.Steps[i]
	s.State, s.Ended, s.Reason, s.Message = state, &now, reason, message
	if state == spec.StepFailed && s.Reason == "" {
		s.Reason = "StepFailed"
	}
	mergeFacts(&run.Facts, in.Seen.Facts)
	return Decision{Kind: Save, Run: run, Log: in.Seen.Log, Step: s.Name}
}

// saveFacts records what a working step has found, so that a restart knows it.
func saveFacts(in Input, i int) (Decision, bool) {
	if in.Seen.Facts == nil {
		return Decision{}, false
	}
	run := clone(in.Run)
	if !mergeFacts(&run.Facts, in.Seen.Facts) {
		return Decision{}, false
	}
	return Decision{Kind: Save, Run: run, Log: in.Seen.Log, Step: run.Steps[i].Name}, true
}

func gateTurn(d StepDef, in Input, i int) Decision {
	s := in.Run.Steps[i]
	limit := in.Run.Status.Started.Add(in.Run.Spec.Closure.Plan.Spec.Cutover.TimeoutOrDefault())
	why := ""
	switch {
	case in.Gate.Cancel:
		why = in.Gate.Reason + ": " + in.Gate.Say
	case s.State == spec.StepRunning && s.Deadline != nil && in.Now.After(s.Deadline.Time): // it may have begun
		return settle(in, i, spec.StepFailed, "DeadlineExceeded", in.Gate.Say)
	case in.Now.After(limit):
		why = "DeadlineExceeded: cutover.timeout passed while the run waited before " + d.Name + ": " + in.Gate.Say
	default:
		dec := wait(in, s, 2*time.Second, in.Gate.Reason, in.Gate.Say, "")
		end := metav1.NewTime(limit)
		dec.Waiting.Deadline = &end
		return dec
	}
	run := clone(in.Run)
	run.Status.Cancel = why
	return Decision{Kind: Save, Run: run, Step: s.Name}
}

func wait(in Input, s spec.Step, after time.Duration, reason, message, object string) Decision {
	if after <= 0 {
		after = 2 * time.Second
	}
	if reason == "" {
		reason = "InProgress"
	}
	w := &spec.Waiting{Reason: reason, Message: message, Object: object, Look: lookAt(object, in.Run), Events: in.Seen.Events, Deadline: s.Deadline}
	if s.Started != nil {
		w.Since = metav1.NewTime(s.Started.Time)
	} else {
		w.Since = metav1.NewTime(idleSince(in.Run))
	}
	if s.State == spec.StepUndoing && s.Undid != nil && s.Undid.Started != nil {
		end := metav1.NewTime(s.Undid.Started.Add(undoTimeout))
		w.Since, w.Deadline = metav1.NewTime(s.Undid.Started.Time), &end
	}
	return Decision{Kind: Wait, After: after, Waiting: w, Step: s.Name}
}

func overdue(in Input, s spec.Step) string {
	last := in.Seen.Message
	if in.Push != nil {
		last = "its record could not be pushed: " + in.Push.Error()
	} else if in.Err != nil {
		last = in.Err.Error()
	} else if in.Tried != nil {
		last = strings.TrimPrefix(last+": "+in.Tried.Error(), ": ")
	}
	if last == "" {
		last = "nothing was observed"
	}
	// Most messages name the object; "source Pod shop/web-0" is shop/web-0 in them.
	if o := in.Seen.Object; o != "" && !strings.Contains(last, o[strings.LastIndexByte(o, ' ')+1:]) {
		last = o + ": " + last
	}
	if len(in.Seen.Events) > 0 {
		last += "; its last events: " + strings.Join(in.Seen.Events, "; ")
	}
	return fmt.Sprintf("the step %s did not end in time; the last that was seen: %s", s.Name, last)
}

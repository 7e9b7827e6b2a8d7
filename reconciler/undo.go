package reconciler

import (
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// undoAttempts bounds an undo behind the restart of the source; before it an
// undo is never given up (safety property 8).
const undoAttempts = 5

func undoTurn(d StepDef, in Input, i int) Decision {
	s := in.Run.Steps[i]
	if s.State != spec.StepUndoing {
		return beginUndo(in, i, 1)
	}
	if in.Err == nil {
		switch in.Seen.Seen {
		case Succeeded:
			return settleUndo(in, i, spec.StepUndone, in.Seen.Reason, in.Seen.Message)
		case Broken:
			if in.Seen.Final && d.UndoEnds || !d.UndoBefore && (in.Seen.Final || s.Attempt >= undoAttempts) {
				return settleUndo(in, i, spec.StepUndoFail, in.Seen.Reason, in.Seen.Message)
			}
			dec := beginUndo(in, i, s.Attempt+1)
			dec.Log = in.Seen.Log
			return dec
		}
	}
	if goesWithTheTarget(d, in) {
		return settleUndo(in, i, spec.StepUndoFail, "TargetIsDead", withoutTarget(in))
	}
	works := d.UndoWaits && in.Err == nil && in.Seen.Seen == Working
	if s.Undid != nil && s.Undid.Started != nil && in.Now.After(s.Undid.Started.Add(undoTimeout)) && !works {
		if !d.UndoBefore && s.Attempt >= undoAttempts {
			return settleUndo(in, i, spec.StepUndoFail, "DeadlineExceeded", overdue(in, s))
		}
		return beginUndo(in, i, s.Attempt+1)
	}
	if in.Err != nil {
		return blindUndo(d, in, i, min(time.Second<<min(s.Attempt, 5), 30*time.Second))
	}
	if dec, ok := saveFacts(in, i); ok {
		return dec
	}
	if in.Seen.Seen == Absent {
		if rest := restUntil(s.Undid.Started.Time, in.Now, s.Attempt); rest > 0 {
			return wait(in, s, rest, "Retrying", s.Undid.Message, "")
		}
		return Decision{Kind: Act, Call: Call{Run: in.Run, Step: s, Verb: s.Undo, Undo: true}, Step: s.Name}
	}
	return wait(in, s, in.Seen.Poll, in.Seen.Reason, in.Seen.Message, in.Seen.Object)
}

// undoTimeout bounds one attempt of an undo.
const undoTimeout = 10 * time.Minute

func beginUndo(in Input, i, attempt int) Decision {
	run := clone(in.Run)
	now := metav1.NewMicroTime(in.Now)
	s := &run.Steps[i]
	s.State, s.Attempt = spec.StepUndoing, attempt
	s.Undid = &spec.Undid{Started: &now}
	if attempt > 1 {
		s.Undid.Reason, s.Undid.Message = in.Seen.Reason, in.Seen.Message
	}
	mergeFacts(&run.Facts, in.Seen.Facts)
	return Decision{Kind: Save, Run: run, Step: s.Name}
}

func settleUndo(in Input, i int, state spec.StepState, reason, message string) Decision {
	run := clone(in.Run)
	now := metav1.NewMicroTime(in.Now)
	s := &run.Steps[i]
	s.State = state
	s.Undid.Ended, s.Undid.Reason, s.Undid.Message = &now, reason, message
	mergeFacts(&run.Facts, in.Seen.Facts)
	return Decision{Kind: Save, Run: run, Log: in.Seen.Log, Step: s.Name}
}

package reconciler

import (
	"fmt"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// blind waits for the look that an intent needs, as long as the step itself
// may take. What the run waited for before, a gate or a daemon that was away,
// is not part of that time.
func blind(d StepDef, in Input, i int) Decision {
	since := idleSince(in.Run)
	if in.Blind.After(since) {
		since = in.Blind
	}
	end := metav1.NewTime(since.Add(d.Timeout(&in.Run.Spec.Closure.Plan.Spec.Cutover)))
	if in.Now.After(end.Time) && !d.Forever {
		return settle(in, i, spec.StepFailed, "DeadlineExceeded", overdue(in, in.Run.Steps[i]))
	}
	dec := wait(in, in.Run.Steps[i], time.Second, "Unreachable", in.Err.Error(), "")
	dec.Waiting.Deadline = &end
	return dec
}

// blindStep waits for a cluster that does not answer; the steps of a rollback are
// undos.
func blindStep(d StepDef, in Input, i int) Decision {
	switch back := in.Run.Spec.Kind == spec.RunRollback; {
	case back && goesWithTheTarget(d, in):
		return settle(in, i, spec.StepFailed, "TargetIsDead", withoutTarget(in))
	case back:
		return blindUndo(d, in, i, time.Second)
	}
	return wait(in, in.Run.Steps[i], time.Second, "Unreachable", in.Err.Error(), "")
}

// blindUndo waits for a cluster that does not answer, and says the way out where
// there is one: whether the target is only out of reach, and its application
// runs, nobody can see from here.
func blindUndo(d StepDef, in Input, i int, after time.Duration) Decision {
	reason, say := "Unreachable", in.Err.Error()
	if d.UndoTarget {
		reason = "TargetUnreachable"
		say = fmt.Sprintf("the source is started when nothing runs on the target any more, and what is there cannot be seen: %s; if the target is gone for good, run `tranship rollback %s --target-is-dead`", say, in.Run.Spec.Plan)
	}
	return wait(in, in.Run.Steps[i], after, reason, say, "")
}

// goesWithTheTarget: the undo is about the target alone, that does not answer, and
// somebody has said that it never will.
func goesWithTheTarget(d StepDef, in Input) bool {
	return in.Err != nil && d.UndoTarget && in.Run.Status.TargetDead != ""
}

func withoutTarget(in Input) string {
	return "not undone, " + in.Run.Status.TargetDead + ": " + in.Err.Error()
}

package reconciler

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Foreseen is what the daemon will do about a plan, as Decide says it.
type Foreseen struct {
	Plan string
	// Order is the run that starts, at once or at At; nil: none.
	Order  *Order
	At     time.Time // zero with an Order: as soon as the commit is read
	After  string    // the run that it waits for
	Cancel string    // why the open run is undone
	// Condition is the plan's Ready condition right after the commit is read, and
	// Stalled says that only people can change it.
	Condition metav1.Condition
	Stalled   bool
	Status    *spec.PlanStatus // right before the run starts
}

// Outlook is what the daemon will do once a state of the branch is read.
type Outlook struct {
	Hold  *spec.Waiting // everything is held
	Plans map[string]*Foreseen
}

// foresight bounds how many instants at which time alone may change an answer
// are looked at: two weeks of a schedule that is due every hour.
const foresight = 14 * 24

// Foresee plays the reading of a commit at an instant: it accepts it on top of
// what is recorded and asks Decide, also about the instants after it, until a
// run would start or only people can change the answer. It is pure; rec is not
// changed.
func Foresee(now time.Time, rec *Recorded, want *Desired) Outlook {
	mine := *rec
	mine.Plans = maps.Clone(rec.Plans)
	statuses, daemon := AcceptAll(now, &mine, want)
	for _, st := range statuses {
		mine.Plans[st.Metadata.Name] = st
	}
	out := Outlook{Hold: daemon.Hold, Plans: map[string]*Foreseen{}}
	ground := newOverlaps(want, &mine)
	for plan := range mine.Plans {
		in := inputOf(plan, want, &mine, ground)
		in.Now, in.Hold = now, daemon.Hold
		out.Plans[plan] = foresee(in)
	}
	return out
}

func foresee(in PlanInput) *Foreseen {
	f := &Foreseen{Plan: in.Plan}
	dec := Decide(in)
	f.Cancel, f.Condition = dec.Cancel, *find(dec.Status, "Ready")
	f.Stalled = find(dec.Status, "Stalled") != nil
	if open := in.Open; open != nil && open.Spec.Kind == spec.RunStage && f.Cancel == "" && in.Hold == nil {
		f.After = open.Metadata.Name // it ends, and then the plan is asked again
		in.Open, in.Status = nil, copyStatus(dec.Status)
		in.Status.Recorded.OpenRun = ""
		dec = Decide(in)
	}
	began := in.Now
	for range foresight {
		if dec.Start != nil || dec.Wake.IsZero() || in.Open != nil {
			break
		}
		in.Now, in.Status = dec.Wake, dec.Status
		dec = Decide(in)
	}
	f.Status = dec.Status
	if f.Order = dec.Start; f.Order != nil && in.Now.After(began) {
		f.At = in.Now
	}
	if f.Order == nil {
		f.After = ""
	}
	return f
}

// Acts says that the daemon does something about the plan, now or later.
func (f *Foreseen) Acts() bool { return f != nil && (f.Order != nil || f.Cancel != "") }

// Touched lists the plans about which a change of the branch changes anything:
// what they say, or what the daemon does about them.
func Touched(before, after *Desired, was, will Outlook) []string {
	names := map[string]bool{}
	for _, d := range []*Desired{before, after} {
		for plan := range d.Closures {
			names[plan] = true
		}
		for plan := range d.Problems {
			names[plan] = true
		}
	}
	var touched []string
	for plan := range names {
		if !alike(before.Closures[plan], after.Closures[plan]) || !slices.Equal(said(before.Problems[plan]), said(after.Problems[plan])) ||
			answersDiffer(was.Plans[plan], will.Plans[plan]) {
			touched = append(touched, plan)
		}
	}
	slices.Sort(touched)
	return touched
}

// alike compares all that documents say, also what needs no approval.
func alike(a, b *spec.Closure) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// said is what problems say, wherever the lines are now.
func said(ps []spec.Problem) []string {
	var all []string
	for _, p := range ps {
		all = append(all, p.Document+" "+p.Path+" "+p.Message)
	}
	return all
}

func answersDiffer(a, b *Foreseen) bool {
	if a == nil || b == nil {
		return a != b
	}
	return a.Condition.Reason != b.Condition.Reason || a.Cancel != b.Cancel || (a.Order == nil) != (b.Order == nil) || a.Order != nil && a.Order.Kind != b.Order.Kind
}

// Presume is a record for where none can be read: it takes what the branch says
// as done. A cutover that is presumed can be rolled back, but nobody knows its steps.
func Presume(now time.Time, want *Desired) *Recorded {
	rec := &Recorded{Plans: map[string]*spec.PlanStatus{}, Open: map[string]*spec.Run{}, Daemon: spec.DaemonStatus{Accepted: want.Commit}}
	statuses, _ := AcceptAll(now, &Recorded{Plans: map[string]*spec.PlanStatus{}, Origin: true}, want)
	for _, st := range statuses {
		r := &st.Recorded
		if r.State, r.Unrecorded = r.SeenState, false; r.State == spec.Migrated {
			r.Cutover, r.CutoverPath = presumed, presumed
			if c := want.Closures[st.Metadata.Name]; c != nil {
				st.Migrated = c.Digest()
			}
		}
		rec.Plans[st.Metadata.Name] = st
	}
	return rec
}

// presumed stands for the record of a cutover that is not known.
const presumed = "(not known)"

// Help is the sentence about a step of a kind of run; "" when there is no such step.
func Help(kind spec.RunKind, step string) string { return stepTable(kind)[step].Help }

// ApprovalEnds is when an approval of a cutover lapses that is given by a commit.
func ApprovalEnds(c *spec.Closure, by spec.Approval) time.Time {
	return approvalEnd(&PlanInput{Closure: c}, &spec.Flip{Approval: by})
}

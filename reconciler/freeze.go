package reconciler

import (
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Order asks for a run.
type Order struct {
	Kind     spec.RunKind
	Plan     string
	Closure  *spec.Closure
	Commit   string
	Approval *spec.Approval
	Slot     *metav1.Time
	Undoes   *spec.Run // rollback and close: the finished cutover
	Before   *spec.Run // rollback: the last one of the same cutover, which was to copy back and failed
	Volumes  []spec.Volume
	Epoch    int64
}

// Freeze plans a run once: it evaluates the conditions of the itinerary and
// writes the result down. From here on only the record counts, so that facts,
// documents and new releases cannot change a run on its way. The number is
// one above the newest recorded of the kind; the ledger's compare-and-swap
// makes it unique.
func Freeze(now time.Time, o Order, st *spec.PlanStatus) *spec.Run {
	n := st.Recorded.Numbers[o.Kind] + 1
	r := &spec.Run{
		TypeMeta: spec.TypeMeta{APIVersion: spec.APIVersion, Kind: spec.KindRun},
		Metadata: spec.Metadata{Name: RunName(o.Plan, o.Kind, n)},
		Spec: spec.RunSpec{
			Plan: o.Plan, Kind: o.Kind, Number: n, Attempt: o.Closure.Plan.Spec.Cutover.AttemptOrDefault(),
			Commit: o.Commit, ApprovedBy: o.Approval, Digest: o.Closure.Digest(), Closure: *o.Closure,
			Slot: o.Slot, Epoch: o.Epoch, Previous: st.Recorded.LastDigest,
		},
		Status: spec.RunStatus{Phase: spec.RunRunning, Started: metav1.NewMicroTime(now)},
	}
	r.Facts.Volumes = o.Volumes
	if o.Kind == spec.RunRollback {
		r.Spec.Undoes = o.Undoes.Metadata.Name
		// What was done is undone where it was done: a plan that was edited
		// since may name other clusters and namespaces.
		r.Spec.Closure = o.Undoes.Spec.Closure
		r.Spec.Closure.Plan.Spec.Rollback = o.Closure.Plan.Spec.Rollback
		r.Facts = o.Undoes.Facts
		if o.Before != nil { // what it made anew has other UIDs now
			r.Facts = o.Before.Facts
		}
		r.Facts.Times, r.Facts.OnTarget = wentLive(o.Undoes), nil
		r.Steps = rollbackSteps(&o)
		return r
	}
	if o.Kind == spec.RunClose && o.Undoes != nil { // the policies that the cutover changed
		r.Facts = o.Undoes.Facts
		r.Facts.Times, r.Facts.Volumes = nil, o.Volumes
	}
	if o.Kind == spec.RunMigrate {
		r.Facts.Estimate, r.Facts.Volumes = st.Estimate, onlyKept(o.Volumes)
	}
	facts := freezeFacts(o, st)
	for _, d := range Itineraries[o.Kind] {
		if d.When == nil || d.When(facts) {
			r.Steps = append(r.Steps, spec.Step{Name: d.Name, Verb: d.Verb, Undo: d.Undo})
		}
	}
	return r
}

// RunName is plan-kind-number.
func RunName(plan string, kind spec.RunKind, number int) string {
	return fmt.Sprintf("%s-%s-%d", plan, kind, number)
}

func freezeFacts(o Order, st *spec.PlanStatus) *FreezeFacts {
	p := &o.Closure.Plan.Spec
	f := &FreezeFacts{Quiesce: p.Cutover.QuiesceOrDefault(), Volumes: hasCopies(o.Volumes), HalfBack: overwritten(&o, st), Live: st.Recorded.State == spec.Migrated, Updates: p.ExistingOrDefault() == spec.ExistingUpdate, Hooks: map[spec.Phase]bool{}}
	for _, v := range o.Volumes {
		f.Moves = f.Moves || v.Action == "move"
		f.Snapshots = f.Snapshots || (v.Action == "copy" && v.Method == "snapshot")
		f.Direct = f.Direct || (v.Action == "copy" && v.Transfer == "Direct")
	}
	for _, h := range p.Hooks {
		if h.RunsIn(o.Kind) {
			f.Hooks[h.Phase] = true
			f.UndoHooks = f.UndoHooks || h.Undo != ""
		}
	}
	return f
}

// rollbackSteps is the undo column of what a finished cutover did, read
// backwards: first what lies before the restart of the source, then the rest.
// What is copied back is written between the stop of the target and that.
func rollbackSteps(o *Order) (steps []spec.Step) {
	table, back := stepTable(spec.RunMigrate), copiesBack(o)
	switch {
	case back:
		steps = frozenSteps(copyBackSteps...)
	case hasCopies(o.Undoes.Facts.Volumes):
		steps = frozenSteps(putSourceBack)
	}
	defs := make([]StepDef, len(o.Undoes.Steps))
	for i, s := range o.Undoes.Steps {
		defs[i] = table[s.Name]
	}
	for _, i := range undoOrder(defs) {
		s := o.Undoes.Steps[i]
		if s.Undo == "" {
			continue
		}
		undo := spec.Step{Name: undoName(s.Name), Verb: s.Undo}
		if back && defs[i].Redone {
			undo.Undo = s.Verb
		}
		steps = append(steps, undo)
		if s.Name == "start" && back {
			steps = append(steps, frozenSteps(copyBackAfterStop...)...)
		}
	}
	return append(steps, spec.Step{Name: "rolled-back"})
}

func undoName(step string) string { return "undo-" + step }

// stepTable is the rows of a kind of run by step name.
func stepTable(kind spec.RunKind) map[string]StepDef { return stepTables[kind] }

var stepTables = buildTables()

// buildTables indexes the itineraries. The rows of a rollback come from the
// undo column of the cutover: they are tried again and again before the
// source runs, and are soft afterwards.
func buildTables() map[spec.RunKind]map[string]StepDef {
	all := map[spec.RunKind]map[string]StepDef{spec.RunRollback: {}}
	for kind, steps := range Itineraries {
		all[kind] = map[string]StepDef{}
		for _, d := range steps {
			all[kind][d.Name] = d
		}
	}
	back := all[spec.RunRollback]
	for i, d := range Itineraries[spec.RunMigrate] {
		if d.Undo != "" {
			row := StepDef{
				Name: undoName(d.Name), Verb: d.Undo, NoUndo: "it is an undo itself", Soft: !d.UndoBefore || d.UndoTarget, UndoTarget: d.UndoTarget,
				Forever: d.UndoBefore, Retries: undoAttempts, Timeout: fixed(rollbackTimeout), Help: "Takes back: " + Itineraries[spec.RunMigrate][i].Help,
			}
			if d.Redone {
				row.Undo, row.NoUndo, row.UndoBefore, row.UndoEnds = d.Verb, "", true, true
			}
			back[row.Name] = row
		}
	}
	for _, d := range slices.Concat(copyBackSteps, copyBackAfterStop, []StepDef{putSourceBack}) {
		back[d.Name] = d
	}
	back["rolled-back"] = StepDef{Name: "rolled-back", NoUndo: "it is a record", Push: true, Timeout: short, Help: "Records in Git that the application is back on the source."}
	return all
}

const rollbackTimeout = time.Hour

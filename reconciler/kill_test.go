package reconciler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var errKilled = errors.New("killed")

// world stands for Git, the journal and both clusters. Every I/O call is one
// tick; the daemon can be killed at any tick, before or after the call took
// effect. It drives the real driver.
type world struct {
	journal, git *spec.Run // newest record in the journal and in Git
	ended        *spec.Run
	made         map[string]int // effect -> how often it was created
	age          map[string]int
	broken       map[string]bool
	final        map[string]bool
	log          []string // effects and records in the order in which they took effect
	now          time.Time
	gate         func(n int) Gate
	waiting      *spec.Waiting
	gates        int
	cancelAt     int // tick at which Git takes the approval back
	pushes       int
	pushDown     func(n int) bool

	blind     string   // a step that cannot be looked at
	unreached []string // steps whose undo cannot be looked at
	dead      bool     // no undo on the target can be looked at
	word      string   // what somebody says of the target

	turns, sayAt int  // sayAt: the turn from which on word is said
	endless      bool // the life may be longer than the test

	tick, killAt int
	after        bool
}

func (w *world) io(f func()) {
	w.tick++
	if w.tick == w.killAt && !w.after {
		panic(errKilled)
	}
	f()
	if w.tick == w.killAt && w.after {
		panic(errKilled)
	}
}

// effect is the deterministic name of what a call makes. An undo that is
// tried again deals with the same objects.
func effect(c Call) string {
	if c.Undo {
		return "undo:" + c.Step.Name
	}
	return fmt.Sprintf("do:%s:%d", c.Step.Name, c.Step.Attempt)
}

func (w *world) Look(_ context.Context, c Call) (o Observation, err error) {
	if c.Step.Name == w.blind && !c.Undo {
		return o, errors.New("the cluster does not answer")
	}
	if c.Undo && slices.Contains(w.unreached, c.Step.Name) {
		return o, errors.New("the cluster does not answer")
	}
	if _, d := defOf(c); w.dead && d.UndoTarget && (c.Undo || c.Run.Spec.Kind == spec.RunRollback) {
		return o, errors.New("the target does not answer")
	}
	w.io(func() {
		if c.Step.State == spec.StepPending {
			o.Facts = &spec.Facts{Backup: "intent of " + c.Step.Name}
			return
		}
		name := effect(c)
		_, d := defOf(c)
		if d.ReadOnly {
			o.Seen = Succeeded
			if w.broken[name] {
				o = Observation{Seen: Broken, Reason: "Injected", Final: w.final[name]}
			}
			return
		}
		switch {
		case d.Verb == "mover.restore" && !c.Undo && w.made["do:hand-over:1"] > 0 && w.made["undo:hand-over"] == 0:
			// The claim is the application's by now: a daemon that asks has lost too much.
			o = Observation{Seen: Broken, Reason: "ClaimMissing", Message: name, Final: true}
		case w.made[name] == 0:
			o.Seen = Absent
		case w.age[name] < 2:
			w.age[name]++
			o.Seen = Working
		case w.broken[name]:
			o = Observation{Seen: Broken, Reason: "Injected", Message: name, Final: w.final[name]}
		default:
			o.Seen = Succeeded
		}
	})
	return o, nil
}

func defOf(c Call) (int, StepDef) {
	return 0, stepTable(c.Run.Spec.Kind)[c.Step.Name]
}

func (w *world) Ensure(_ context.Context, c Call) error {
	w.io(func() {
		name := effect(c)
		if w.made[name] > 0 {
			return // AlreadyExists is success
		}
		w.made[name]++
		w.log = append(w.log, name)
		if w.git == nil {
			w.log = append(w.log, "UNPUSHED "+name)
		}
		if _, d := defOf(c); d.Push && !c.Undo && (w.git == nil || !began(w.git, c.Step.Name)) {
			w.log = append(w.log, "UNPUSHED "+name)
		}
		if c.Undo && w.pushDown == nil && (w.git == nil || !failing(mustDefinitions(w.git), w.git)) {
			w.log = append(w.log, "UNPUSHED turn before "+name)
		}
	})
	return nil
}

func mustDefinitions(r *spec.Run) []StepDef {
	defs, err := definitions(r)
	if err != nil {
		panic(err)
	}
	return defs
}

func began(r *spec.Run, step string) bool {
	for _, s := range r.Steps {
		if s.Name == step {
			return s.State != spec.StepPending
		}
	}
	return false
}

func (w *world) Survey(context.Context, *spec.Closure, []spec.Volume) (Survey, error) {
	return Survey{}, nil
}
func (w *world) Load(context.Context) (*Recorded, error)         { return nil, nil }
func (w *world) Record(context.Context, ...Change) error         { return nil }
func (w *world) Run(context.Context, string) (*spec.Run, error)  { return nil, nil }
func (w *world) tell(_ *spec.Run, x *spec.Waiting, _ []Progress) { w.waiting = x }
func (w *world) Now() time.Time                                  { return w.now }
func (w *world) finishRun(_ context.Context, r *spec.Run) error {
	w.io(func() { w.journal, w.ended = r, r })
	return nil
}
func (w *world) After(d time.Duration) <-chan time.Time {
	w.now = w.now.Add(d)
	c := make(chan time.Time, 1)
	c <- w.now
	return c
}

func (w *world) Push(context.Context) (err error) {
	w.pushes++
	if w.pushDown != nil && w.pushDown(w.pushes) {
		return errors.New("the Git server is down")
	}
	w.io(func() { w.git = w.journal })
	return nil
}

func (w *world) saveRun(_ context.Context, d Decision) error {
	w.io(func() {
		for i, s := range d.Run.Steps {
			if old := w.journal.Steps[i]; old.State != s.State || old.Attempt != s.Attempt {
				w.log = append(w.log, fmt.Sprintf("save:%s=%s", s.Name, s.State))
			}
		}
		w.journal = d.Run
	})
	return nil
}

func (w *world) askGate(context.Context, *spec.Run) Gate {
	w.gates++
	if w.gate == nil {
		return Gate{Open: true}
	}
	return w.gate(w.gates)
}

// life drives until the run ends or the daemon is killed.
func (w *world) life(t *testing.T) (killed bool) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if r != errKilled {
				panic(r)
			}
			killed = true
		}
	}()
	d := &driver{shell: w, ledger: w, executor: w, clock: newSteady(w), run: w.journal, cancel: make(chan string, 1), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for i := 0; i < 3000; i++ {
		if w.cancelAt > 0 && w.tick >= w.cancelAt {
			d.why = "StateChanged: Git says Staged"
		}
		if w.turns = i; i > w.sayAt {
			d.gone = w.word
		}
		done, err := d.turn(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return false
		}
	}
	if !w.endless {
		t.Fatalf("no end: %+v", w.journal.Steps)
	}
	return false
}

// copyBack stands for a rollback that copies back, hooked for a cutover with a
// hook that has an undo, and unhooked for the rollback of one.
const (
	copyBack spec.RunKind = "copy back"
	hooked   spec.RunKind = "cutover with a hook that has an undo"
	unhooked spec.RunKind = "rollback with an undo of a hook"
)

func newWorld(kind spec.RunKind, volumes bool, break_ ...string) *world {
	w := &world{made: map[string]int{}, age: map[string]int{}, broken: map[string]bool{}, final: map[string]bool{}, now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	c := &spec.Closure{}
	c.Plan.Spec.State = spec.Migrated
	if kind == hooked || kind == unhooked {
		c.Plan.Spec.Hooks = []spec.PlanHook{{Hook: "scale-down", Undo: "scale-up", Phase: spec.PreBackup}}
		kind = map[spec.RunKind]spec.RunKind{hooked: spec.RunMigrate, unhooked: spec.RunRollback}[kind]
	}
	o := Order{Kind: kind, Plan: "shop", Closure: c, Approval: &spec.Approval{Commit: "c1", Time: metav1.NewTime(w.now)}}
	if volumes {
		o.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data", Action: "copy"}}
	}
	if kind == spec.RunRollback || kind == copyBack {
		cutover := o
		cutover.Kind = spec.RunMigrate
		o.Undoes = finished(Freeze(w.now, cutover, &spec.PlanStatus{}), w.now)
		o.Kind, c.Plan.Spec.Rollback.TargetWrites = spec.RunRollback, map[spec.RunKind]string{copyBack: "CopyBack", spec.RunRollback: "Discard"}[kind]
	}
	w.journal = Freeze(w.now, o, &spec.PlanStatus{})
	for _, b := range break_ {
		name, final := strings.CutSuffix(b, "!")
		w.broken[name], w.final[name] = true, final
	}
	return w
}

// finished is a run that has done everything.
func finished(r *spec.Run, at time.Time) *spec.Run {
	now := metav1.NewMicroTime(at)
	for i := range r.Steps {
		r.Steps[i].State, r.Steps[i].Started, r.Steps[i].Ended = spec.StepDone, &now, &now
	}
	r.Status.Phase = spec.RunSucceeded
	return r
}

func effects(w *world) []string {
	var e []string
	for _, l := range w.log {
		if !strings.HasPrefix(l, "save:") && l != "reset" {
			e = append(e, l)
		}
	}
	return e
}

// rank orders the states that a step may pass through; a step never goes back.
var rank = map[string]int{"Running": 1, "Done": 2, "Failed": 2, "Undoing": 3, "Undone": 4, "UndoFailed": 4}

// orderBroken checks the ledger's promises: every effect is preceded by its
// recorded intent, what needs a push was pushed, no step moves backwards.
func orderBroken(w *world) error {
	last := map[string]int{}
	for _, l := range w.log {
		if l == "reset" { // the journal was lost: what follows begins with what Git has
			last = map[string]int{}
			continue
		}
		if rest, ok := strings.CutPrefix(l, "save:"); ok {
			name, state, _ := strings.Cut(rest, "=")
			if rank[state] < last[name] {
				return fmt.Errorf("%s went back to %s", name, state)
			}
			last[name] = rank[state]
			continue
		}
		if strings.HasPrefix(l, "UNPUSHED") {
			return fmt.Errorf("%s: its record was not in Git", l)
		}
		f := strings.Split(l, ":")
		need := 1
		if f[0] == "undo" {
			need = 3
		}
		if last[f[1]] < need {
			return fmt.Errorf("%s was done before its intent was on record", l)
		}
	}
	return nil
}

var killCases = []struct {
	name    string
	kind    spec.RunKind
	volumes bool
	broken  []string
	phase   spec.RunPhase
	last    string // the last effect
}{
	{"stage", spec.RunStage, true, nil, spec.RunSucceeded, "do:clean-up:1"},
	{"stage fails", spec.RunStage, true, []string{"do:restore-volumes:1!"}, spec.RunFailed, "undo:restore-volumes"},
	{"cutover without volumes", spec.RunMigrate, false, nil, spec.RunSucceeded, "do:clean-up:1"},
	{"cutover with volumes", spec.RunMigrate, true, nil, spec.RunSucceeded, "do:clean-up:1"},
	{"a backup is lost once", spec.RunMigrate, true, []string{"do:backup:1"}, spec.RunSucceeded, "do:clean-up:1"},
	{"the last copy fails", spec.RunMigrate, true, []string{"do:last-restore:1!"}, spec.RunFailed, "undo:namespaces"},
	{"the target is not healthy", spec.RunMigrate, true, []string{"do:health:1!"}, spec.RunFailed, "undo:namespaces"},
	{"an undo fails for good behind the restart", spec.RunMigrate, true, []string{"do:health:1!", "undo:backup!"}, spec.RunFailed, "undo:namespaces"},
	{"the target of a hooked cutover is not healthy", hooked, true, []string{"do:health:1!"}, spec.RunFailed, "undo:namespaces"},
	{"a hook with an undo fails", hooked, true, []string{"do:hooks-with-undo:1!"}, spec.RunFailed, "undo:namespaces"},
	{"traffic fails", spec.RunMigrate, true, []string{"do:traffic:1!"}, spec.RunSucceeded, "do:clean-up:1"},
	{"close", spec.RunClose, true, nil, spec.RunSucceeded, "do:release:1"},
	{"rollback that discards", spec.RunRollback, true, nil, spec.RunSucceeded, "do:undo-namespaces:1"},
	{"rollback that undoes a hook", unhooked, true, nil, spec.RunSucceeded, "do:undo-namespaces:1"},
	{"rollback that copies back", copyBack, true, nil, spec.RunSucceeded, "do:undo-namespaces:1"},
	{"copy back, the last upload is lost once", copyBack, true, []string{"do:last-upload-target:1"}, spec.RunSucceeded, "do:undo-namespaces:1"},
	{"copy back fails before the stop", copyBack, true, []string{"do:upload-target:1!"}, spec.RunFailed, "undo:keep-source"},
	{"copy back fails at its last copy", copyBack, true, []string{"do:last-upload-target:1!"}, spec.RunFailed, "undo:keep-source"},
	{"copy back fails half way", copyBack, true, []string{"do:write-source:1!"}, spec.RunFailed, "undo:keep-source"},
	{"copy back fails, and the target's way in is taken", copyBack, true, []string{"do:write-source:1!", "undo:undo-traffic!"}, spec.RunFailed, "undo:keep-source"},
	{"a rollback that discards cannot put the source back", spec.RunRollback, true, []string{"do:put-source-back:1!"}, spec.RunFailed, "undo:put-source-back"},
	{"a closed plan keeps its marks", spec.RunClose, true, []string{"do:release:1!"}, spec.RunSucceeded, "do:release:1"},
}

// TestKilledAtEveryInstant kills the daemon at every I/O call of every case,
// before and after the call took effect: the outcome equals the unkilled one,
// every effect happens exactly once and in the same order.
func TestKilledAtEveryInstant(t *testing.T) {
	runs := 0
	for _, c := range killCases {
		t.Run(c.name, func(t *testing.T) {
			ref := newWorld(c.kind, c.volumes, c.broken...)
			if ref.life(t) {
				t.Fatal("killed without a kill")
			}
			want := effects(ref)
			if got := ref.ended.Status.Phase; got != c.phase || want[len(want)-1] != c.last {
				t.Fatalf("unkilled: %s (%s), effects %v", got, ref.ended.Status.Message, want)
			}
			for k := 1; k <= ref.tick; k++ {
				if testing.Short() && k%7 != 0 {
					continue
				}
				for _, after := range []bool{false, true} {
					for _, lost := range []bool{false, true} {
						w := newWorld(c.kind, c.volumes, c.broken...)
						w.killAt, w.after = k, after
						first := w.journal
						killed := w.life(t)
						if killed && w.ended == nil {
							w.restart(lost, first)
							w.life(t)
						}
						runs++
						w.check(t, fmt.Sprintf("kill at %d after=%v lost=%v", k, after, lost), want, c.phase)
					}
				}
			}
		})
	}
	t.Logf("%d killed runs", runs)
}

// restart begins a new daemon; a lost journal leaves what Git has. The order
// of records begins anew with it.
func (w *world) restart(lost bool, frozen *spec.Run) {
	w.killAt = 0
	if !lost {
		return
	}
	w.journal = w.git
	if w.journal == nil {
		w.journal = frozen
	}
	w.log = append(w.log, "reset")
	for _, step := range w.journal.Steps {
		if step.State != spec.StepPending {
			w.log = append(w.log, fmt.Sprintf("save:%s=%s", step.Name, step.State))
		}
	}
}

func (w *world) check(t *testing.T, name string, want []string, phase spec.RunPhase) {
	t.Helper()
	if w.ended == nil || w.ended.Status.Phase != phase {
		t.Fatalf("%s: ended %+v", name, w.ended)
	}
	if got := effects(w); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", name, got, want)
	}
	if err := orderBroken(w); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	for a, n := range w.made {
		if n != 1 {
			t.Errorf("%s: %s was made %d times", name, a, n)
		}
	}
}

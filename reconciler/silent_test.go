package reconciler

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// forbidden lets no effect of a step come true.
type forbidden struct {
	*world
	step string
}

func (f forbidden) Ensure(ctx context.Context, c Call) error {
	if c.Step.Name == f.step {
		return errors.New("the cluster refuses it")
	}
	return f.world.Ensure(ctx, c)
}

// What is tried again and again is told as one wait, since the step began and
// until its deadline: each try by itself is over too soon to be worth telling
// (safety property 9).
func TestAnEffectThatFailsIsOneWait(t *testing.T) {
	for _, c := range []struct {
		name, step string
		broken     []string
		git        bool // the pushes fail, not the effects
	}{{"forwards", "retain", nil, false}, {"backwards", "stop", []string{"do:drained:1!"}, false}, {"a push", "stop", nil, true}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(spec.RunMigrate, true, c.broken...)
			f := forbidden{w, c.step}
			if c.name == "backwards" {
				f.step = ""
			}
			if c.git {
				f.step, w.pushDown = "", func(n int) bool { return n > 1 }
			}
			d := &driver{shell: w, ledger: w, executor: f, clock: newSteady(w), run: w.journal, cancel: make(chan string, 1), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
			for range 3000 {
				s := stepNamed(d.run, c.step)
				if c.name == "backwards" && s.State == spec.StepUndoing {
					f.step = c.step
					d.executor = f
				}
				began := s.Started
				if s.State == spec.StepUndoing {
					began = s.Undid.Started
				}
				if _, err := d.turn(t.Context()); err != nil {
					t.Fatal(err)
				}
				if x := w.waiting; x != nil && began != nil && (x.Reason == "Retrying" || x.Reason == "GitUnreachable") && w.now.Sub(began.Time) > 30*time.Second {
					if !x.Since.Time.Equal(began.Time) || x.Deadline == nil {
						t.Fatalf("%+v, and the step began at %s", x, began)
					}
					return
				}
			}
			t.Fatalf("nothing waits: %+v", d.run.Steps)
		})
	}
}

func stepNamed(r *spec.Run, name string) spec.Step {
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	return spec.Step{}
}

// away does not answer the looks at a pending step from the moment on in which
// the gate opens, for a while.
type away struct {
	*world
	step  string
	looks int // that fail
}

func (a *away) Look(ctx context.Context, c Call) (Observation, error) {
	if c.Step.Name == a.step && c.Step.State == spec.StepPending && a.gate(a.gates+1).Open && a.looks > 0 {
		a.looks--
		return Observation{}, errors.New("no route to host")
	}
	return a.world.Look(ctx, c)
}

// A run that has waited at its gate for longer than the next step may take is
// not over when the first look after that fails: the step's time begins with
// the wait for the cluster.
func TestALongWaitAtTheGateIsNoBlindness(t *testing.T) {
	w := newWorld(spec.RunMigrate, true)
	w.gate = func(n int) Gate { return Gate{Open: n <= 2 || n > 1000, Reason: "Suspended", Say: "freeze"} } // the movers pass it; then two seconds each
	a := &away{w, "stop", 5}
	d := &driver{shell: w, ledger: w, executor: a, clock: newSteady(w), run: w.journal, cancel: make(chan string, 1), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for range 5000 {
		done, err := d.turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if done {
			break
		}
	}
	if a.looks > 0 || w.ended == nil || w.ended.Status.Phase != spec.RunSucceeded {
		t.Fatalf("%d looks to come, ended %+v", a.looks, w.journal.Status)
	}
}

// Git is away between the question at the gate and the push of the stop, and
// somebody takes the approval back meanwhile: the gate is asked again.
func TestTheGateIsAskedAgainAfterAFailedPush(t *testing.T) {
	w := newWorld(spec.RunMigrate, true)
	back := false
	w.pushDown = func(n int) bool { back = back || n == 19; return n > 1 && n < 20 }
	w.gate = func(int) Gate { return Gate{Open: !back, Cancel: back, Reason: "StateChanged", Say: "Git says Staged"} }
	w.life(t)
	if es := effects(w); slices.Contains(es, "do:stop:1") || w.ended.Status.Phase != spec.RunCanceled {
		t.Fatalf("%s, effects %v", w.ended.Status.Phase, es)
	}
}

// halfway makes half of an effect at its first try.
type halfway struct {
	*world
	step  string
	tries int
}

func (h *halfway) Ensure(ctx context.Context, c Call) error {
	if c.Step.Name == h.step && !c.Undo {
		if h.tries++; h.tries == 1 {
			h.log = append(h.log, "half of "+h.step)
			return errors.New("the cluster went away in the middle")
		}
	}
	return h.world.Ensure(ctx, c)
}

// Half an effect does not wait for Git: its record is there.
func TestHalfAStopDoesNotWaitForGit(t *testing.T) {
	w := newWorld(spec.RunMigrate, true)
	w.pushDown = func(n int) bool { return n > 2 && n < 200 } // after that of the stop
	h := &halfway{w, "stop", 0}
	d := &driver{shell: w, ledger: w, executor: h, clock: newSteady(w), run: w.journal, cancel: make(chan string, 1), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for range 3000 {
		if done, err := d.turn(t.Context()); err != nil {
			t.Fatal(err)
		} else if done || h.tries == 2 {
			break
		}
	}
	if h.tries != 2 || w.pushes != 2 {
		t.Fatalf("%d tries, %d pushes", h.tries, w.pushes)
	}
}

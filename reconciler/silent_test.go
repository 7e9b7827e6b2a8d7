package reconciler

import (
	"context"
	"errors"
	"io"
	"log/slog"
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

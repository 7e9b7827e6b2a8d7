// Package preflight finds out, without changing anything, whether a plan can
// be carried out. It reports everything that it finds at once: people repair
// in one round.
package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"golang.org/x/sync/errgroup"
)

// Check is the verb's name.
const Check = "preflight.check"

// Verbs is this package's part of the registry.
func Verbs() map[string]kube.Verb {
	return map[string]kube.Verb{Check: {Look: look}}
}

// Finding is one thing that is wrong (Warning: not as it should be).
type Finding struct {
	Reason  string // mig-controller's condition names where it had one
	Message string
	Object  string
	Warning bool
	// Passing says that it may be different a moment later.
	Passing bool
}

// check is one row of the table of checks. Problems are findings; an error
// means that the question could not be asked.
type check struct {
	name string
	ask  func(ctx context.Context, s *state) ([]Finding, error)
}

// The first table needs nothing but connections. What it finds makes the
// questions of the second meaningless.
var basics = []check{
	{"identity", identity},
	{"rights on the source", rightsOn(spec.Source)},
	{"rights on the target", rightsOn(spec.Target)},
	{"velero on the source", veleroOn(spec.Source)},
	{"velero on the target", veleroOn(spec.Target)},
	{"bucket", bucket},
	{"source namespaces", sourceNamespaces},
}

var details = []check{
	{"the plan's name", planName},
	{"limits", limits},
	{"target namespaces", targetNamespaces},
	{"workloads", workloads},
	{"kinds", kinds},
	{"volumes", volumes},
	{"existing objects", existingObjects},
	{"existing claims", existingClaims},
	{"quota", quota},
	{"snapshot copies", snapshotCopies},
	{"published names", publishedNames},
	{"clocks", clocks},
}

// Inspection is all that is known of a plan before anything is done.
type Inspection struct {
	Findings []Finding
	// Covered and Volumes are what the plan moves; both are nil where the
	// findings make the question meaningless.
	Covered []kube.Item
	Volumes *mover.Discovery
}

// Inspect asks everything. It is what the verb and `tranship plan` have in common.
func Inspect(ctx context.Context, e *kube.Env) (Inspection, error) {
	s := &state{Env: e}
	found, err := ask(ctx, s, basics)
	if err != nil || slices.ContainsFunc(found, func(f Finding) bool { return !f.Warning }) {
		return Inspection{Findings: found}, err
	}
	if err := s.read(ctx); err != nil {
		return Inspection{}, err
	}
	more, err := ask(ctx, s, details)
	return Inspection{Findings: append(found, more...), Covered: s.covered, Volumes: &s.volumes}, err
}

// ask runs the checks side by side and keeps the table's order.
func ask(ctx context.Context, s *state, table []check) ([]Finding, error) {
	answers := make([][]Finding, len(table))
	g, ctx := errgroup.WithContext(ctx)
	for n, c := range table {
		g.Go(func() (err error) {
			answers[n], err = c.ask(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(answers...), nil
}

func look(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	all, err := Inspect(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	return verdict(e, all.Findings), nil
}

// passingPatience is how long a run waits for what passes by itself, such as
// Velero's pod that starts again: less than the step's two minutes.
const passingPatience = 90 * time.Second

func verdict(e *kube.Env, found []Finding) reconciler.Observation {
	var problems, warnings []string
	o := reconciler.Observation{Seen: reconciler.Succeeded, Facts: &spec.Facts{SourceUID: e.Source.UID, TargetUID: e.Target.UID}}
	passing := true
	for _, f := range found {
		if f.Warning {
			warnings = append(warnings, f.Message)
			continue
		}
		if len(problems) == 0 {
			o.Reason, o.Object = f.Reason, f.Object
		}
		passing = passing && f.Passing
		problems = append(problems, f.Message)
	}
	if len(problems) > 0 {
		o.Message = strings.Join(problems, "; ")
		if passing && e.Step.Started != nil && time.Since(e.Step.Started.Time) < passingPatience {
			o.Seen, o.Poll, o.Facts = reconciler.Working, 2*time.Second, nil
			return o
		}
		o.Seen, o.Final = reconciler.Broken, true
		o.Log = strings.Join(append(problems, warnings...), "\n")
		return o
	}
	o.Message = "everything that can be known before the start is as it should be"
	if len(warnings) > 0 {
		o.Message = "may start, with warnings: " + strings.Join(warnings, "; ")
	}
	return o
}

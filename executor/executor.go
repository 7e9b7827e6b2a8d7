// Package executor does to clusters what the reconciler decides: it connects
// to both sides of a run, hands the call to the verb of that name and says on
// which cluster something went wrong. The verbs live in the packages below.
package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/tranship/tranship/executor/hook"
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover"
	"github.com/tranship/tranship/executor/preflight"
	"github.com/tranship/tranship/executor/velero"
	"github.com/tranship/tranship/executor/workload"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Verbs is the registry: every name that an itinerary may use.
func Verbs() map[string]kube.Verb {
	all := map[string]kube.Verb{}
	for _, verbs := range packages() {
		maps.Copy(all, verbs)
	}
	return all
}

func packages() []map[string]kube.Verb {
	return []map[string]kube.Verb{
		hook.Verbs(), kube.Verbs(), mover.Verbs(), preflight.Verbs(), velero.Verbs(), workload.Verbs(),
	}
}

// Executor implements reconciler.Executor on real clusters.
type Executor struct {
	verbs     map[string]kube.Verb
	pool      *kube.Pool
	secrets   kube.Secrets
	settings  func() kube.Settings
	log       *slog.Logger
	knowledge knowledge
	fences    fences
	diary     diary
}

var _ reconciler.Executor = (*Executor)(nil)

// New returns an executor. The settings are asked at every call, so that a
// reloaded configuration holds from the next call on.
func New(secrets kube.Secrets, settings func() kube.Settings, log *slog.Logger) *Executor {
	return &Executor{verbs: Verbs(), pool: kube.NewPool(secrets), secrets: secrets, settings: settings, log: log}
}

// Look implements reconciler.Executor.
func (x *Executor) Look(ctx context.Context, c reconciler.Call) (reconciler.Observation, error) {
	v, err := x.verb(c)
	if err != nil {
		return reconciler.Observation{}, err
	}
	e, err := x.env(ctx, c, v)
	if a, ok := kube.IsAccessError(err); ok && c.Verb == preflight.Check {
		// Whether the clusters can be used is what this verb finds out.
		return reconciler.Observation{Seen: reconciler.Broken, Reason: a.Reason, Message: a.Message}, nil
	}
	if err != nil {
		return reconciler.Observation{}, err
	}
	if err := x.fences.raise(ctx, e); err != nil {
		return reconciler.Observation{}, x.explain(c, err)
	}
	unknown := x.knowledge.refresh(ctx, e)
	o, err := v.Look(ctx, e)
	x.diary.tell(ctx, e, &o)
	return withheld(o, unknown), x.explain(c, err)
}

// Ensure implements reconciler.Executor.
func (x *Executor) Ensure(ctx context.Context, c reconciler.Call) error {
	v, err := x.verb(c)
	if err != nil {
		return err
	}
	if v.Ensure == nil {
		return fmt.Errorf("verb %s only reads; it has nothing to do", c.Verb)
	}
	e, err := x.env(ctx, c, v)
	if err != nil {
		return err
	}
	ctx = kube.Fenced(ctx, e.Settings)
	for _, side := range needs(v) {
		if err := e.On(side).Guard(ctx, &e.Settings); err != nil {
			return x.explain(c, err)
		}
		if err := e.On(side).HoldName(ctx, e); err != nil {
			return x.explain(c, err)
		}
	}
	return x.explain(c, v.Ensure(ctx, e))
}

func (x *Executor) verb(c reconciler.Call) (kube.Verb, error) {
	v, ok := x.verbs[c.Verb]
	if !ok {
		return v, fmt.Errorf("step %s of run %s asks for the verb %q, which this version does not know; finish the run with the version that froze it", c.Step.Name, c.Run.Metadata.Name, c.Verb)
	}
	return v, nil
}

func (x *Executor) env(ctx context.Context, c reconciler.Call, v kube.Verb) (e *kube.Env, err error) {
	e = &kube.Env{Call: c, Secrets: x.secrets, Settings: x.settings(), Log: x.log.With("run", c.Run.Metadata.Name, "step", c.Step.Name, "verb", c.Verb)}
	for _, side := range bothSides {
		var cluster *kube.Cluster
		if !slices.Contains(needs(v), side) {
			cluster = x.pool.Try(ctx, side, document(c, side))
		} else if cluster, err = x.pool.Get(ctx, side, document(c, side)); err != nil {
			return nil, err
		}
		if err := sameCluster(c.Run, side, cluster); err != nil {
			return nil, err
		}
		if side == spec.Source {
			e.Source = cluster
		} else {
			e.Target = cluster
		}
	}
	return e, nil
}

// sameCluster refuses a cluster that took the place of the one on which the
// run began: a name or an address may point elsewhere one day.
func sameCluster(run *spec.Run, side spec.Side, c *kube.Cluster) error {
	began := map[spec.Side]string{spec.Source: run.Facts.SourceUID, spec.Target: run.Facts.TargetUID}[side]
	if c == nil || began == "" || c.UID == began {
		return nil
	}
	return fmt.Errorf("cluster %s is not the one on which run %s began (kube-system has UID %s, then it was %s): point its document back at that cluster", c.Name, run.Metadata.Name, c.UID, began)
}

func document(c reconciler.Call, side spec.Side) *spec.Cluster {
	if side == spec.Source {
		return &c.Run.Spec.Closure.Source
	}
	return &c.Run.Spec.Closure.Target
}

var bothSides = []spec.Side{spec.Source, spec.Target}

// needs are the clusters without which a verb can do nothing.
func needs(v kube.Verb) []spec.Side {
	if len(v.Needs) == 0 {
		return bothSides
	}
	return v.Needs
}

// explain names the verb and, when access is the trouble, the cluster; a
// refused token is read anew at the next call.
func (x *Executor) explain(c reconciler.Call, err error) error {
	if err == nil || errors.Is(err, reconciler.ErrSuperseded) {
		return err
	}
	if apierrors.IsUnauthorized(err) {
		for _, side := range []spec.Side{spec.Source, spec.Target} {
			x.pool.Forget(side, document(c, side))
		}
	}
	return fmt.Errorf("%s: %w", c.Verb, err)
}

// Survey implements reconciler.Executor.
func (x *Executor) Survey(ctx context.Context, closure *spec.Closure, recorded []spec.Volume) (reconciler.Survey, error) {
	e, err := x.env(ctx, question(closure, recorded), kube.Verb{})
	if a, ok := kube.IsAccessError(err); ok {
		return reconciler.Survey{Volumes: recorded, Reason: a.Reason, Problem: a.Message}, nil
	}
	if err != nil {
		return reconciler.Survey{}, err
	}
	return survey(ctx, e)
}

// question is a call about a plan that has no run.
func question(closure *spec.Closure, recorded []spec.Volume) reconciler.Call {
	return reconciler.Call{Run: &spec.Run{
		Metadata: spec.Metadata{Name: closure.Plan.Metadata.Name},
		Spec:     spec.RunSpec{Plan: closure.Plan.Metadata.Name, Closure: *closure},
		Facts:    spec.Facts{Volumes: recorded},
	}, Verb: "survey"}
}

func survey(ctx context.Context, e *kube.Env) (reconciler.Survey, error) {
	var covered []kube.Item
	var listing error // of objects: nobody needs it to copy volumes
	var wg sync.WaitGroup
	wg.Go(func() { covered, listing = kube.Covered(ctx, e) })
	d, err := mover.Discover(ctx, e)
	wg.Wait()
	if err != nil {
		return reconciler.Survey{}, fmt.Errorf("survey of plan %s: %w", e.Run.Spec.Plan, err)
	}
	s := reconciler.Survey{Volumes: d.Volumes, Pending: d.Pending}
	if s.Scope = spec.NewScope(d.Volumes, kube.Names(covered)); listing != nil {
		s.Scope, s.ScopeProblem = nil, listing.Error()
	}
	if len(d.Problems) > 0 {
		s.Reason, s.Problem = d.Problems[0].Reason, d.Problems[0].Message
	}
	return s, nil
}

// Package hook runs the Jobs of users at the four hook phases of a run. Each
// Job has a deterministic name, so that a restarted daemon finds it again
// instead of running a hook twice; all retrying is the Job's own.
package hook

import (
	"context"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// Verbs returns the registry of this package: one verb a phase, one that removes
// their Jobs, and one that undoes hooks.
func Verbs() map[string]kube.Verb {
	verbs, k := map[string]kube.Verb{}, &keeper{}
	for name, phase := range map[string]spec.Phase{
		"hook.pre-backup":   spec.PreBackup,
		"hook.post-backup":  spec.PostBackup,
		"hook.pre-restore":  spec.PreRestore,
		"hook.post-restore": spec.PostRestore,
	} {
		verbs[name] = kube.Verb{
			Look: func(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
				return look(ctx, e, k, phase)
			},
			Ensure: func(ctx context.Context, e *kube.Env) error { return ensure(ctx, e, phase) },
		}
	}
	// It comes before the restart of the source, which must not wait for a target
	// that no hook is on, or that is gone for good.
	verbs["hook.clean-up"] = kube.Verb{Look: lookCleanUp, Ensure: ensureCleanUp, Needs: []spec.Side{spec.Source}}
	verbs[undoVerb] = kube.Verb{
		Look:   func(ctx context.Context, e *kube.Env) (reconciler.Observation, error) { return lookUndo(ctx, e, k) },
		Ensure: ensureUndo, Needs: []spec.Side{spec.Source},
	}
	return verbs
}

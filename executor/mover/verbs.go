// Package mover holds the verbs that deal with volume data: discovering the
// claims of a plan, copying them through the repository, handing the copies
// over to the application on the target, and giving it the source's own storage
// where that is to be moved. The program that moves the
// bytes lives in package engine and runs in Jobs of our own namespace; nothing
// here ever reads a file of a volume.
//
// Every verb is one function that thinks: it observes, changes nothing, and
// returns the moves that are still to be made or, with none left, what is seen.
// Look shows the thought, Ensure makes its moves. What a verb knows comes from
// the clusters alone, so a daemon that remembers nothing goes on where another
// one was killed.
package mover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Verbs are the handlers of this package by the names that itineraries use.
func Verbs() map[string]kube.Verb {
	return map[string]kube.Verb{
		"mover.upload":        verb(thinkUpload),
		"mover.claims":        verb(thinkClaims),
		"mover.claims-undo":   verb(thinkClaimsUndo),
		"mover.restore":       verb(thinkRestore),
		"mover.direct":        verb(thinkDirect),
		"mover.hand-over":     verb(thinkHandOver),
		"mover.hand-back":     verb(thinkHandBack),
		"mover.move":          verb(thinkMove),
		"mover.move-undo":     moveUndo(),
		"mover.live":          verb(thinkLive),
		"mover.stand-by":      verb(thinkStandBy),
		"mover.estimate":      verb(thinkEstimate),
		"mover.policies":      verb(thinkPolicies),
		"mover.close-claims":  verb(thinkCloseClaims),
		"mover.purge":         verb(thinkPurge),
		"mover.stop-upload":   verb(thinkStopUpload, spec.Source),
		"mover.stop-restore":  verb(thinkStopRestore, spec.Target),
		"mover.clean-up":      verb(thinkCleanUp),
		"mover.snapshot":      verb(thinkSnapshot),
		"mover.stop-snapshot": verb(thinkStopSnapshot, spec.Source),
		"mover.land":          verb(thinkLand),
		"mover.stop-land":     verb(thinkStopLand, spec.Target),

		"mover.keep-source":     verb(thinkKeepSource, spec.Source),
		"mover.upload-target":   verb(thinkUploadTarget),
		"mover.write-source":    verb(thinkWriteSource, spec.Source),
		"mover.put-source-back": verb(thinkPutSourceBack, spec.Source),
	}
}

// A move is one effect on a cluster that has not happened yet.
type move struct {
	what string // "create the holder of claim shop/data", for the status
	do   func(ctx context.Context) error
}

// A thought is what one look at a verb's objects leads to. With moves left,
// seen carries only facts and the reason for the moves; without, it is the
// whole answer.
type thought struct {
	moves   []move
	seen    reconciler.Observation
	watches []watched
	tails   []*kube.Tail // whose last word is worth another look
}

func (t *thought) move(what string, do func(ctx context.Context) error) {
	t.moves = append(t.moves, move{what: what, do: do})
}

// watched names objects whose next change is worth another look.
type watched struct {
	on        *kube.Cluster
	resource  schema.GroupVersionResource
	namespace string
	options   metav1.ListOptions
}

// progressEvery is how often the progress of a copy is looked at.
const progressEvery = 5 * time.Second

// rounds bounds how often one Ensure thinks again after its moves: the longest
// chain of moves that need no waiting in between is the hand-over's.
const rounds = 8

// verb makes Look and Ensure of a thinker; needs are the clusters without
// which it can do nothing, both where none is named.
func verb(think func(ctx context.Context, e *kube.Env) (thought, error), needs ...spec.Side) kube.Verb {
	return kube.Verb{
		Needs: needs,
		Look: func(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
			t, err := think(ctx, e)
			if err != nil {
				return reconciler.Observation{}, err
			}
			return t.observation(ctx, e), nil
		},
		Ensure: func(ctx context.Context, e *kube.Env) error { return ensure(ctx, e, think) },
	}
}

// ensure makes the moves of one thought after another, until one has none. A
// conflict means that an object, or the number of movers, has changed since it
// was read: think again.
func ensure(ctx context.Context, e *kube.Env, think func(context.Context, *kube.Env) (thought, error)) error {
	var conflict error
	for range rounds {
		t, err := think(ctx, e)
		if err != nil || len(t.moves) == 0 {
			return err
		}
		conflict = nil
		for _, m := range t.moves {
			err := m.do(ctx)
			if apierrors.IsConflict(err) || errors.Is(err, errBusy) {
				conflict = fmt.Errorf("cannot %s: %w", m.what, err)
				break
			}
			if err != nil {
				return fmt.Errorf("cannot %s: %w", m.what, err)
			}
		}
	}
	return conflict
}

// observation is the thought as the loop wants it.
func (t *thought) observation(ctx context.Context, e *kube.Env) reconciler.Observation {
	o := t.seen
	if len(t.moves) > 0 {
		o.Seen = reconciler.Absent
		if o.Message == "" {
			o.Message = "about to " + t.moves[0].what
		}
		return o
	}
	if o.Seen != reconciler.Working || len(t.watches) == 0 {
		return o
	}
	woken, err := wake(ctx, t.watches, t.tails)
	if err != nil {
		// Only slower without: the loop looks again after its own interval.
		e.Log.Debug("no watch", "err", err)
		return o
	}
	o.Wake, o.Poll = woken, 10*time.Second
	if len(t.tails) > 0 {
		o.Poll = progressEvery
	}
	return o
}

// wake is closed by the first change of anything watched, or when ctx ends.
func wake(ctx context.Context, ws []watched, tails []*kube.Tail) (<-chan struct{}, error) {
	woken := make(chan struct{})
	ctx, stop := context.WithCancel(ctx)
	first := sync.OnceFunc(func() { close(woken); stop() })
	context.AfterFunc(ctx, first)
	for _, w := range ws {
		c, err := w.on.Wake(ctx, w.resource, w.namespace, w.options)
		if err != nil {
			first()
			return nil, err
		}
		go func() {
			<-c // closed at the latest when ctx ends
			first()
		}()
	}
	for _, t := range tails {
		go func() {
			select {
			case <-t.Ended():
				first()
			case <-ctx.Done():
			}
		}()
	}
	return woken, nil
}

// working, succeeded and broken are the answers without moves.
func working(reason, object, format string, args ...any) reconciler.Observation {
	return reconciler.Observation{Seen: reconciler.Working, Reason: reason, Object: object, Message: fmt.Sprintf(format, args...)}
}

func succeeded(facts *spec.Facts, format string, args ...any) reconciler.Observation {
	return reconciler.Observation{Seen: reconciler.Succeeded, Facts: facts, Message: fmt.Sprintf(format, args...)}
}

func broken(final bool, reason, object, format string, args ...any) reconciler.Observation {
	return reconciler.Observation{Seen: reconciler.Broken, Final: final, Reason: reason, Object: object, Message: fmt.Sprintf(format, args...)}
}

package mover

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// annotationStandBy of a Job says that its mover was started before it was
// known what it has to do, and whether it has been told by now.
const (
	annotationStandBy = "tranship.dev/stand-by"
	standByWaiting    = "waiting"
	standByTold       = "told"
)

// standByPatience is how long the application is let run on for movers that do
// not come up: the copy after the stop then starts its own.
const standByPatience = time.Minute

// tellCommand reaches the mover through its own program, wherever the image has it.
var tellCommand = []string{"/proc/1/exe", "mover", "tell"}

// thinkStandBy starts the movers of the copy after the stop while the
// application still runs: after the stop they have only to be told. They have
// the names and labels of the first attempt of the steps that will use them, so
// that those steps find them, and need nothing of them: a mover that is not
// there, is gone or was not told in time is replaced by an ordinary Job.
func thinkStandBy(ctx context.Context, e *kube.Env) (thought, error) {
	t := thought{}
	u, problem, err := readUpload(ctx, ahead(e, stepLastUpload))
	if err != nil {
		return t, err
	}
	if problem != nil {
		return thought{seen: *problem}, nil
	}
	u.standBy = true
	t = u.decide()
	r, err := readRestore(ctx, ahead(e, stepLastRestore))
	if err != nil {
		return t, err
	}
	r.standBy = true
	writers := r.decide()
	t.moves, t.watches = append(t.moves, writers.moves...), append(u.watches(), r.watches()...)
	if t.seen.Seen != reconciler.Working && len(t.moves) == 0 {
		t.seen = writers.seen
	}
	if (t.seen.Seen == reconciler.Broken && len(t.moves) == 0) || late(e) {
		// What keeps a mover from coming is told by the step that needs it.
		return thought{seen: succeeded(nil, "the application is stopped without every mover standing by: %s", t.seen.Message)}, nil
	}
	return t, nil
}

func late(e *kube.Env) bool {
	return e.Step.Started != nil && time.Since(e.Step.Started.Time) > standByPatience
}

// ahead is the call of the first attempt of a later step of the run.
func ahead(e *kube.Env, step string) *kube.Env {
	later := *e
	later.Step = spec.Step{Name: step, Attempt: 1}
	return &later
}

// waits says that the mover stands by and has not been told what to do.
func (h *helperJob) waits() bool {
	return h.job != nil && h.job.Annotations[annotationStandBy] == standByWaiting
}

// listens says that the mover of a Job that stands by can be told.
func (h *helperJob) listens() *corev1.Pod {
	for i := range h.pods {
		if p := &h.pods[i]; p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil && !ended(p) {
			return p
		}
	}
	return nil
}

// order is the move that tells a waiting mover what to do. One that cannot be
// told is removed: an ordinary Job takes its place.
func (h *helperJob) order(t *thought, e *kube.Env, on *kube.Cluster, s jobSpec) {
	t.move(fmt.Sprintf("tell Job %s/%s on cluster %s to copy %s", e.Settings.Namespace, h.name, on.Name, strings.Join(sortedKeys(s.volumes), ", ")), func(ctx context.Context) error {
		raw, err := json.Marshal(s.assignment.Request)
		if err != nil {
			return fmt.Errorf("cannot encode the order: %w", err)
		}
		if _, err := on.Exec(ctx, h.listens(), workContainer, tellCommand, raw); err != nil {
			if ctx.Err() != nil {
				return err
			}
			e.Log.Warn("a mover that stands by cannot be told; another one is started", "job", h.name, "cluster", on.Name, "error", err)
			return h.remove(ctx, e, on)
		}
		return h.told(ctx, e, on, s.volumes)
	})
}

// told notes on the Job what its mover was told.
func (h *helperJob) told(ctx context.Context, e *kube.Env, on *kube.Cluster, volumes map[string]string) error {
	raw, err := json.Marshal(volumes)
	if err != nil {
		return err
	}
	p, err := change{annotations: map[string]any{annotationStandBy: standByTold, annotationVolumes: string(raw)}}.patch(e, h.job)
	if err != nil {
		return err
	}
	_, err = on.Kube.BatchV1().Jobs(h.job.Namespace).Patch(ctx, h.name, types.MergePatchType, p, metav1.PatchOptions{})
	return err
}

// settleIn says whether a Job that shall stand by does so: nil when it does, or
// will not any more.
func (h *helperJob) settleIn(side spec.Side, e *kube.Env) *reconciler.Observation {
	if !h.active() || h.listens() != nil {
		return nil
	}
	text := "its pod is not there yet"
	if len(h.pods) > 0 {
		text = stuck(&h.pods[0])
	}
	o := working("StartingMovers", object(side, "Job", e.Settings.Namespace, h.name), "the application runs on until the movers of its last copy stand by: %s", text)
	return &o
}

// spent says that a Job stood by in vain: it has done nothing and never will.
func (h *helperJob) spent() bool { return h.waits() && !h.active() }

// sameVolumes says that an order covers what the mover has mounted.
func (h *helperJob) sameVolumes(s jobSpec) bool {
	return slices.Equal(sortedKeys(h.volumes), sortedKeys(s.volumes))
}

// standing makes a Job's assignment one that waits for its order.
func (s *jobSpec) standing(op engine.Op) {
	s.assignment.StandBy = true
	s.assignment.Request.Op, s.assignment.Request.Volumes = op, nil
}

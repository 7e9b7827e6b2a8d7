package mover

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// moveUndo is the verb that takes moves back. It comes before the restart of
// the source, which must not wait for a dead target that was never live.
func moveUndo() kube.Verb {
	v := verb(thinkMoveUndo, spec.Source)
	ensure := v.Ensure
	v.Ensure = func(ctx context.Context, e *kube.Env) error {
		if e.Target != nil {
			if err := e.Target.Guard(ctx, &e.Settings); err != nil {
				return err
			}
		}
		return ensure(ctx, e)
	}
	return v
}

// thinkMoveUndo removes the target's claim and volume, once no pod there uses
// them. The storage stays: the source's volume is the same.
func thinkMoveUndo(ctx context.Context, e *kube.Env) (thought, error) {
	volumes, err := volumesOf(ctx, e)
	if err != nil {
		return thought{}, err
	}
	view, err := movings(ctx, e, volumes)
	if err != nil {
		return thought{}, err
	}
	if err := readBack(ctx, e, view); err != nil {
		if !e.TargetDispensable() {
			return thought{}, fmt.Errorf("whether the target has let go of the moved volumes is not known, and the source is not started before: %w", err)
		}
		for _, m := range view.xs {
			m.v.Warnings = []string{fmt.Sprintf("cluster %s cannot be reached: delete claim %s/%s and volume %s there before anything uses them; until then volume %s of cluster %s stays at Retain",
				e.Run.Spec.Closure.Target.Metadata.Name, m.v.TargetNamespace, m.v.TargetClaim, movedName(e, m.v), m.v.SourcePV, e.Source.Name)}
		}
		return thought{seen: succeeded(factsOf(volumes), "%s: see the warnings of the volumes", cmp.Or(e.Run.Status.TargetDead, "nothing of the target was ever started, and it cannot be reached"))}, nil
	}
	t := thought{watches: view.watches}
	switch o := advance(view.xs, func(m *moving) *reconciler.Observation { return m.backward(e, &t) }); {
	case o == nil:
		for _, m := range view.xs {
			forget(m.v)
			m.v.Warnings = keptWrites(e, m.v)
		}
		t.seen = succeeded(factsOf(volumes), "the moved volumes belong to the source alone again")
	case o.Seen == reconciler.Broken:
		return thought{seen: *o}, nil
	default:
		t.seen = *o
	}
	return t, nil
}

// readBack reads the side that is to let go.
func readBack(ctx context.Context, e *kube.Env, view *movingView) error {
	if e.Target == nil {
		return fmt.Errorf("cluster %s does not answer", e.Run.Spec.Closure.Target.Metadata.Name)
	}
	if err := view.readTarget(ctx, e); err != nil {
		return err
	}
	return view.attachments(ctx, e.Target)
}

// backward is the move read backwards, one effect at a time:
//
//	bound ──delete the claim──▶ released ──delete──▶ no volume ──take the note off the source's──▶ done
//
// A claim that is gone had no pod left, and its volume is at Retain.
func (m *moving) backward(e *kube.Env, t *thought) *reconciler.Observation {
	mine := m.pv != nil && ours(e, m.pv) && m.pv.Annotations[annotationVolume] == key(m.v)
	switch {
	case mine && m.pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain:
		t.move(fmt.Sprintf("set volume %s on cluster %s to Retain", m.pv.Name, e.Target.Name), func(ctx context.Context) error {
			return patchVolume(ctx, e, e.Target, m.pv, change{spec: map[string]any{"persistentVolumeReclaimPolicy": string(corev1.PersistentVolumeReclaimRetain)}})
		})
	case m.app != nil && (ours(e, m.app) && m.app.Annotations[annotationVolume] == key(m.v) || mine && m.app.Spec.VolumeName == m.pv.Name):
		return m.takeClaim(e, t)
	case mine && m.attached != "":
		o := working("StillAttached", m.at(), "waits until volume %s of cluster %s is detached from node %s", m.pv.Name, e.Target.Name, m.attached)
		return &o
	case mine && m.pv.DeletionTimestamp != nil:
		o := working("VolumeLeaving", m.at(), "waits until volume %s of cluster %s, which is being deleted, is gone", m.pv.Name, e.Target.Name)
		return &o
	case mine:
		t.move(fmt.Sprintf("delete volume %s on cluster %s, whose storage stays", m.pv.Name, e.Target.Name), func(ctx context.Context) error {
			return gone(e.Target.Kube.CoreV1().PersistentVolumes().Delete(ctx, m.pv.Name, exactly(m.pv)))
		})
	case m.source != nil && m.source.Annotations[kube.AnnotationMoved] != "":
		m.takeNote(e, t)
	}
	return nil
}

// takeClaim removes the claim on the target, once no pod has it.
func (m *moving) takeClaim(e *kube.Env, t *thought) *reconciler.Observation {
	c := m.app
	if m.user != nil {
		o := working("ClaimInUse", object(spec.Target, "Pod", m.user.Namespace, m.user.Name), "waits until pod %s/%s of cluster %s lets go of claim %s/%s; the source uses the same storage", m.user.Namespace, m.user.Name, e.Target.Name, c.Namespace, c.Name)
		return &o
	}
	if !ours(e, c) {
		o := broken(false, "ForeignClaim", claimAt(c), "claim %s/%s of cluster %s is bound to the moved volume %s and was not made by this plan: delete it, so that the source can use its storage", c.Namespace, c.Name, e.Target.Name, c.Spec.VolumeName)
		return &o
	}
	m.clear(e, t)
	if c.DeletionTimestamp != nil {
		o := working("ClaimLeaving", claimAt(c), "waits until claim %s/%s of cluster %s, which is being deleted, is gone", c.Namespace, c.Name, e.Target.Name)
		return &o
	}
	t.move(fmt.Sprintf("delete claim %s/%s on cluster %s, whose volume is kept", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
		return deleteClaim(ctx, e.Target, c)
	})
	return nil
}

// takeNote takes the note off the source's volume, with everything that we
// wrote beside it. What retain remembers there is for its own undo.
func (m *moving) takeNote(e *kube.Env, t *thought) {
	off := map[string]any{kube.AnnotationMoved: nil, kube.AnnotationPlan: nil}
	if m.source.Annotations[kube.AnnotationPrevious] == "" {
		off[kube.AnnotationRun], off[kube.AnnotationEpoch] = nil, nil
	}
	t.move(fmt.Sprintf("take the note of its move off volume %s of cluster %s", m.source.Name, e.Source.Name), func(ctx context.Context) error {
		return patchVolume(ctx, e, e.Source, m.source, change{annotations: off})
	})
}

// keptWrites says what no undo can take back: the target has had the same
// storage. The application then finds its volumes as of two times.
func keptWrites(e *kube.Env, v *spec.Volume) []string {
	if !e.Begun("workload.start") || e.Plan().Rollback.TargetWrites == "CopyBack" && e.Run.Spec.Kind == spec.RunRollback {
		return nil // nothing has run, or the copies are of the same time
	}
	say := "what the application wrote on the target stays on this volume, which was moved: both clusters use the same storage"
	if e.Run.Spec.Kind == spec.RunRollback {
		say += ", and rollback.targetWrites: Discard cannot take that back"
	}
	var copies []string
	for i := range e.Run.Facts.Volumes {
		if c := &e.Run.Facts.Volumes[i]; c.Action == "copy" {
			copies = append(copies, key(c))
		}
	}
	if len(copies) > 0 {
		say += fmt.Sprintf("; a plan with moved and copied volumes: %s are as they were at the cutover, so make sure that the application can use them together", strings.Join(copies, ", "))
	}
	return []string{say}
}

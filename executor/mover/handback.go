package mover

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// thinkHandBack takes the volumes back into our namespace, from whatever state
// the hand-over had reached.
func thinkHandBack(ctx context.Context, e *kube.Env) (thought, error) {
	return transferAll(ctx, e, (*transfer).backward, "every copied volume is back in our namespace")
}

// everLive says that the application may have written to the target: from the
// moment at which the live step was begun, nothing that we know of the content
// holds any more.
func (x *transfer) everLive(e *kube.Env) bool {
	if x.v.Mark == spec.MarkLive || x.v.Mark == spec.MarkDirty {
		return true
	}
	for _, s := range e.Run.Steps {
		if s.Verb == "mover.live" && s.State != spec.StepPending {
			return true
		}
	}
	marks := []string{x.pv.Annotations[kube.AnnotationMark]}
	for _, c := range []*corev1.PersistentVolumeClaim{x.app, x.staging} {
		if c != nil {
			marks = append(marks, c.Annotations[kube.AnnotationMark])
		}
	}
	for _, text := range marks {
		if m, err := parseMark(text); err != nil || m.kind == spec.MarkLive || m.kind == spec.MarkDirty {
			return true
		}
	}
	return false
}

// back is the mark of the claim after the hand-back.
func (x *transfer) back(e *kube.Env) mark {
	if x.everLive(e) {
		return mark{kind: spec.MarkDirty}
	}
	for _, c := range []*corev1.PersistentVolumeClaim{x.app, x.staging} {
		if c == nil {
			continue
		}
		if m, err := markOf(c); err == nil {
			return m
		}
	}
	m, err := markOf(x.pv)
	if err != nil || m.kind == spec.MarkNone {
		return mark{kind: spec.MarkDirty}
	}
	return m
}

// backward is the hand-over read backwards, one move at a time:
//
//	bound ──mark, Retain──▶ kept ──delete the claim──▶ released ──claimRef──▶ reserved ──create our claim──▶ staged ──policy──▶ done
func (x *transfer) backward(e *kube.Env, t *thought) *reconciler.Observation {
	v := x.v
	if x.pv == nil && v.TargetPV == "" && x.app == nil {
		return nil // nothing was ever copied
	}
	if x.app != nil && !ours(e, x.app) {
		x.app = nil // somebody else's; if it has our volume, check says so
	}
	if o := x.check(e); o != nil {
		return o
	}
	m := x.back(e)
	m.record(v)
	switch {
	case x.app != nil:
		return x.takeBack(e, t, m)
	case x.staging != nil:
		return x.staged(e, t, m)
	case !x.reserved(e.Settings.Namespace, v.StagingClaim, nil):
		x.moveReference(e, t, e.Settings.Namespace, v.StagingClaim)
		return nil
	case x.pv.Status.Phase != corev1.VolumeAvailable:
		return x.reserving(e)
	}
	t.move(fmt.Sprintf("create our claim %s/%s on cluster %s for volume %s", e.Settings.Namespace, v.StagingClaim, e.Target.Name, x.pv.Name), func(ctx context.Context) error {
		return createStaging(ctx, e, v, x.pv, m)
	})
	return nil
}

// takeBack removes the application's claim, once no pod has it.
func (x *transfer) takeBack(e *kube.Env, t *thought, m mark) *reconciler.Observation {
	c := x.app
	if x.user != nil {
		o := working("ClaimInUse", object(spec.Target, "Pod", x.user.Namespace, x.user.Name), "waits until pod %s/%s of cluster %s lets go of claim %s/%s", x.user.Namespace, x.user.Name, e.Target.Name, c.Namespace, c.Name)
		return &o
	}
	if !x.kept(e, m) {
		x.keep(e, t, m)
		return nil
	}
	x.clear(e, t)
	if c.DeletionTimestamp != nil {
		return x.binding(e, t, c)
	}
	t.move(fmt.Sprintf("delete claim %s/%s on cluster %s, whose volume is kept", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
		return deleteClaim(ctx, e.Target, c)
	})
	return nil
}

// staged finishes with our claim in place: bound, truthfully marked, and the
// volume's own reclaim policy restored, so that deleting the claim frees it.
func (x *transfer) staged(e *kube.Env, t *thought, m mark) *reconciler.Observation {
	c := x.staging
	if c.DeletionTimestamp != nil { // the hand-over was interrupted here
		x.clear(e, t)
		return x.binding(e, t, c)
	}
	if c.Annotations[kube.AnnotationMark] != m.String() {
		t.move(fmt.Sprintf("mark claim %s/%s on cluster %s %q", c.Namespace, c.Name, e.Target.Name, m), func(ctx context.Context) error {
			return setMark(ctx, e, e.Target, c, m)
		})
		return nil
	}
	if !x.reserved(e.Settings.Namespace, x.v.StagingClaim, c) {
		x.moveReference(e, t, e.Settings.Namespace, x.v.StagingClaim)
		return nil
	}
	if o := x.binding(e, t, c); o != nil {
		return o
	}
	own := x.policyBefore()
	if x.pv.Annotations[kube.AnnotationPrevious] != "" || x.pv.Annotations[kube.AnnotationMark] != "" {
		t.move(fmt.Sprintf("set volume %s on cluster %s back to %s", x.pv.Name, e.Target.Name, own), func(ctx context.Context) error {
			return patchVolume(ctx, e, e.Target, x.pv, change{
				// From here on the claim alone says what it holds.
				annotations: map[string]any{kube.AnnotationPrevious: nil, kube.AnnotationMark: nil, kube.AnnotationHeld: nil},
				spec:        map[string]any{"persistentVolumeReclaimPolicy": own},
			})
		})
	}
	return nil
}

// thinkLive marks every handed-over and every moved claim live. The intention is in Git before
// this runs; from here on no mover writes to these volumes.
func thinkLive(ctx context.Context, e *kube.Env) (thought, error) {
	view, err := transfers(ctx, e)
	if err != nil {
		return thought{}, err
	}
	t := thought{}
	for _, x := range view.xs {
		if o := x.check(e); o != nil {
			return thought{seen: *o}, nil
		}
		if x.app == nil || !bound(x.app, x.pv) {
			return thought{seen: broken(false, "NotHandedOver", x.at(), "volume %s of cluster %s is not bound to claim %s/%s: it cannot be marked live", x.pv.Name, e.Target.Name, x.v.TargetNamespace, x.v.TargetClaim)}, nil
		}
		m, err := markOf(x.app)
		if err == nil {
			m, err = m.live(x.v.Snapshot, time.Now())
		}
		if err != nil {
			return thought{seen: broken(true, "NotClean", claimAt(x.app), "claim %s/%s of cluster %s cannot be marked live: %v", x.app.Namespace, x.app.Name, e.Target.Name, err)}, nil
		}
		x.live(e, &t, m)
		m.record(x.v)
	}
	if o, err := liveMoves(ctx, e, &t, view.volumes); err != nil || o != nil {
		if o == nil {
			return thought{}, err
		}
		return thought{seen: *o}, nil
	}
	t.seen = succeeded(factsOf(view.volumes), "every claim of the application on the target is marked live")
	return t, nil
}

func (x *transfer) live(e *kube.Env, t *thought, m mark) {
	if was, err := markOf(x.app); err != nil || was.kind != spec.MarkLive {
		t.move(fmt.Sprintf("mark claim %s/%s on cluster %s live", x.app.Namespace, x.app.Name, e.Target.Name), func(ctx context.Context) error {
			return setMark(ctx, e, e.Target, x.app, m)
		})
	}
	if was, err := markOf(x.pv); err != nil || was.kind != spec.MarkLive {
		t.move(fmt.Sprintf("mark volume %s on cluster %s live", x.pv.Name, e.Target.Name), func(ctx context.Context) error {
			return patchVolume(ctx, e, e.Target, x.pv, change{annotations: markAnnotations(m)})
		})
	}
}

package mover

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sourceClaimOf refuses what is not the claim that the cutover has copied.
func sourceClaimOf(e *kube.Env) func(r *reading) *reconciler.Observation {
	return func(r *reading) *reconciler.Observation {
		at := object(spec.Source, "PersistentVolumeClaim", r.at.namespace, r.at.claim)
		refused := func(reason, format string, args ...any) *reconciler.Observation {
			o := broken(true, reason, at, format, args...)
			return &o
		}
		switch {
		case r.v.ClaimUID != "" && string(r.claim.UID) != r.v.ClaimUID:
			return refused("ForeignVolume", "claim %s/%s of cluster %s was made anew since the cutover: nothing is written to it; say rollback.targetWrites: Discard", r.at.namespace, r.at.claim, e.Source.Name)
		case r.mark.kind == spec.MarkWriting && r.kept == "":
			return refused("UnknownMark", "claim %s/%s of cluster %s is marked %q, which does not say what it held before", r.at.namespace, r.at.claim, e.Source.Name, r.mark)
		}
		return nil
	}
}

// keepLast makes a snapshot the newest of those that are kept.
func keepLast(b *spec.CopiedBack, snapshot string) {
	b.Kept = append(slices.DeleteFunc(b.Kept, func(s string) bool { return s == snapshot }), snapshot)
}

// thinkKeepSource takes a snapshot of what the source's claims hold. A claim
// that an earlier try has written to has one already.
func thinkKeepSource(ctx context.Context, e *kube.Env) (thought, error) {
	if !slices.ContainsFunc(e.Run.Steps, func(s spec.Step) bool { return s.Verb == "workload.start-source" }) {
		return thought{seen: broken(true, "SourceRunsOn", "", "the cutover did not stop the source (cutover.quiesce: false), which has gone on writing: what the target wrote cannot be copied over that; say rollback.targetWrites: Discard")}, nil
	}
	if e.Plan().ExistingOrDefault() == spec.ExistingUpdate {
		return thought{seen: broken(true, "CopyBackNotPossible", "", "the cutover has updated objects that were on the target before (existing: Update), and a copy back that fails could not start these again: say rollback.targetWrites: Discard")}, nil
	}
	_, t, err := thinkPassage(ctx, e, &passage{
		side: spec.Source, strict: true, refuse: sourceClaimOf(e),
		order: func(r *reading) engine.VolumeRequest {
			parent := lastKept(r.v)
			if copied(r.v) {
				parent = cmp.Or(parent, r.v.Snapshot)
			}
			return engine.VolumeRequest{Parent: parent, Keep: kept(r.v)}
		},
		note: func(r *reading) {
			keepLast(r.v.Back, r.done.Snapshot)
			r.v.Back.Continued = false
		},
		settled: func(r *reading) bool {
			r.v.Back.Continued = r.kept != ""
			return r.v.Back.Continued
		},
	})
	return t, err
}

// thinkUploadTarget takes a snapshot of what the target's claims hold: once
// while the application runs there, and once when it is stopped.
func thinkUploadTarget(ctx context.Context, e *kube.Env) (thought, error) {
	last := e.Step.Name == reconciler.StepLastUploadTarget
	u, t, err := thinkPassage(ctx, e, &passage{
		side: spec.Target, strict: last, refuse: targetClaimOf(e),
		order: func(r *reading) engine.VolumeRequest {
			return engine.VolumeRequest{Parent: r.v.Back.Snapshot, Keep: kept(r.v)}
		},
		note: func(r *reading) {
			d, b := r.done, r.v.Back
			if b.Snapshot == d.Snapshot {
				return
			}
			if !last {
				b.NewBytes = 0
			}
			b.Snapshot, b.Files, b.Bytes, b.NewBytes = d.Snapshot, d.Files, d.Bytes, b.NewBytes+d.UploadedBytes
		},
	})
	if err != nil || last || t.seen.Seen != reconciler.Succeeded || len(t.moves) > 0 {
		return t, err
	}
	if o, err := u.unfit(ctx); err != nil || o != nil {
		if o == nil {
			return thought{}, err
		}
		return thought{seen: *o}, nil
	}
	est := u.estimateBack()
	t.seen.Facts.Estimate = &est
	t.seen.Message = fmt.Sprintf("%s; about %d bytes are new on the target; the stop until the source is started is expected to take %.0f seconds and the application's own stop and start", t.seen.Message, est.ChangedBytes, est.StopSeconds)
	return t, nil
}

// targetClaimOf refuses what the hand-over has not made.
func targetClaimOf(e *kube.Env) func(r *reading) *reconciler.Observation {
	return func(r *reading) *reconciler.Observation {
		if r.v.TargetHandle == "" || handle(r.pv) == r.v.TargetHandle {
			return nil
		}
		o := broken(true, "ForeignVolume", object(spec.Target, "PersistentVolumeClaim", r.at.namespace, r.at.claim), "volume %s of cluster %s is not the storage %q that this plan made", r.at.pv, e.Target.Name, r.v.TargetHandle)
		return &o
	}
}

// unfit says what would not find its place on the source, while the application
// still runs on the target.
func (u *uploadView) unfit(ctx context.Context) (*reconciler.Observation, error) {
	for _, r := range u.reads {
		if c := u.newOrdinal(r.v); c != nil {
			o := broken(true, "NewClaim", claimAt(c), "claim %s/%s of cluster %s was made for StatefulSet %s since the cutover and has no counterpart on the source: bring its content over and delete it, or say rollback.targetWrites: Discard", c.Namespace, c.Name, u.on().Name, r.v.Template.StatefulSet)
			return &o, nil
		}
		c, err := getClaim(ctx, u.e.Source, r.v.Namespace, r.v.Claim)
		if err != nil {
			return nil, err
		}
		if c == nil || r.done == nil {
			continue
		}
		size := c.Status.Capacity.Storage()
		if r.done.DiskBytes > size.Value() && !size.IsZero() {
			o := broken(true, "TooLarge", object(spec.Source, "PersistentVolumeClaim", c.Namespace, c.Name), "claim %s/%s of cluster %s has %s and its copy on the target takes %d bytes by now: enlarge it, and ask for the rollback again", c.Namespace, c.Name, u.e.Source.Name, size, r.done.DiskBytes)
			return &o, nil
		}
	}
	return nil, nil
}

// newOrdinal is a claim that a StatefulSet of the plan has made on the target.
func (u *uploadView) newOrdinal(v *spec.Volume) *corev1.PersistentVolumeClaim {
	if v.Template == nil {
		return nil
	}
	for i := range u.inv.Namespaces {
		n := &u.inv.Namespaces[i]
		for j := range n.Claims {
			c := &n.Claims[j]
			_, made := ordinal(c.Name, v.Template.Name+"-"+v.Template.StatefulSet)
			known := slices.ContainsFunc(u.volumes, func(k spec.Volume) bool { return k.TargetNamespace == c.Namespace && k.TargetClaim == c.Name })
			if n.Name == v.TargetNamespace && made && !known {
				return c
			}
		}
	}
	return nil
}

// estimateBack is the estimate of a cutover's stop, the other way round: what is
// new in the repository is what has changed.
func (u *uploadView) estimateBack() spec.Estimate {
	var files, changed int64
	for _, r := range u.reads {
		files, changed = files+r.v.Back.Files, changed+r.v.Back.NewBytes
	}
	return spec.Estimate{StopSeconds: fixedSeconds + float64(files)/walkRate + float64(changed)/plainRate, ChangedBytes: changed}
}

// thinkWriteSource makes the source's claims equal to the last snapshot of the
// target's. They are known to hold the snapshot that was kept of them; what an
// earlier try has written to is compared by content.
func thinkWriteSource(ctx context.Context, e *kube.Env) (thought, error) {
	refuse := sourceClaimOf(e)
	_, t, err := thinkPassage(ctx, e, &passage{
		side: spec.Source, strict: true, halt: runsThere(ctx, e),
		refuse: func(r *reading) *reconciler.Observation {
			o := refuse(r)
			if o == nil && (lastKept(r.v) == "" || r.v.Back.Snapshot == "") {
				no := broken(true, "NoSnapshot", object(spec.Source, "PersistentVolumeClaim", r.at.namespace, r.at.claim), "of claim %s/%s no snapshot is recorded on one of the two sides: nothing is overwritten", r.at.namespace, r.at.claim)
				o = &no
			}
			return o
		},
		order: func(r *reading) engine.VolumeRequest {
			q := engine.VolumeRequest{Snapshot: r.v.Back.Snapshot, Held: lastKept(r.v), Verify: engine.VerifyChanged}
			if r.kept != "" {
				q.Held, q.Content = "", true
			}
			if verified(e.Plan(), r.v) {
				q.Verify = engine.VerifyAll
			}
			return q
		},
		note: func(r *reading) {
			d, b := r.done, r.v.Back
			b.Continued = b.Continued || e.Step.Attempt > 1
			b.ChangedFiles, b.WrittenBytes, b.DeletedEntries = d.ChangedFiles, d.WrittenBytes, d.DeletedEntries
		},
		settled: func(r *reading) bool { return r.mark.holds(r.v.Back.Snapshot) },
		after:   mark.written,
	})
	return t, err
}

// runsThere is an answer while the application, or anybody else, is on a copied
// claim of the target. A copy back that had turned round and whose records were lost
// since begins here again, with the target started: it must turn round once more. A
// target that does not answer keeps nobody from writing: all of it is in the
// repository, and nothing runs anywhere.
func runsThere(ctx context.Context, e *kube.Env) *reconciler.Observation {
	if e.Target == nil {
		return nil
	}
	for i := range e.Run.Facts.Volumes {
		v := &e.Run.Facts.Volumes[i]
		if !staged(v) {
			continue
		}
		pods, err := e.Target.Kube.CoreV1().Pods(v.TargetNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil
		}
		for j := range pods.Items {
			p := &pods.Items[j]
			if helper := ours(e, p) && p.Labels[LabelComponent] != ""; !helper && usesClaim(p, v.TargetClaim) {
				o := broken(false, "ClaimInUse", object(spec.Target, "Pod", p.Namespace, p.Name), "pod %s/%s of cluster %s uses claim %s/%s: nothing is written into the source while the target runs", p.Namespace, p.Name, e.Target.Name, v.TargetNamespace, v.TargetClaim)
				return &o
			}
		}
	}
	return nil
}

// thinkPutSourceBack gives claims that a copy back has written to, half or
// whole, what they held before it, and takes the mark off. All others are not
// looked into.
func thinkPutSourceBack(ctx context.Context, e *kube.Env) (thought, error) {
	_, t, err := thinkPassage(ctx, e, &passage{
		side: spec.Source, strict: true,
		refuse: sourceClaimOf(e),
		order: func(r *reading) engine.VolumeRequest {
			return engine.VolumeRequest{Snapshot: lastKept(r.v), Content: true, Verify: engine.VerifyChanged}
		},
		note:    func(*reading) {},
		settled: func(r *reading) bool { return r.kept == "" },
		after: func(m mark, snapshot string) (mark, error) {
			_, err := m.written(snapshot)
			return mark{}, err
		},
	})
	return t, err
}

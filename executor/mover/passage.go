package mover

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// passage is what a rollback that copies back does with claims of the
// application, through holders as an upload does (ADR 21). Where it writes, the
// Job has the holders' directories writable, and the claims say what they hold
// before and after, as those of ours on the target do (safety property 13).
type passage struct {
	side   spec.Side
	strict bool                    // nothing may run on the claims
	halt   *reconciler.Observation // set: nothing may be touched, whatever was done
	// order is what the Job does with a claim; name, path and mode are filled in.
	order func(r *reading) engine.VolumeRequest
	// note writes down what the Job has done.
	note func(r *reading)
	// refuse says why a claim must not be touched, nil if it may.
	refuse func(r *reading) *reconciler.Observation
	// settled says that nothing is to be done with a claim; nil: not without a Job.
	settled func(r *reading) bool
	// after is the mark of a claim that holds a snapshot; nil: nothing is written.
	after func(m mark, snapshot string) (mark, error)
}

func (u *uploadView) writes() bool { return u.passage != nil && u.passage.after != nil }

// readPassage reads what a passage needs. The volumes are those of the cutover:
// nothing is discovered anew.
func readPassage(ctx context.Context, e *kube.Env, p *passage) (*uploadView, error) {
	u := &uploadView{e: e, passage: p, inv: &Inventory{Volumes: map[string]corev1.PersistentVolume{}}}
	var err error
	if u.volumes, err = volumesOf(ctx, e); err != nil {
		return nil, err
	}
	for i := range u.volumes {
		b := spec.CopiedBack{}
		if v := &u.volumes[i]; v.Back != nil {
			b = *v.Back
			b.Kept = slices.Clone(b.Kept)
		}
		if e.Run.Spec.Kind == spec.RunRollback { // a close says what the last one said
			b.Cutover = e.Run.Spec.Undoes
		}
		if staged(&u.volumes[i]) {
			u.volumes[i].Back = &b
		}
	}
	for _, name := range e.Namespaces(p.side) {
		n, err := readNamespace(ctx, u.on(), name)
		if err == nil && p.side == spec.Source {
			n.Stopped, err = e.StoppedPods(ctx, name)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list namespace %s of cluster %s: %w", name, u.on().Name, err)
		}
		u.inv.Namespaces = append(u.inv.Namespaces, n)
	}
	pvs, err := u.on().Kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the persistent volumes of cluster %s: %w", u.on().Name, err)
	}
	for _, pv := range pvs.Items {
		u.inv.Volumes[pv.Name] = pv
	}
	return u, u.read(ctx)
}

// thinkPassage looks and decides.
func thinkPassage(ctx context.Context, e *kube.Env, p *passage) (*uploadView, thought, error) {
	u, err := readPassage(ctx, e, p)
	if err != nil {
		return nil, thought{}, err
	}
	t := u.decide()
	if t.seen.Facts == nil { // a half-written claim is on record while it is written
		t.seen.Facts = factsOf(u.volumes)
	}
	t.watches, t.tails = u.watches(), u.jobs.tails()
	return u, t, nil
}

// pass refuses claims that must not be touched, and marks those that were
// written; done says that there is nothing else to do now.
func (u *uploadView) pass(t *thought) (done bool) {
	p := u.passage
	if p.halt != nil {
		*t = u.finish(p.halt)
		return true
	}
	for _, r := range u.reads {
		if r.done == nil && p.settled != nil && p.settled(r) {
			r.done = &engine.VolumeResult{}
		}
		if r.done != nil {
			continue
		}
		if o := u.refuse(r); o != nil {
			*t = u.finish(o)
			return true
		}
	}
	if !u.writes() {
		return false
	}
	for _, r := range u.reads {
		if r.done == nil || r.mark.kind != spec.MarkWriting || r.done.Snapshot == "" {
			continue
		}
		if v := r.done.Verified; v != nil && v.Errors > 0 {
			o := broken(false, reasonVerifyErrors, u.claimAt(r), "claim %s/%s of cluster %s was read back and differs from snapshot %s in %d entries, the first: %s; another attempt compares every file and writes what differs; if it fails too, look at the storage of volume %s",
				r.at.namespace, r.at.claim, u.on().Name, r.done.Snapshot, v.Errors, strings.Join(v.First[:min(3, len(v.First))], "; "), r.at.pv)
			*t = u.finish(&o)
			return true
		}
		m, err := p.after(r.mark, r.done.Snapshot)
		if err != nil { // marked for another snapshot since: another Job's business
			r.done = nil
			continue
		}
		u.setMark(t, r, m)
	}
	return len(t.moves) > 0
}

// setMark says on the claim what it holds and, until that is what it held before
// any copy back, what that was.
func (u *uploadView) setMark(t *thought, r *reading, m mark) {
	annotations := markAnnotations(m)
	annotations[kube.AnnotationKept] = nil
	if m.kind != spec.MarkNone {
		annotations[kube.AnnotationKept] = r.v.Back.Cutover + " " + lastKept(r.v)
	}
	t.move(fmt.Sprintf("mark claim %s/%s on cluster %s %q", r.at.namespace, r.at.claim, u.on().Name, m), func(ctx context.Context) error {
		return patchClaim(ctx, u.e, u.on(), r.claim, change{annotations: annotations})
	})
}

func (u *uploadView) claimAt(r *reading) string {
	return object(u.on().Side, "PersistentVolumeClaim", r.at.namespace, r.at.claim)
}

// marks are the moves that mark what is about to be written. They come before
// the writer: whoever finds a claim marked must expect a half-written volume.
func (u *uploadView) marks(t *thought, reads []*reading) {
	for _, r := range reads {
		if m := (mark{kind: spec.MarkWriting, held: lastKept(r.v), next: u.passage.order(r).Snapshot}); m != r.mark {
			u.setMark(t, r, m)
		}
	}
}

// lastKept is the snapshot of what the source's claim held before it was
// overwritten, "" if there is none.
func lastKept(v *spec.Volume) string {
	if v.Back == nil || len(v.Back.Kept) == 0 {
		return ""
	}
	return v.Back.Kept[len(v.Back.Kept)-1]
}

// noteMark takes over what the source's claim itself says of this copy back and
// its earlier tries: whatever the records say, it knows what it held.
func (r *reading) noteMark() {
	b := r.v.Back
	b.Mark = spec.MarkNone
	if r.claim == nil {
		return
	}
	if cutover, kept, ok := strings.Cut(r.claim.Annotations[kube.AnnotationKept], " "); ok && cutover == b.Cutover {
		r.kept, b.Mark = kept, r.mark.kind
		keepLast(b, kept)
	}
}

// tells are the sentence and the log of a passage that is done.
func (u *uploadView) tells() (say string, lines []string) {
	var files, bytes int64
	for _, r := range u.reads {
		d := r.done
		if d == nil || d.Snapshot == "" {
			continue
		}
		moved := d.ReadBytes
		if u.writes() {
			moved = d.WrittenBytes
		}
		files, bytes = files+d.ChangedFiles, bytes+moved
		lines = append(lines, fmt.Sprintf("%s/%s: snapshot %s, %d files changed, %d bytes, %d entries deleted, %d ms", r.at.namespace, r.at.claim, d.Snapshot, d.ChangedFiles, moved, d.DeletedEntries, d.DurationMS))
		for _, w := range d.Warnings {
			lines = append(lines, "  warning: "+w)
		}
	}
	if u.writes() {
		return fmt.Sprintf("%d claim(s) of cluster %s hold what they shall; %d files and %d bytes were written", len(u.reads), u.on().Name, files, bytes), lines
	}
	return fmt.Sprintf("%d claim(s) of cluster %s are in the repository; %d files and %d bytes were read", len(u.reads), u.on().Name, files, bytes), lines
}

// refuse names the reason for which a claim must not be touched. It is asked at
// every look until its Job has ended.
func (u *uploadView) refuse(r *reading) *reconciler.Observation {
	no := func(final bool, reason, format string, args ...any) *reconciler.Observation {
		o := broken(final, reason, u.claimAt(r), "claim %s/%s of cluster %s: "+format, append([]any{r.at.namespace, r.at.claim, u.on().Name}, args...)...)
		return &o
	}
	switch {
	case r.claim == nil || r.claim.DeletionTimestamp != nil:
		return no(true, "ClaimMissing", "it is not there any more, so that nothing can be copied back: say rollback.targetWrites: Discard")
	case r.claim.Spec.VolumeName != r.at.pv || r.pv.Name == "":
		return no(true, "ForeignVolume", "it is bound to volume %q and not to %q, as at the cutover", r.claim.Spec.VolumeName, r.at.pv)
	case r.markErr != nil:
		return no(true, "UnknownMark", "%v", r.markErr)
	case u.strict() && len(r.users) > 0:
		return no(false, "ClaimInUse", "pod %s/%s uses it: it must be at rest, so end the pod", r.users[0].Namespace, r.users[0].Name)
	}
	return u.passage.refuse(r)
}

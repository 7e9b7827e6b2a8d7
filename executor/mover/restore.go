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

// writing is one target claim on its way to a snapshot.
type writing struct {
	v     *spec.Volume
	claim *corev1.PersistentVolumeClaim
	pv    *corev1.PersistentVolume
	mark  mark
	// verify is what the plan wants to be read back and this attempt has not read back yet.
	verify engine.Verify
	apart  bool        // it is only mounted: another kind of Job writes it
	sent   bool        // what it shall hold comes from a sender
	user   *corev1.Pod // a pod on the claim that is not one of our writers
	// refusal is why the claim has no volume yet, if its driver says so.
	refusal string
}

// writeGroup is what one Job writes: the claims of one pod of the application.
type writeGroup struct {
	namespace, name string
	writes          []*writing
}

// restoreView is everything that the restore's decision is made from.
type restoreView struct {
	e       *kube.Env
	volumes []spec.Volume
	groups  []*writeGroup
	jobs    *jobList
	results map[*helperJob]engine.Result // of this attempt's ended Jobs
	standBy bool                         // start what will be told later, instead of writing now
	slots   *slots
	// receives: what is written comes from senders, and its snapshot is made meanwhile.
	receives bool
}

// thinkRestore makes every target claim equal to the newest snapshot of its
// source, and marks what it holds before and after (safety property 13).
func thinkRestore(ctx context.Context, e *kube.Env) (thought, error) {
	r, err := readRestore(ctx, e)
	if err != nil {
		return thought{}, err
	}
	t := r.decide()
	t.watches, t.tails = r.watches(), r.jobs.tails()
	return t, nil
}

func (r *restoreView) watches() []watched {
	return []watched{watchOf(r.e.Target, podResource, r.e.Settings.Namespace, helpers(r.e, ComponentWriter).LabelSelector, r.jobs.version)}
}

// readRestore reads everything that the decision needs.
func readRestore(ctx context.Context, e *kube.Env) (*restoreView, error) {
	r := &restoreView{e: e, results: map[*helperJob]engine.Result{}}
	var err error
	if r.volumes, err = volumesOf(ctx, e); err != nil {
		return nil, err
	}
	if r.jobs, err = readJobs(ctx, e, e.Target, ComponentWriter); err != nil {
		return nil, err
	}
	for _, h := range r.jobs.jobs {
		if h.current && !h.active() && !h.leaving() && !h.spent() {
			if r.results[h], err = h.report(ctx, e.Target); err != nil {
				return nil, err
			}
		}
	}
	if r.slots, err = readSlots(ctx, e, e.Target); err != nil {
		return nil, err
	}
	return r, r.read(ctx)
}

// read looks at every claim, its volume and the pods on it.
func (r *restoreView) read(ctx context.Context) error {
	pods, err := r.e.Target.Kube.CoreV1().Pods(r.e.Settings.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list the pods of namespace %s of cluster %s: %w", r.e.Settings.Namespace, r.e.Target.Name, err)
	}
	byName := map[string]*writeGroup{}
	for i := range r.volumes {
		v := &r.volumes[i]
		if !copied(v) {
			continue
		}
		w := &writing{v: v}
		if err := w.look(ctx, r.e); err != nil {
			return err
		}
		for j := range pods.Items {
			p := &pods.Items[j]
			if usesClaim(p, v.StagingClaim) && (!ours(r.e, p) || p.Labels[LabelComponent] != ComponentWriter) {
				w.user = p
			}
		}
		k := v.Namespace + "/" + v.Group
		if byName[k] == nil {
			byName[k] = &writeGroup{namespace: v.Namespace, name: v.Group}
			r.groups = append(r.groups, byName[k])
		}
		byName[k].writes = append(byName[k].writes, w)
	}
	return nil
}

// decide is the restore's whole state machine.
func (r *restoreView) decide() thought {
	for _, g := range r.groups {
		for _, w := range g.writes {
			if o := r.refuse(w); o != nil {
				return thought{seen: *o}
			}
		}
	}
	t := thought{}
	// A writer of another attempt may still write, and one that stands by for a group that has changed
	// since has claims of others mounted: they have ended before anything else begins.
	if o := endWriters(&t, r.e, r.jobs, func(h *helperJob) bool { return h.active() && !r.wanted(h) }); o != nil || len(t.moves) > 0 {
		if o != nil {
			t.seen = *o
		}
		return t
	}
	var waits, failures []reconciler.Observation
	for _, g := range r.groups {
		switch o := r.group(&t, g); {
		case o == nil:
		case o.Seen == reconciler.Broken:
			failures = append(failures, *o)
		default:
			waits = append(waits, *o)
		}
	}
	switch {
	case len(waits) > 0:
		t.seen = waits[0]
	case len(failures) > 0: // told when no other Job runs any more
		t.seen = failures[0]
		t.seen.Facts = factsOf(r.volumes)
	default:
		t.seen = succeeded(factsOf(r.volumes), "every claim holds its newest snapshot")
		t.seen.Log = r.log()
	}
	return t
}

// wanted says that a Job is the one that writes, or will write, a group now.
func (r *restoreView) wanted(h *helperJob) bool {
	return h.current && slices.ContainsFunc(r.groups, func(g *writeGroup) bool { return writerName(r.e, g) == h.name })
}

// refuse names the reason for which a claim must not be written to. It is asked
// before every move, for every claim of the plan, needed or not.
func (r *restoreView) refuse(w *writing) *reconciler.Observation {
	v, at := w.v, object(spec.Target, "PersistentVolumeClaim", r.e.Settings.Namespace, w.v.StagingClaim)
	no := func(final bool, reason, format string, args ...any) *reconciler.Observation {
		o := broken(final, reason, at, "claim %s/%s of cluster %s: "+format, append([]any{r.e.Settings.Namespace, v.StagingClaim, r.e.Target.Name}, args...)...)
		return &o
	}
	if v.Mark == spec.MarkLive {
		return no(true, "LiveClaim", "the ledger says that its copy is live: it belongs to the application and is never written to")
	}
	if w.claim == nil || w.claim.DeletionTimestamp != nil {
		return no(false, "ClaimMissing", "it is not there: the claims step makes it")
	}
	if o := notOurs(r.e, v, w.claim); o != nil {
		return o
	}
	if v.TargetHandle != "" && w.claim.Spec.VolumeName != "" && (w.pv == nil || handle(w.pv) != v.TargetHandle) {
		return no(true, "ForeignVolume", "volume %s is not the storage %q that this plan made", w.claim.Spec.VolumeName, v.TargetHandle)
	}
	var err error
	if w.mark, err = markOf(w.claim); err != nil {
		return no(true, "UnknownMark", "%v", err)
	}
	if w.mark.kind == spec.MarkLive {
		return no(true, "LiveClaim", "it is marked %q: it belongs to the application and is never written to", w.mark)
	}
	if w.user != nil {
		return no(false, "ClaimInUse", "pod %s/%s uses it and is not ours: remove the pod", w.user.Namespace, w.user.Name)
	}
	if v.Snapshot == "" && !r.receives {
		return no(false, "NoSnapshot", "no snapshot of %s is recorded: the upload step makes it", key(v))
	}
	return nil
}

// group decides what is next for one group; nil when nothing is left, and then
// the volumes' facts are complete.
func (r *restoreView) group(t *thought, g *writeGroup) *reconciler.Observation {
	h := r.job(writerName(r.e, g))
	if r.standBy {
		return r.prepare(t, g, h)
	}
	written := done(r.results[h])
	for _, w := range g.writes {
		if vr := written[key(w.v)]; vr.Verified != nil && vr.Snapshot == w.v.Snapshot {
			r.note(w, vr)
		} else {
			w.verify = r.verification(w)
		}
	}
	if h != nil && h.active() {
		return r.follow(t, h, g)
	}
	if h != nil && h.spent() && !h.leaving() {
		h.removal(t, r.e, r.e.Target, "which stood by in vain")
		return nil
	}
	if h != nil {
		if h.leaving() {
			o := working("WriterLeaving", object(spec.Target, "Job", r.e.Settings.Namespace, h.name), "waits until Job %s/%s has ended on cluster %s", r.e.Settings.Namespace, h.name, r.e.Target.Name)
			return &o
		}
		if r.settle(t, g, h) {
			return nil
		}
	}
	g.record()
	if !slices.ContainsFunc(g.writes, (*writing).needed) {
		return nil
	}
	if res := r.results[h]; res.Error != "" {
		o := r.failed(g, h, res)
		return &o
	}
	if o := r.differs(g, written); o != nil {
		return o
	}
	if h != nil { // it succeeded, and still something is not as wanted: not by this Job's doing
		o := broken(false, "NotRestored", object(spec.Target, "Job", r.e.Settings.Namespace, h.name), "Job %s/%s on cluster %s succeeded, and yet a claim of %s does not hold its snapshot", r.e.Settings.Namespace, h.name, r.e.Target.Name, g.name)
		return &o
	}
	return r.begin(t, g)
}

func (r *restoreView) job(name string) *helperJob {
	for _, h := range r.jobs.jobs {
		if h.current && h.name == name {
			return h
		}
	}
	return nil
}

// settle marks clean what an ended Job has written, one move a claim.
func (r *restoreView) settle(t *thought, g *writeGroup, h *helperJob) bool {
	written, moved := done(r.results[h]), false
	for _, w := range g.writes {
		vr, ok := written[key(w.v)]
		if !ok || w.mark.kind != spec.MarkWriting || r.refuted(w, vr) {
			continue
		}
		m, err := w.mark.written(vr.Snapshot)
		if err != nil {
			continue // marked for another snapshot since: the next Job's business
		}
		moved = true
		t.move(fmt.Sprintf("mark claim %s/%s on cluster %s %q", w.claim.Namespace, w.claim.Name, r.e.Target.Name, m), func(ctx context.Context) error {
			return setMark(ctx, r.e, r.e.Target, w.claim, m)
		})
	}
	return moved
}

// prepare starts the Job of a group ahead of its work. It has no order, hence
// writes nothing, and the claims keep their marks.
func (r *restoreView) prepare(t *thought, g *writeGroup, h *helperJob) *reconciler.Observation {
	if h != nil {
		return h.settleIn(spec.Target, r.e)
	}
	r.launch(t, g, r.writer(g))
	return nil
}

// follow deals with a Job that is there: it is told what to do if it stands by,
// and waited for.
func (r *restoreView) follow(t *thought, h *helperJob, g *writeGroup) *reconciler.Observation {
	if h.waits() && h.listens() != nil {
		r.marks(t, g)
		h.order(t, r.e, r.e.Target, r.writer(g))
		return nil
	}
	return r.progress(h, g)
}

// marks are the moves that mark what is about to be written. They come before
// the writer: whoever finds a claim marked must expect a half-written volume.
func (r *restoreView) marks(t *thought, g *writeGroup) {
	for _, w := range g.writes {
		if !w.needed() {
			continue
		}
		t.move(fmt.Sprintf("mark claim %s/%s on cluster %s as being written", w.claim.Namespace, w.claim.Name, r.e.Target.Name), func(ctx context.Context) error {
			m, err := w.mark.writing(w.v.Snapshot)
			if err != nil {
				return err
			}
			return setMark(ctx, r.e, r.e.Target, w.claim, m)
		})
	}
}

func (r *restoreView) launch(t *thought, g *writeGroup, s jobSpec) {
	t.move(fmt.Sprintf("start writer Job %s/%s for %s on cluster %s", r.e.Settings.Namespace, s.name, strings.Join(sortedKeys(s.volumes), ", "), r.e.Target.Name), func(ctx context.Context) error {
		place, err := r.place(ctx, g)
		if err != nil {
			return err
		}
		s.place = place
		return s.start(ctx, r.e, r.e.Target)
	})
}

// record notes which volume a claim is bound to and what it holds.
func (g *writeGroup) record() {
	for _, w := range g.writes {
		w.mark.record(w.v)
		if w.pv == nil {
			continue
		}
		w.v.TargetPV, w.v.TargetHandle = w.pv.Name, handle(w.pv)
		if w.v.TargetPolicy == "" {
			w.v.TargetPolicy = string(w.pv.Spec.PersistentVolumeReclaimPolicy)
		}
	}
}

func (r *restoreView) failed(g *writeGroup, h *helperJob, res engine.Result) reconciler.Observation {
	g.record()
	if res.Reason == engine.ReasonNoSpace {
		for _, w := range g.writes {
			if last := res.Volumes; len(last) > 0 && last[len(last)-1].Name == key(w.v) {
				return broken(true, string(res.Reason), claimAt(w.claim), "claim %s/%s of cluster %s is full: the snapshot of %s has %d bytes in %d files and the claim asks for %s; enlarge it, or give the source claim a larger size, and repeat the run",
					w.claim.Namespace, w.claim.Name, r.e.Target.Name, key(w.v), w.v.Bytes, w.v.Files, w.claim.Spec.Resources.Requests.Storage())
			}
		}
	}
	return failure(spec.Target, r.e.Target, h, r.e.Settings.Namespace, res).seen
}

func (r *restoreView) progress(h *helperJob, g *writeGroup) *reconciler.Observation {
	text, at := "its pod is not there yet", object(spec.Target, "Job", r.e.Settings.Namespace, h.name)
	if len(h.pods) > 0 {
		p := &h.pods[0]
		at, text = object(spec.Target, "Pod", p.Namespace, p.Name), "it is "+strings.ToLower(string(p.Status.Phase))
		if p.Status.Phase == corev1.PodPending {
			text = g.stuck(p)
		}
	}
	o := sayProgress(working("Writing", at, "writes the claims of %s/%s on cluster %s: %s", g.namespace, g.name, r.e.Target.Name, text), r.jobs.progress(r.volumes))
	return &o
}

// endWriters removes the chosen Jobs and waits until they are gone.
func endWriters(t *thought, e *kube.Env, jobs *jobList, which func(*helperJob) bool) *reconciler.Observation {
	for _, h := range jobs.jobs {
		if !which(h) {
			continue
		}
		if !h.leaving() {
			h.removal(t, e, e.Target, "which is in the way")
			continue
		}
		o := working("WriterLeaving", object(spec.Target, "Job", e.Settings.Namespace, h.name), "waits until Job %s/%s has ended on cluster %s", e.Settings.Namespace, h.name, e.Target.Name)
		t.watches = []watched{watchOf(e.Target, podResource, e.Settings.Namespace, helpers(e, ComponentWriter).LabelSelector, jobs.version)}
		return &o
	}
	return nil
}

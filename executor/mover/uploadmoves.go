package mover

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// decide is the upload's whole state machine: it looks at the view only, and
// its moves are closures that nobody has called yet.
func (u *uploadView) decide() thought {
	t := thought{}
	switch {
	case u.foreign != nil:
		t.seen = broken(false, "NameTaken", object(u.on().Side, "Pod", u.foreign.Namespace, u.foreign.Name), "pod %s/%s on cluster %s has the name of our holder and is not ours: delete it", u.foreign.Namespace, u.foreign.Name, u.on().Name)
		return t
	case u.failed != nil:
		return u.giveUp()
	}
	if u.passage != nil {
		if done := u.pass(&t); done {
			return t
		}
	}
	waits := u.clearStale(&t)
	var todo []*reading
	for _, r := range u.reads {
		if r.done != nil || (u.standBy && r.throughPod() != nil) { // a claim of one pod only is not ours before the stop
			continue
		}
		if w := u.prepare(&t, r); w != nil {
			waits = append(waits, *w)
			continue
		}
		todo = append(todo, r)
	}
	// One Job a node reads everything there: it is started when every holder has its node.
	pending := slices.ContainsFunc(waits, func(o reconciler.Observation) bool { return o.Reason == "HolderPending" })
	if len(t.moves) == 0 && !pending {
		waits = append(waits, u.startReaders(&t, todo)...)
	}
	if len(t.moves) == 0 && len(waits) == 0 {
		if u.standBy {
			return thought{seen: succeeded(nil, "the movers of the last copy stand by")}
		}
		return u.finish(nil)
	}
	if len(waits) > 0 {
		t.seen = waits[0]
	}
	return t
}

// clearStale ends what earlier attempts left running.
func (u *uploadView) clearStale(t *thought) (waits []reconciler.Observation) {
	for _, p := range u.stale {
		t.move(fmt.Sprintf("remove the holder %s/%s of an earlier attempt on cluster %s", p.Namespace, p.Name, u.on().Name), func(ctx context.Context) error {
			return deletePod(ctx, u.on(), p)
		})
	}
	for _, h := range u.jobs.jobs {
		if h.current || !h.active() {
			continue
		}
		if !h.leaving() {
			h.removal(t, u.e, u.on(), "which an earlier attempt left")
			continue
		}
		waits = append(waits, working("EarlierAttempt", object(u.on().Side, "Job", u.e.Settings.Namespace, h.name), "waits until Job %s/%s of an earlier attempt has ended on cluster %s", u.e.Settings.Namespace, h.name, u.on().Name))
	}
	return waits
}

// prepare brings one claim to the point where it can be read: nil means that
// its node is known. Anything else is what it waits for.
func (u *uploadView) prepare(t *thought, r *reading) *reconciler.Observation {
	where, blocker := r.spot()
	if blocker != nil {
		return u.makeWay(t, r, blocker)
	}
	if r.throughPod() != nil {
		return nil
	}
	h := r.holder
	switch {
	case h == nil:
		t.move(fmt.Sprintf("create the holder of claim %s on cluster %s", key(r.v), u.on().Name), func(ctx context.Context) error {
			return hold{v: r.v, on: u.on(), at: r.at, writable: u.writes(), like: r.like, where: where}.create(ctx, u.e)
		})
	case h.DeletionTimestamp != nil:
		w := working("HolderLeaving", object(u.on().Side, "Pod", h.Namespace, h.Name), "waits until the holder of claim %s has left node %s of cluster %s", key(r.v), h.Spec.NodeName, u.on().Name)
		return &w
	case over(h):
		t.move(fmt.Sprintf("remove the holder of claim %s, which has ended", key(r.v)), func(ctx context.Context) error {
			return deletePod(ctx, u.on(), h)
		})
	case h.Spec.NodeName == "":
		w := working("HolderPending", object(u.on().Side, "Pod", h.Namespace, h.Name), "waits until the holder of claim %s is scheduled on cluster %s: %s", key(r.v), u.on().Name, stuck(h))
		return &w
	}
	return nil
}

// makeWay takes our hands off a claim that a pod of the application needs
// elsewhere; the claim is tried again once that pod has it.
func (u *uploadView) makeWay(t *thought, r *reading, blocker *corev1.Pod) *reconciler.Observation {
	if r.job != nil && !r.job.leaving() {
		r.job.removal(t, u.e, u.on(), fmt.Sprintf("to make way for pod %s/%s", blocker.Namespace, blocker.Name))
	}
	if h := r.holder; h != nil && h.DeletionTimestamp == nil {
		t.move(fmt.Sprintf("remove the holder of claim %s, to make way for pod %s/%s", key(r.v), blocker.Namespace, blocker.Name), func(ctx context.Context) error {
			return deletePod(ctx, u.on(), h)
		})
	}
	w := working("MadeWay", object(u.on().Side, "Pod", blocker.Namespace, blocker.Name), "claim %s is not read while pod %s/%s is moving to node %q of cluster %s; it is tried again when that pod runs", key(r.v), blocker.Namespace, blocker.Name, blocker.Spec.NodeName, u.on().Name)
	return &w
}

// startReaders starts one Job a node for everything that can be read there, or
// says what is being read.
func (u *uploadView) startReaders(t *thought, todo []*reading) (waits []reconciler.Observation) {
	byReader, byJob := map[string][]*reading{}, map[*helperJob][]*reading{}
	for _, r := range todo {
		if r.job != nil {
			byJob[r.job] = append(byJob[r.job], r)
			continue
		}
		byReader[r.reader()] = append(byReader[r.reader()], r)
	}
	for _, h := range u.jobs.jobs {
		if len(byJob[h]) == 0 {
			continue
		}
		if o := u.follow(t, h, byJob[h]); o != nil {
			waits = append(waits, *o)
		}
	}
	for i, k := range sortedKeys(byReader) {
		node := byReader[k][0].node()
		s := u.reader(node, byReader[k])
		// One of them maintains the repository, and never while an application waits for a cutover.
		s.assignment.Request.Maintain = i == 0 && u.e.Run.Spec.Kind == spec.RunStage
		if h := u.jobNamed(s.name); h != nil { // it stood by in vain, or is on its way out after making way
			if u.standBy {
				continue
			}
			if !h.leaving() {
				h.removal(t, u.e, u.on(), "which does nothing any more")
			}
			waits = append(waits, working("ReaderLeaving", object(u.on().Side, "Job", u.e.Settings.Namespace, s.name), "waits until Job %s/%s has ended on cluster %s", u.e.Settings.Namespace, s.name, u.on().Name))
			continue
		}
		if o := u.slots.take(t, s.name); o != nil {
			waits = append(waits, *o)
			continue
		}
		if u.writes() {
			u.marks(t, byReader[k])
		}
		t.move(fmt.Sprintf("start %s Job %s/%s for %s on node %s of cluster %s", u.component(), u.e.Settings.Namespace, s.name, strings.Join(sortedKeys(s.volumes), ", "), node, u.on().Name), func(ctx context.Context) error {
			return s.start(ctx, u.e, u.on())
		})
	}
	return waits
}

// follow deals with a Job that is there: it is told what to do if it stands by,
// and waited for.
func (u *uploadView) follow(t *thought, h *helperJob, reads []*reading) *reconciler.Observation {
	if u.standBy {
		return h.settleIn(u.on().Side, u.e)
	}
	if h.waits() && h.listens() != nil {
		if s := u.reader(reads[0].node(), reads); h.sameVolumes(s) && s.name == h.name {
			h.order(t, u.e, u.on(), s)
		} else {
			h.removal(t, u.e, u.on(), "which stands by for other claims")
		}
		return nil
	}
	o := u.progress(h)
	return &o
}

func (u *uploadView) jobNamed(name string) *helperJob {
	for _, h := range u.jobs.jobs {
		if h.name == name {
			return h
		}
	}
	return nil
}

// progress describes a Job that is reading.
func (u *uploadView) progress(h *helperJob) reconciler.Observation {
	text, at := "its pod is not there yet", object(u.on().Side, "Job", u.e.Settings.Namespace, h.name)
	if len(h.pods) > 0 {
		p := &h.pods[0]
		at = object(u.on().Side, "Pod", p.Namespace, p.Name)
		text = "it is " + strings.ToLower(string(p.Status.Phase))
		if p.Status.Phase == corev1.PodPending {
			text = stuck(p)
		}
	}
	o := working("Reading", at, "reads %d claim(s) on cluster %s: %s", len(h.volumes), u.on().Name, text)
	return sayProgress(o, u.jobs.progress(u.volumes))
}

// node is where the claim is mounted now.
func (r *reading) node() string {
	if p := r.throughPod(); p != nil {
		return p.Spec.NodeName
	}
	return r.holder.Spec.NodeName
}

// reader is the Job that reads on one node: it sees the holders' directories
// and nothing else of the node.
func (u *uploadView) reader(node string, reads []*reading) jobSpec {
	s := jobSpec{
		component: u.component(), volumes: map[string]string{},
		caps: []corev1.Capability{"DAC_READ_SEARCH", "FOWNER"}, // read every file, and without touching access times
		place: placement{
			affinity: spot{node: node}.affinity(),
			// The application's pods are there already; so may we.
			tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		},
		// No lesser right opens a device that the pod does not itself have as a claim.
		privileged: isBlock(reads[0].v),
	}
	req := request(u.e, engine.OpUpload)
	req.Live = !u.strict()
	if u.writes() {
		req, s.caps = request(u.e, engine.OpRestore), writerCaps
	}
	slices.SortFunc(reads, func(a, b *reading) int { return strings.Compare(key(a.v), key(b.v)) })
	for i, r := range reads {
		through := r.window(u)
		name, dir := fmt.Sprintf("volume-%d", i), fmt.Sprintf("/volumes/%d", i)
		kind, propagation := through.kind, corev1.MountPropagationHostToContainer
		s.sources = append(s.sources, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: through.hostPath, Type: &kind}}})
		s.mounts = append(s.mounts, corev1.VolumeMount{Name: name, MountPath: dir, ReadOnly: !u.writes(), MountPropagation: &propagation})
		path := strings.TrimSuffix(dir+"/"+through.path, "/")
		if through.await {
			s.assignment.Mounts = append(s.assignment.Mounts, path)
		}
		req.Volumes = append(req.Volumes, u.order(r, path))
		s.volumes[key(r.v)] = ""
	}
	if u.senders != nil {
		u.senders.complete(&s, &req)
	}
	s.assignment.Request = req
	if u.standBy {
		s.standing(engine.OpUpload)
	}
	s.name = u.e.ObjectName(u.component() + "/" + node + "/" + strings.Join(sortedKeys(s.volumes), "/"))
	return s
}

// order is what a Job does with one claim that it sees at a path.
func (u *uploadView) order(r *reading, path string) engine.VolumeRequest {
	q := engine.VolumeRequest{Parent: r.v.Snapshot, Keep: kept(r.v)}
	if u.passage != nil {
		q = u.passage.order(r)
	}
	q.Name, q.Path, q.Mode = key(r.v), path, modeOf(r.v)
	return q
}

// strict: nothing may change while it is read.
func (u *uploadView) strict() bool {
	if u.passage != nil {
		return u.passage.strict
	}
	return strict(u.e)
}

func (r *reading) window(u *uploadView) window {
	p := r.throughPod()
	if p == nil {
		p = r.holder
	}
	if isBlock(r.v) {
		return throughDevice(u.e, p, r.pv)
	}
	return through(u.e, p, r.pv)
}

// giveUp ends everything and then says why.
func (u *uploadView) giveUp() thought {
	answer := failure(u.on().Side, u.on(), u.failed, u.e.Settings.Namespace, u.failure).seen
	return u.finish(&answer)
}

// finish lets go of every claim and then gives the answer; nil is success. After
// the stop nobody waits for a claim, so a holder on its way out is enough.
func (u *uploadView) finish(answer *reconciler.Observation) thought {
	t := thought{}
	var left *corev1.Pod
	for _, r := range u.reads {
		h := r.holder
		if h == nil {
			continue
		}
		left = h
		if h.DeletionTimestamp == nil {
			t.move(fmt.Sprintf("remove the holder of claim %s on cluster %s", key(r.v), u.on().Name), func(ctx context.Context) error {
				return deletePod(ctx, u.on(), h)
			})
		}
	}
	for _, h := range u.jobs.jobs {
		// Finished Jobs of earlier attempts have told where a claim was read; this one's are its result.
		if !h.leaving() && (!h.current || h.active()) {
			h.removal(&t, u.e, u.on(), "which is not needed any more")
		}
	}
	facts := factsOf(u.volumes)
	switch {
	case answer != nil:
		t.seen = *answer
		t.seen.Facts = facts
	case left != nil && (u.writes() || !u.strict()):
		t.seen = working("HolderLeaving", object(u.on().Side, "Pod", left.Namespace, left.Name), "every claim is done; waits until holder %s/%s has left cluster %s", left.Namespace, left.Name, u.on().Name)
	case u.passage != nil:
		say, lines := u.tells()
		t.seen = succeeded(facts, "%s", say)
		t.seen.Log = strings.Join(append(u.log, lines...), "\n")
	default:
		t.seen = succeeded(facts, "%s", u.summary())
		t.seen.Log = strings.Join(append(u.log, u.lines()...), "\n")
	}
	return t
}

func (u *uploadView) summary() string {
	var files, bytes int64
	for _, r := range u.reads {
		files, bytes = files+r.v.ChangedFiles, bytes+r.v.ChangedBytes
	}
	return fmt.Sprintf("%d claim(s) are in the repository; %d files and %d bytes were read", len(u.reads), files, bytes)
}

func (u *uploadView) lines() []string {
	byKey := map[string]string{}
	for _, r := range u.reads {
		byKey[key(r.v)] = fmt.Sprintf("%s: snapshot %s, %d files, %d bytes, %d files read", key(r.v), r.v.Snapshot, r.v.Files, r.v.Bytes, r.v.ChangedFiles)
		for _, w := range r.v.Warnings {
			byKey[key(r.v)] += "\n  warning: " + w
		}
	}
	return slices.Collect(maps.Values(byKey))
}

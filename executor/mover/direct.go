package mover

import (
	"context"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// stepLastDirect is the name of the step that sends after the stop.
const stepLastDirect = "last-direct"

// The ways of a volume's contents.
const (
	transferDirect     = "Direct"
	transferRepository = "Repository"
)

// sentDirectly says that the contents of the volume's files go straight from the
// source's mover to the target's.
func sentDirectly(v *spec.Volume) bool { return copied(v) && v.Transfer == transferDirect }

// wayOf is the way that a claim's contents take, with the reason if it is not
// the one that the plan asks for.
func wayOf(transfer string, c *corev1.PersistentVolumeClaim) (way, reason string) {
	if transfer != transferDirect {
		return "", ""
	}
	if m := c.Spec.VolumeMode; m != nil && *m == corev1.PersistentVolumeBlock {
		return transferRepository, "BlockVolume: a raw block device has no files to send"
	}
	return transferDirect, ""
}

// keepTransfer keeps what this run found out about the way of a volume: one
// that could not go directly is not tried again before the next run.
func keepTransfer(found, recorded []spec.Volume) {
	before := map[string]*spec.Volume{}
	for i := range recorded {
		before[key(&recorded[i])] = &recorded[i]
	}
	for i := range found {
		if r := before[key(&found[i])]; r != nil && r.TransferReason != "" {
			found[i].Transfer, found[i].TransferReason = r.Transfer, r.TransferReason
		}
	}
}

// directView is everything that the decision about direct transfers is made
// from: both sides as the upload and the restore see them, and the identities
// with which they prove themselves to each other.
type directView struct {
	e      *kube.Env
	up     *uploadView
	down   *restoreView
	groups []*writeGroup // those with a volume that goes directly
	proofs map[*kube.Cluster]*corev1.Secret
	ways   map[string]way // to the receivers, by name of Job
}

// thinkDirect makes target claims equal to their sources with a receiver and a
// sender that run at the same time. The marks, the refusals, the holders and
// the making way are those of the restore and of the upload. What cannot go
// directly is left to the steps that go through the repository, with a reason.
func thinkDirect(ctx context.Context, e *kube.Env) (thought, error) {
	d, problem, err := readDirect(ctx, e)
	if err != nil {
		return thought{}, err
	}
	if problem != nil {
		return thought{seen: *problem}, nil
	}
	t := d.decide()
	t.watches = append(d.up.watches(), watchOf(e.Target, podResource, e.Settings.Namespace, helpers(e, ComponentWriter).LabelSelector, d.down.jobs.version))
	t.tails = append(d.up.jobs.tails(), d.down.jobs.tails()...)
	return t, nil
}

func readDirect(ctx context.Context, e *kube.Env) (*directView, *reconciler.Observation, error) {
	inv, err := ReadInventory(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	found, err := discover(e, inv)
	if err != nil {
		return nil, nil, err
	}
	if len(found.Problems) > 0 {
		p := found.Problems[0]
		o := broken(true, p.Reason, p.Object, "%s", p.Message)
		return nil, &o, nil
	}
	d := &directView{e: e}
	// Both views work on the same list: what one finds out is recorded by either.
	d.up = &uploadView{e: e, inv: inv, volumes: found.Volumes, log: found.Warnings, senders: &senders{identity: identityName(e)}}
	d.down = &restoreView{e: e, volumes: found.Volumes, results: map[*helperJob]engine.Result{}, receives: true}
	if d.up.jobs, err = readJobs(ctx, e, e.Source, ComponentSender); err != nil {
		return nil, nil, err
	}
	d.up.pods()
	if err := d.up.results(ctx); err != nil {
		return nil, nil, err
	}
	if err := d.readTarget(ctx); err != nil {
		return nil, nil, err
	}
	if d.proofs, err = readIdentities(ctx, e); err != nil {
		return nil, nil, err
	}
	return d, nil, d.readWays(ctx)
}

// readTarget reads the receivers and the claims.
func (d *directView) readTarget(ctx context.Context) (err error) {
	if d.down.jobs, err = readJobs(ctx, d.e, d.e.Target, ComponentWriter); err != nil {
		return err
	}
	for _, h := range d.down.jobs.jobs {
		if h.current && !h.active() && !h.leaving() && !h.spent() {
			if d.down.results[h], err = h.report(ctx, d.e.Target); err != nil {
				return err
			}
		}
	}
	if err := d.down.read(ctx); err != nil {
		return err
	}
	for _, g := range d.down.groups {
		if !slices.ContainsFunc(g.writes, func(w *writing) bool { return sentDirectly(w.v) }) {
			continue
		}
		d.groups = append(d.groups, g)
		for _, w := range g.writes {
			w.sent, w.apart = sentDirectly(w.v), !sentDirectly(w.v)
		}
	}
	return nil
}

// decide is the whole state machine.
func (d *directView) decide() thought {
	if f := d.up.foreign; f != nil {
		return thought{seen: broken(false, "NameTaken", object(spec.Source, "Pod", f.Namespace, f.Name), "pod %s/%s on cluster %s has the name of our holder and is not ours: delete it", f.Namespace, f.Name, d.e.Source.Name)}
	}
	for _, g := range d.groups {
		for _, w := range g.writes {
			if o := d.down.refuse(w); o != nil && sentDirectly(w.v) {
				return thought{seen: *o}
			}
		}
	}
	t := thought{}
	// A writer of another attempt may still write: it has ended before anything else begins.
	if o := endWriters(&t, d.e, d.down.jobs, func(h *helperJob) bool { return !h.current && h.active() }); o != nil || len(t.moves) > 0 {
		if o != nil {
			t.seen = *o
		}
		return t
	}
	waits := d.up.clearStale(&t)
	d.verify()
	d.settle(&t)
	if len(t.moves) > 0 {
		return t
	}
	d.record()
	if len(waits) > 0 {
		t.seen = waits[0]
		return t
	}
	if d.complete() { // whatever the sender says: the target has it all
		return d.finish(nil, "")
	}
	if h, on, r := d.failure(); h != nil {
		return d.fail(h, on, r)
	}
	if o := d.differs(); o != nil {
		return d.finish(o, "")
	}
	if r := d.noWay(); r.Error != "" {
		return d.fail(nil, d.e.Target, r)
	}
	return d.goOn(t)
}

// job is the receiver of a group.
func (d *directView) job(g *writeGroup) *helperJob { return d.down.job(writerName(d.e, g)) }

// nextMark stands in a mark for the snapshot that is not made yet: its place is
// taken by the snapshot that the receiver of that name reports.
func nextMark(job string) string { return "direct-" + job }

// settle marks clean what ended receivers have made equal to a snapshot.
func (d *directView) settle(t *thought) {
	for _, g := range d.groups {
		h := d.job(g)
		if h == nil || h.active() || h.leaving() {
			continue
		}
		written := done(d.down.results[h])
		for _, w := range g.writes {
			vr, ok := written[key(w.v)]
			if !ok || d.down.refuted(w, vr) {
				continue
			}
			m, err := w.mark.arrived(nextMark(h.name), vr.Snapshot)
			if err != nil {
				continue // it is marked clean already
			}
			t.move(fmt.Sprintf("mark claim %s/%s on cluster %s %q", w.claim.Namespace, w.claim.Name, d.e.Target.Name, m), func(ctx context.Context) error {
				return setMark(ctx, d.e, d.e.Target, w.claim, m)
			})
		}
	}
}

// verify keeps what receivers have found when they read back what they wrote,
// or says what they have to.
func (d *directView) verify() {
	for _, g := range d.groups {
		written := done(d.down.results[d.job(g)])
		for _, w := range g.writes {
			if vr := written[key(w.v)]; vr.Verified != nil {
				d.down.note(w, vr)
			} else if sentDirectly(w.v) {
				w.verify = d.down.verification(w)
			}
		}
	}
}

// differs tells of a copy that was read back and is not what was sent.
func (d *directView) differs() *reconciler.Observation {
	for _, g := range d.groups {
		if o := d.down.differs(g, done(d.down.results[d.job(g)])); o != nil {
			return o
		}
	}
	return nil
}

// arrived is what the receiver said of a claim that holds it.
func (d *directView) arrived(g *writeGroup, w *writing) (engine.VolumeResult, bool) {
	h := d.job(g)
	if h == nil {
		return engine.VolumeResult{}, false
	}
	vr, ok := done(d.down.results[h])[key(w.v)]
	return vr, ok && w.mark.holds(vr.Snapshot)
}

// record notes what the claims hold now.
func (d *directView) record() {
	for _, g := range d.groups {
		g.record()
		for _, w := range g.writes {
			if vr, ok := d.arrived(g, w); ok {
				w.v.Snapshot, w.v.Files, w.v.Bytes = vr.Snapshot, vr.Files, vr.Bytes
			}
		}
	}
}

func (d *directView) complete() bool {
	for _, g := range d.groups {
		for _, w := range g.writes {
			if _, ok := d.arrived(g, w); sentDirectly(w.v) && !ok {
				return false
			}
		}
	}
	return true
}

// goOn makes ready what is missing, first on both sides at once, and then lets
// the senders go.
func (d *directView) goOn(t thought) thought {
	var waits []reconciler.Observation
	var todo []*reading
	for _, r := range d.up.reads {
		if r.done != nil {
			continue
		}
		if w := d.up.prepare(&t, r); w != nil {
			waits = append(waits, *w)
			continue
		}
		todo = append(todo, r)
	}
	waits = append(waits, d.receivers(&t)...)
	if len(t.moves) == 0 && len(waits) == 0 {
		waits = d.up.startReaders(&t, todo)
	}
	if len(t.moves) == 0 && len(waits) == 0 { // everything was sent, and is being settled on the target
		waits = d.writing()
	}
	if len(waits) > 0 {
		t.seen = waits[0]
	}
	return t
}

// writing says which receivers are at work.
func (d *directView) writing() (waits []reconciler.Observation) {
	for _, g := range d.groups {
		if h := d.job(g); h != nil && h.active() {
			waits = append(waits, *d.down.progress(h, g))
		}
	}
	return waits
}

// finish removes the identities, lets go of every claim and gives the answer;
// nil is success, of which why says what did not go directly.
func (d *directView) finish(answer *reconciler.Observation, why string) thought {
	t := d.up.finish(answer)
	for on, s := range d.proofs {
		t.move(fmt.Sprintf("remove Secret %s/%s on cluster %s, which has served", s.Namespace, s.Name, on.Name), func(ctx context.Context) error {
			return deleteIdentity(ctx, on, s)
		})
	}
	if t.seen.Seen != reconciler.Succeeded {
		return t
	}
	count, fell := 0, 0
	for i := range d.up.volumes {
		switch v := &d.up.volumes[i]; {
		case sentDirectly(v):
			count++
		case v.TransferReason != "":
			fell++
		}
	}
	t.seen.Message = fmt.Sprintf("%d claim(s) went from mover to mover", count)
	if fell > 0 {
		t.seen.Message += fmt.Sprintf("; %d go through the repository", fell)
	}
	if why != "" {
		t.seen.Message += ": " + why
	}
	t.seen.Log += "\n" + d.down.log()
	return t
}

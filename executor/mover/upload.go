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
)

// stepLastUpload is the name of the step that copies after the stop.
const stepLastUpload = "last-upload"

// reading is one source volume on its way into the repository.
type reading struct {
	v       *spec.Volume
	at      place
	claim   *corev1.PersistentVolumeClaim // nil if it is gone
	mark    mark
	kept    string // what the source's claim held before the copy back that is at hand began to write
	markErr error
	pv      *corev1.PersistentVolume
	like    *corev1.PodSpec // of the application's pod or template; nil if nothing mounts the claim
	users   []*corev1.Pod   // pods that use the claim and are not ours
	holder  *corev1.Pod     // ours, of this attempt
	job     *helperJob      // that is reading it now
	done    *engine.VolumeResult
	last    string // node that read it last
}

// place is where the claim of a volume is on a cluster.
type place struct{ namespace, claim, pv string }

// placeOf is the place of a volume on a side.
func placeOf(v *spec.Volume, side spec.Side) place {
	if side == spec.Target {
		return place{v.TargetNamespace, v.TargetClaim, v.TargetPV}
	}
	return place{v.Namespace, v.Claim, v.SourcePV}
}

// uploadView is everything that the upload's decision is made from.
type uploadView struct {
	e       *kube.Env
	inv     *Inventory
	volumes []spec.Volume // all of the plan
	log     []string
	reads   []*reading
	stale   []*corev1.Pod // holders of other attempts
	foreign *corev1.Pod   // has a holder's name and is not ours
	jobs    *jobList
	failed  *helperJob
	failure engine.Result
	standBy bool // start what will be told later, instead of reading now
	slots   *slots
	senders *senders // set when the contents go straight to the target
	passage *passage // set in a rollback that copies back
}

// on is the cluster whose claims are read.
func (u *uploadView) on() *kube.Cluster {
	if u.passage != nil {
		return u.e.On(u.passage.side)
	}
	return u.e.Source
}

// takes says that the view is about a volume.
func (u *uploadView) takes(v *spec.Volume) bool {
	if u.passage != nil {
		return staged(v)
	}
	return copied(v) && sentDirectly(v) == (u.senders != nil)
}

// strict: the application is stopped, so nothing may change while it is read.
func strict(e *kube.Env) bool {
	return (e.Step.Name == stepLastUpload || e.Step.Name == stepLastDirect) && e.Plan().Cutover.QuiesceOrDefault()
}

// thinkUpload takes a snapshot of every source claim into the repository.
func thinkUpload(ctx context.Context, e *kube.Env) (thought, error) {
	v, problem, err := readUpload(ctx, e)
	if err != nil {
		return thought{}, err
	}
	if problem != nil {
		return thought{seen: *problem}, nil
	}
	t := v.decide()
	t.watches, t.tails = v.watches(), v.jobs.tails()
	return t, nil
}

// readUpload reads everything that the decision needs, or says what keeps the
// volumes from being copied at all.
func readUpload(ctx context.Context, e *kube.Env) (*uploadView, *reconciler.Observation, error) {
	inv, err := ReadInventory(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	d, err := discover(e, inv)
	if err != nil {
		return nil, nil, err
	}
	if len(d.Problems) > 0 {
		p := d.Problems[0]
		o := broken(true, p.Reason, p.Object, "%s", p.Message)
		return nil, &o, nil
	}
	v := &uploadView{e: e, inv: inv, volumes: d.Volumes, log: d.Warnings}
	return v, nil, v.read(ctx)
}

// read looks at the Jobs and pods that are there.
func (u *uploadView) read(ctx context.Context) (err error) {
	if u.jobs, err = readJobs(ctx, u.e, u.on(), u.component()); err != nil {
		return err
	}
	if u.slots, err = readSlots(ctx, u.e, u.on()); err != nil {
		return err
	}
	u.pods()
	if u.passage != nil && u.passage.side == spec.Source {
		for _, r := range u.reads {
			r.noteMark()
		}
	}
	return u.results(ctx)
}

func (u *uploadView) watches() []watched {
	w := []watched{watchOf(u.on(), podResource, u.e.Settings.Namespace, helpers(u.e, u.component()).LabelSelector, u.jobs.version)}
	for _, n := range u.inv.Namespaces {
		if len(n.Claims) > 0 {
			w = append(w, watchOf(u.on(), podResource, n.Name, "", n.version))
		}
	}
	return w
}

// component is what the Jobs that read are.
func (u *uploadView) component() string {
	switch {
	case u.senders != nil:
		return ComponentSender
	case u.writes():
		return ComponentWriter
	}
	return ComponentReader
}

// pods finds the holder and the users of every volume.
func (u *uploadView) pods() {
	for i := range u.volumes {
		v := &u.volumes[i]
		if !u.takes(v) {
			continue
		}
		at := placeOf(v, u.on().Side)
		pv := u.inv.Volumes[at.pv]
		r := &reading{v: v, at: at, pv: &pv}
		u.reads = append(u.reads, r)
		for j := range u.inv.Namespaces {
			if u.inv.Namespaces[j].Name == at.namespace {
				u.inspect(r, &u.inv.Namespaces[j])
			}
		}
	}
}

func (u *uploadView) inspect(r *reading, n *NamespaceInventory) {
	name := holderName(u.e, r.v)
	for i := range n.Pods {
		p := &n.Pods[i]
		switch {
		case p.Name == name && ofThisAttempt(u.e, p):
			r.holder = p
		case p.Name == name:
			u.foreign = p
		case ours(u.e, p) && p.Labels[LabelComponent] == ComponentHolder:
			if p.Annotations[annotationVolume] == key(r.v) && p.DeletionTimestamp == nil {
				u.stale = append(u.stale, p)
			}
		case usesClaim(p, r.at.claim):
			r.users = append(r.users, p)
		}
	}
	for i := range n.Claims {
		if c := &n.Claims[i]; c.Name == r.at.claim {
			r.claim = c
			r.mark, r.markErr = markOf(c)
		}
	}
	r.like = n.podTemplate(r.v.Group)
	if len(r.users) > 0 {
		r.like = &r.users[0].Spec
	}
}

// results connects readings with the Jobs that do, or did, them.
func (u *uploadView) results(ctx context.Context) error {
	byKey := map[string]*reading{}
	for _, r := range u.reads {
		byKey[key(r.v)] = r
	}
	for _, h := range u.jobs.jobs {
		for k := range h.volumes {
			if r := byKey[k]; r != nil && len(h.pods) > 0 {
				r.last = h.pods[0].Spec.NodeName
			}
			if r := byKey[k]; r != nil && h.current && h.active() {
				r.job = h
			}
		}
		if !h.current || h.active() || h.job == nil || h.leaving() || h.spent() {
			continue // what we ended ourselves, to make way, says nothing about the claims
		}
		res, err := h.report(ctx, u.on())
		if err != nil {
			return err
		}
		if res.Error != "" {
			u.failed, u.failure = h, res
		}
		u.log = append(u.log, care(res)...)
		for k, vr := range done(res) {
			if r := byKey[k]; r != nil {
				r.done = &vr
				u.record(r)
			}
		}
	}
	return nil
}

// record writes what the snapshot is into the volume's facts.
func (u *uploadView) record(r *reading) {
	if u.passage != nil {
		u.passage.note(r)
		return
	}
	d := r.done
	r.v.Snapshot, r.v.Files, r.v.Bytes, r.v.DiskBytes = d.Snapshot, d.Files, d.Bytes, d.DiskBytes
	r.v.ChangedFiles, r.v.ChangedBytes, r.v.Warnings = d.ChangedFiles, d.ReadBytes, d.Warnings
	if more := d.WarningCount - int64(len(d.Warnings)); more > 0 {
		r.v.Warnings = append(slices.Clone(d.Warnings), fmt.Sprintf("and %d more warnings", more))
	}
}

// throughPod says that the claim admits one pod only and the application has
// it: then we read through the application's own directory.
func (r *reading) throughPod() *corev1.Pod {
	if !slices.Contains(r.pv.Spec.AccessModes, corev1.ReadWriteOncePod) || len(r.users) == 0 {
		return nil
	}
	return r.users[0]
}

// reader groups what one Job reads: everything on a node, its devices apart, for
// they take a privileged pod.
func (r *reading) reader() string {
	if isBlock(r.v) {
		return r.node() + "/devices"
	}
	return r.node()
}

// spot is where the claim can be read now, or the pod for which we make way.
func (r *reading) spot() (spot, *corev1.Pod) {
	if p := r.throughPod(); p != nil {
		if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
			return spot{}, p
		}
		return spot{node: p.Spec.NodeName}, nil
	}
	var first *corev1.Pod
	for _, p := range r.users {
		if p.Spec.NodeName == "" {
			continue
		}
		if first == nil {
			first = p
		}
		if singleNode(r.pv.Spec.AccessModes) && p.Spec.NodeName != first.Spec.NodeName {
			return spot{}, cmp.Or(pendingOf(first, p), p)
		}
	}
	if first == nil {
		return spot{preferred: r.last}, nil
	}
	if !singleNode(r.pv.Spec.AccessModes) {
		return spot{preferred: first.Spec.NodeName}, nil
	}
	if h := r.holder; h != nil && h.Spec.NodeName != "" && h.Spec.NodeName != first.Spec.NodeName {
		return spot{node: first.Spec.NodeName}, first
	}
	return spot{node: first.Spec.NodeName}, nil
}

func pendingOf(pods ...*corev1.Pod) *corev1.Pod {
	for _, p := range pods {
		if p.Status.Phase == corev1.PodPending {
			return p
		}
	}
	return nil
}

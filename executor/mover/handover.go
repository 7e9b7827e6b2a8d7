package mover

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// transfer is one copied volume between our claim and the application's. Which
// of the two has it, and how far it is on the way, is read from the three
// objects alone. Its identity is the volume's name and handle: claims come and go.
type transfer struct {
	v       *spec.Volume
	staging *corev1.PersistentVolumeClaim // ours, nil if gone
	app     *corev1.PersistentVolumeClaim // the application's, nil if not there
	pv      *corev1.PersistentVolume
	user    *corev1.Pod   // a pod that uses either claim
	ended   []*corev1.Pod // pods that are over and still name a claim, which keeps it from going
}

// previous is what we changed on a volume, to put it back.
type previous struct {
	Policy string `json:"reclaimPolicy"`
}

// clear removes the ended pods on a claim: our ourPods', or, going back, those
// of the application's Jobs on the target, which is being undone.
func (x *transfer) clear(e *kube.Env, t *thought) {
	for _, p := range x.ended {
		if p.DeletionTimestamp != nil {
			continue
		}
		t.move(fmt.Sprintf("remove the ended pod %s/%s on cluster %s, which keeps its claim from going", p.Namespace, p.Name, e.Target.Name), func(ctx context.Context) error {
			return gone(e.Target.Kube.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, exactly(p)))
		})
	}
}

// thinkHandOver gives the copied volumes to the application's claims.
func thinkHandOver(ctx context.Context, e *kube.Env) (thought, error) {
	return transferAll(ctx, e, (*transfer).forward, "every copied volume is bound to its claim")
}

// transferAll takes each volume one move further in its direction.
func transferAll(ctx context.Context, e *kube.Env, next func(*transfer, *kube.Env, *thought) *reconciler.Observation, text string) (thought, error) {
	view, err := transfers(ctx, e)
	if err != nil {
		return thought{}, err
	}
	t := thought{watches: view.watches}
	switch o := advance(view.xs, func(x *transfer) *reconciler.Observation { return next(x, e, &t) }); {
	case o == nil:
		t.seen = succeeded(factsOf(view.volumes), "%s", text)
	case o.Seen == reconciler.Broken:
		return thought{seen: *o}, nil
	default:
		t.seen = *o
	}
	return t, nil
}

// advance asks every volume for what is next; the answer is what is broken, or
// else the first thing that is waited for, or nil.
func advance[T any](xs []T, next func(T) *reconciler.Observation) *reconciler.Observation {
	var wait *reconciler.Observation
	for _, x := range xs {
		o := next(x)
		if o != nil && o.Seen == reconciler.Broken {
			return o
		}
		if wait == nil {
			wait = o
		}
	}
	return wait
}

// check refuses a volume or a claim that is not what the ledger says.
func (x *transfer) check(e *kube.Env) *reconciler.Observation {
	no := func(reason, at, format string, args ...any) *reconciler.Observation {
		o := broken(true, reason, at, format, args...)
		return &o
	}
	if c := x.app; c != nil && (!ours(e, c) || c.Annotations[annotationVolume] != key(x.v)) {
		return no("ClaimExists", claimAt(c), "claim %s/%s is on cluster %s already and was not made by this plan: delete it, or give another targetClaim in volumes.overrides", c.Namespace, c.Name, e.Target.Name)
	}
	if c := x.staging; c != nil {
		if o := notOurs(e, x.v, c); o != nil {
			return o
		}
	}
	if x.pv == nil {
		return no("VolumeMissing", x.at(), "the volume %q with the copy of %s is not on cluster %s: repeat the copy", x.v.TargetPV, key(x.v), e.Target.Name)
	}
	if x.v.TargetHandle != "" && handle(x.pv) != x.v.TargetHandle {
		return no("ForeignVolume", x.at(), "volume %s of cluster %s is not the storage %q that this plan made", x.pv.Name, e.Target.Name, x.v.TargetHandle)
	}
	if x.pv.DeletionTimestamp != nil {
		return no("VolumeLeaving", x.at(), "volume %s of cluster %s with the copy of %s is being deleted: repeat the copy", x.pv.Name, e.Target.Name, key(x.v))
	}
	if r := x.pv.Spec.ClaimRef; r != nil && !x.refersTo(e.Settings.Namespace, x.v.StagingClaim) && !x.refersTo(x.v.TargetNamespace, x.v.TargetClaim) {
		return no("VolumeElsewhere", x.at(), "volume %s of cluster %s with the copy of %s belongs to claim %s/%s", x.pv.Name, e.Target.Name, key(x.v), r.Namespace, r.Name)
	}
	return nil
}

func (x *transfer) at() string {
	name := x.v.TargetPV
	if x.pv != nil {
		name = x.pv.Name
	}
	return object(spec.Target, "PersistentVolume", "", name)
}

func (x *transfer) refersTo(namespace, name string) bool {
	r := x.pv.Spec.ClaimRef
	return r != nil && r.Namespace == namespace && r.Name == name
}

// reserved says that the volume waits for that claim, or has it: a reference
// with the UID of a claim that is gone would keep every other claim out.
func (x *transfer) reserved(namespace, name string, c *corev1.PersistentVolumeClaim) bool {
	if !x.refersTo(namespace, name) {
		return false
	}
	uid := x.pv.Spec.ClaimRef.UID
	return uid == "" || (c != nil && c.UID == uid)
}

func bound(c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) bool {
	return c.Status.Phase == corev1.ClaimBound && c.Spec.VolumeName == pv.Name &&
		pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == c.UID
}

// forward is the hand-over of one volume, one move at a time:
//
//	staged ──Retain──▶ kept ──delete our claim──▶ released ──claimRef──▶ Available ──create the claim──▶ bound
//
// A deleted claim lingers until its ended writer is gone from its node; the
// volume does not wait for that. Every arrow is one API call, and every state shows on the objects.
func (x *transfer) forward(e *kube.Env, t *thought) *reconciler.Observation {
	if o := x.check(e); o != nil {
		return o
	}
	x.record()
	v := x.v
	if s := x.staging; s != nil && (x.user != nil || s.DeletionTimestamp == nil) {
		return x.release(e, t)
	}
	// Our claim is gone or on its way: no writer has it, and its end is not waited for.
	x.clear(e, t)
	switch reserved := x.reserved(v.TargetNamespace, v.TargetClaim, x.app); {
	case !reserved:
		x.moveReference(e, t, v.TargetNamespace, v.TargetClaim)
	case x.app != nil:
		return x.binding(e, t, x.app)
	case x.pv.Status.Phase != corev1.VolumeAvailable:
		return x.reserving(e)
	default:
		t.move(fmt.Sprintf("create claim %s/%s on cluster %s", v.TargetNamespace, v.TargetClaim, e.Target.Name), func(ctx context.Context) error {
			return x.createApp(ctx, e)
		})
	}
	return nil
}

// reserving waits for the volume controller to have seen the new reference: a
// claim that it sees before stays Pending until its next resync, up to 15 s later.
func (x *transfer) reserving(e *kube.Env) *reconciler.Observation {
	o := working("Reserving", x.at(), "waits until volume %s of cluster %s is Available to the claim that it is reserved for; it is %s", x.pv.Name, e.Target.Name, x.pv.Status.Phase)
	return &o
}

func (x *transfer) binding(e *kube.Env, t *thought, c *corev1.PersistentVolumeClaim) *reconciler.Observation {
	if c.DeletionTimestamp == nil && bound(c, x.pv) {
		return nil
	}
	x.nudge(e, t, c)
	o := working("Binding", claimAt(c), "waits until claim %s/%s of cluster %s is bound to volume %s; it is %s", c.Namespace, c.Name, e.Target.Name, x.pv.Name, c.Status.Phase)
	if c.DeletionTimestamp != nil {
		o = working("ClaimLeaving", claimAt(c), "waits until claim %s/%s of cluster %s, which is being deleted, is gone", c.Namespace, c.Name, e.Target.Name)
	}
	return &o
}

// nudge touches a claim whose volume is bound to it while it is Pending itself.
// The volume controller's two workers both set the volume's phase then, and where
// the claim's one loses it tries again at the next resync only, 15 s later, or at
// once when the claim changes. Once for each version of the volume.
func (x *transfer) nudge(e *kube.Env, t *thought, c *corev1.PersistentVolumeClaim) {
	pv := x.pv
	if c.DeletionTimestamp != nil || c.Status.Phase != corev1.ClaimPending || pv.Status.Phase != corev1.VolumeBound ||
		pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != c.UID || c.Annotations[kube.AnnotationNudged] == pv.ResourceVersion {
		return
	}
	t.move(fmt.Sprintf("touch claim %s/%s on cluster %s, whose volume is bound already", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
		err := patchClaim(ctx, e, e.Target, c, change{annotations: map[string]any{kube.AnnotationNudged: pv.ResourceVersion}})
		if apierrors.IsConflict(err) { // it has changed, which is all that was wanted
			return nil
		}
		return err
	})
}

// release lets go of our claim, once the volume is safe from going with it.
func (x *transfer) release(e *kube.Env, t *thought) *reconciler.Observation {
	c := x.staging
	if x.user != nil {
		o := working("ClaimInUse", object(spec.Target, "Pod", x.user.Namespace, x.user.Name), "waits until pod %s/%s of cluster %s lets go of its claim", x.user.Namespace, x.user.Name, e.Target.Name)
		return &o
	}
	m, err := markOf(c)
	if err != nil || !m.holds(x.v.Snapshot) {
		o := broken(false, "NotRestored", claimAt(c), "claim %s/%s of cluster %s is marked %q and does not hold snapshot %q completely: it is not handed over", c.Namespace, c.Name, e.Target.Name, c.Annotations[kube.AnnotationMark], x.v.Snapshot)
		return &o
	}
	x.clear(e, t)
	if !x.kept(e, m) {
		x.keep(e, t, m)
		return nil
	}
	t.move(fmt.Sprintf("delete our claim %s/%s on cluster %s, whose volume is kept", c.Namespace, c.Name, e.Target.Name), func(ctx context.Context) error {
		return deleteClaim(ctx, e.Target, c)
	})
	return nil
}

// kept says that the volume outlives its claim and says itself what it holds.
func (x *transfer) kept(e *kube.Env, m mark) bool {
	return x.pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain && ours(e, x.pv) &&
		x.pv.Annotations[kube.AnnotationMark] == m.String() && x.pv.Annotations[annotationVolume] == key(x.v)
}

// keep makes the volume outlive its claim; policy, owner and mark in one patch.
func (x *transfer) keep(e *kube.Env, t *thought, m mark) {
	annotations := markAnnotations(m)
	annotations[annotationVolume] = key(x.v)
	if x.pv.Annotations[kube.AnnotationPrevious] == "" {
		raw, err := json.Marshal(previous{Policy: string(x.pv.Spec.PersistentVolumeReclaimPolicy)})
		if err == nil { // a struct of one string
			annotations[kube.AnnotationPrevious] = string(raw)
		}
	}
	t.move(fmt.Sprintf("set volume %s on cluster %s to Retain, marked %q", x.pv.Name, e.Target.Name, m), func(ctx context.Context) error {
		return patchVolume(ctx, e, e.Target, x.pv, change{
			annotations: annotations,
			labels:      map[string]any{kube.LabelPlan: kube.Short(e.Run.Spec.Plan)},
			spec:        map[string]any{"persistentVolumeReclaimPolicy": string(corev1.PersistentVolumeReclaimRetain)},
		})
	})
}

// moveReference reserves the volume for a claim that does not exist yet. The
// reference is never empty in between: an Available volume is anybody's.
func (x *transfer) moveReference(e *kube.Env, t *thought, namespace, name string) {
	t.move(fmt.Sprintf("reserve volume %s on cluster %s for claim %s/%s", x.pv.Name, e.Target.Name, namespace, name), func(ctx context.Context) error {
		return patchVolume(ctx, e, e.Target, x.pv, change{spec: map[string]any{
			"persistentVolumeReclaimPolicy": string(corev1.PersistentVolumeReclaimRetain),
			"claimRef": map[string]any{
				"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name,
				"uid": nil, "resourceVersion": nil,
			},
		}})
	})
}

// ownBinding are annotations that say how the source's claim was bound.
var ownBinding = []string{"pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/", "tranship.dev/"}

// createApp makes the application's claim after the source's.
func (x *transfer) createApp(ctx context.Context, e *kube.Env) error {
	from, err := getClaim(ctx, e.Source, x.v.Namespace, x.v.Claim)
	if err != nil {
		return err
	}
	m, err := markOf(x.pv)
	if err != nil {
		return fmt.Errorf("cannot use volume %s of cluster %s: %w", x.pv.Name, e.Target.Name, err)
	}
	c := applicationClaim(e, x.v, from, claimSpec(x.v, x.pv))
	for k, s := range markAnnotations(m) {
		if text, ok := s.(string); ok {
			c.Annotations[k] = text
		}
	}
	return createClaim(ctx, e, c)
}

// applicationClaim is a claim of the application on the target, after the source's.
func applicationClaim(e *kube.Env, v *spec.Volume, from *corev1.PersistentVolumeClaim, s corev1.PersistentVolumeClaimSpec) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: v.TargetNamespace, Name: v.TargetClaim, Labels: map[string]string{}, Annotations: stamps(e),
	}, Spec: s}
	if from != nil {
		maps.Copy(c.Labels, from.Labels)
		for k, s := range from.Annotations {
			if !hasAnyPrefix(k, ownBinding) {
				c.Annotations[k] = s
			}
		}
	}
	// The application's labels stay its own: only what finds our claims again is added.
	c.Labels[kube.LabelPlan], c.Labels[kube.LabelRun] = kube.Short(e.Run.Spec.Plan), e.RunLabel()
	c.Annotations[annotationVolume], c.Annotations[kube.AnnotationRun] = key(v), e.RunLabel()
	return c
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// record notes the volume's identity and what it holds.
func (x *transfer) record() {
	x.v.TargetPV, x.v.TargetHandle = x.pv.Name, handle(x.pv)
	if x.v.TargetPolicy == "" {
		x.v.TargetPolicy = x.policyBefore()
	}
	for _, c := range []*corev1.PersistentVolumeClaim{x.staging, x.app} {
		if c == nil {
			continue
		}
		if m, err := markOf(c); err == nil {
			m.record(x.v)
		}
	}
}

// policyBefore is the reclaim policy that the volume had before ours.
func (x *transfer) policyBefore() string {
	var p previous
	if err := json.Unmarshal([]byte(x.pv.Annotations[kube.AnnotationPrevious]), &p); err == nil && p.Policy != "" {
		return p.Policy
	}
	return string(x.pv.Spec.PersistentVolumeReclaimPolicy)
}

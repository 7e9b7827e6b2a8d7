package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What is kept lies in a Secret of our namespace on the source, and the target gets
// it so: a custom resource as it is before a PreBackup hook may stop its operator
// through it, which an undo puts back (ADR 20), and a pod without a controller, which
// the stop deletes and the restart makes anew (pods.go, ADR 39).
const (
	labelKept = "tranship.dev/kept-by" // of these Secrets: the run
	// annotationReady is how many pods below the custom resource were ready, or
	// whether the pod was.
	annotationReady = "tranship.dev/ready"
	// annotationBack says that an undo has put the content back: what is written
	// into it afterwards is its operator's business.
	annotationBack = "tranship.dev/put-back"
	// annotationTried is "<run> <when>": which run has first tried that, in RFC 3339.
	annotationTried = "tranship.dev/put-back-tried"
)

// keptResource is a custom resource or pod as it was.
type keptResource struct {
	secret *corev1.Secret
	was    Item
	ready  int32
	unread error // what it keeps cannot be read; was is empty
}

func (k *keptResource) read() (err error) {
	if k.was, err = unpack(k.secret.Data[formerKey]); err != nil {
		return err
	}
	ready, err := strconv.ParseInt(k.secret.Annotations[annotationReady], 10, 32)
	k.ready = int32(ready)
	return err
}

func keptName(e *Env, uid types.UID) string {
	sum := sha256.Sum256([]byte(e.Origin() + "/" + string(uid)))
	return "tr-kept-" + hex.EncodeToString(sum[:10])
}

// kept are those of the run at hand, or of the cutover that it takes back. One
// that cannot be read is an error.
func (e *Env) kept(ctx context.Context) ([]keptResource, error) {
	all, err := e.everyKept(ctx)
	for _, k := range all {
		err = errors.Join(err, k.unread)
	}
	return all, err
}

// everyKept has those too that cannot be read.
func (e *Env) everyKept(ctx context.Context) ([]keptResource, error) {
	return e.keptBy(ctx, labelKept+"="+e.Origin())
}

// keptBy are those of the plan's runs that a selector matches.
func (e *Env) keptBy(ctx context.Context, runs string) ([]keptResource, error) {
	l, err := e.Source.Kube.CoreV1().Secrets(e.Settings.Namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelPlan + "=" + Short(e.Run.Spec.Plan) + "," + runs})
	if err != nil {
		return nil, e.Source.wrap(err, "list what is kept in namespace %s", e.Settings.Namespace)
	}
	all := make([]keptResource, len(l.Items))
	for n := range l.Items {
		k := &all[n]
		k.secret = &l.Items[n]
		if err := k.read(); err != nil {
			k.unread = fmt.Errorf("cannot read what Secret %s/%s on cluster %s keeps: it was edited: %w", k.secret.Namespace, k.secret.Name, e.Source.Name, err)
		}
	}
	return all, nil
}

func lookKeep(ctx context.Context, e *Env) (reconciler.Observation, error) {
	items, err := toKeep(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	left, err := e.left(ctx)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if len(left) > 0 {
		return reconciler.Observation{Message: fmt.Sprintf("%d pods that an earlier run has deleted, and nobody has put back, are to be taken over", len(left))}, nil
	}
	all, err := e.kept(ctx)
	if err != nil {
		return reconciler.Observation{}, err
	}
	have, facts := map[string]bool{}, &spec.Facts{}
	for _, k := range all {
		have[k.secret.Name] = true
		facts.Custom = append(facts.Custom, spec.CustomResource{Object: k.was.Record(spec.Source), Ready: k.ready})
	}
	for _, i := range items {
		name := Describe(i.Record(spec.Source))
		if packed, err := pack(i); err != nil || len(packed) > maxFormer {
			return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "TooLarge", Object: name,
				Message: fmt.Sprintf("%s is too large to be kept; leave it out with spec.labelSelector", name)}, nil
		}
		if !have[keptName(e, i.GetUID())] {
			return reconciler.Observation{Message: name + " and others are to be kept as they are"}, nil
		}
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Facts: facts, Message: fmt.Sprintf("%d custom resources and pods without a controller are kept as they are", len(all))}, nil
}

func ensureKeep(ctx context.Context, e *Env) error {
	left, err := e.left(ctx)
	if err == nil {
		err = e.takeOver(ctx, left)
	}
	if err != nil {
		return err
	}
	items, err := toKeep(ctx, e)
	if err != nil || len(items) == 0 {
		return err
	}
	var roots []spec.Object
	for _, i := range items {
		if !Bare(i) {
			roots = append(roots, i.Record(spec.Source))
		}
	}
	pods, err := Below(ctx, e.Source, e.Namespaces(spec.Source), roots)
	if err != nil {
		return err
	}
	for _, i := range items {
		packed, err := pack(i)
		if err != nil {
			return fmt.Errorf("cannot encode %s: %w", Describe(i.Record(spec.Source)), err)
		}
		ready := Ready(pods[i.GetUID()])
		if Bare(i) {
			if ready, err = readyPods(i); err != nil {
				return err
			}
		}
		annotations := e.Stamps()
		annotations[annotationReady] = fmt.Sprint(ready)
		if err := e.keepSecret(ctx, i, packed, annotations); err != nil {
			return err
		}
	}
	return nil
}

// keepSecret makes the Secret that keeps an object, once.
func (e *Env) keepSecret(ctx context.Context, i Item, packed []byte, annotations map[string]string) error {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: e.Settings.Namespace, Name: keptName(e, i.GetUID()), Annotations: annotations,
		Labels: map[string]string{LabelManagedBy: ManagedBy, LabelPlan: Short(e.Run.Spec.Plan), labelKept: e.Origin()},
	}, Data: map[string][]byte{formerKey: packed}}
	_, err := e.Source.Kube.CoreV1().Secrets(s.Namespace).Create(ctx, s, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return e.Source.wrap(err, "keep what %s is", Describe(i.Record(spec.Source)))
}

// Lack is a custom resource below which pods are missing, or a pod that is.
type Lack struct {
	spec.Object
	Message string // which object, how many pods, and what to look at
}

// Lacking are those of a cluster below which fewer pods are ready than were on
// the source before the stop; none is below one that cannot be read. On the target they have its namespaces,
// and the pods are those that the run has made.
func Lacking(ctx context.Context, e *Env, c *Cluster, want []spec.CustomResource) ([]Lack, error) {
	all, err := e.lackingPods(ctx, c, want)
	if err != nil {
		return nil, err
	}
	want = slices.DeleteFunc(slices.Clone(want), func(w spec.CustomResource) bool { return IsPod(w.Object) })
	var roots []spec.Object
	uids, why := make([]types.UID, len(want)), make([]string, len(want))
	for n, w := range want {
		if w.Ready == 0 {
			continue
		}
		if c.Side == spec.Target {
			want[n].Side, want[n].Namespace = spec.Target, mapped(e.Mapping(), w.Namespace)
		}
		now, err := c.Find(ctx, want[n].Object) // a kind that is gone has none
		if err != nil && !spoke(err) {
			return nil, err
		}
		if err != nil {
			why[n] = fmt.Sprintf("; it cannot be read (%v)", err)
		}
		if now != nil && c.Side == spec.Target && !OfRun(e, now) {
			want[n].Ready = 0 // existing: Skip; it is not ours to judge
			continue
		}
		if now != nil {
			uids[n] = now.GetUID()
			roots = append(roots, now.Record(c.Side))
		}
	}
	pods, err := Below(ctx, c, e.Namespaces(c.Side), roots)
	if err != nil {
		return nil, err
	}
	for n, w := range want {
		below := pods[uids[n]]
		if ready := Ready(below); w.Ready > ready {
			all = append(all, Lack{w.Object, fmt.Sprintf("%s has %d of %d pods ready; look at its status and its operator's log on cluster %s%s", Describe(w.Object), ready, w.Ready, c.Name, why[n]+waiting(below))})
		}
	}
	return all, nil
}

// waiting says what the first pod that is not ready waits for.
func waiting(pods []corev1.Pod) string {
	for n := range pods {
		p := &pods[n]
		if podReady(p) || p.DeletionTimestamp != nil {
			continue
		}
		for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if w := s.State.Waiting; w != nil && w.Reason != "" {
				return fmt.Sprintf("; pod %s/%s: %s", p.Namespace, p.Name, w.Reason)
			}
		}
		return fmt.Sprintf("; pod %s/%s is %s", p.Namespace, p.Name, p.Status.Phase)
	}
	return ""
}

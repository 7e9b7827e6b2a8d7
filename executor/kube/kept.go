package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// A custom resource as it is before a PreBackup hook may stop it through it lies
// in a Secret of our namespace on the source: the target gets it so, and an undo
// puts it back (ADR 20).
const (
	labelKept = "tranship.dev/kept-by" // of these Secrets: the run
	// annotationReady is how many pods below the custom resource were ready.
	annotationReady = "tranship.dev/ready"
	// annotationBack says that an undo has put the content back: what is written
	// into it afterwards is its operator's business.
	annotationBack = "tranship.dev/put-back"
)

// keptResource is a custom resource as it was.
type keptResource struct {
	secret *corev1.Secret
	was    Item
	ready  int32
}

func keptName(e *Env, uid types.UID) string {
	sum := sha256.Sum256([]byte(e.Origin() + "/" + string(uid)))
	return "tr-kept-" + hex.EncodeToString(sum[:10])
}

// kept are those of the run at hand, or of the cutover that it takes back.
func (e *Env) kept(ctx context.Context) ([]keptResource, error) {
	l, err := e.Source.Kube.CoreV1().Secrets(e.Settings.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: LabelPlan + "=" + Short(e.Run.Spec.Plan) + "," + labelKept + "=" + e.Origin()})
	if err != nil {
		return nil, e.Source.wrap(err, "list the kept custom resources in namespace %s", e.Settings.Namespace)
	}
	var all []keptResource
	for n := range l.Items {
		s := &l.Items[n]
		was, err := unpack(s.Data[formerKey])
		if err != nil {
			return nil, fmt.Errorf("cannot read what Secret %s/%s on cluster %s keeps: it was edited: %w", s.Namespace, s.Name, e.Source.Name, err)
		}
		ready, err := strconv.ParseInt(s.Annotations[annotationReady], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("cannot read annotation %s of Secret %s/%s on cluster %s: %w", annotationReady, s.Namespace, s.Name, e.Source.Name, err)
		}
		all = append(all, keptResource{s, was, int32(ready)})
	}
	return all, nil
}

func lookKeep(ctx context.Context, e *Env) (reconciler.Observation, error) {
	items, err := customs(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
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
	return reconciler.Observation{Seen: reconciler.Succeeded, Facts: facts, Message: fmt.Sprintf("%d custom resources are kept as they are", len(all))}, nil
}

func ensureKeep(ctx context.Context, e *Env) error {
	items, err := customs(ctx, e)
	if err != nil || len(items) == 0 {
		return err
	}
	roots := map[types.UID]bool{}
	for _, i := range items {
		roots[i.GetUID()] = true
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
		annotations := e.Stamps()
		annotations[annotationReady] = fmt.Sprint(Ready(pods[i.GetUID()]))
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Settings.Namespace, Name: keptName(e, i.GetUID()), Annotations: annotations,
			Labels: map[string]string{LabelManagedBy: ManagedBy, LabelPlan: Short(e.Run.Spec.Plan), labelKept: e.Origin()},
		}, Data: map[string][]byte{formerKey: packed}}
		_, err = e.Source.Kube.CoreV1().Secrets(s.Namespace).Create(ctx, s, metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return e.Source.wrap(err, "keep what %s is", Describe(i.Record(spec.Source)))
		}
	}
	return nil
}

// stray is a kept custom resource that the source has otherwise now.
func (e *Env) stray(ctx context.Context, k keptResource) (now *Item, differs bool, err error) {
	now, err = e.Source.get(ctx, k.was.GVR, k.was.GetNamespace(), k.was.GetName())
	if err != nil || k.secret.Annotations[annotationBack] != "" || !e.hooked() {
		return now, false, err
	}
	return now, now == nil || !alike(k.was, *now), nil
}

// hooked: without a hook that stops, nobody of ours has touched a custom resource.
func (e *Env) hooked() bool {
	for _, h := range e.Plan().Hooks {
		if MayStop(h) {
			return true
		}
	}
	return false
}

// operandsWait bounds how long the source's workloads wait for what an operator
// runs: an operator that is broken must not keep the rest of the application down.
const operandsWait = 5 * time.Minute

// waitedForOperands: what is an undo of a cutover is a step of a rollback.
func (e *Env) waitedForOperands() bool {
	began := e.Step.Started
	if e.Undo {
		began = nil
		if u := e.Step.Undid; u != nil {
			began = u.Started
		}
	}
	return began != nil && time.Since(began.Time) > operandsWait
}

func lookKeepUndo(ctx context.Context, e *Env) (reconciler.Observation, error) {
	all, err := e.kept(ctx)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if len(all) == 0 {
		return reconciler.Observation{Seen: reconciler.Succeeded, Message: "no custom resource of the source is kept any more"}, nil
	}
	var want []spec.CustomResource
	for _, k := range all {
		_, differs, err := e.stray(ctx, k)
		name := Describe(k.was.Record(spec.Source))
		switch {
		case err != nil:
			return reconciler.Observation{}, err
		case differs && e.waitedForOperands():
			return reconciler.Observation{Seen: reconciler.Succeeded, Reason: "NotPutBack", Object: name,
				Message: fmt.Sprintf("%s cannot be put back; Secret %s/%s on cluster %s keeps what it was. The source's workloads are started all the same", name, k.secret.Namespace, k.secret.Name, e.Source.Name)}, nil
		case differs:
			return reconciler.Observation{Message: name + " is to be put back"}, nil
		}
		want = append(want, spec.CustomResource{Object: k.was.Record(spec.Source), Ready: k.ready})
	}
	lacking, err := Lacking(ctx, e, e.Source, want)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if len(lacking) > 0 {
		l := lacking[0]
		if e.waitedForOperands() {
			return reconciler.Observation{Seen: reconciler.Succeeded, Reason: "OperandsNotReady", Object: Describe(l.Object), Message: l.Message + ". The source's workloads are started all the same"}, nil
		}
		return reconciler.Observation{Seen: reconciler.Working, Reason: "OperandsNotReady", Object: Describe(l.Object), Message: l.Message}, nil
	}
	return reconciler.Observation{Message: "what was kept of custom resources is to be removed"}, nil
}

func ensureKeepUndo(ctx context.Context, e *Env) error {
	all, err := e.kept(ctx)
	if err != nil {
		return err
	}
	back := false
	for _, k := range all {
		now, differs, err := e.stray(ctx, k)
		if err != nil {
			return err
		}
		if !differs {
			continue
		}
		if err := e.restoreKept(ctx, k, now); err != nil {
			return err
		}
		back = true
	}
	if back {
		return nil // the next look asks for the pods
	}
	for _, k := range all {
		secret := spec.Object{Side: spec.Source, APIVersion: "v1", Kind: "Secret", Resource: "secrets", Namespace: k.secret.Namespace, Name: k.secret.Name, UID: string(k.secret.UID)}
		if err := e.Source.Delete(ctx, secret); err != nil {
			return err
		}
	}
	return nil
}

// restoreKept puts everything back but the status, once.
func (e *Env) restoreKept(ctx context.Context, k keptResource, now *Item) error {
	objects := e.Source.Dynamic.Resource(k.was.GVR).Namespace(k.was.GetNamespace())
	what := Describe(k.was.Record(spec.Source))
	var err error
	if now == nil {
		again := Portable(k.was, map[string]string{k.was.GetNamespace(): k.was.GetNamespace()})
		_, err = objects.Create(ctx, again.Unstructured, metav1.CreateOptions{FieldManager: fieldManager})
	} else {
		back := now.DeepCopy()
		for _, field := range []map[string]any{now.Object, k.was.Object} {
			for key := range field {
				if key == "metadata" || key == "status" {
					continue
				}
				delete(back.Object, key)
				if was, ok := k.was.DeepCopy().Object[key]; ok {
					back.Object[key] = was
				}
			}
		}
		back.SetLabels(k.was.GetLabels())
		back.SetAnnotations(k.was.GetAnnotations())
		_, err = objects.Update(ctx, back, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return e.Source.wrap(err, "put back %s", what)
	}
	s := k.secret.DeepCopy()
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, annotationBack, "true")
	_, err = e.Source.Kube.CoreV1().Secrets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{FieldManager: fieldManager})
	return e.Source.wrap(err, "note that %s was put back", what)
}

// Lack is a custom resource below which pods are missing.
type Lack struct {
	spec.Object
	Message string // which object, how many pods, and what to look at
}

// Lacking are those of a cluster below which fewer pods are ready than were on
// the source before the stop. On the target they have its namespaces.
func Lacking(ctx context.Context, e *Env, c *Cluster, want []spec.CustomResource) ([]Lack, error) {
	want = slices.Clone(want)
	roots, uids := map[types.UID]bool{}, make([]types.UID, len(want))
	for n, w := range want {
		if w.Ready == 0 {
			continue
		}
		if c.Side == spec.Target {
			want[n].Side, want[n].Namespace = spec.Target, mapped(e.Mapping(), w.Namespace)
		}
		u := &unstructured.Unstructured{}
		u.SetAPIVersion(w.APIVersion)
		u.SetKind(w.Kind)
		gvr, err := c.resource(Item{Unstructured: u})
		if err != nil {
			return nil, c.wrap(err, "find out about %s %s", w.APIVersion, w.Kind)
		}
		now, err := c.get(ctx, gvr, want[n].Namespace, w.Name)
		if err != nil {
			return nil, err
		}
		if now != nil && c.Side == spec.Target && !ofThisMove(e, *now) {
			want[n].Ready = 0 // existing: Skip; it is not ours to judge
			continue
		}
		if now != nil {
			uids[n] = now.GetUID()
			roots[uids[n]] = true
		}
	}
	pods, err := Below(ctx, c, e.Namespaces(c.Side), roots)
	if err != nil {
		return nil, err
	}
	var all []Lack
	for n, w := range want {
		below := pods[uids[n]]
		if ready := Ready(below); w.Ready > ready {
			all = append(all, Lack{w.Object, fmt.Sprintf("%s has %d of %d pods ready; look at its status and its operator's log on cluster %s%s", Describe(w.Object), ready, w.Ready, c.Name, waiting(below))})
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

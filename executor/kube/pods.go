package kube

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// A pod that nothing would make again is stopped by deleting it, and made anew of
// what was kept of it, as a custom resource is (ADR 39).
const (
	// annotationDeleted, of a Secret that keeps a pod, is when a stop began to delete
	// the pod. It is there before the pod goes.
	annotationDeleted = "tranship.dev/deleted"
	// Values of annotationBack.
	backByUs     = "true"
	backByOthers = "others" // somebody has made a pod of that name: it is left as it is
)

var (
	podKind     = schema.GroupKind{Kind: "Pod"}
	podResource = schema.GroupResource{Resource: "pods"}
)

// Bare says that an object is a pod that nothing makes again: neither a controller
// nor, of a file of its node, a kubelet. An owner that is no controller only takes
// the pod with it when it goes.
func Bare(i Item) bool {
	return i.GVR.GroupResource() == podResource && metav1.GetControllerOf(i) == nil && !mirror(i, nil)
}

// mirror pods show what a kubelet runs of a file of its node.
func mirror(i Item, _ *index) bool {
	return i.groupKind() == podKind && i.GetAnnotations()[corev1.MirrorPodAnnotationKey] != ""
}

// IsPod says that what is on record is a pod. Of those kept that is a bare one.
func IsPod(o spec.Object) bool { return keyOfRecord(o).kind == podKind }

// Pod is an object as a pod.
func Pod(i Item) (*corev1.Pod, error) {
	p := &corev1.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(i.Object, p); err != nil {
		return nil, fmt.Errorf("cannot understand Pod %s/%s: %w", i.GetNamespace(), i.GetName(), err)
	}
	return p, nil
}

// readyPods is 1 for a pod that is ready.
func readyPods(i Item) (int32, error) {
	p, err := Pod(i)
	if err != nil || !podReady(p) {
		return 0, err
	}
	return 1, nil
}

// unsound says what is missing of a pod that was ready, "" when nothing is: one that
// ran to its end, and is not to run again, is well.
func unsound(have *Item) string {
	if have == nil {
		return "is gone"
	}
	p, err := Pod(*have)
	switch {
	case err != nil:
		return err.Error()
	case p.Status.Phase == corev1.PodSucceeded || podReady(p) && p.DeletionTimestamp == nil:
		return ""
	}
	return "is not ready" + waiting([]corev1.Pod{*p})
}

// lackingPods are the pods that the run has made on the target, that were ready on
// the source, and are not.
func (e *Env) lackingPods(ctx context.Context, c *Cluster, want []spec.CustomResource) (all []Lack, err error) {
	if c.Side != spec.Target {
		return nil, nil // there the restart of the source waits for them
	}
	made := createdCustom(e)
	for _, w := range want {
		w.Side, w.Namespace = spec.Target, mapped(e.Mapping(), w.Namespace)
		if !IsPod(w.Object) || w.Ready == 0 || made[Describe(w.Object)] == "" {
			continue
		}
		now, err := c.Find(ctx, w.Object)
		if err != nil {
			return nil, err
		}
		if why := unsound(now); why != "" && (now == nil || OfRun(e, now)) {
			all = append(all, Lack{w.Object, fmt.Sprintf("%s %s; on the source it was ready", Describe(w.Object), why)})
		}
	}
	return all, nil
}

// KeptPod is a pod without a controller that the run keeps.
type KeptPod struct {
	keptResource
	Now *Item // what bears its name on the source; nil: nothing does
}

// Object is the pod, or where that cannot be read the Secret that keeps it.
func (k *KeptPod) Object() spec.Object {
	if k.unread != nil {
		return k.secretObject()
	}
	return k.was.Record(spec.Source)
}

// Unread says why what is kept cannot be read.
func (k *KeptPod) Unread() error { return k.unread }

// Same says that the pod that was kept is there.
func (k *KeptPod) Same() bool { return k.Now != nil && k.Now.GetUID() == k.was.GetUID() }

// Leaving says that the pod that was kept is there and being deleted.
func (k *KeptPod) Leaving() bool { return k.Same() && k.Now.GetDeletionTimestamp() != nil }

// Vanished says that no stop has deleted it and that it is gone, or was evicted, though
// it was to run on and no hook may have removed it.
func (k *KeptPod) Vanished(e *Env) bool {
	policy, _, _ := unstructured.NestedString(k.was.Object, "spec", "restartPolicy")
	runsOn := policy == "" || policy == string(corev1.RestartPolicyAlways)
	return runsOn && k.stoppedAt().IsZero() && !e.hooked() && (k.Now == nil || k.Same() && Finished(*k.Now))
}

// StoppedAt is when a stop began to delete it; zero: none has.
func (k *KeptPod) StoppedAt() time.Time { return k.stoppedAt() }

// Settled says that an undo has dealt with it, and ours that the undo has made it
// itself or found it never deleted.
func (k *KeptPod) Settled() (settled, ours bool) {
	back := k.secret.Annotations[annotationBack]
	return back != "", back == backByUs
}

// Lacks says what is missing of a pod that was ready, "" when nothing is.
func (k *KeptPod) Lacks() string {
	if k.ready == 0 {
		return ""
	}
	return unsound(k.Now)
}

// Keeper names the Secret, for people.
func (k *KeptPod) Keeper() string { return "Secret " + k.secret.Namespace + "/" + k.secret.Name }

func (k *keptResource) secretObject() spec.Object {
	return spec.Object{Side: spec.Source, APIVersion: "v1", Kind: "Secret", Resource: "secrets", Namespace: k.secret.Namespace, Name: k.secret.Name, UID: string(k.secret.UID)}
}

func (k *keptResource) stoppedAt() time.Time {
	t, err := time.Parse(time.RFC3339Nano, k.secret.Annotations[annotationDeleted])
	if err != nil {
		return time.Time{}
	}
	return t
}

// pod says that it keeps one: what was stopped is nothing else.
func (k *keptResource) pod() bool {
	return !k.stoppedAt().IsZero() || k.unread == nil && k.was.groupKind() == podKind
}

// KeepsPods says that the record has pods that are kept.
func (e *Env) KeepsPods() bool {
	for _, c := range e.Run.Facts.Custom {
		if IsPod(c.Object) {
			return true
		}
	}
	return false
}

// KeptPods are those of the run at hand, or of the cutover that it takes back, and
// what the source has in their places.
func (e *Env) KeptPods(ctx context.Context) ([]KeptPod, error) {
	all, err := e.everyKept(ctx)
	if err != nil {
		return nil, err
	}
	var pods []KeptPod
	for _, k := range all {
		if !k.pod() {
			continue
		}
		p := KeptPod{keptResource: k}
		if k.unread == nil {
			if p.Now, err = e.Source.get(ctx, k.was.GVR, k.was.GetNamespace(), k.was.GetName()); err != nil {
				return nil, err
			}
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// stoppedPods are those that the stop has deleted.
func (e *Env) stoppedPods(ctx context.Context) (stopped []Item, err error) {
	if !e.KeepsPods() {
		return nil, nil
	}
	all, err := e.kept(ctx)
	for _, k := range all {
		if !k.stoppedAt().IsZero() {
			stopped = append(stopped, k.was)
		}
	}
	return stopped, err
}

// StoppedPods are those of a namespace of the source that the stop has deleted, as they
// were, but for what cannot be read any more.
func (e *Env) StoppedPods(ctx context.Context, namespace string) (pods []corev1.Pod, err error) {
	if !e.KeepsPods() {
		return nil, nil
	}
	all, err := e.everyKept(ctx)
	for _, k := range all {
		if k.unread != nil || k.stoppedAt().IsZero() || k.was.GetNamespace() != namespace {
			continue
		}
		p, err := Pod(k.was)
		if err != nil {
			return nil, err
		}
		pods = append(pods, *p)
	}
	return pods, err
}

// LostPods are pods of the record that no Secret keeps any more, and that nobody has
// made again.
func (e *Env) LostPods(ctx context.Context, kept []KeptPod) ([]spec.Object, error) {
	have := map[string]bool{}
	for _, k := range kept {
		have[k.secret.Name] = true
	}
	var lost []spec.Object
	for _, c := range e.Run.Facts.Custom {
		if !IsPod(c.Object) || c.Back || have[keptName(e, types.UID(c.UID))] {
			continue
		}
		now, err := e.Source.Find(ctx, c.Object)
		if err != nil {
			return nil, err
		}
		if now == nil {
			lost = append(lost, c.Object)
		}
	}
	return lost, nil
}

// StopPod deletes a pod of the source, once its Secret says so.
func (e *Env) StopPod(ctx context.Context, k *KeptPod) error {
	if k.stoppedAt().IsZero() {
		if err := e.keepAsStopped(k); err != nil {
			return err
		}
		if err := e.note(ctx, &k.keptResource, annotationDeleted, time.Now().UTC().Format(time.RFC3339Nano)); err != nil {
			return err
		}
	}
	return e.Source.Delete(ctx, k.Object())
}

// keepAsStopped has the Secret keep the pod as it is now: the stop may have waited for
// its window for hours, and images and labels of pods change. What a hook may have
// changed for the stop is kept as it was before. The next note writes it.
func (e *Env) keepAsStopped(k *KeptPod) error {
	if e.hooked() {
		return nil
	}
	packed, err := pack(*k.Now)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", Describe(k.Object()), err)
	}
	ready, err := readyPods(*k.Now)
	if err != nil {
		return err
	}
	s := k.secret.DeepCopy()
	s.Data = map[string][]byte{formerKey: packed}
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, annotationReady, fmt.Sprint(ready))
	k.secret = s
	return nil
}

// Waited says that the pod has been tried, and has had its time. That of one that is
// being deleted begins when its containers are to have ended.
func (e *Env) Waited(k *KeptPod) (tried, waited bool) {
	waited = e.waited(k.keptResource)
	if k.Leaving() {
		waited = waited && time.Since(k.Now.GetDeletionTimestamp().Time) > operandsWait
	}
	return !e.tried(k.keptResource).IsZero(), waited
}

// PutPodBack makes a pod anew that a stop has deleted, once, when it has gone.
func (e *Env) PutPodBack(ctx context.Context, k *KeptPod) error {
	switch {
	case k.Same() && !k.Leaving(): // it was never deleted
		return e.note(ctx, &k.keptResource, annotationBack, backByUs)
	case k.Now != nil && !k.Same():
		by := backByOthers
		if k.secret.Annotations[annotationTried] != "" {
			by = backByUs
		}
		return e.note(ctx, &k.keptResource, annotationBack, by)
	}
	if k.Leaving() {
		return nil
	}
	if tried, _ := e.Waited(k); !tried {
		if err := e.note(ctx, &k.keptResource, annotationTried, e.RunLabel()+" "+time.Now().UTC().Format(time.RFC3339Nano)); err != nil {
			return err
		}
	}
	return e.restoreKept(ctx, &k.keptResource, nil)
}

// Forget removes what keeps a pod that is back.
func (e *Env) Forget(ctx context.Context, k *KeptPod) error {
	return e.Source.Delete(ctx, k.secretObject())
}

// left are the Secrets of earlier runs of the plan whose pods these deleted, and that
// nobody has put back: a later run that covers them takes them over.
func (e *Env) left(ctx context.Context) ([]keptResource, error) {
	all, err := e.keptBy(ctx, labelKept+"!="+e.Origin()+","+labelKept)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	text, err := e.Selector()
	if err != nil {
		return nil, err
	}
	selector, err := labels.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("cannot understand the label selector %q: %w", text, err)
	}
	var left []keptResource
	for _, k := range all {
		if k.unread != nil || k.stoppedAt().IsZero() || k.secret.Annotations[annotationBack] != "" {
			continue
		}
		if !slices.Contains(e.Namespaces(spec.Source), k.was.GetNamespace()) || !selector.Matches(labels.Set(k.was.GetLabels())) {
			continue
		}
		now, err := e.Source.get(ctx, k.was.GVR, k.was.GetNamespace(), k.was.GetName())
		if err != nil {
			return nil, err
		}
		if now == nil || now.GetUID() == k.was.GetUID() && now.GetDeletionTimestamp() != nil {
			left = append(left, k)
		}
	}
	return left, nil
}

// takeOver makes what an earlier run has left this run's.
func (e *Env) takeOver(ctx context.Context, left []keptResource) error {
	for _, k := range left {
		annotations := e.Stamps()
		for _, a := range []string{annotationReady, annotationDeleted} {
			annotations[a] = k.secret.Annotations[a]
		}
		if err := e.keepSecret(ctx, k.was, k.secret.Data[formerKey], annotations); err != nil {
			return err
		}
		if err := e.Source.Delete(ctx, k.secretObject()); err != nil {
			return err
		}
	}
	return nil
}

// wantedPod says that the target is to get a kept pod: one that the stop has deleted
// or, where nothing is stopped, that still runs. What a hook has removed, or what has
// ended by itself, is not made anew.
func (e *Env) wantedPod(ctx context.Context, k keptResource) (bool, error) {
	if !k.stoppedAt().IsZero() || e.Plan().Cutover.QuiesceOrDefault() {
		return !k.stoppedAt().IsZero(), nil
	}
	now, err := e.Source.get(ctx, k.was.GVR, k.was.GetNamespace(), k.was.GetName())
	return now != nil && !Finished(*now), err
}

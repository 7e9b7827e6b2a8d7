package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
)

// operandsWait bounds how long the source's workloads wait for a custom resource
// and for what its operator runs: what is broken there must not keep the rest of the
// application down.
const operandsWait = 5 * time.Minute

// undoBegan: what is an undo of a cutover is a step of a rollback.
func (e *Env) undoBegan() time.Time {
	began := e.Step.Started
	if e.Undo {
		began = nil
		if u := e.Step.Undid; u != nil {
			began = u.Started
		}
	}
	if began == nil {
		return time.Time{}
	}
	return began.Time
}

// tried is when this run first tried to put the custom resource back: what was
// tried by nobody was not waited for, however long the daemon was away.
func (e *Env) tried(k keptResource) time.Time {
	run, when, _ := strings.Cut(k.secret.Annotations[annotationTried], " ")
	t, err := time.Parse(time.RFC3339Nano, when)
	if err != nil || run != e.RunLabel() {
		return time.Time{}
	}
	return t
}

// waited says that the custom resource has had its time, from the first try on or,
// where none was needed, from the begin of the undo.
func (e *Env) waited(k keptResource) bool {
	since := e.tried(k)
	if since.IsZero() {
		since = e.undoBegan()
	}
	return !since.IsZero() && time.Since(since) > operandsWait
}

// spoke says that an error is what a cluster said, and not that it is out of
// reach: a webhook that is dead, a kind that is gone.
func spoke(err error) bool {
	var status apierrors.APIStatus
	var kind *meta.NoKindMatchError
	var group *discovery.ErrGroupDiscoveryFailed
	return errors.As(err, &status) || errors.As(err, &kind) || errors.As(err, &group)
}

// stray is a kept custom resource that the source has otherwise now.
func (e *Env) stray(ctx context.Context, k keptResource) (now *Item, differs bool, err error) {
	if k.secret.Annotations[annotationBack] != "" || k.pod() || !e.hooked() {
		return nil, false, nil
	}
	if k.unread != nil {
		return nil, true, k.unread
	}
	now, err = e.Source.get(ctx, k.was.GVR, k.was.GetNamespace(), k.was.GetName())
	return now, err != nil || now == nil || !alike(k.was, *now), err
}

// hooked: without a hook that stops, nobody of ours has touched a custom resource.
func (e *Env) hooked() bool { return slices.ContainsFunc(e.Plan().Hooks, MayStop) }

// lookStray says what is to be done about a custom resource that differs; nil when
// nothing is.
func (e *Env) lookStray(ctx context.Context, k keptResource) (*reconciler.Observation, error) {
	now, differs, err := e.stray(ctx, k)
	if err != nil && k.unread == nil && !spoke(err) {
		return nil, err
	}
	if !differs {
		return nil, nil
	}
	o := &reconciler.Observation{Object: fmt.Sprintf("source Secret %s/%s", k.secret.Namespace, k.secret.Name)}
	if k.unread == nil {
		o.Object = Describe(k.was.Record(spec.Source))
	}
	say := o.Object + " is to be put back"
	switch {
	case err != nil:
		say = err.Error()
	case now != nil && now.GetDeletionTimestamp() != nil:
		say = fmt.Sprintf("%s is being deleted, and put back when it has gone; it waits for %s", o.Object, strings.Join(now.GetFinalizers(), ", "))
	}
	o.Message = say
	switch {
	case e.tried(k).IsZero():
	case e.waited(k):
		o.Seen, o.Reason = reconciler.Succeeded, reconciler.ReasonNotPutBack
		o.Message = fmt.Sprintf("%s cannot be put back (%s); Secret %s/%s on cluster %s keeps what it was", o.Object, say, k.secret.Namespace, k.secret.Name, e.Source.Name)
	case now != nil && now.GetDeletionTimestamp() != nil: // what is written into it now is lost with it
		o.Seen, o.Reason = reconciler.Working, "ObjectsTerminating"
	}
	return o, nil
}

// keptHere are those that this undo deals with: pods that a stop has deleted are made
// anew beside the source's workloads, which they may need.
func (e *Env) keptHere(ctx context.Context) ([]keptResource, error) {
	all, err := e.everyKept(ctx)
	return slices.DeleteFunc(all, func(k keptResource) bool { return !k.stoppedAt().IsZero() }), err
}

func lookKeepUndo(ctx context.Context, e *Env) (reconciler.Observation, error) {
	all, err := e.keptHere(ctx)
	if err != nil {
		return reconciler.Observation{}, err
	}
	found := e.lostKept(all)
	if len(all)+len(found) == 0 {
		return reconciler.Observation{Seen: reconciler.Succeeded, Message: "nothing of the source that a hook may have changed is kept any more"}, nil
	}
	var back []keptResource
	for _, k := range all {
		o, err := e.lookStray(ctx, k)
		if err != nil {
			return reconciler.Observation{}, err
		}
		if o != nil {
			found = append(found, *o)
		} else {
			back = append(back, k)
		}
	}
	lacking, err := e.lackingBack(ctx, back)
	if err != nil {
		return reconciler.Observation{}, err
	}
	found = append(found, lacking...)
	if len(found) == 0 { // their Secrets go when that is on record, else they would count as lost
		return reconciler.Observation{Facts: &spec.Facts{Custom: backAgain(e, back)}, Message: "what is kept and as it was is to be removed"}, nil
	}
	// What is to be done comes before what is waited for, and that before what is given up.
	slices.SortStableFunc(found, func(a, b reconciler.Observation) int { return cmp.Compare(a.Seen, b.Seen) })
	o := found[0]
	if o.Seen == reconciler.Succeeded {
		var say []string
		for _, f := range found {
			say = append(say, f.Message)
		}
		o.Message = limited(say, "; ") + ". The source's workloads are started all the same"
	}
	return o, nil
}

// lostKept are verdicts on custom resources of the record that no Secret keeps any
// more, and that no undo has found as they were: nobody can tell whether they are.
func (e *Env) lostKept(all []keptResource) (found []reconciler.Observation) {
	have := map[string]bool{}
	for _, k := range all {
		have[k.secret.Name] = true
	}
	for _, c := range e.Run.Facts.Custom {
		if c.Back || IsPod(c.Object) || have[keptName(e, types.UID(c.UID))] {
			continue
		}
		found = append(found, reconciler.Observation{Seen: reconciler.Succeeded, Reason: reconciler.ReasonKeptObjectGone, Object: Describe(c.Object),
			Message: fmt.Sprintf("Secret %s/%s on cluster %s, which kept what %s was, is gone, so that it stays as it is; look whether that is what it was", e.Settings.Namespace, keptName(e, types.UID(c.UID)), e.Source.Name, Describe(c.Object))})
	}
	return found
}

// backAgain are the run's custom resources, of which some are as they were.
func backAgain(e *Env, back []keptResource) []spec.CustomResource {
	all := slices.Clone(e.Run.Facts.Custom)
	for _, k := range back {
		n := slices.IndexFunc(all, func(c spec.CustomResource) bool { return keptName(e, types.UID(c.UID)) == k.secret.Name })
		if n < 0 && k.unread == nil { // kept by a step that has not come to its end
			all, n = append(all, spec.CustomResource{Object: k.was.Record(spec.Source), Ready: k.ready}), len(all)
		}
		if n >= 0 {
			all[n].Back = true
		}
	}
	return all
}

// lackingBack are those of the custom resources that are as they were whose pods are
// not there.
func (e *Env) lackingBack(ctx context.Context, back []keptResource) ([]reconciler.Observation, error) {
	var want []spec.CustomResource
	back = slices.DeleteFunc(slices.Clone(back), func(k keptResource) bool { return k.unread != nil || k.pod() })
	for _, k := range back {
		want = append(want, spec.CustomResource{Object: k.was.Record(spec.Source), Ready: k.ready})
	}
	lacking, err := Lacking(ctx, e, e.Source, want)
	if err != nil && !spoke(err) {
		return nil, err
	}
	var found []reconciler.Observation
	for _, k := range back {
		message := ""
		if err != nil {
			message = err.Error()
		}
		for _, l := range lacking {
			if l.UID == string(k.was.GetUID()) {
				message = l.Message
			}
		}
		if message == "" {
			continue
		}
		o := reconciler.Observation{Seen: reconciler.Working, Reason: reconciler.ReasonOperandsNotReady, Object: Describe(k.was.Record(spec.Source)), Message: message}
		if e.waited(k) {
			o.Seen = reconciler.Succeeded
		}
		found = append(found, o)
	}
	return found, nil
}

// ensureKeepUndo goes on where one of them cannot be put back.
func ensureKeepUndo(ctx context.Context, e *Env) error {
	all, err := e.keptHere(ctx)
	if err != nil {
		return err
	}
	var errs []error
	asTheyWere := true
	for n := range all {
		done, err := e.putBackKept(ctx, &all[n])
		asTheyWere = asTheyWere && done
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || !asTheyWere {
		return err // the next look asks for the pods
	}
	for _, k := range all {
		if slices.ContainsFunc(e.Run.Facts.Custom, func(c spec.CustomResource) bool {
			return !c.Back && keptName(e, types.UID(c.UID)) == k.secret.Name
		}) {
			continue // the next look brings on record that it may go
		}
		if err := e.Source.Delete(ctx, k.secretObject()); err != nil {
			return err
		}
	}
	return nil
}

// putBackKept: done says that the custom resource was as it was.
func (e *Env) putBackKept(ctx context.Context, k *keptResource) (done bool, err error) {
	now, differs, err := e.stray(ctx, *k)
	if err == nil && !differs {
		return true, nil
	}
	if e.tried(*k).IsZero() {
		err = errors.Join(err, e.note(ctx, k, annotationTried, e.RunLabel()+" "+time.Now().UTC().Format(time.RFC3339Nano)))
	}
	if err != nil || now != nil && now.GetDeletionTimestamp() != nil {
		return false, err
	}
	return false, e.restoreKept(ctx, k, now)
}

func (e *Env) note(ctx context.Context, k *keptResource, annotation, value string) error {
	s := k.secret.DeepCopy()
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, annotation, value)
	s, err := e.Source.Kube.CoreV1().Secrets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{FieldManager: fieldManager})
	if err != nil {
		return e.Source.wrap(err, "note in Secret %s/%s what was put back", k.secret.Namespace, k.secret.Name)
	}
	k.secret = s
	return nil
}

// restoreKept puts everything back but the status, once.
func (e *Env) restoreKept(ctx context.Context, k *keptResource, now *Item) error {
	objects := e.Source.Dynamic.Resource(k.was.GVR).Namespace(k.was.GetNamespace())
	var err error
	if now == nil {
		again := Portable(k.was, map[string]string{k.was.GetNamespace(): k.was.GetNamespace()})
		if k.pod() {
			again.SetOwnerReferences(k.was.GetOwnerReferences()) // none is a controller: they take it with them when they go
		}
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
		return e.Source.wrap(err, "put back %s", Describe(k.was.Record(spec.Source)))
	}
	return e.note(ctx, k, annotationBack, backByUs)
}

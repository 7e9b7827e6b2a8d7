package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// updates says that the plan changes what is on the target and not ours.
func (e *Env) updates() bool { return e.Plan().ExistingOrDefault() == spec.ExistingUpdate }

// NotUpdated says why an object of the target that is in the place of one of the
// source's is not updated, whatever the plan says; "" when it may be.
func NotUpdated(source, there Item) string {
	owner := metav1.GetControllerOf(there)
	kind, _, _ := unstructured.NestedString(there.Object, "type")
	packed, err := pack(there)
	switch {
	case ownedByOther(there):
		return "it belongs to another plan"
	case there.GetDeletionTimestamp() != nil:
		return "it is being deleted; wait for that"
	case owner != nil:
		return fmt.Sprintf("%s %s controls it and would change it back", owner.Kind, owner.Name)
	case there.groupKind() == schema.GroupKind{Group: "batch", Kind: "Job"}:
		return "a Job runs once, and cannot be made another"
	case there.groupKind() == podKind:
		return "a pod that runs cannot be made another"
	case there.GVR.Group == "keda.sh":
		return "KEDA would start what the cutover holds at zero"
	case there.groupKind() == schema.GroupKind{Kind: "Secret"} && kind == "kubernetes.io/service-account-token":
		return "it holds a token of the target's own"
	case there.groupKind() == schema.GroupKind{Kind: "Service"} && headless(source) != headless(there):
		return "one of the two Services is headless, which cannot be changed"
	case immutable(source) != immutable(there):
		return "one of the two is immutable, which is never taken back"
	case err != nil || len(packed) > maxFormer:
		return "it is too large to be remembered"
	}
	return ""
}

// ownedByOther: marks of ours that are not this run's, whose former values they are.
func ownedByOther(there Item) bool {
	a := there.GetAnnotations()
	return Ours(there) || a[AnnotationPlan] != "" || a[AnnotationRun] != "" || a[AnnotationPrevious] != ""
}

func headless(i Item) bool {
	ip, _, _ := unstructured.NestedString(i.Object, "spec", "clusterIP")
	return ip == "None"
}

// immutable says that the content of a ConfigMap or Secret is fixed for ever.
func immutable(i Item) bool {
	fixed, _, _ := unstructured.NestedBool(i.Object, "immutable")
	return fixed && i.GVR.Group == ""
}

// later says that an object has its own step, once the target is healthy.
func later(i Item) bool { return Traffic(i) || Scales(i) }

// onto is an object of the source as it replaces what the target has.
func (e *Env) onto(want, have Item) Item {
	if ofThisMove(e, have) && !WasThere(e, have) {
		want = e.Marked(want)
		keepOwn(want, have)
		return want
	}
	labels, annotations := want.GetLabels(), want.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	for k, v := range e.Stamps() {
		annotations[k] = v
	}
	annotations[AnnotationFormer] = keeperOf(e, have)
	want.SetLabels(labels)
	want.SetAnnotations(annotations)
	keepOwn(want, have)
	want.SetFinalizers(have.GetFinalizers())
	want.SetOwnerReferences(have.GetOwnerReferences())
	return want
}

// supersede updates an object of the target that is not ours, after what it was
// is remembered. Both hold only for what was read.
func supersede(ctx context.Context, e *Env, source, want, have Item) error {
	if why := NotUpdated(source, have); why != "" {
		return fmt.Errorf("%s is not updated: %s", Describe(have.Record(spec.Target)), why)
	}
	if err := e.remember(ctx, have); err != nil {
		return err
	}
	want = e.onto(want, have)
	annotations := want.GetAnnotations()
	annotations[AnnotationApplied] = Digest(source, e.Translation())
	want.SetAnnotations(annotations)
	_, err := e.Target.Dynamic.Resource(have.GVR).Namespace(have.GetNamespace()).Update(ctx, want.Unstructured, metav1.UpdateOptions{FieldManager: fieldManager})
	return e.Target.wrap(err, "update %s", Describe(have.Record(spec.Target)))
}

// standing is an object of the source, and what was in its place on the target.
type standing struct{ source, there Item }

// standings are the objects that this step updates, and those that it, or an
// earlier run that could not put them back, has updated.
func standings(ctx context.Context, e *Env) (pending, done []standing, err error) {
	covered, err := Covered(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	covered = slices.DeleteFunc(covered, func(i Item) bool { return later(i) || e.Kept(i) })
	target, err := e.Target.ListAll(ctx, e.Namespaces(spec.Target), "")
	if err != nil {
		return nil, nil, err
	}
	source, there := Foreign(e, covered, target)
	for n := range source {
		pending = append(pending, standing{source[n], there[n]})
	}
	for _, t := range target {
		if WasThere(e, t) && !later(t) {
			done = append(done, standing{there: t})
		}
	}
	return pending, done, nil
}

// lookUpdate: every object is refused or updated, and no pod of those that were
// running is left.
func lookUpdate(ctx context.Context, e *Env) (reconciler.Observation, error) {
	pending, done, err := standings(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	facts := &spec.Facts{}
	var refused, objects []string
	for _, s := range slices.Concat(pending, done) {
		facts.Updated = append(facts.Updated, s.there.Record(spec.Target))
	}
	for _, s := range pending {
		why := NotUpdated(s.source, s.there)
		if why == "" {
			if why, err = e.overtaken(ctx, s.there); err != nil {
				return reconciler.Observation{}, err
			}
		}
		if why != "" {
			objects = append(objects, Describe(s.there.Record(spec.Target)))
			refused = append(refused, objects[len(objects)-1]+": "+why)
		}
	}
	if len(refused) > 0 {
		return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "ExistingObject", Object: objects[0],
			Message: fmt.Sprintf("%d objects on cluster %s are not updated: %s", len(refused), e.Target.Name, limited(refused, "; "))}, nil
	}
	if len(pending) > 0 {
		return reconciler.Observation{Facts: facts, Message: fmt.Sprintf("%d objects that are on the target are to be updated", len(pending))}, nil
	}
	for _, s := range done {
		if why := stillRuns(s.there); why != "" {
			name := Describe(s.there.Record(spec.Target))
			return reconciler.Observation{Seen: reconciler.Working, Reason: "ExistingStillRuns", Object: name,
				Message: fmt.Sprintf("%s on cluster %s is held at zero and still %s; look at its pods", name, e.Target.Name, why)}, nil
		}
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Facts: facts, Message: fmt.Sprintf("%d objects that were on the target are updated", len(done))}, nil
}

// overtaken says that somebody has changed an object after it was remembered.
func (e *Env) overtaken(ctx context.Context, have Item) (string, error) {
	f, err := e.formerOf(ctx, have)
	if err != nil || f == nil || alike(f.was, have) {
		return "", err
	}
	return changedSince(have), nil
}

// stillRuns says what an object that is held at zero has not done yet.
func stillRuns(i Item) string {
	if !Runs(i) {
		return ""
	}
	if seen, found, _ := unstructured.NestedInt64(i.Object, "status", "observedGeneration"); found && seen < i.GetGeneration() {
		return "waits for its controller"
	}
	if n := Pods(i); n > 0 {
		return fmt.Sprintf("has %d pods", n)
	}
	return ""
}

// Pods is how many a workload has, as its controller last counted them.
func Pods(i Item) int64 {
	n, _, _ := unstructured.NestedInt64(i.Object, "status", "replicas")
	if i.GetKind() == "DaemonSet" {
		n, _, _ = unstructured.NestedInt64(i.Object, "status", "currentNumberScheduled")
	}
	return n
}

func ensureUpdate(ctx context.Context, e *Env) error {
	pending, _, err := standings(ctx, e)
	if err != nil {
		return err
	}
	for _, s := range pending {
		if err := supersede(ctx, e, s.source, Held(s.source, e.Translation()), s.there); err != nil {
			return err
		}
	}
	return nil
}

func lookUpdateUndo(ctx context.Context, e *Env) (reconciler.Observation, error) {
	all, err := e.formers(ctx)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if len(all) > 0 {
		var names []string
		for n := range all {
			names = append(names, Describe(all[n].was.Record(spec.Target)))
		}
		return reconciler.Observation{Object: names[0], Message: fmt.Sprintf("%d objects of cluster %s are to be put back: %s; one that shall stay as it is loses its annotation %s",
			len(all), e.Target.Name, limited(names, ", "), AnnotationFormer)}, nil
	}
	var lost []string
	for _, o := range e.Run.Facts.Updated {
		have, err := e.Target.Find(ctx, o)
		if err != nil {
			return reconciler.Observation{}, err
		}
		if have != nil && string(have.GetUID()) == o.UID && WasThere(e, have) {
			lost = append(lost, Describe(o))
		}
	}
	if len(lost) > 0 {
		return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "FormerObjectLost", Object: lost[0],
			Message: fmt.Sprintf("cluster %s has lost the Secrets of namespace %s that held what these objects were, so that they stay as the cutover made them: %s; put them back by hand", e.Target.Name, e.Settings.Namespace, strings.Join(lost, ", "))}, nil
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Message: "every object that was on the target is as it was"}, nil
}

// ensureUpdateUndo goes on where one of them cannot be put back. What somebody
// has deleted or made anew since is not touched.
func ensureUpdateUndo(ctx context.Context, e *Env) error {
	all, err := e.formers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for n := range all {
		have, err := e.toPutBack(ctx, &all[n])
		if err == nil && have != nil {
			err = e.putBack(ctx, &all[n], *have)
		}
		if err == nil {
			err = e.Target.Delete(ctx, all[n].keeper)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

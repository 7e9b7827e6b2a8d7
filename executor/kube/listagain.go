package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// difference is what the source, stopped, has that the target has not yet.
type difference struct {
	apply   []Item        // of the source: new, or changed since the backup
	remove  []spec.Object // of the target: made by this run, and gone from the source
	late    []string      // workloads and claims that came too late to be part of the move
	foreign []string      // of the target: in the way, and not of this plan
	skipped []spec.Object // of the target: the same, and the plan leaves them as they are
	updated []spec.Object // of the target: they were there before, and are as they should be
	covered []Item        // of the source, now that it has stopped
	created []spec.Object // of the target, by this run; the record, brought up to date

	wanted map[itemKey]bool // what the target should have
	found  []spec.Object    // of the target, read anew and as it should be
}

var backupResource = schema.GroupVersionResource{Group: "velero.io", Version: "v1", Resource: "backups"}

// compare reads the source, and of the target what may differ.
func compare(ctx context.Context, e *Env) (*difference, error) {
	since, err := backupTime(ctx, e)
	if err != nil {
		return nil, err
	}
	listed, err := Listed(ctx, e)
	if err != nil {
		return nil, err
	}
	covered := Select(listed)
	d, err := diff(e, covered, since, func(i Item) (*Item, error) { return e.Target.same(ctx, i, e.Mapping()) })
	if err != nil {
		return nil, err
	}
	d.covered = covered
	if err := d.without(ctx, e); err != nil {
		return nil, err
	}
	if err := d.sweep(ctx, e); err != nil {
		return nil, err
	}
	for _, i := range listed {
		if i.GetKind() == "PersistentVolumeClaim" && !Ours(i) && i.GetCreationTimestamp().After(since) && !knownClaim(e, i) {
			d.late = append(d.late, Describe(i.Record(spec.Source)))
		}
	}
	return d, nil
}

// without takes out custom resources that appeared after the others were kept:
// on the target their operators would start what is to be held at zero. The source
// is stopped: only the definitions of what differs are read, for all may be large.
func (d *difference) without(ctx context.Context, e *Env) error {
	definitions := Definitions{}
	var apply []Item
	for _, i := range d.apply {
		of := i.GVR.GroupResource()
		if _, asked := definitions[of]; !asked && strings.Contains(of.Group, ".") { // else it is built in
			one, err := e.Source.get(ctx, definitionResource, "", of.String())
			if err != nil {
				return err
			}
			definitions[of] = one != nil
		}
		if definitions.Custom(i) {
			d.late = append(d.late, Describe(i.Record(spec.Source)))
			continue
		}
		apply = append(apply, i)
	}
	d.apply = apply
	return nil
}

// same reads the target's object of an item's kind and name; nil when there
// is none.
func (c *Cluster) same(ctx context.Context, i Item, mapping map[string]string) (*Item, error) {
	gvr, err := c.resource(i)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.wrap(err, "find out about %s %s", i.GetAPIVersion(), i.GetKind())
	}
	return c.get(ctx, gvr, mapped(mapping, i.GetNamespace()), i.GetName())
}

func backupTime(ctx context.Context, e *Env) (time.Time, error) {
	b, err := e.Source.get(ctx, backupResource, e.Source.VeleroNamespace, e.Run.Facts.Backup)
	if err != nil {
		return time.Time{}, err
	}
	if b == nil {
		return time.Time{}, fmt.Errorf("cluster %s has no Backup %s/%s any more; it was deleted while the run needs it", e.Source.Name, e.Source.VeleroNamespace, e.Run.Facts.Backup)
	}
	return b.GetCreationTimestamp().Time, nil
}

func knownClaim(e *Env, i Item) bool {
	return slices.ContainsFunc(e.Run.Facts.Volumes, func(v spec.Volume) bool {
		return v.Namespace == i.GetNamespace() && v.Claim == i.GetName()
	})
}

type itemKey struct {
	kind            schema.GroupKind
	namespace, name string
}

func keyOfRecord(o spec.Object) itemKey {
	gv, _ := schema.ParseGroupVersion(o.APIVersion) // it was read from a cluster
	return itemKey{schema.GroupKind{Group: gv.Group, Kind: o.Kind}, o.Namespace, o.Name}
}

func keyOfItem(i Item, mapping map[string]string) itemKey {
	return itemKey{i.groupKind(), mapped(mapping, i.GetNamespace()), i.GetName()}
}

// diff decides what list-again does with each object of the source. An
// object that nobody has touched since the backup, and that this run has
// restored, needs no look at the target: on most runs that is all of them.
func diff(e *Env, covered []Item, since time.Time, target func(Item) (*Item, error)) (*difference, error) {
	d := &difference{wanted: map[itemKey]bool{}}
	mapping := e.Mapping()
	restored := map[itemKey]bool{}
	for _, o := range e.Run.Facts.Created {
		restored[keyOfRecord(o)] = true
	}
	for _, i := range covered {
		if DefaultAccount(i) || Traffic(i) || Scales(i) || e.Kept(i) {
			continue
		}
		k := keyOfItem(i, mapping)
		d.wanted[k] = true
		if restored[k] && Untouched(i, since) {
			continue
		}
		t, err := target(i)
		switch {
		case err != nil:
			return nil, err
		case t == nil && workload(i):
			d.late = append(d.late, Describe(i.Record(spec.Source)))
		case t == nil:
			d.apply = append(d.apply, i)
		case !ofThisMove(e, *t):
			d.met(e, i, *t)
		case WasThere(e, *t) && settled(i, *t, e.Translation()):
			d.updated = append(d.updated, t.Record(spec.Target))
		case WasThere(e, *t) && immutable(i) != immutable(*t): // it could not be put back
			d.foreign = append(d.foreign, Describe(t.Record(spec.Target)))
		case settled(i, *t, e.Translation()):
			d.found = append(d.found, t.Record(spec.Target))
		default:
			d.apply = append(d.apply, i)
		}
	}
	return d, nil
}

// met sorts an object of the target that is in the way of the source's i.
func (d *difference) met(e *Env, i, there Item) {
	switch {
	case e.Plan().ExistingOrDefault() == spec.ExistingSkip:
		d.skipped = append(d.skipped, there.Record(spec.Target))
	case e.updates() && !workload(i) && NotUpdated(i, there) == "": // what runs pods was to be held before the stop
		d.apply = append(d.apply, i)
	default:
		d.foreign = append(d.foreign, Describe(there.Record(spec.Target)))
	}
}

// ofThisMove also knows what Velero restored but could not annotate.
func ofThisMove(e *Env, t Item) bool {
	return OfPlan(e, t) || e.Run.Facts.Restore != "" && t.GetLabels()[LabelRestore] == e.Run.Facts.Restore
}

// settled says that the target needs no change: both have the same content,
// or this content was applied already and an admission webhook of the target
// changed it.
func settled(source, target Item, t Translation) bool {
	return target.GetAnnotations()[AnnotationApplied] == Digest(source, t) || Same(source, target, t)
}

// workload says that the object runs pods: its count belongs to the stop.
func workload(i Item) bool {
	return i.GVR.Group == "apps" || i.GVR.Group == "apps.openshift.io" || i.GVR.Group == "batch" || i.groupKind() == schema.GroupKind{Kind: "Pod"} || i.groupKind() == schema.GroupKind{Kind: "ReplicationController"}
}

// sweep finds what this run made and the source has no longer, and brings the
// record of what it made up to date: what list-again applied is the run's too.
func (d *difference) sweep(ctx context.Context, e *Env) error {
	d.created = slices.Clone(d.found)
	for _, o := range e.Run.Facts.Created {
		if slices.ContainsFunc(d.found, func(f spec.Object) bool { return keyOfRecord(f) == keyOfRecord(o) }) {
			continue
		}
		if d.wanted[keyOfRecord(o)] || !slices.Contains(e.Namespaces(spec.Target), o.Namespace) {
			d.created = append(d.created, o) // those outside namespaces stay as they are
			continue
		}
		t, err := e.Target.get(ctx, GVROf(o), o.Namespace, o.Name)
		if err != nil {
			return err
		}
		if t != nil && string(t.GetUID()) == o.UID && t.GetDeletionTimestamp() == nil {
			d.remove = append(d.remove, o)
			d.created = append(d.created, o)
		}
	}
	slices.SortFunc(d.created, func(a, b spec.Object) int {
		return strings.Compare(a.Kind+"/"+a.Namespace+"/"+a.Name, b.Kind+"/"+b.Namespace+"/"+b.Name)
	})
	return nil
}

func lookListAgain(ctx context.Context, e *Env) (reconciler.Observation, error) {
	d, err := compare(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	switch {
	case len(d.late) > 0:
		return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "ChangedDuringCutover", Object: d.late[0],
			Message: fmt.Sprintf("new on cluster %s since the backup, and too late to be moved: %s; keep deployments away during the cutover and start it again", e.Source.Name, limited(d.late, ", "))}, nil
	case len(d.foreign) > 0:
		return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "ExistingObject", Object: d.foreign[0],
			Message: fmt.Sprintf("in the way on cluster %s and not of plan %s: %s; remove them or set spec.existing", e.Target.Name, e.Run.Spec.Plan, limited(d.foreign, ", "))}, nil
	case len(d.apply)+len(d.remove) > 0:
		return reconciler.Observation{Message: fmt.Sprintf("%d objects changed on the source since the backup, %d are gone", len(d.apply), len(d.remove))}, nil
	}
	stopped, err := e.stoppedPods(ctx)
	if err != nil {
		return reconciler.Observation{}, err
	}
	facts := &spec.Facts{Created: d.created, Skipped: d.skipped, Updated: d.updated, Counts: CountSource(append(stopped, d.covered...), e.Run.Facts.Volumes), Changes: Changes(asTheyRan(d.covered, e.Run.Facts.Workloads), e.Translation())}
	o := reconciler.Observation{Seen: reconciler.Succeeded, Facts: facts, Message: "the target has what the source had when it stopped"}
	if len(d.skipped) > 0 {
		o.Message += fmt.Sprintf(", but for %d objects that were there before and are left as they are (existing: Skip)", len(d.skipped))
	}
	return o, nil
}

func ensureListAgain(ctx context.Context, e *Env) error {
	d, err := compare(ctx, e)
	if err != nil {
		return err
	}
	if len(d.late)+len(d.foreign) > 0 {
		return nil // the next Look says so
	}
	for _, i := range d.apply {
		if err := apply(ctx, e, i); err != nil {
			return err
		}
	}
	for _, o := range d.remove {
		if err := e.Target.Delete(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// apply makes an object of the target equal to the source's, held back.
func apply(ctx context.Context, e *Env, source Item) error {
	want := Held(source, e.Translation())
	annotations := want.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[AnnotationApplied] = Digest(source, e.Translation())
	want.SetAnnotations(annotations)
	gvr, err := e.Target.resource(want)
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("cluster %s has no %s %s for %s", e.Target.Name, want.GetAPIVersion(), want.GetKind(), Describe(source.Record(spec.Source)))
	}
	if err != nil {
		return err
	}
	objects := e.Target.Dynamic.Resource(gvr).Namespace(want.GetNamespace())
	have, err := e.Target.get(ctx, gvr, want.GetNamespace(), want.GetName())
	if err != nil {
		return err
	}
	if have == nil {
		want = e.Marked(want)
		_, err = objects.Create(ctx, want.Unstructured, metav1.CreateOptions{})
		return e.Target.wrap(err, "create %s", Describe(want.Record(spec.Target)))
	}
	if !ofThisMove(e, *have) {
		return supersede(ctx, e, source, want, *have)
	}
	want = e.onto(want, *have)
	_, err = objects.Update(ctx, want.Unstructured, metav1.UpdateOptions{FieldManager: fieldManager})
	if apierrors.IsInvalid(err) && OfRun(e, have) && !WasThere(e, have) && !workload(source) {
		// A field that cannot be changed: the source's object was replaced, so
		// this run's copy is replaced too; the next round creates it.
		return e.Target.Delete(ctx, have.Record(spec.Target))
	}
	return e.Target.wrap(err, "update %s", Describe(want.Record(spec.Target)))
}

// Marked adds what shows that this run put the object on the target.
func (e *Env) Marked(i Item) Item {
	labels, annotations := i.GetLabels(), i.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	if e.Run.Facts.Restore != "" {
		labels[LabelRestore] = e.Run.Facts.Restore
	}
	for k, v := range e.Stamps() {
		annotations[k] = v
	}
	i.SetLabels(labels)
	i.SetAnnotations(annotations)
	return i
}

// keepOwn carries over what the target's object has by itself.
func keepOwn(want, have Item) {
	want.SetUID(have.GetUID())
	want.SetResourceVersion(have.GetResourceVersion())
	if want.groupKind() == (schema.GroupKind{Kind: "Service"}) {
		from, _ := have.Object["spec"].(map[string]any)
		to, _ := want.Object["spec"].(map[string]any)
		for _, f := range []string{"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} {
			if v, ok := from[f]; ok {
				to[f] = v
			}
		}
	}
	if want.groupKind() == (schema.GroupKind{Group: "batch", Kind: "Job"}) {
		for _, path := range [][]string{{"spec", "selector"}, {"spec", "template", "metadata", "labels"}} {
			if v, found, _ := unstructured.NestedFieldCopy(have.Object, path...); found { // generated, and immutable
				_ = unstructured.SetNestedField(want.Object, v, path...)
			}
		}
	}
	if want.groupKind() == (schema.GroupKind{Kind: "ServiceAccount"}) {
		keepTokens(want, have)
	}
	labels := want.GetLabels()
	for k, v := range have.GetLabels() {
		if strings.HasPrefix(k, veleroPrefix) {
			labels[k] = v
		}
	}
	want.SetLabels(labels)
}

// keepTokens carries over the tokens and registry credentials of a
// ServiceAccount, which its own cluster has made.
func keepTokens(want, have Item) {
	if own, ok := have.Object["secrets"]; ok {
		want.Object["secrets"] = own
	}
	pull, _, _ := unstructured.NestedSlice(want.Object, "imagePullSecrets")
	eachMap(have.Object, func(m map[string]any) {
		if ref, _ := m["name"].(string); strings.HasPrefix(ref, have.GetName()+"-dockercfg-") {
			pull = append(pull, m)
		}
	}, "imagePullSecrets")
	if len(pull) > 0 {
		want.Object["imagePullSecrets"] = pull
	}
}

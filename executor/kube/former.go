package kube

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// What an object of the target was before a run updated it lies in a Secret of
// our namespace there: it may hold secrets, and may be larger than a record
// should be (ADR 19). The Secret is made before the object is changed, and the
// object names it from the same change on.
const (
	// AnnotationFormer names the Secret that holds what the object was.
	AnnotationFormer = "tranship.dev/former"
	labelFormer      = "tranship.dev/former-of" // of these Secrets: the run that remembered the objects
	formerKey        = "object.json.gz"
	// maxFormer leaves room below the size of the largest Secret.
	maxFormer = 1000 * 1000
	// maxUnpacked is far more than an API server takes for an object.
	maxUnpacked = 16 << 20
	// fieldManager is how managedFields name what we write into these objects.
	fieldManager = "tranship"
)

// former is an object as it was, and the Secret that remembers it.
type former struct {
	keeper spec.Object
	was    Item
}

// formerName is the same for every attempt of a run. An object that carries a
// mark already is not remembered anew: the mark names what it was first.
func formerName(e *Env, uid types.UID) string {
	sum := sha256.Sum256([]byte(e.Origin() + "/" + string(uid)))
	return formersOf(uid) + hex.EncodeToString(sum[:5])
}

// formersOf is how the names begin under which any run remembers an object.
func formersOf(uid types.UID) string {
	sum := sha256.Sum256([]byte(uid))
	return "tr-former-" + hex.EncodeToString(sum[:10]) + "-"
}

// WasThere says that a run of this plan has updated the object, and did not make
// it. Controllers and people copy annotations: a mark counts for its own object.
func WasThere(e *Env, o metav1.Object) bool {
	return OfPlan(e, o) && strings.HasPrefix(o.GetAnnotations()[AnnotationFormer], formersOf(o.GetUID()))
}

// keeps says that an object may be what somebody had on the target before, even
// if its mark is another's: it is never deleted.
func keeps(o metav1.Object) bool { return o.GetAnnotations()[AnnotationFormer] != "" }

// keeperOf names the Secret that holds what an object was, or will hold it once
// the run at hand has remembered that.
func keeperOf(e *Env, o metav1.Object) string {
	if WasThere(e, o) {
		return o.GetAnnotations()[AnnotationFormer]
	}
	return formerName(e, o.GetUID())
}

func pack(i Item) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(map[string]any{"resource": i.GVR.Resource, "object": i.Object}); err != nil {
		return nil, err
	}
	err := z.Close()
	return b.Bytes(), err
}

func unpack(packed []byte) (Item, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return Item{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if err == nil && len(raw) > maxUnpacked {
		err = fmt.Errorf("it has more than %d bytes, which no object has", maxUnpacked)
	}
	if err != nil {
		return Item{}, err
	}
	var kept struct {
		Resource string          `json:"resource"`
		Object   json.RawMessage `json:"object"`
	}
	if err := json.Unmarshal(raw, &kept); err != nil {
		return Item{}, err
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(kept.Object); err != nil {
		return Item{}, err
	}
	return Item{u.GroupVersionKind().GroupVersion().WithResource(kept.Resource), u}, nil
}

// remember keeps what an object of the target is. What is remembered already is
// never overwritten: by then the object may be changed.
func (e *Env) remember(ctx context.Context, have Item) error {
	packed, err := pack(have)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", Describe(have.Record(spec.Target)), err)
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: e.Settings.Namespace, Name: formerName(e, have.GetUID()),
		Labels:      map[string]string{LabelManagedBy: ManagedBy, LabelPlan: Short(e.Run.Spec.Plan), labelFormer: e.Origin()},
		Annotations: e.Stamps(),
	}, Data: map[string][]byte{formerKey: packed}}
	_, err = e.Target.Kube.CoreV1().Secrets(s.Namespace).Create(ctx, s, metav1.CreateOptions{FieldManager: fieldManager})
	if !apierrors.IsAlreadyExists(err) {
		return e.Target.wrap(err, "remember what %s is", Describe(have.Record(spec.Target)))
	}
	known, err := e.formerOf(ctx, have)
	if err != nil {
		return err
	}
	if known == nil || !alike(known.was, have) {
		return fmt.Errorf("%s on cluster %s is not updated: %s", Describe(have.Record(spec.Target)), e.Target.Name, changedSince(have))
	}
	return nil
}

func changedSince(have Item) string {
	by := ""
	if k := Keeper(have); k != "" {
		by = " by " + k
	}
	return "it was changed" + by + " after the run had remembered what it was; keep others away from it and start the cutover again"
}

// alike compares what people and tools write into an object, and not what
// servers and controllers keep count of.
func alike(a, b Item) bool { return reflect.DeepEqual(written(a), written(b)) }

func written(i Item) map[string]any {
	o := i.DeepCopy()
	delete(o.Object, "status")
	for _, f := range []string{"resourceVersion", "generation", "managedFields"} {
		unstructured.RemoveNestedField(o.Object, "metadata", f)
	}
	for _, a := range moot {
		if a != lastApplied {
			unstructured.RemoveNestedField(o.Object, "metadata", "annotations", a)
		}
	}
	return o.Object
}

// formerOf is what is remembered of an object, by the run at hand or by an
// earlier one that could not put it back; nil when nothing is.
func (e *Env) formerOf(ctx context.Context, i Item) (*former, error) {
	name := keeperOf(e, i)
	s, err := e.Target.Kube.CoreV1().Secrets(e.Settings.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, e.Target.wrap(err, "read Secret %s/%s", e.Settings.Namespace, name)
	}
	return e.recalled(s)
}

func (e *Env) recalled(s *corev1.Secret) (*former, error) {
	was, err := unpack(s.Data[formerKey])
	if err != nil {
		return nil, fmt.Errorf("cannot read what Secret %s/%s on cluster %s remembers: it was edited: %w", s.Namespace, s.Name, e.Target.Name, err)
	}
	keeper := spec.Object{Side: spec.Target, APIVersion: "v1", Kind: "Secret", Resource: "secrets", Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)}
	return &former{keeper, was}, nil
}

// formers are all that the plan's runs remember, in the order in which they are
// put back: what runs pods comes after what its pods read. An earlier run's are
// there when its undo has not come to an end.
func (e *Env) formers(ctx context.Context) ([]former, error) {
	l, err := e.Target.Kube.CoreV1().Secrets(e.Settings.Namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelPlan + "=" + Short(e.Run.Spec.Plan) + "," + labelFormer})
	if err != nil {
		return nil, e.Target.wrap(err, "list what was remembered in namespace %s", e.Settings.Namespace)
	}
	var all []former
	for n := range l.Items {
		f, err := e.recalled(&l.Items[n])
		if err != nil {
			return nil, err
		}
		all = append(all, *f)
	}
	turn := func(f former) int {
		switch {
		case Scales(f.was):
			return 2
		case Runs(f.was):
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b former) int { return turn(a) - turn(b) })
	return all, nil
}

// putBack makes an object exactly what it was. It loses its mark only with the
// second write, which also gives every field back to those who had set it: a
// daemon that dies in between begins again.
func (e *Env) putBack(ctx context.Context, f *former, have Item) error {
	objects := e.Target.Dynamic.Resource(f.was.GVR).Namespace(f.was.GetNamespace())
	back := f.was.DeepCopy()
	back.SetResourceVersion(have.GetResourceVersion())
	back.SetManagedFields(have.GetManagedFields())
	annotations := back.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[AnnotationPlan], annotations[AnnotationFormer] = e.Run.Spec.Plan, f.keeper.Name
	back.SetAnnotations(annotations)
	there, err := objects.Update(ctx, back, metav1.UpdateOptions{FieldManager: fieldManager})
	if err == nil {
		back = f.was.DeepCopy()
		back.SetResourceVersion(there.GetResourceVersion())
		back.SetManagedFields(managersOf(f.was, there))
		_, err = objects.Update(ctx, back, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return e.Target.wrap(err, "put back %s", Describe(f.was.Record(spec.Target)))
}

// managersOf are those who had set the object's fields, and those who keep its
// status now.
func managersOf(was Item, now *unstructured.Unstructured) []metav1.ManagedFieldsEntry {
	ofStatus := func(f metav1.ManagedFieldsEntry) bool { return f.Subresource != "" }
	return append(slices.DeleteFunc(was.GetManagedFields(), ofStatus),
		slices.DeleteFunc(now.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return !ofStatus(f) })...)
}

// toPutBack reads the object of a former one; nil when there is nothing to put
// back: it is as it was, was never changed, was remembered anew, or is gone.
func (e *Env) toPutBack(ctx context.Context, f *former) (*Item, error) {
	have, err := e.Target.get(ctx, f.was.GVR, f.was.GetNamespace(), f.was.GetName())
	if err != nil || have == nil || have.GetUID() != f.was.GetUID() || !WasThere(e, have) || keeperOf(e, have) != f.keeper.Name {
		return nil, err
	}
	return have, nil
}

// putBackNow puts one object back that a run of the plan has updated.
func (e *Env) putBackNow(ctx context.Context, have Item) error {
	f, err := e.formerOf(ctx, have)
	if err != nil {
		return err
	}
	if f == nil {
		return fmt.Errorf("%s cannot be put back: Secret %s/%s on cluster %s, which held what it was, is gone", Describe(have.Record(spec.Target)), e.Settings.Namespace, have.GetAnnotations()[AnnotationFormer], e.Target.Name)
	}
	return e.putBack(ctx, f, have)
}

package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A rollback that may take itself back keeps each custom resource of the target, and
// each pod that the cutover made there, in a Secret there before it removes it. The target gets back what ran there, with what
// people have changed since the cutover, also while the source does not answer.

// labelRemoved is of these Secrets: the rollback.
const labelRemoved = "tranship.dev/removed-by"

// takesItselfBack says that the step, an undo of a cutover, may be undone itself.
func (e *Env) takesItselfBack() bool { return e.Run.Spec.Kind == spec.RunRollback && e.Step.Undo != "" }

func removedName(e *Env, uid types.UID) string {
	sum := sha256.Sum256([]byte(e.RunLabel() + "/" + string(uid)))
	return "tr-removed-" + hex.EncodeToString(sum[:10])
}

// keepRemoved keeps what a custom resource of the target is, once.
func (e *Env) keepRemoved(ctx context.Context, have Item) error {
	packed, err := pack(have)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", Describe(have.Record(spec.Target)), err)
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: e.Settings.Namespace, Name: removedName(e, have.GetUID()), Annotations: e.Stamps(),
		Labels: map[string]string{LabelManagedBy: ManagedBy, LabelPlan: Short(e.Run.Spec.Plan), labelRemoved: e.RunLabel()},
	}, Data: map[string][]byte{formerKey: packed}}
	_, err = e.Target.Kube.CoreV1().Secrets(s.Namespace).Create(ctx, s, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return e.Target.wrap(err, "keep what %s is before it is removed", Describe(have.Record(spec.Target)))
}

// removed are the custom resources that this rollback keeps; lost says which of those
// that the cutover had made are neither kept nor there.
func (e *Env) removed(ctx context.Context) (all []Item, lost string, err error) {
	l, err := e.Target.Kube.CoreV1().Secrets(e.Settings.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: LabelPlan + "=" + Short(e.Run.Spec.Plan) + "," + labelRemoved + "=" + e.RunLabel()})
	if err != nil {
		return nil, "", e.Target.wrap(err, "list what was removed and is kept in namespace %s", e.Settings.Namespace)
	}
	known := map[string]bool{}
	for n := range l.Items {
		s := &l.Items[n]
		was, err := unpack(s.Data[formerKey])
		if err != nil {
			return nil, "", fmt.Errorf("cannot read what Secret %s/%s on cluster %s keeps: it was edited: %w", s.Namespace, s.Name, e.Target.Name, err)
		}
		known[Describe(was.Record(spec.Target))] = true
		if Finished(was) {
			continue // it would run again
		}
		all = append(all, Portable(was, nil))
	}
	there, err := madeCustom(ctx, e)
	if err != nil {
		return nil, "", err
	}
	for _, m := range there {
		known[Describe(m.Object)] = true
	}
	for name := range createdCustom(e) {
		if !known[name] {
			lost = fmt.Sprintf("%s is gone from cluster %s, and no Secret in namespace %s keeps what it was; make it again by hand", name, e.Target.Name, e.Settings.Namespace)
		}
	}
	return all, lost, nil
}

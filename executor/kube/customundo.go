package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// fails is since when deletions on a cluster fail, by the run and the object, as far
// as this process has tried.
type fails struct {
	mu    sync.Mutex
	since map[string]time.Time
}

func (f *fails) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.since == nil {
		f.since = map[string]time.Time{}
	}
	if f.since[what].IsZero() {
		f.since[what] = time.Now()
	}
}

func (f *fails) longerThan(what string, d time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := f.since[what]
	return !since.IsZero() && time.Since(since) > d
}

// made is a custom resource or pod that the run has made on the target, or may have.
type made struct {
	spec.Object // with the UID that is known of it, "" where none is
	have        *Item
	err         error // it cannot be read
}

func (m made) tries(e *Env) string { return e.RunLabel() + " " + Describe(m.Object) }

// standing says that the custom resource is not on its way out.
func (m made) standing() bool { return m.err != nil || m.have.GetDeletionTimestamp() == nil }

// madeCustom are those that are there. A target that is out of reach is an error.
func madeCustom(ctx context.Context, e *Env) ([]made, error) {
	recorded := createdCustom(e)
	var all []made
	for _, c := range e.Run.Facts.Custom {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion(c.APIVersion)
		u.SetKind(c.Kind)
		if has, err := e.Target.Has(Item{Unstructured: u}); err == nil && !has {
			continue // the kind is gone, and its objects with it
		}
		m := made{Object: c.Object}
		m.Side, m.Namespace, m.UID = spec.Target, mapped(e.Mapping(), c.Namespace), ""
		gvr, err := e.Target.resource(Item{Unstructured: u})
		if err == nil {
			m.have, err = e.Target.get(ctx, gvr, m.Namespace, m.Name)
		}
		switch {
		case err != nil && !spoke(err):
			return nil, e.Target.wrap(err, "find out about %s", Describe(m.Object))
		case err != nil:
			m.err, m.UID = err, recorded[Describe(m.Object)]
		case m.have == nil || !OfRun(e, m.have):
			continue
		default:
			m.UID = string(m.have.GetUID())
		}
		all = append(all, m)
	}
	return all, nil
}

// createdCustom are the UIDs of those that the record has, by their names.
func createdCustom(e *Env) map[string]string {
	kept, uids := map[string]bool{}, map[string]string{}
	for _, c := range e.Run.Facts.Custom {
		c.Side, c.Namespace = spec.Target, mapped(e.Mapping(), c.Namespace)
		kept[Describe(c.Object)] = true
	}
	for _, o := range e.Run.Facts.Created {
		if kept[Describe(o)] {
			uids[Describe(o)] = o.UID
		}
	}
	return uids
}

// belowMade finds what runs on the target below the custom resources of the run,
// also below those that have gone before their pods.
func belowMade(ctx context.Context, e *Env, all []made) (map[types.UID][]corev1.Pod, error) {
	recorded := createdCustom(e)
	var roots []spec.Object
	for _, c := range e.Run.Facts.Custom {
		o := c.Object
		o.Side, o.Namespace = spec.Target, mapped(e.Mapping(), o.Namespace)
		if o.UID = recorded[Describe(o)]; o.UID != "" {
			roots = append(roots, o)
		}
	}
	for _, m := range all {
		roots = append(roots, m.Object)
	}
	return Below(ctx, e.Target, e.Namespaces(spec.Target), roots)
}

func lookCustomUndo(ctx context.Context, e *Env) (reconciler.Observation, error) {
	all, err := madeCustom(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	var standing []string
	late := true
	for _, m := range all {
		if m.standing() {
			standing = append(standing, Describe(m.Object))
			late = late && e.Target.fails.longerThan(m.tries(e), operandsWait)
		}
	}
	remove := reconciler.Observation{Message: "to be removed: " + limited(standing, ", ")}
	if len(standing) > 0 && !late {
		return remove, nil
	}
	pods, err := belowMade(ctx, e, all)
	if len(standing) > 0 && (err != nil && spoke(err) || len(pods) > 0) {
		return remove, nil // the source waits for what may run
	}
	if err != nil {
		return reconciler.Observation{}, err
	}
	return judgeRemoved(e, all, standing, pods), nil
}

// judgeRemoved: every custom resource has gone, is going, or was refused to go for
// so long that only its pods are waited for.
func judgeRemoved(e *Env, all []made, standing []string, pods map[types.UID][]corev1.Pod) reconciler.Observation {
	for uid, below := range pods {
		p := below[0]
		return reconciler.Observation{Seen: reconciler.Working, Reason: "ObjectsTerminating", Object: fmt.Sprintf("target Pod %s/%s", p.Namespace, p.Name),
			Message: fmt.Sprintf("%s on cluster %s is being deleted, and %d pods of it still run, the first: %s/%s", nameOfMade(e, all, uid), e.Target.Name, len(below), p.Namespace, p.Name)}
	}
	if len(standing) > 0 {
		return reconciler.Observation{Seen: reconciler.Succeeded, Reason: reconciler.ReasonNotRemoved, Object: standing[0],
			Message: fmt.Sprintf("cluster %s refuses to delete what no pod runs below: %s; delete them when it does not any more, and before their operators start something", e.Target.Name, limited(standing, ", "))}
	}
	o := reconciler.Observation{Seen: reconciler.Succeeded, Message: "no custom resource of this run is on the target, and no pod without a controller"}
	if len(all) > 0 {
		o.Object = Describe(all[0].Object)
		o.Message = fmt.Sprintf("%s on cluster %s is still being deleted, and waits for %s; no pod of it runs there any more", o.Object, e.Target.Name, strings.Join(all[0].have.GetFinalizers(), ", "))
	}
	return o
}

func nameOfMade(e *Env, all []made, uid types.UID) string {
	for name, known := range createdCustom(e) {
		if known == string(uid) {
			return name
		}
	}
	for _, m := range all {
		if m.UID == string(uid) {
			return Describe(m.Object)
		}
	}
	return "what has made pods whose controller is gone"
}

// ensureCustomUndo deletes custom resources in the foreground: each goes when what its
// operator has made of it is gone. It goes on where one of them is refused.
func ensureCustomUndo(ctx context.Context, e *Env) error {
	all, err := madeCustom(ctx, e)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range all {
		err := m.err
		if err == nil && e.takesItselfBack() && m.standing() {
			err = e.keepRemoved(ctx, *m.have)
		}
		if err == nil {
			o := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(m.have.GetUID())}, PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}
			if IsPod(m.Object) {
				o.PropagationPolicy = ptr.To(metav1.DeletePropagationBackground)
			}
			err = e.Target.Dynamic.Resource(m.have.GVR).Namespace(m.Namespace).Delete(ctx, m.Name, o)
		}
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			continue
		}
		if spoke(err) {
			e.Target.fails.note(m.tries(e))
		}
		errs = append(errs, e.Target.wrap(err, "delete %s, which the source waits for as long as a pod runs below it; find out who refuses that", Describe(m.Object)))
	}
	return errors.Join(errs...)
}

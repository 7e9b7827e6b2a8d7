package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var namespaceResource = corev1.SchemeGroupVersion.WithResource("namespaces")

// Placing are the labels and annotations of a namespace that decide which
// pods may run in it, as whom and where. A target namespace that differs in
// them would run the application differently.
var placing = []string{
	"pod-security.kubernetes.io/*",
	"openshift.io/sa.scc.*",
	"openshift.io/node-selector",
	"scheduler.alpha.kubernetes.io/node-selector",
	"scheduler.alpha.kubernetes.io/defaultTolerations",
}

// notCopied are set by each cluster itself.
var notCopied = []string{"kubernetes.io/metadata.name", lastApplied}

func matches(key string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(key, prefix)
		}
		return key == p
	})
}

// PlacingOf returns the labels and annotations of a namespace that decide
// what may run in it.
func PlacingOf(ns *corev1.Namespace) map[string]string {
	out := map[string]string{}
	for _, m := range []map[string]string{ns.Labels, ns.Annotations} {
		for k, v := range m {
			if matches(k, placing) {
				out[k] = v
			}
		}
	}
	return out
}

// targetNamespace is the source's namespace as it is made on the target, in
// one call: a pod admitted between two calls would have been admitted wrongly.
func targetNamespace(e *Env, source *corev1.Namespace, name string) *corev1.Namespace {
	copied := func(m map[string]string) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			if !matches(k, notCopied) && !strings.HasPrefix(k, ownPrefix) && !strings.HasPrefix(k, veleroPrefix) {
				out[k] = v
			}
		}
		return out
	}
	annotations := copied(source.Annotations)
	maps.Copy(annotations, e.Stamps())
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: copied(source.Labels), Annotations: annotations}}
}

// Stamps are the annotations of the application's objects that a run makes on
// the target. Labels would show up in people's selectors.
func (e *Env) Stamps() map[string]string {
	return map[string]string{
		AnnotationPlan:  e.Run.Spec.Plan,
		AnnotationRun:   e.Origin(), // what a rollback makes anew belongs to the cutover
		AnnotationEpoch: fmt.Sprint(e.Settings.Epoch),
	}
}

func lookNamespaces(ctx context.Context, e *Env) (reconciler.Observation, error) {
	facts := &spec.Facts{}
	missing := []string{}
	for _, name := range e.Namespaces(spec.Target) {
		ns, err := e.Target.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return reconciler.Observation{}, e.Target.wrap(err, "read namespace %s", name)
		}
		if ns.DeletionTimestamp != nil {
			return reconciler.Observation{Seen: reconciler.Working, Reason: "NamespaceTerminating", Object: "target Namespace " + name,
				Message: fmt.Sprintf("namespace %s on cluster %s is being deleted; waiting for its end", name, e.Target.Name)}, nil
		}
		if ns.Annotations[AnnotationRun] == e.RunLabel() && ns.Annotations[AnnotationPlan] == e.Run.Spec.Plan {
			facts.Namespaces = append(facts.Namespaces, namespaceRecord(ns))
		}
	}
	if len(missing) > 0 {
		return reconciler.Observation{Message: fmt.Sprintf("to be created on cluster %s: %s", e.Target.Name, strings.Join(missing, ", "))}, nil
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Facts: facts,
		Message: fmt.Sprintf("%d of %d target namespaces created by this run", len(facts.Namespaces), len(e.Plan().Namespaces))}, nil
}

func namespaceRecord(ns *corev1.Namespace) spec.Object {
	return spec.Object{Side: spec.Target, APIVersion: "v1", Kind: "Namespace", Resource: "namespaces", Name: ns.Name, UID: string(ns.UID)}
}

func ensureNamespaces(ctx context.Context, e *Env) error {
	for _, m := range e.Plan().Namespaces {
		source, err := e.Source.Kube.CoreV1().Namespaces().Get(ctx, m.Name, metav1.GetOptions{})
		if err != nil {
			return e.Source.wrap(err, "read namespace %s", m.Name)
		}
		_, err = e.Target.Kube.CoreV1().Namespaces().Create(ctx, targetNamespace(e, source, m.Target()), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return e.Target.wrap(err, "create namespace %s", m.Target())
		}
	}
	return nil
}

// createdNamespaces are the run's own, from the record or, when the daemon
// died before it was written, from their annotations.
func createdNamespaces(ctx context.Context, e *Env) ([]corev1.Namespace, error) {
	var own []corev1.Namespace
	recorded := map[string]string{}
	for _, o := range e.Run.Facts.Namespaces {
		recorded[o.Name] = o.UID
	}
	for _, name := range e.Namespaces(spec.Target) {
		ns, err := e.Target.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, e.Target.wrap(err, "read namespace %s", name)
		}
		uid, known := recorded[name]
		if known && uid == string(ns.UID) || !known && ns.Annotations[AnnotationRun] == e.Origin() && ns.Annotations[AnnotationPlan] == e.Run.Spec.Plan {
			own = append(own, *ns)
		}
	}
	return own, nil
}

// left is what still lies in a namespace and is not the cluster's own default.
func left(ctx context.Context, c *Cluster, namespace string) ([]Item, error) {
	all, err := c.ListAll(ctx, []string{namespace}, "")
	if err != nil {
		return nil, err
	}
	x := indexOf(all)
	var kept []Item
	for _, i := range all {
		if !clusterDefault(i, x) && !accountToken(i, x) && !followsService(i, x) && !DefaultAccount(i) {
			kept = append(kept, i)
		}
	}
	return kept, nil
}

func lookNamespacesUndo(ctx context.Context, e *Env) (reconciler.Observation, error) {
	own, err := createdNamespaces(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	var kept []string
	for _, ns := range own {
		if ns.DeletionTimestamp != nil {
			wake, err := e.Target.Wake(ctx, namespaceResource, "", metav1.ListOptions{FieldSelector: "metadata.name=" + ns.Name, ResourceVersion: ns.ResourceVersion})
			return reconciler.Observation{Seen: reconciler.Working, Reason: "NamespaceTerminating", Object: "target Namespace " + ns.Name, Wake: wake,
				Message: fmt.Sprintf("namespace %s on cluster %s is being deleted", ns.Name, e.Target.Name)}, err
		}
		rest, err := left(ctx, e.Target, ns.Name)
		if err != nil {
			return reconciler.Observation{}, err
		}
		if len(rest) == 0 {
			return reconciler.Observation{Message: "to be deleted: namespace " + ns.Name}, nil
		}
		if slices.ContainsFunc(rest, func(i Item) bool { return i.GetDeletionTimestamp() != nil }) {
			return reconciler.Observation{Seen: reconciler.Working, Reason: "ObjectsTerminating", Object: Describe(rest[0].Record(spec.Target)),
				Message: fmt.Sprintf("objects in namespace %s on cluster %s are still being deleted", ns.Name, e.Target.Name)}, nil
		}
		kept = append(kept, fmt.Sprintf("%s (it holds %s)", ns.Name, namesOf(rest, 5)))
	}
	o := reconciler.Observation{Seen: reconciler.Succeeded, Message: "no namespace of this run is left on the target"}
	if len(kept) > 0 {
		o.Message = fmt.Sprintf("left on cluster %s because they hold objects that this run did not make: namespace %s", e.Target.Name, strings.Join(kept, ", "))
	}
	return o, nil
}

func ensureNamespacesUndo(ctx context.Context, e *Env) error {
	own, err := createdNamespaces(ctx, e)
	if err != nil {
		return err
	}
	for _, ns := range own {
		if ns.DeletionTimestamp != nil {
			continue
		}
		rest, err := left(ctx, e.Target, ns.Name)
		if err != nil {
			return err
		}
		if len(rest) > 0 {
			continue
		}
		err = e.Target.Kube.CoreV1().Namespaces().Delete(ctx, ns.Name, Exactly(&ns))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return e.Target.wrap(err, "delete namespace %s", ns.Name)
		}
	}
	return nil
}

// Exactly deletes the object that was read and no other of its name.
func Exactly(o metav1.Object) metav1.DeleteOptions {
	uid := o.GetUID()
	background := metav1.DeletePropagationBackground
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &background}
}

// namesOf lists objects for people, at most limit of them.
func namesOf(items []Item, limit int) string {
	var names []string
	for n, i := range items {
		if n == limit {
			names = append(names, fmt.Sprintf("and %d more", len(items)-limit))
			break
		}
		names = append(names, i.GetKind()+" "+i.GetName())
	}
	return strings.Join(names, ", ")
}

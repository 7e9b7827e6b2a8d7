// Package velero drives Velero on both clusters: locations, the backup of the
// objects, their restore held at zero, and what takes all of that back. It
// talks to Velero only through its objects, watches them instead of polling,
// and gives them names that follow from run, step and attempt.
package velero

import (
	"context"
	"fmt"
	"strconv"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	backupResource        = velerov1.SchemeGroupVersion.WithResource("backups")
	restoreResource       = velerov1.SchemeGroupVersion.WithResource("restores")
	locationResource      = velerov1.SchemeGroupVersion.WithResource("backupstoragelocations")
	downloadResource      = velerov1.SchemeGroupVersion.WithResource("downloadrequests")
	statusRequestResource = velerov1.SchemeGroupVersion.WithResource("serverstatusrequests")
	deletionResource      = velerov1.SchemeGroupVersion.WithResource("deletebackuprequests")
)

// Verbs is this package's part of the registry.
func Verbs() map[string]kube.Verb {
	return map[string]kube.Verb{
		"velero.locations":    {Look: lookLocations, Ensure: ensureLocations},
		"velero.backup":       {Look: lookBackup, Ensure: ensureBackup},
		"velero.backup-undo":  {Look: lookBackupUndo, Ensure: ensureBackupUndo},
		"velero.restore":      {Look: lookRestore, Ensure: ensureRestore},
		"velero.restore-undo": {Look: lookRestoreUndo, Ensure: ensureRestoreUndo},
		"velero.clean-up":     {Look: lookCleanUp, Ensure: ensureCleanUp},
		"velero.purge":        {Look: lookPurge, Ensure: ensurePurge},
	}
}

// read returns nil for an object that is not there.
func read[T any](ctx context.Context, c *kube.Cluster, gvr schema.GroupVersionResource, name string) (*T, error) {
	u, err := c.Dynamic.Resource(gvr).Namespace(c.VeleroNamespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.Errorf(err, "read %s %s/%s", gvr.Resource, c.VeleroNamespace, name)
	}
	return decode[T](c, u)
}

func decode[T any](c *kube.Cluster, u *unstructured.Unstructured) (*T, error) {
	o := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o); err != nil {
		return nil, c.Errorf(err, "understand %s %s; is another version of Velero there?", u.GetKind(), u.GetName())
	}
	return o, nil
}

// listed returns the objects in Velero's namespace that a selector matches.
func listed[T any](ctx context.Context, c *kube.Cluster, gvr schema.GroupVersionResource, selector string) ([]T, error) {
	l, err := c.Dynamic.Resource(gvr).Namespace(c.VeleroNamespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.Errorf(err, "list %s in namespace %s", gvr.Resource, c.VeleroNamespace)
	}
	var all []T
	for n := range l.Items {
		o, err := decode[T](c, &l.Items[n])
		if err != nil {
			return nil, err
		}
		all = append(all, *o)
	}
	return all, nil
}

// create makes an object in Velero's namespace. The API server is asked to
// refuse fields that it does not know: an older Velero would otherwise drop a
// filter in silence.
func create(ctx context.Context, c *kube.Cluster, gvr schema.GroupVersionResource, kind string, o metav1.Object) error {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return c.Errorf(err, "encode %s %s", kind, o.GetName())
	}
	u := &unstructured.Unstructured{Object: m}
	u.SetGroupVersionKind(gvr.GroupVersion().WithKind(kind))
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	_, err = c.Dynamic.Resource(gvr).Namespace(c.VeleroNamespace).Create(ctx, u, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	return err
}

// remove deletes what a list returned, and waits for nothing.
func remove(ctx context.Context, c *kube.Cluster, gvr schema.GroupVersionResource, o metav1.Object) error {
	err := c.Dynamic.Resource(gvr).Namespace(c.VeleroNamespace).Delete(ctx, o.GetName(), kube.Exactly(o))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return c.Errorf(err, "delete %s %s/%s", gvr.Resource, c.VeleroNamespace, o.GetName())
}

// objectMeta is the head of an object that belongs to this call.
func objectMeta(e *kube.Env, c *kube.Cluster, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: c.VeleroNamespace, Name: name, Labels: e.Labels(), Annotations: map[string]string{kube.AnnotationPlan: e.Run.Spec.Plan}}
}

// ofAttempt says that an object belongs to exactly this run, step and attempt.
func ofAttempt(e *kube.Env, o metav1.Object) bool {
	l := o.GetLabels()
	return l[kube.LabelRun] == e.RunLabel() && l[kube.LabelStep] == e.Step.Name && l[kube.LabelAttempt] == strconv.Itoa(e.Step.Attempt)
}

// taken is the answer when somebody else's object has our name.
func taken(c *kube.Cluster, kind string, o metav1.Object) reconciler.Observation {
	return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "NameTaken",
		Object:  fmt.Sprintf("%s %s %s/%s", c.Side, kind, o.GetNamespace(), o.GetName()),
		Message: fmt.Sprintf("%s %s/%s on cluster %s has the name of ours but was made by others; delete it", kind, o.GetNamespace(), o.GetName(), c.Name)}
}

// selectPlan and selectRun select what belongs to the plan, or to the run
// whose effects are at hand.
func selectPlan(e *kube.Env) string { return kube.LabelPlan + "=" + kube.Short(e.Run.Spec.Plan) }

func selectRun(e *kube.Env) string { return selectPlan(e) + "," + kube.LabelRun + "=" + e.Origin() }

// wakeOn wakes at the next change of one object in Velero's namespace.
func wakeOn(ctx context.Context, c *kube.Cluster, gvr schema.GroupVersionResource, o metav1.Object) (<-chan struct{}, error) {
	return c.Wake(ctx, gvr, c.VeleroNamespace, metav1.ListOptions{FieldSelector: "metadata.name=" + o.GetName(), ResourceVersion: o.GetResourceVersion()})
}

package velero

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shared kinds serve more than this application: they are listed for people
// and not deleted.
var shared = []string{"CustomResourceDefinition", "StorageClass", "APIService", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"}

// inventory is what the run has made on the target through its restores.
type inventory struct {
	restores []velerov1.Restore
	running  *velerov1.Restore // Velero is still at it; it cannot be stopped
	objects  []kube.Item       // in the order in which they are deleted
	kept     []string          // of shared kinds
}

// made finds out what the run has made: what is recorded with its UID, and,
// for a daemon that died before the record, what carries the label of one of
// the run's restores and the run's own annotation.
func made(ctx context.Context, e *kube.Env) (*inventory, error) {
	m := &inventory{}
	var err error
	m.restores, err = listed[velerov1.Restore](ctx, e.Target, restoreResource, selectRun(e))
	if err != nil {
		return nil, err
	}
	for n, r := range m.restores {
		if !terminal(string(r.Status.Phase)) {
			m.running = &m.restores[n]
			return m, nil
		}
	}
	names := restoreNames(e, m.restores)
	if len(names) == 0 {
		return m, nil
	}
	selector := fmt.Sprintf("%s in (%s)", kube.LabelRestore, strings.Join(names, ","))
	items, err := e.Target.ListAll(ctx, e.Namespaces(spec.Target), selector)
	if err != nil {
		return nil, err
	}
	outside, err := clusterObjects(ctx, e, selector)
	if err != nil {
		return nil, err
	}
	recorded := map[string]bool{}
	for _, o := range e.Run.Facts.Created {
		recorded[o.UID] = true
	}
	for _, i := range append(items, outside...) {
		switch {
		case !recorded[string(i.GetUID())] && !kube.OfRun(e, i):
		case metav1.GetControllerOf(i) != nil, i.GetKind() == "PersistentVolumeClaim", kube.DefaultAccount(i):
			// made by a controller that goes too, never touched, or merged into
		case slices.Contains(shared, i.GetKind()):
			m.kept = append(m.kept, i.GetKind()+" "+i.GetName())
		default:
			m.objects = append(m.objects, i)
		}
	}
	return m, nil
}

// clusterObjects are the restored objects outside of namespaces. Velero takes
// along what a ServiceAccount is bound to.
func clusterObjects(ctx context.Context, e *kube.Env, selector string) ([]kube.Item, error) {
	gvrs := map[string]spec.Object{
		"clusterroles":        {APIVersion: "rbac.authorization.k8s.io/v1", Resource: "clusterroles"},
		"clusterrolebindings": {APIVersion: "rbac.authorization.k8s.io/v1", Resource: "clusterrolebindings"},
	}
	for _, o := range e.Run.Facts.Created {
		if o.Namespace == "" && o.Resource != "" {
			gvrs[o.Resource] = o
		}
	}
	var all []kube.Item
	for _, o := range gvrs {
		gvr := kube.GVROf(o)
		l, err := e.Target.Dynamic.Resource(gvr).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return nil, e.Target.Errorf(err, "list %s", gvr.Resource)
		}
		for n := range l.Items {
			all = append(all, kube.Item{GVR: gvr, Unstructured: &l.Items[n]})
		}
	}
	return all, nil
}

// observation: Absent while there is something to delete, Working while it
// goes.
func (m *inventory) observation(ctx context.Context, e *kube.Env) reconciler.Observation {
	if len(m.objects) == 0 {
		return reconciler.Observation{}
	}
	at := slices.IndexFunc(m.objects, func(i kube.Item) bool { return i.GetDeletionTimestamp() == nil })
	if at >= 0 {
		return reconciler.Observation{Message: fmt.Sprintf("%d objects to be deleted on cluster %s", len(m.objects), e.Target.Name)}
	}
	first := m.objects[0]
	o := reconciler.Observation{Seen: reconciler.Working, Reason: "ObjectsTerminating", Object: kube.Describe(first.Record(spec.Target))}
	o.Message = fmt.Sprintf("%d objects on cluster %s are being deleted", len(m.objects), e.Target.Name)
	if f := first.GetFinalizers(); len(f) > 0 {
		o.Message += fmt.Sprintf("; %s waits for its finalizers (%s)", o.Object, strings.Join(f, ", "))
	}
	// Without a watch the poll does the waking.
	o.Wake, _ = e.Target.Wake(ctx, first.GVR, first.GetNamespace(), metav1.ListOptions{FieldSelector: "metadata.name=" + first.GetName(), ResourceVersion: first.GetResourceVersion()})
	return o
}

func (m *inventory) delete(ctx context.Context, e *kube.Env) error {
	for _, i := range m.objects {
		if i.GetDeletionTimestamp() != nil {
			continue
		}
		if err := e.Target.Delete(ctx, i.Record(spec.Target)); err != nil {
			return err
		}
	}
	return nil
}

func lookRestoreUndo(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	m, err := made(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if m.running != nil {
		o, err := restoreRunning(ctx, e, m.running)
		o.Message += "; it cannot be stopped, what it makes is deleted afterwards"
		return o, err
	}
	if len(m.objects) > 0 {
		return m.observation(ctx, e), nil
	}
	// Twice in a row: one list may have been read just before the last object
	// was written.
	again, err := made(ctx, e)
	if err != nil || len(again.objects) > 0 || again.running != nil {
		return reconciler.Observation{Message: "objects appeared while they were listed"}, err
	}
	if slices.ContainsFunc(m.restores, func(r velerov1.Restore) bool { return r.DeletionTimestamp == nil }) {
		return reconciler.Observation{Message: "Velero's Restores are to be deleted"}, nil
	}
	if o, err := lookRest(ctx, helpers(e.Target), selectRun(e)); err != nil || o.Seen != reconciler.Succeeded {
		return o, err
	}
	o := reconciler.Observation{Seen: reconciler.Succeeded, Message: "nothing of this run is left on the target"}
	if len(m.kept) > 0 {
		o.Message += "; left because others may use them: " + strings.Join(m.kept, ", ")
	}
	return o, nil
}

func ensureRestoreUndo(ctx context.Context, e *kube.Env) error {
	m, err := made(ctx, e)
	if err != nil || m.running != nil {
		return err
	}
	if len(m.objects) > 0 {
		return m.delete(ctx, e)
	}
	// The Restores go last: they are how the objects are found.
	for n := range m.restores {
		if err := remove(ctx, e.Target, restoreResource, &m.restores[n]); err != nil {
			return err
		}
	}
	return dropRest(ctx, helpers(e.Target), selectRun(e))
}

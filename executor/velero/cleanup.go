package velero

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")
	secrets    = corev1.SchemeGroupVersion.WithResource("secrets")

	// What an unfinished undo of the mover may have left.
	dataUploads   = velerov2.SchemeGroupVersion.WithResource("datauploads")
	dataDownloads = velerov2.SchemeGroupVersion.WithResource("datadownloads")
)

// Backups are deleted through Velero, which deletes their files in the bucket
// as well. The copies on the target have no files of their own.

func lookBackupUndo(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	o, err := lookDeletion(ctx, e, selectRun(e), nil)
	if err != nil || o.Seen != reconciler.Succeeded {
		return o, err
	}
	return lookRest(ctx, helpers(e.Source), selectRun(e))
}

func ensureBackupUndo(ctx context.Context, e *kube.Env) error {
	if o, err := lookDeletion(ctx, e, selectRun(e), nil); err != nil || o.Seen != reconciler.Succeeded {
		return errors.Join(err, deleteBackups(ctx, e, selectRun(e), nil))
	}
	return dropRest(ctx, helpers(e.Source), selectRun(e))
}

// unwanted are the Backups of a selector without those to be kept.
func unwanted(ctx context.Context, c *kube.Cluster, selector string, keep []string) ([]velerov1.Backup, error) {
	all, err := listed[velerov1.Backup](ctx, c, backupResource, selector)
	return slices.DeleteFunc(all, func(b velerov1.Backup) bool { return slices.Contains(keep, b.Name) }), err
}

// lookDeletion: Succeeded once no Backup that the selector matches is left but
// those to be kept.
func lookDeletion(ctx context.Context, e *kube.Env, selector string, keep []string) (reconciler.Observation, error) {
	backups, err := unwanted(ctx, e.Source, selector, keep)
	if err != nil {
		return reconciler.Observation{}, err
	}
	for n := range backups {
		o, err := lookOneDeletion(ctx, e, &backups[n])
		if err != nil || o.Seen != reconciler.Succeeded {
			return o, err
		}
	}
	if e.Target == nil {
		return reconciler.Observation{Seen: reconciler.Succeeded, Message: "no Backup is left on the source"}, nil
	}
	copies, err := unwanted(ctx, e.Target, selector, keep)
	if err != nil {
		return reconciler.Observation{}, err
	}
	if len(copies) > 0 {
		return reconciler.Observation{Message: fmt.Sprintf("%d copies of Backups are to be deleted on cluster %s", len(copies), e.Target.Name)}, nil
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Message: "no Backup is left"}, nil
}

func lookOneDeletion(ctx context.Context, e *kube.Env, b *velerov1.Backup) (reconciler.Observation, error) {
	o := reconciler.Observation{Seen: reconciler.Working, Reason: "BackupRunning", Object: fmt.Sprintf("source Backup %s/%s", b.Namespace, b.Name)}
	var err error
	if !terminal(string(b.Status.Phase)) {
		o.Message = fmt.Sprintf("Backup %s/%s on cluster %s is still %s; it cannot be stopped and is deleted afterwards", b.Namespace, b.Name, e.Source.Name, phaseName(string(b.Status.Phase)))
		stuck(&o, e.Source, b.CreationTimestamp.Time)
		o.Wake, err = wakeOn(ctx, e.Source, backupResource, b)
		return o, err
	}
	d, err := read[velerov1.DeleteBackupRequest](ctx, e.Source, deletionResource, deletionName(e, b.Name))
	if err != nil || d == nil {
		return reconciler.Observation{Message: "Backup " + b.Name + " is to be deleted"}, err
	}
	if d.Status.Phase == velerov1.DeleteBackupRequestPhaseProcessed && len(d.Status.Errors) > 0 {
		o.Seen, o.Reason = reconciler.Broken, "BackupDeletionFailed"
		o.Message = fmt.Sprintf("Velero on cluster %s cannot delete Backup %s/%s: %s", e.Source.Name, b.Namespace, b.Name, short(d.Status.Errors))
		return o, nil
	}
	o.Reason = "BackupDeleting"
	o.Message = fmt.Sprintf("Velero on cluster %s deletes Backup %s/%s", e.Source.Name, b.Namespace, b.Name)
	o.Wake, err = wakeOn(ctx, e.Source, backupResource, b)
	return o, err
}

func deletionName(e *kube.Env, backup string) string {
	return e.ObjectName(fmt.Sprintf("delete/%s", backup))
}

func deleteBackups(ctx context.Context, e *kube.Env, selector string, keep []string) error {
	backups, err := unwanted(ctx, e.Source, selector, keep)
	if err != nil {
		return err
	}
	for _, b := range backups {
		if !terminal(string(b.Status.Phase)) {
			continue
		}
		d := &velerov1.DeleteBackupRequest{ObjectMeta: objectMeta(e, e.Source, deletionName(e, b.Name)), Spec: velerov1.DeleteBackupRequestSpec{BackupName: b.Name}}
		// Velero looks its requests up by these.
		d.Labels[velerov1.BackupNameLabel], d.Labels[velerov1.BackupUIDLabel] = b.Name, string(b.UID)
		err := create(ctx, e.Source, deletionResource, "DeleteBackupRequest", d)
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return e.Source.Errorf(err, "ask Velero to delete Backup %s", b.Name)
		}
	}
	if len(backups) > 0 {
		return nil // while the source has it, the target's Velero would fetch it again
	}
	return dropCopies(ctx, e, selector, keep)
}

func dropCopies(ctx context.Context, e *kube.Env, selector string, keep []string) error {
	if e.Target == nil {
		return nil // it does not answer: its copies go when the plan is closed
	}
	copies, err := unwanted(ctx, e.Target, selector, keep)
	if err != nil {
		return err
	}
	for n := range copies {
		if err := remove(ctx, e.Target, backupResource, &copies[n]); err != nil {
			return err
		}
	}
	return nil
}

// rest is what lies in a namespace beside Velero's own objects.
type rest struct {
	cluster   *kube.Cluster
	gvr       schema.GroupVersionResource
	namespace string
}

// lookCleanUp: the run's helpers. The Backup stays on the source until the
// plan is closed, in case somebody wants to know what was moved.
func lookCleanUp(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	return lookRest(ctx, runRest(e), selectRun(e))
}

func runRest(e *kube.Env) []rest {
	return append(slices.Concat(helpers(e.Source), helpers(e.Target)), rest{e.Target, restoreResource, e.Target.VeleroNamespace})
}

// helpers are what a run puts beside its Backup or Restore on one cluster.
func helpers(c *kube.Cluster) []rest {
	return []rest{{c, downloadResource, c.VeleroNamespace}, {c, configMaps, c.VeleroNamespace}}
}

func planRest(e *kube.Env) []rest {
	s, t := e.Source, e.Target
	all := runRest(e)
	all = append(all, rest{s, dataUploads, s.VeleroNamespace}, rest{t, dataDownloads, t.VeleroNamespace})
	for _, c := range []*kube.Cluster{s, t} {
		all = append(all, rest{c, deletionResource, c.VeleroNamespace}, rest{c, locationResource, c.VeleroNamespace}, rest{c, statusRequestResource, c.VeleroNamespace}, rest{c, secrets, c.VeleroNamespace},
			rest{c, secrets, e.Settings.Namespace}, rest{c, configMaps, e.Settings.Namespace})
	}
	return all
}

func (r rest) list(ctx context.Context, selector string) ([]kube.Item, error) {
	l, err := r.cluster.Dynamic.Resource(r.gvr).Namespace(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, r.cluster.Errorf(err, "list %s in namespace %s", r.gvr.Resource, r.namespace)
	}
	var items []kube.Item
	for n := range l.Items {
		items = append(items, kube.Item{GVR: r.gvr, Unstructured: &l.Items[n]})
	}
	return items, nil
}

func lookRest(ctx context.Context, places []rest, selector string) (reconciler.Observation, error) {
	var leaving []string
	for _, p := range places {
		items, err := p.list(ctx, selector)
		if err != nil {
			return reconciler.Observation{}, err
		}
		for _, i := range items {
			if i.GetDeletionTimestamp() == nil {
				return reconciler.Observation{Message: fmt.Sprintf("%s and others are to be deleted", kube.Describe(i.Record(p.cluster.Side)))}, nil
			}
			leaving = append(leaving, kube.Describe(i.Record(p.cluster.Side)))
		}
	}
	if len(leaving) > 0 {
		slices.Sort(leaving)
		return reconciler.Observation{Seen: reconciler.Working, Reason: "ObjectsTerminating", Object: leaving[0],
			Message: "still being deleted: " + short(leaving)}, nil
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Message: "nothing is left to clean up"}, nil
}

func dropRest(ctx context.Context, places []rest, selector string) error {
	for _, p := range places {
		items, err := p.list(ctx, selector)
		if err != nil {
			return err
		}
		for _, i := range items {
			if i.GetDeletionTimestamp() != nil {
				continue
			}
			if err := p.cluster.Delete(ctx, i.Record(p.cluster.Side)); err != nil {
				return err
			}
		}
	}
	return nil
}

func ensureCleanUp(ctx context.Context, e *kube.Env) error {
	return dropRest(ctx, runRest(e), selectRun(e))
}

package velero

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// backupTTL is how long Velero keeps a backup that nobody closes; CAM's value.
const backupTTL = 720 * time.Hour

// verdict is what a terminal phase of Velero means to a step.
type verdict struct {
	seen   reconciler.Seen
	reason string
}

// phases of Backups and Restores; any other is one on the way.
var phases = map[string]verdict{
	"Completed":        {reconciler.Succeeded, ""},
	"PartiallyFailed":  {reconciler.Broken, "PartiallyFailed"},
	"Failed":           {reconciler.Broken, "Failed"}, // also when Velero was restarted meanwhile: another attempt helps
	"FailedValidation": {reconciler.Broken, "FailedValidation"},
	"Deleting":         {reconciler.Broken, "Deleting"},
}

func terminal(phase string) bool {
	_, ok := phases[phase]
	return ok
}

func phaseName(p string) string {
	if p == "" {
		return "New"
	}
	return p
}

func lookBackup(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	b, err := read[velerov1.Backup](ctx, e.Source, backupResource, e.ObjectName("backup"))
	if err != nil {
		return reconciler.Observation{}, err
	}
	if b == nil {
		return lookBeforeBackup(ctx, e)
	}
	if !ofAttempt(e, b) {
		return taken(e.Source, "Backup", b), nil
	}
	o := reconciler.Observation{Object: fmt.Sprintf("source Backup %s/%s", b.Namespace, b.Name)}
	v, done := phases[string(b.Status.Phase)]
	switch {
	case !done:
		o.Seen, o.Reason = reconciler.Working, "BackupRunning"
		o.Message = fmt.Sprintf("Velero on cluster %s backs the objects up: %s%s", e.Source.Name, phaseName(string(b.Status.Phase)), progress(b.Status.Progress))
		stuck(&o, e.Source, b.CreationTimestamp.Time)
		o.Wake, err = wakeOn(ctx, e.Source, backupResource, b)
		return o, err
	case v.seen == reconciler.Succeeded:
		o.Seen, o.Facts = reconciler.Succeeded, &spec.Facts{Backup: b.Name}
		o.Message = fmt.Sprintf("Backup %s/%s is complete%s", b.Namespace, b.Name, progress(b.Status.Progress))
		return o, nil
	}
	return backupFailed(ctx, e, b, v), nil
}

// lookBeforeBackup refuses to back up a custom resource or pod that has come since the
// others were kept.
func lookBeforeBackup(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	late, err := kube.Newcomers(ctx, e)
	if err != nil || len(late) == 0 {
		return reconciler.Observation{}, err
	}
	return reconciler.Observation{Seen: reconciler.Broken, Final: true, Reason: "ChangedDuringCutover", Object: late[0],
		Message: fmt.Sprintf("new on cluster %s since the custom resources and pods were kept, and too late to be moved: %s; let no hook make any, and start the cutover again", e.Source.Name, short(late))}, nil
}

// backupFailed says why a Backup did not complete.
func backupFailed(ctx context.Context, e *kube.Env, b *velerov1.Backup, v verdict) reconciler.Observation {
	o := reconciler.Observation{Seen: reconciler.Broken, Reason: "VeleroBackup" + v.reason, Object: fmt.Sprintf("source Backup %s/%s", b.Namespace, b.Name)}
	o.Message = fmt.Sprintf("Backup %s/%s on cluster %s ended %s", b.Namespace, b.Name, e.Source.Name, b.Status.Phase)
	why := append([]string{}, b.Status.ValidationErrors...)
	if b.Status.FailureReason != "" {
		why = append(why, b.Status.FailureReason)
	}
	if b.Status.Phase == velerov1.BackupPhasePartiallyFailed {
		errs, log := diagnose(ctx, e, e.Source, velerov1.DownloadTargetKindBackupResults, velerov1.DownloadTargetKindBackupLog, b.Name)
		why, o.Log = append(why, errs...), log
	}
	if len(why) > 0 {
		o.Message += ": " + short(why)
	}
	return o
}

func progress(p *velerov1.BackupProgress) string {
	if p == nil || p.TotalItems == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of %d objects", p.ItemsBackedUp, p.TotalItems)
}

// maxLog is what the ledger keeps of a log; it cuts too, but need not carry it.
const maxLog = 256 << 10

// diagnose fetches the errors and the log of what failed. That it cannot is
// only said: the failure itself is known.
func diagnose(ctx context.Context, e *kube.Env, c *kube.Cluster, resultsKind, logKind velerov1.DownloadTargetKind, name string) (errs []string, log string) {
	raw, err := download(ctx, e, c, resultsKind, name)
	if err == nil {
		var r results
		if r, err = parseResults(raw); err == nil {
			errs = r.lines("errors")
		}
	}
	if err != nil {
		errs = []string{"its errors could not be fetched: " + err.Error()}
	}
	raw, err = download(ctx, e, c, logKind, name)
	if err != nil {
		return errs, ""
	}
	if len(raw) > maxLog {
		raw = raw[len(raw)-maxLog:]
	}
	return errs, string(raw)
}

func ensureBackup(ctx context.Context, e *kube.Env) error {
	items, err := kube.Covered(ctx, e)
	if err != nil {
		return err
	}
	name := e.ObjectName("backup")
	policy, err := filterPolicy(e.Namespaces(spec.Source), storable(e, items))
	if err != nil {
		return err
	}
	if err := putOnce(ctx, e, e.Source, name, "filters", policy); err != nil {
		return err
	}
	b := wantedBackup(e, name)
	if b.Spec.VolumeSnapshotLocations, err = nameLocations(ctx, e, nil); err != nil {
		return err
	}
	err = create(ctx, e.Source, backupResource, "Backup", b)
	if apierrors.IsAlreadyExists(err) {
		return nil // the next Look says whether it is ours
	}
	return e.Source.Errorf(err, "create Backup %s/%s", e.Source.VeleroNamespace, name)
}

func wantedBackup(e *kube.Env, name string) *velerov1.Backup {
	no := false
	b := &velerov1.Backup{ObjectMeta: objectMeta(e, e.Source, name)}
	b.Spec = velerov1.BackupSpec{
		IncludedNamespaces:               e.Namespaces(spec.Source),
		LabelSelector:                    e.Plan().LabelSelector,
		ExcludedNamespaceScopedResources: []string{"persistentvolumeclaims", "pods", "events", "events.events.k8s.io"},
		ExcludedClusterScopedResources:   []string{"persistentvolumes"},
		ResourcePolicy:                   configMapRef(name),
		StorageLocation:                  LocationName(e),
		SnapshotVolumes:                  &no,
		DefaultVolumesToFsBackup:         &no,
		TTL:                              metav1.Duration{Duration: backupTTL},
	}
	return b
}

// putOnce writes a ConfigMap of one entry for Velero; one that is there
// already was written for the same attempt and stays, because Velero may have
// read it.
func putOnce(ctx context.Context, e *kube.Env, c *kube.Cluster, name, key, text string) error {
	m := &corev1.ConfigMap{ObjectMeta: objectMeta(e, c, name), Data: map[string]string{key: text}}
	_, err := c.Kube.CoreV1().ConfigMaps(c.VeleroNamespace).Create(ctx, m, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return c.Errorf(err, "create ConfigMap %s/%s", c.VeleroNamespace, name)
	}
	have, err := c.Kube.CoreV1().ConfigMaps(c.VeleroNamespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return c.Errorf(err, "read ConfigMap %s/%s", c.VeleroNamespace, name)
	}
	if !ofAttempt(e, have) {
		return fmt.Errorf("ConfigMap %s/%s on cluster %s has the name of ours but was made by others; delete it", c.VeleroNamespace, name, c.Name)
	}
	return nil
}

// copyBackup puts the finished Backup, status and all, where the target's
// Velero finds it: its own synchronisation runs once a minute.
func copyBackup(ctx context.Context, e *kube.Env, name string) error {
	b, err := read[velerov1.Backup](ctx, e.Source, backupResource, name)
	if err != nil {
		return err
	}
	if b == nil {
		return fmt.Errorf("cluster %s has no Backup %s/%s any more; it was deleted while the run needs it", e.Source.Name, e.Source.VeleroNamespace, name)
	}
	c := &velerov1.Backup{Spec: b.Spec, Status: b.Status}
	c.ObjectMeta = metav1.ObjectMeta{Namespace: e.Target.VeleroNamespace, Name: b.Name, Labels: b.Labels, Annotations: map[string]string{}}
	for k, v := range b.Annotations {
		if !strings.HasPrefix(k, "kubectl.kubernetes.io/") {
			c.Annotations[k] = v
		}
	}
	c.Spec.Hooks = velerov1.BackupHooks{}
	err = create(ctx, e.Target, backupResource, "Backup", c)
	if apierrors.IsAlreadyExists(err) {
		return nil // Velero was faster, or it was us before
	}
	return e.Target.Errorf(err, "copy Backup %s/%s", e.Target.VeleroNamespace, b.Name)
}

package velero

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Native snapshots can only be had through a Backup and a Restore. Those of this
// file hold the volumes of some claims and nothing else (ADR 15).

// EnsureVolumeBackup has Velero's plugins take snapshots of exactly these claims,
// in these locations, one a provider. The head names the Backup and marks it.
func EnsureVolumeBackup(ctx context.Context, e *kube.Env, head metav1.ObjectMeta, claims []spec.Volume, locations []string) error {
	policy, err := claimFilters(claims)
	if err != nil {
		return err
	}
	if err := putOnce(ctx, e, e.Source, head.Name, "filters", policy); err != nil {
		return err
	}
	if locations, err = nameLocations(ctx, e, locations); err != nil {
		return err
	}
	err = create(ctx, e.Source, backupResource, "Backup", wantedVolumeBackup(e, head, claims, locations))
	if apierrors.IsAlreadyExists(err) {
		return nil // the next look says whether it is ours
	}
	return e.Source.Errorf(err, "create Backup %s/%s", head.Namespace, head.Name)
}

func claimFilters(claims []spec.Volume) (string, error) {
	var items []kube.Item
	for _, v := range claims {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetNamespace(v.Namespace)
		u.SetName(v.Claim)
		items = append(items, kube.Item{GVR: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), Unstructured: u})
	}
	return filterPolicy(namespacesOf(claims), items)
}

func wantedVolumeBackup(e *kube.Env, head metav1.ObjectMeta, claims []spec.Volume, locations []string) *velerov1.Backup {
	yes, no := true, false
	b := &velerov1.Backup{ObjectMeta: head}
	b.Spec = velerov1.BackupSpec{
		IncludedNamespaces: namespacesOf(claims),
		// Their volumes come with them.
		IncludedNamespaceScopedResources: []string{"persistentvolumeclaims"},
		ResourcePolicy:                   configMapRef(head.Name),
		StorageLocation:                  LocationName(e),
		VolumeSnapshotLocations:          locations,
		SnapshotVolumes:                  &yes,
		SnapshotMoveData:                 &no,
		DefaultVolumesToFsBackup:         &no,
		TTL:                              metav1.Duration{Duration: backupTTL},
	}
	return b
}

func namespacesOf(claims []spec.Volume) []string {
	var all []string
	for i := range claims {
		all = append(all, claims[i].Namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// LookVolumeBackup says how far the Backup of that name is. It is complete only
// with a snapshot of each of the count volumes: Velero passes over those that its
// plugins do not know, and calls that complete.
func LookVolumeBackup(ctx context.Context, e *kube.Env, name string, count int) (reconciler.Observation, error) {
	b, err := read[velerov1.Backup](ctx, e.Source, backupResource, name)
	if err != nil || b == nil {
		return reconciler.Observation{}, err
	}
	if !ofAttempt(e, b) {
		return taken(e.Source, "Backup", b), nil
	}
	o := reconciler.Observation{Object: fmt.Sprintf("source Backup %s/%s", b.Namespace, b.Name)}
	v, done := phases[string(b.Status.Phase)]
	switch {
	case !done:
		o.Seen, o.Reason = reconciler.Working, "TakingSnapshots"
		o.Message = fmt.Sprintf("Velero on cluster %s has the snapshots of %d claims taken: %s", e.Source.Name, count, phaseName(string(b.Status.Phase)))
	case v.seen != reconciler.Succeeded:
		return backupFailed(ctx, e, b, v), nil
	case b.Status.VolumeSnapshotsCompleted != count:
		o.Seen, o.Reason = reconciler.Broken, "SnapshotsMissing"
		o.Message = fmt.Sprintf("Velero on cluster %s took %d snapshots for %d claims in Backup %s/%s: `velero backup logs %s` says which volumes its plugins passed over", e.Source.Name, b.Status.VolumeSnapshotsCompleted, count, b.Namespace, b.Name, b.Name)
	default:
		o.Seen = reconciler.Succeeded
	}
	return o, nil
}

// EnsureVolumeRestore has Velero's plugins make volumes of the snapshots of a
// Backup, each changed by a merge patch for its name.
func EnsureVolumeRestore(ctx context.Context, e *kube.Env, head metav1.ObjectMeta, backup string, patches map[string]map[string]any) error {
	changes, err := volumeModifiers(patches)
	if err != nil {
		return err
	}
	if err := copyBackup(ctx, e, backup); err != nil {
		return err
	}
	if err := putOnce(ctx, e, e.Target, head.Name, "modifiers", changes); err != nil {
		return err
	}
	yes := true
	r := &velerov1.Restore{ObjectMeta: head}
	r.Spec = velerov1.RestoreSpec{
		BackupName: backup, IncludedResources: []string{"persistentvolumes"}, IncludeClusterResources: &yes, RestorePVs: &yes,
		ResourceModifier: configMapRef(head.Name), ExistingResourcePolicy: velerov1.PolicyTypeNone,
	}
	err = create(ctx, e.Target, restoreResource, "Restore", r)
	if apierrors.IsAlreadyExists(err) {
		return nil // the next look says whether it is ours
	}
	return e.Target.Errorf(err, "create Restore %s/%s", head.Namespace, head.Name)
}

func volumeModifiers(patches map[string]map[string]any) (string, error) {
	var names []string
	for name := range patches {
		names = append(names, name)
	}
	slices.Sort(names)
	m := modifiers{Version: "v1"}
	for _, name := range names {
		if err := m.add(conditions{GroupResource: "persistentvolumes", ResourceNameRegex: "^" + regexp.QuoteMeta(name) + "$"}, patches[name]); err != nil {
			return "", err
		}
	}
	raw, err := yaml.Marshal(m)
	return string(raw), err
}

// LookVolumeRestore says how far a Restore is that was listed.
func LookVolumeRestore(ctx context.Context, e *kube.Env, u *unstructured.Unstructured) (reconciler.Observation, *velerov1.Restore, error) {
	r, err := decode[velerov1.Restore](e.Target, u)
	if err != nil {
		return reconciler.Observation{}, nil, err
	}
	v, done := phases[string(r.Status.Phase)]
	switch {
	case !done:
		o := reconciler.Observation{Seen: reconciler.Working, Reason: "RestoringSnapshot", Object: fmt.Sprintf("target Restore %s/%s", r.Namespace, r.Name)}
		o.Message = fmt.Sprintf("Velero on cluster %s has volumes made of the snapshots: %s", e.Target.Name, phaseName(string(r.Status.Phase)))
		return o, r, nil
	case v.seen != reconciler.Succeeded:
		return restoreFailed(ctx, e, r, v), r, nil
	}
	return reconciler.Observation{Seen: reconciler.Succeeded}, r, nil
}

// LookBackupsGone: Succeeded once no Backup that the selector matches is left but
// those to be kept. Their snapshots go with them.
func LookBackupsGone(ctx context.Context, e *kube.Env, selector string, keep []string) (reconciler.Observation, error) {
	return lookDeletion(ctx, e, selector, keep)
}

// DeleteBackups is what LookBackupsGone looks for.
func DeleteBackups(ctx context.Context, e *kube.Env, selector string, keep []string) error {
	return deleteBackups(ctx, e, selector, keep)
}

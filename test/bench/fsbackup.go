package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/tranship/tranship/executor/kube"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// The peer of the volumes' rows: Velero's own file-system backup and restore,
// by a script that knows what to wait for and shows the finished Backup to the
// target at once.

const (
	fsBackupName  = "Velero's incremental file-system backup and full restore"
	fsBackupLimit = 30 * time.Minute
	locationLimit = time.Minute
	labelBench    = "bench.tranship.dev/lab"
)

var podVolumeBackups = velerov1.SchemeGroupVersion.WithResource("podvolumebackups")

// fsBackup copies one volume by Velero alone.
type fsBackup struct {
	*volume
	number int
}

// veleroPrefix is where the bench's own location lies in the bucket.
func (l *lab) veleroPrefix() string { return l.name + "/velero" }

// ensureLocation makes a location of the bench's own on both clusters.
func (l *lab) ensureLocation(ctx context.Context) error {
	access, err := secret(l.bed.S3.AccessKeyFile)
	if err != nil {
		return err
	}
	key, err := secret(l.bed.S3.SecretKeyFile)
	if err != nil {
		return err
	}
	ca, err := secret(l.bed.S3.CAFile)
	if err != nil {
		return err
	}
	meta := metav1.ObjectMeta{Namespace: veleroNamespace, Name: l.name, Labels: map[string]string{labelBench: l.name}}
	s := &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"cloud": fmt.Appendf(nil, "[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", access, key)}}
	b := &velerov1.BackupStorageLocation{TypeMeta: typeMeta("BackupStorageLocation"), ObjectMeta: meta, Spec: velerov1.BackupStorageLocationSpec{
		Provider: "aws", Config: map[string]string{"region": l.bed.S3.Region, "s3Url": l.bed.S3.Endpoint, "s3ForcePathStyle": "true", "checksumAlgorithm": ""},
		Credential:  &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: l.name}, Key: "cloud"},
		StorageType: velerov1.StorageType{ObjectStorage: &velerov1.ObjectStorageLocation{Bucket: l.bed.S3.Bucket, Prefix: l.veleroPrefix(), CACert: []byte(ca + "\n")}},
	}}
	for _, c := range l.clusters() {
		if _, err := c.kube.CoreV1().Secrets(veleroNamespace).Create(ctx, s, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("cannot write the credentials of the peer's location on cluster %s: %w", c.name, err)
		}
		raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(b)
		if err != nil {
			return fmt.Errorf("cannot encode the peer's location: %w", err)
		}
		if _, err := c.velero(locations).Create(ctx, &unstructured.Unstructured{Object: raw}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("cannot create the peer's location on cluster %s: %w", c.name, err)
		}
		if err := c.locationAvailable(ctx, l.name); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) locationAvailable(ctx context.Context, name string) error {
	ctx, stop := context.WithTimeout(ctx, locationLimit)
	defer stop()
	for {
		u, err := c.velero(locations).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			if phase, _, _ := unstructured.NestedString(u.Object, "status", "phase"); phase == "Available" {
				return nil
			}
		}
		if err := errors.Join(err, pause(ctx, 200*time.Millisecond)); err != nil {
			return fmt.Errorf("the peer's location on cluster %s is not available: %w", c.name, err)
		}
	}
}

func (f *fsBackup) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: veleroNamespace, Name: fmt.Sprintf("%s-fs-%d", f.plan, f.number), Labels: map[string]string{kube.LabelPlan: kube.Short(f.plan)}}
}

// backup copies what changed since the backup before.
func (f *fsBackup) backup(ctx context.Context) error {
	f.number++
	yes, no := true, false
	return f.lab.bed.Source.completed(ctx, backups, &velerov1.Backup{TypeMeta: typeMeta("Backup"), ObjectMeta: f.meta(), Spec: velerov1.BackupSpec{
		IncludedNamespaces: []string{f.plan}, ExcludedResources: []string{"events", "events.events.k8s.io"},
		StorageLocation: f.lab.name, SnapshotVolumes: &no, DefaultVolumesToFsBackup: &yes,
		TTL: metav1.Duration{Duration: 720 * time.Hour},
	}}, fsBackupLimit)
}

// show makes the finished backup known to the target.
func (f *fsBackup) show(ctx context.Context) error {
	l, name := f.lab, f.meta().Name
	b, err := l.bed.Source.velero(backups).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read the finished Backup: %w", err)
	}
	list, err := l.bed.Source.velero(podVolumeBackups).List(ctx, metav1.ListOptions{LabelSelector: velerov1.BackupNameLabel + "=" + name})
	if err != nil {
		return fmt.Errorf("cannot list the volumes of the finished Backup: %w", err)
	}
	if len(list.Items) != 1 {
		return fmt.Errorf("backup %s has %d volumes, 1 is expected", name, len(list.Items))
	}
	if err := l.bed.Target.showVelero(ctx, backups, b); err != nil {
		return err
	}
	return l.bed.Target.showVelero(ctx, podVolumeBackups, &list.Items[0])
}

// restore restores the newest backup into a namespace beside the product's. As
// the target's Velero may drop the copy, it is tried again.
func (f *fsBackup) restore(ctx context.Context) error {
	var err error
	for try := range peerTries {
		if err = f.show(ctx); err != nil {
			return err
		}
		r := &velerov1.Restore{TypeMeta: typeMeta("Restore"), ObjectMeta: f.meta(), Spec: velerov1.RestoreSpec{
			BackupName: f.meta().Name, NamespaceMapping: map[string]string{f.plan: f.plan + peerSuffix},
		}}
		r.Name += fmt.Sprintf("-%d", try+1)
		if err = f.lab.bed.Target.completed(ctx, restores, r, fsBackupLimit); !errors.Is(err, errRefused) {
			return err
		}
		fmt.Printf("  by Velero, another try: %v\n", err)
	}
	return err
}

// move measures an incremental backup and a full restore, and makes sure that
// what the seed changed has arrived.
func (f *fsBackup) move(ctx context.Context, seed int) (backup, restore time.Duration, err error) {
	start := time.Now()
	if err := f.backup(ctx); err != nil {
		return 0, 0, err
	}
	backup = time.Since(start)
	if err := f.restore(ctx); err != nil {
		return 0, 0, err
	}
	restore = time.Since(start) - backup
	return backup, restore, f.arrived(ctx, f.plan+peerSuffix, seed)
}

// removeVelero takes away what Velero keeps of the volume's copies.
func (f *fsBackup) removeVelero(ctx context.Context) error {
	var errs []error
	for _, c := range f.lab.clusters() {
		for i := range f.number {
			selector := velerov1.BackupNameLabel + "=" + fmt.Sprintf("%s-fs-%d", f.plan, i+1)
			_, err := f.lab.kubectl(ctx, c, "", "-n", veleroNamespace, "delete", "podvolumebackup.velero.io", "-l", selector, "--ignore-not-found")
			errs = append(errs, err)
		}
		_, err := f.lab.kubectl(ctx, c, "", "-n", veleroNamespace, "delete", "backuprepository.velero.io", "-l", "velero.io/volume-namespace="+f.plan, "--ignore-not-found")
		errs = append(errs, err)
	}
	return errors.Join(append(errs, f.lab.cleanBucket(ctx, path.Join(f.lab.veleroPrefix(), "kopia", f.plan)+"/"))...)
}

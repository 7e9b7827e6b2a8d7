package velero

import (
	"context"
	"fmt"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
)

var repositoryResource = velerov1.SchemeGroupVersion.WithResource("backuprepositories")

// bucketPatience bounds one round of listing or deleting in the bucket; a
// purge that takes longer goes on in the next.
const bucketPatience = time.Minute

// lookPurge: first the plan's Backups with their files, then what Velero keeps
// of moved snapshots, then everything else of the plan's in Velero's namespaces
// and ours, and at last what is left of it all in the bucket.
func lookPurge(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	for _, look := range []func(context.Context, *kube.Env) (reconciler.Observation, error){
		func(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
			return lookDeletion(ctx, e, selectPlan(e), nil)
		},
		func(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
			return lookRest(ctx, repositories(e), selectLocation(e))
		},
		func(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
			return lookRest(ctx, planRest(e), selectPlan(e))
		},
		lookBucket,
	} {
		if o, err := look(ctx, e); err != nil || o.Seen != reconciler.Succeeded {
			return o, err
		}
	}
	return reconciler.Observation{Seen: reconciler.Succeeded, Message: "the plan's backups, snapshots, locations and credentials are gone from both clusters and from the bucket"}, nil
}

func ensurePurge(ctx context.Context, e *kube.Env) error {
	// Restores go first: Velero deletes their files through their Backup.
	if err := dropRest(ctx, []rest{{e.Target, restoreResource, e.Target.VeleroNamespace}}, selectPlan(e)); err != nil {
		return err
	}
	backups, err := listed[velerov1.Backup](ctx, e.Source, backupResource, selectPlan(e))
	if err != nil {
		return err
	}
	if err := deleteBackups(ctx, e, selectPlan(e), nil); err != nil || len(backups) > 0 {
		return err
	}
	if err := dropRest(ctx, repositories(e), selectLocation(e)); err != nil {
		return err
	}
	if err := dropRest(ctx, planRest(e), selectPlan(e)); err != nil {
		return err
	}
	return emptyBucket(ctx, e)
}

// repositories are Velero's records of where it keeps moved snapshots. They
// carry the name of the plan's location instead of our labels, and nothing but
// us deletes them.
func repositories(e *kube.Env) []rest {
	return []rest{{e.Source, repositoryResource, e.Source.VeleroNamespace}, {e.Target, repositoryResource, e.Target.VeleroNamespace}}
}

func selectLocation(e *kube.Env) string {
	return velerov1.StorageLocationLabel + "=" + LocationName(e)
}

// files lists what lies in the bucket below the plan's own prefix.
func files(ctx context.Context, e *kube.Env) (*minio.Client, <-chan minio.ObjectInfo, error) {
	client, _, err := kube.Bucket(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	return client, client.ListObjects(ctx, e.Run.Spec.Closure.Repository.Spec.Bucket, minio.ListObjectsOptions{Prefix: Prefix(e) + "/", Recursive: true}), nil
}

func lookBucket(ctx context.Context, e *kube.Env) (reconciler.Observation, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketPatience)
	defer cancel() // ends the listing after its first entry
	_, found, err := files(ctx, e)
	if err != nil {
		return reconciler.Observation{}, err
	}
	for f := range found {
		if f.Err != nil {
			return reconciler.Observation{}, fmt.Errorf("list bucket %s: %w", e.Run.Spec.Closure.Repository.Spec.Bucket, f.Err)
		}
		return reconciler.Observation{Message: fmt.Sprintf("what Velero kept below %s/ in bucket %s is to be deleted", Prefix(e), e.Run.Spec.Closure.Repository.Spec.Bucket)}, nil
	}
	return reconciler.Observation{Seen: reconciler.Succeeded}, nil
}

// emptyBucket deletes the repositories of moved snapshots: Velero itself never
// deletes one, and with its record gone nobody else would.
func emptyBucket(ctx context.Context, e *kube.Env) error {
	ctx, cancel := context.WithTimeout(ctx, bucketPatience)
	defer cancel()
	bucket := e.Run.Spec.Closure.Repository.Spec.Bucket
	client, found, err := files(ctx, e)
	if err != nil {
		return err
	}
	for f := range client.RemoveObjects(ctx, bucket, found, minio.RemoveObjectsOptions{}) {
		return fmt.Errorf("delete %s in bucket %s: %w", f.ObjectName, bucket, f.Err)
	}
	return nil
}

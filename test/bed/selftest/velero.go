package selftest

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/kubeapi"
)

// restored is the namespace that the backup is restored into.
const restored = "bed-selftest-restored"

const veleroPath = "/apis/velero.io/v1/namespaces/velero/"

// velero backs a namespace with a volume up, restores it under another name, looks
// at the data, and deletes the backup.
func (t *tester) velero(ctx context.Context) error {
	run := fmt.Sprintf("selftest-%d", time.Now().Unix())
	if err := t.claim(ctx, "velero", cluster.ClassNode, "ReadWriteOnce", "10Mi", nil); err != nil {
		return err
	}
	if err := t.start(ctx, pod{name: "velero-app", claim: "velero", script: "[ -e /data/file ] || echo precious > /data/file; cat /data/file; sleep 3600"}); err != nil {
		return err
	}
	if err := t.waitPod(ctx, "velero-app", "Running"); err != nil {
		return err
	}
	if err := t.location(ctx, run); err != nil {
		return err
	}
	meta := object{"name": run, "namespace": "velero"}
	err := t.phase(ctx, "backups", "Completed", kubeapi.Object{"apiVersion": "velero.io/v1", "kind": "Backup", "metadata": meta, "spec": object{
		"includedNamespaces": []any{namespace}, "labelSelector": object{"matchLabels": object{"app": "velero-app"}},
		"storageLocation": run, "snapshotVolumes": false, "defaultVolumesToFsBackup": true,
	}})
	if err != nil {
		return err
	}
	err = t.phase(ctx, "restores", "Completed", kubeapi.Object{"apiVersion": "velero.io/v1", "kind": "Restore", "metadata": meta, "spec": object{
		"backupName": run, "namespaceMapping": object{namespace: restored},
	}})
	if err != nil {
		return err
	}
	if err := t.restoredData(ctx); err != nil {
		return err
	}
	return t.deleteBackup(ctx, run)
}

// location tells Velero about the object store of the bed.
func (t *tester) location(ctx context.Context, run string) error {
	credentials := fmt.Sprintf("[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", t.AccessKey, t.SecretKey)
	if err := t.api.Apply(ctx, kubeapi.Object{
		"apiVersion": "v1", "kind": "Secret", "metadata": object{"name": run, "namespace": "velero"}, "stringData": object{"cloud": credentials},
	}); err != nil {
		return err
	}
	return t.phase(ctx, "backupstoragelocations", "Available", kubeapi.Object{
		"apiVersion": "velero.io/v1", "kind": "BackupStorageLocation", "metadata": object{"name": run, "namespace": "velero"},
		"spec": object{
			"provider": "aws", "credential": object{"name": run, "key": "cloud"},
			"objectStorage": object{"bucket": t.Bucket, "prefix": run + "-" + t.Name, "caCert": base64.StdEncoding.EncodeToString([]byte(t.S3CA))},
			"config":        object{"region": "us-east-1", "s3ForcePathStyle": "true", "s3Url": "https://" + t.S3Host},
		},
	})
}

// phase applies an object of Velero and waits until it is done as it should be.
func (t *tester) phase(ctx context.Context, plural, want string, o kubeapi.Object) error {
	if err := t.api.Apply(ctx, o); err != nil {
		return err
	}
	var final error
	path := veleroPath + plural + "/" + o.Text("metadata", "name")
	err := kubeapi.Wait(ctx, 3*time.Minute, o.Text("kind")+" to be "+want, func(ctx context.Context) (bool, error) {
		now, err := t.api.Get(ctx, path)
		if err != nil {
			return false, err
		}
		switch phase := now.Text("status", "phase"); phase {
		case want:
			return true, nil
		case "Failed", "PartiallyFailed", "FailedValidation":
			final = fmt.Errorf("%s ended as %s: %v", o.Text("kind"), phase, now.Field("status"))
			return true, nil
		default:
			return false, fmt.Errorf("it is %q: %s", phase, now.Text("status", "message"))
		}
	})
	if final != nil {
		return final
	}
	return err
}

func (t *tester) restoredData(ctx context.Context) error {
	path := "/api/v1/namespaces/" + restored + "/pods/velero-app"
	return kubeapi.Wait(ctx, podTimeout, "the restored pod to show its data", func(ctx context.Context) (bool, error) {
		out, err := t.api.Raw(ctx, "GET", path+"/log?container=main", "", nil)
		if err != nil {
			return false, err
		}
		if string(out) != "precious\n" {
			return false, fmt.Errorf("it has %q", out)
		}
		return true, nil
	})
}

func (t *tester) deleteBackup(ctx context.Context, run string) error {
	err := t.api.Apply(ctx, kubeapi.Object{
		"apiVersion": "velero.io/v1", "kind": "DeleteBackupRequest", "metadata": object{"name": run, "namespace": "velero"}, "spec": object{"backupName": run},
	})
	if err != nil {
		return err
	}
	if err := kubeapi.Wait(ctx, 2*time.Minute, "the deletion of the backup", func(ctx context.Context) (bool, error) {
		_, err := t.api.Get(ctx, veleroPath+"backups/"+run)
		return kubeapi.NotFound(err), nil
	}); err != nil {
		return err
	}
	for _, path := range []string{veleroPath + "restores/" + run, veleroPath + "backupstoragelocations/" + run, "/api/v1/namespaces/velero/secrets/" + run} {
		if err := t.api.Delete(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

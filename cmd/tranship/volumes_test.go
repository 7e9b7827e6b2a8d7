package main

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// TestTellVolumes: the same plan right after its survey, and after a stage run.
func TestTellVolumes(t *testing.T) {
	one, many := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany, corev1.ReadOnlyMany}
	volumes := []spec.Volume{
		{Namespace: "shop", Claim: "cache-web-0", TargetNamespace: "store", TargetClaim: "cache-web-0", Action: "skip", Owners: []string{"StatefulSet/web"}},
		{Namespace: "shop", Claim: "data-db-0", TargetNamespace: "store", TargetClaim: "data-db-0", Action: "copy", Method: "filesystem", Owners: []string{"StatefulSet/db"}, SourceClassName: "gp2", StorageClassName: "ceph-rbd", Capacity: "10Gi", AccessModes: one},
		{Namespace: "shop", Claim: "media", TargetNamespace: "store", TargetClaim: "files", Action: "copy", Method: "filesystem", Owners: []string{"CronJob/thumbnails", "Deployment/web"}, SourceClassName: "nfs", StorageClassName: "nfs", Capacity: "1280Mi", AccessModes: many,
			Notes: []string{"its files take up 1024 MiB of its 1Gi: the claim on the target is made larger, 1280Mi"}},
		{Namespace: "same", Claim: "alone", TargetNamespace: "same", TargetClaim: "alone", Action: "copy", Method: "filesystem", StorageClassName: "ceph-rbd", Capacity: "1Gi", AccessModes: one},
	}
	var out bytes.Buffer
	tell := func() {
		if err := tellVolumes(&out, volumes); err != nil {
			t.Fatal(err)
		}
		out.WriteString("\n")
	}
	tell()
	db, media := &volumes[1], &volumes[2]
	db.Mark, db.Held, db.Snapshot, db.Files, db.Bytes, db.ChangedFiles, db.ChangedBytes = spec.MarkClean, "s1", "s1", 1281, 105<<20, 67, 7<<20
	media.Mark, media.Held, media.Snapshot, media.Files, media.Bytes = spec.MarkClean, "s1", "s2", 3, 1<<30
	media.Warnings = []string{"a/socket: is a socket and was not copied"}
	tell()
	if err := tellVolumes(&out, nil); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/volumes.txt"
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("got\n%s\nwant\n%s", out.Bytes(), want)
	}
}

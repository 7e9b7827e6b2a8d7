package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/maintenance"
)

// uploadWith uploads with a request that is changed before.
func (l *lab) uploadWith(change func(*Request)) Result {
	l.t.Helper()
	time.Sleep(testMargin + 20*time.Millisecond)
	req := withOp(l.req, OpUpload)
	req.Volumes = []VolumeRequest{{Name: "shop/data", Path: l.src}}
	change(&req)
	res, err := run(context.Background(), req, l.opts)
	must(l.t, err)
	return res
}

// has says whether a snapshot is still there, by restoring it.
func (l *lab) has(snapshot string) bool {
	_, err := l.run(OpRestore, VolumeRequest{Snapshot: snapshot, Content: true})
	if err != nil {
		reasonIs(l.t, err, ReasonSnapshotMissing)
	}
	return err == nil
}

// TestKeep takes snapshots and expects that what nobody keeps is forgotten, of this volume only.
func TestKeep(t *testing.T) {
	long(t)
	l := newLab(t)
	l.write("f", "x")
	other := l.uploadWith(func(r *Request) { r.Volumes[0].Name = "shop/other" }).Volumes[0].Snapshot
	first := l.upload("").Snapshot
	second := l.upload(first).Snapshot
	l.write("f", "y")
	third := l.uploadWith(func(r *Request) { r.Volumes[0].Parent, r.Volumes[0].Keep = second, []string{second} }).Volumes[0].Snapshot
	for id, want := range map[string]bool{first: false, second: true, third: true} {
		if l.has(id) != want {
			t.Errorf("snapshot %s of %v: there %v", id, []string{first, second, third}, !want)
		}
	}
	if _, err := l.run(OpRestore, VolumeRequest{Name: "shop/other", Snapshot: other}); err != nil {
		t.Errorf("the other volume's snapshot is gone: %v", err)
	}
}

// stored is how many bytes lie in the lab's store.
func (l *lab) stored() (n int64) {
	must(l.t, filepath.WalkDir(l.place(), func(p string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n += must1(e.Info()).Size()
		}
		return err
	}))
	return n
}

// TestMaintenance forgets a snapshot of much data: with the library's margins nothing is deleted yet,
// without them the space comes back, and what is kept is whole.
func TestMaintenance(t *testing.T) {
	long(t)
	l := newLab(t)
	l.bigFile(30 << 20)
	first := l.upload("").Snapshot
	must(t, os.Remove(filepath.Join(l.src, "big")))
	l.smallFiles(50)
	maintain := func(r *Request) {
		r.Maintain, r.Volumes[0].Parent, r.Volumes[0].Keep = true, first, []string{"none"}
	}
	full := l.uploadWith(maintain)
	if full.Maintained != "full" || full.MaintenanceError != "" || l.stored() < 30<<20 {
		t.Fatalf("%+v with %d bytes stored", full, l.stored())
	}
	if idle := l.uploadWith(maintain); idle.Maintained != "" {
		t.Errorf("maintained again at once: %+v", idle)
	}
	l.opts.safety = maintenance.SafetyNone
	time.Sleep(1100 * time.Millisecond)                 // the library tells a content's making from its end by whole seconds
	must(t, os.Remove(l.blobFile("kopia.maintenance"))) // due again
	second := l.uploadWith(maintain)
	if second.Maintained != "full" || second.MaintenanceError != "" || l.stored() > 15<<20 {
		t.Fatalf("%+v with %d bytes stored", second, l.stored())
	}
	l.restore(second.Volumes[0].Snapshot, "")
	l.equal()
}

// blobFile is where the lab's store keeps a blob.
func (l *lab) blobFile(prefix string) (path string) {
	l.t.Helper()
	must(l.t, filepath.WalkDir(l.place(), func(p string, e os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(l.place(), p); strings.HasPrefix(strings.ReplaceAll(rel, "/", ""), prefix) && e.Type().IsRegular() {
			path = p
		}
		return err
	}))
	return path
}

// TestBedPurge deletes a plan's data and nothing beside it.
func TestBedPurge(t *testing.T) {
	l := newBedLab(t)
	outer := l.req.Repository.Prefix
	l.write("f", "x")
	for _, plan := range []string{"shop", "shop-2"} {
		l.req.Repository.Prefix = outer + "data/" + plan + "/"
		l.upload("")
		l.req.CacheDir += plan
	}
	for _, prefix := range []string{"", outer, outer + "data/", outer + "data/shop", outer + "data/shop/deeper/"} {
		l.req.Repository.Prefix = prefix
		if _, err := run(context.Background(), withOp(l.req, OpPurge), l.opts); err == nil {
			t.Fatalf("a purge of %q was done", prefix)
		}
	}
	l.req.Repository.Prefix = outer + "data/shop/"
	for range 2 { // the second finds nothing
		res, err := run(context.Background(), withOp(l.req, OpPurge), l.opts)
		if err != nil || !res.Purged {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	l.req.Repository.Prefix = outer
	left := must1(blob.ListAllBlobs(context.Background(), l.s3(), ""))
	for _, m := range left {
		if !strings.HasPrefix(string(m.BlobID), "data/shop-2/") {
			t.Errorf("%s is left", m.BlobID)
		}
	}
	if len(left) < 4 {
		t.Errorf("of the other plan only %v are left", left)
	}
}

// TestBedKilledUploads kills uploads at many instants. Every snapshot that one of them reported must be
// whole, and the next upload, with maintenance, must go on.
func TestBedKilledUploads(t *testing.T) {
	long(t)
	if os.Getenv(killedChild) != "" {
		t.Skip("this is the child")
	}
	l := newBedLab(t)
	l.bigFile(24 << 20)
	var done []string
	rounds := 6
	if os.Getenv("TRANSHIP_LONG") != "" {
		rounds = 40
	}
	for i := range rounds {
		l.write(fmt.Sprintf("f%d", i), strings.Repeat(fmt.Sprint(i), 50000))
		if id := l.killedUpload(time.Duration(150+(i*137)%900) * time.Millisecond); id != "" {
			done = append(done, id)
		}
	}
	last := l.uploadWith(func(r *Request) { r.Maintain = true })
	if last.MaintenanceError != "" {
		t.Error(last.MaintenanceError)
	}
	t.Logf("%d of %d uploads came to their end", len(done), rounds)
	for _, id := range done {
		if !l.has(id) {
			t.Errorf("snapshot %s is gone", id)
		}
	}
	l.restore(last.Volumes[0].Snapshot, "")
	l.equal()
}

// killedUpload runs an upload in a child and kills it after a while; it returns the snapshot of one
// that was faster.
func (l *lab) killedUpload(after time.Duration) string {
	l.t.Helper()
	req := withOp(l.req, OpUpload)
	req.CacheDir = l.t.TempDir()
	req.Volumes = []VolumeRequest{{Name: "shop/data", Path: l.src}}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildUpload$")
	cmd.Env = append(os.Environ(), killedChild+"=upload")
	cmd.Stdin = bytes.NewReader(must1(json.Marshal(req)))
	var out bytes.Buffer
	cmd.Stdout = &out
	must(l.t, cmd.Start())
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
	_, id, _ := strings.Cut(out.String(), "snapshot=")
	id, _, _ = strings.Cut(id, "\n")
	return id
}

// TestChildUpload is the child of TestBedKilledUploads.
func TestChildUpload(t *testing.T) {
	if os.Getenv(killedChild) != "upload" {
		t.Skip("runs as a child only")
	}
	var req Request
	must(t, json.NewDecoder(os.Stdin).Decode(&req))
	res, err := Run(context.Background(), req)
	must(t, err)
	fmt.Printf("snapshot=%s\n", res.Volumes[0].Snapshot)
}

package engine

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestWarmSeesWhatCameLater opens both sides before there is anything to copy: the restore finds the
// snapshot that was made after it had opened the repository.
func TestWarmSeesWhatCameLater(t *testing.T) {
	l := newLab(t)
	l.write("a", "first")
	first := l.upload("") // the repository exists from here on
	ctx := context.Background()
	warm := func(op Op, cache string) *Warm {
		req := withOp(l.req, op)
		req.CacheDir = filepath.Join(t.TempDir(), cache)
		w, _, err := open(ctx, req, l.opts)
		must(t, err)
		return w
	}
	up, down := warm(OpUpload, "up"), warm(OpRestore, "down")
	l.write("a", "second")
	req := withOp(l.req, OpUpload)
	req.Volumes = []VolumeRequest{{Name: "shop/data", Path: l.src, Parent: first.Snapshot}}
	res, err := up.Run(ctx, req)
	must(t, err)
	req = withOp(l.req, OpRestore)
	req.Volumes = []VolumeRequest{{Name: "shop/data", Path: l.dst, Snapshot: res.Volumes[0].Snapshot}}
	_, err = down.Run(ctx, req)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(l.dst, "a")); err != nil || string(got) != "second" {
		t.Fatalf("the target holds %q (%v), want the content of the second snapshot", got, err)
	}
}

// TestOpenWithoutRepository says so: a restore cannot begin where nothing was uploaded.
func TestOpenWithoutRepository(t *testing.T) {
	l := newLab(t)
	_, _, err := open(context.Background(), withOp(l.req, OpRestore), l.opts)
	reasonIs(t, err, ReasonRepositoryMissing)
}

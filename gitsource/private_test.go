package gitsource

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
)

// TestDataIsPrivate: nobody but the daemon's own account reaches the journal
// and the Git caches, however lenient the account's umask is. Below a folder
// that is closed to others, modes are go-git's own affair.
func TestDataIsPrivate(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	s := gittest.New(t)
	r := s.Repo("plans.git")
	r.Clone().Write("README.md", "plans").Push("begin")
	c := testConfig(t, s, r)
	l := acquired(t, c, "one")
	must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(status("shop", "waits")), Message: "status of shop"}))
	src := openSource(t, c)
	if _, err := src.Read(testContext(t), ""); err != nil {
		t.Fatal(err)
	}
	seen := 0
	must(t, filepath.WalkDir(c.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == c.DataDir {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		seen++
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o: others may use it", path, info.Mode().Perm())
		}
		if d.IsDir() && info.Mode().Perm()&0o077 == 0 && filepath.Base(filepath.Dir(path)) == "git" {
			return filepath.SkipDir // closed: what is below cannot be reached
		}
		return nil
	}))
	if seen < 4 {
		t.Fatalf("only %d files and folders were looked at", seen)
	}
}

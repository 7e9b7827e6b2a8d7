package gitsource

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// cacheOf is the folder of a ledger's cache.
func cacheOf(c Config) string { return filepath.Join(c.DataDir, "git", "ledger") }

// soundCache has git fsck look at what of a cache is on disk.
func soundCache(t *testing.T, dir string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/none\n"), 0o600)) // git knows a repository by it
	out, err := exec.Command("git", "--git-dir", dir, "fsck", "--strict", "--no-dangling").CombinedOutput()
	if err != nil || strings.Contains(string(out), "error") || strings.Contains(string(out), "missing") {
		t.Fatalf("git fsck of the cache: %v: %s", err, out)
	}
}

// What pushes make is in no file of its own: it becomes a pack after many of
// them. The cache is sound at every instant, and another process finds all of it
// without Git.
func TestPushesBecomeAPack(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	l := acquired(t, c, "a")
	big := strings.Repeat("word ", maxRecent/5/20)
	packed := 0
	for i := range 40 { // a server repacks when it has fifty packs, and this one with nobody who waits for it
		if i == 25 { // fetched, and on top of what is in no pack yet
			foreignCommit(r, "notes.txt", fmt.Sprint(i))
			must(t, l.Check(testContext(t)))
			soundCache(t, cacheOf(c))
		}
		must(t, l.Record(testContext(t), planChange("shop", fmt.Sprint(i, " ", big))))
		must(t, l.Push(testContext(t)))
		if l.store.st.size > maxRecent || l.store.st.written > 2*maxRecent {
			t.Fatalf("%d bytes of objects, %d of their file", l.store.st.size, l.store.st.written)
		}
		if l.store.packs > packed || i%5 == 0 {
			packed = l.store.packs
			soundCache(t, cacheOf(c))
		}
	}
	if packed < 3 || packed > 10 { // one of them by the foreign commit, and one with it
		t.Errorf("%d packs", packed)
	}
	loose, err := filepath.Glob(filepath.Join(cacheOf(c), "objects", "??", "*"))
	if err != nil || len(loose) > 0 {
		t.Errorf("single files of objects: %v %v", loose, err)
	}
	must(t, l.Record(testContext(t), planChange("web", "last")))
	must(t, l.Push(testContext(t)))
	s.SetDown(true)
	must(t, l.Close())
	l = openLedger(t, c)
	_, err = l.Resume("a", notAcquired(t, l))
	must(t, err)
	if rec := load(t, l); waits(t, rec, "web") != "last" || !strings.HasPrefix(waits(t, rec, "shop"), "39 ") {
		t.Error("records are missing")
	}
	s.SetDown(false)
	must(t, l.Record(testContext(t), planChange("web", "again")))
	must(t, l.Push(testContext(t)))
}

// A file that was torn or damaged costs a fetch, wherever that was.
func TestWhatIsLostOfACacheIsFetched(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	must(t, acquired(t, c, "a").Close())
	file := filepath.Join(cacheOf(c), recentFile)
	for i, harm := range []func(b []byte) []byte{
		func(b []byte) []byte { return b[:len(b)-1] },
		func(b []byte) []byte { return b[:len(b)/2] },
		func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		func(b []byte) []byte { b[0] ^= 1; return b },
		func(b []byte) []byte { return append(b, b[:20]...) },
		func([]byte) []byte { return make([]byte, 4096) },
		func([]byte) []byte { return nil },
	} {
		l := acquired(t, c, "a")
		for k := range 5 {
			must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(status(fmt.Sprint("p", k), fmt.Sprint(i))), Message: "on"}))
			must(t, l.Push(testContext(t)))
		}
		must(t, l.Close())
		data, err := os.ReadFile(file)
		must(t, err)
		if len(data) < 100 {
			t.Fatalf("%d: the file has %d bytes", i, len(data))
		}
		must(t, os.WriteFile(file, harm(data), 0o600))
		l = acquired(t, c, "a")
		for k := range 5 {
			if got := waits(t, load(t, l), fmt.Sprint("p", k)); got != fmt.Sprint(i) {
				t.Errorf("%d: p%d says %q", i, k, got)
			}
		}
		must(t, l.Close())
		soundCache(t, cacheOf(c))
	}
	ledgerSound(t, r)
}

// A disk that takes nothing costs a fetch as well, once it does.
func TestCacheThatCannotBeWritten(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	must(t, l.store.st.file.Close())
	must(t, l.Record(testContext(t), planChange("shop", "one")))
	must(t, l.Push(testContext(t)))
	goesOn(t, r, l)
}

// Power that fails leaves files of a pack empty, torn or gone, whichever of them,
// with newer commits in no pack: a start fetches all of it anew, and never goes on
// without what is lost.
func TestDamagedPacksAreFetchedAnew(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	l := acquired(t, c, "a")
	big := strings.Repeat("word ", maxRecent/5/20)
	newest := map[string]string{}
	for i := 0; l.store.packs < 3 && i < 60; i++ {
		plan := fmt.Sprint("p", i%7)
		newest[plan] = fmt.Sprint(i, " ")
		must(t, l.Record(testContext(t), planChange(plan, newest[plan]+big)))
		must(t, l.Push(testContext(t)))
	}
	must(t, l.Record(testContext(t), planChange("shop", "last")))
	must(t, l.Push(testContext(t)))
	must(t, l.Close())
	files, err := filepath.Glob(filepath.Join(cacheOf(c), "objects", "pack", "pack-*"))
	must(t, err)
	if len(files) < 6 {
		t.Fatalf("only %v", files)
	}
	for _, file := range files {
		for _, keep := range []func(int64) int64{func(int64) int64 { return -1 }, func(int64) int64 { return 0 }, func(n int64) int64 { return n / 2 }, func(n int64) int64 { return n - 1 }} {
			name, err := filepath.Rel(c.DataDir, file)
			must(t, err)
			harmed := c
			harmed.DataDir = filepath.Join(t.TempDir(), "data")
			must(t, os.CopyFS(harmed.DataDir, os.DirFS(c.DataDir)))
			harmed.DataDir, err = filepath.EvalSymlinks(harmed.DataDir)
			must(t, err)
			at := filepath.Join(harmed.DataDir, name)
			if strings.HasSuffix(at, ".pack") && keep(1) < 0 { // nobody can see that it was there
				must(t, os.Remove(strings.TrimSuffix(at, ".pack")+".idx"))
			}
			must(t, os.Chmod(at, 0o600))
			was, err := os.Stat(at)
			must(t, err)
			if left := keep(was.Size()); left < 0 {
				must(t, os.Remove(at))
			} else {
				must(t, os.Truncate(at, left))
			}
			for start := range 2 {
				l := acquired(t, harmed, "a")
				rec := load(t, l)
				for plan, text := range newest {
					if waits(t, rec, "shop") != "last" || !strings.HasPrefix(waits(t, rec, plan), text) {
						t.Errorf("%s to %d bytes, start %d: records are missing", name, keep(was.Size()), start)
					}
				}
				must(t, l.Record(testContext(t), planChange("web", fmt.Sprint(start))))
				must(t, l.Push(testContext(t)))
				must(t, l.Close())
			}
		}
	}
	ledgerSound(t, r)
}

// The same of what is read: packs of single commits, of which one is harmed.
func TestDamagedPacksOfPlansAreFetchedAnew(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	w := r.Clone()
	w.Write("common.yaml", commonYAML).Write("a/shop.yaml", planYAML("shop", spec.Staged)).Write("b/web.yaml", planYAML("web", spec.Staged)).Push("first")
	c := testConfig(t, s, r)
	src := openSource(t, c)
	d := read(t, src, "")
	w.Write("a/shop.yaml", planYAML("shop", spec.Migrated)).Push("second")
	d = read(t, src, d.Commit)
	must(t, src.Close())
	w.Write("b/blog.yaml", planYAML("blog", spec.Staged)).Push("third")
	files, err := filepath.Glob(filepath.Join(c.DataDir, "git", "source", "objects", "pack", "pack-*"))
	must(t, err)
	if len(files) < 4 {
		t.Fatalf("only %v", files)
	}
	for _, file := range files {
		for _, gone := range []bool{true, false} {
			harmed := c
			harmed.DataDir = filepath.Join(t.TempDir(), "data")
			must(t, os.CopyFS(harmed.DataDir, os.DirFS(c.DataDir)))
			at := filepath.Join(harmed.DataDir, strings.TrimPrefix(file, c.DataDir))
			if gone {
				must(t, os.Remove(at))
				must(t, os.Remove(strings.TrimSuffix(strings.TrimSuffix(at, ".pack"), ".idx")+map[bool]string{true: ".pack", false: ".idx"}[strings.HasSuffix(at, ".idx")]))
			} else {
				must(t, os.Chmod(at, 0o600))
				must(t, os.Truncate(at, 0))
			}
			again := openSource(t, harmed)
			got, err := again.Read(testContext(t), d.Commit)
			if err != nil { // the next poll fetches what was lost
				got, err = again.Read(testContext(t), d.Commit)
			}
			must(t, err)
			if len(got.Closures) != 3 || len(got.Commits) != 1 || got.Closures["shop"].Plan.Spec.State != spec.Migrated {
				t.Errorf("%s: %+v", file, got)
			}
			must(t, again.Close())
		}
	}
}

// A reset that is killed in the middle leaves either the old cache or none.
func TestResetIsWhole(t *testing.T) {
	s := gittest.New(t)
	c := testConfig(t, s, s.Repo("plans.git"))
	must(t, acquired(t, c, "a").Close())
	gone := cacheOf(c) + goneSuffix
	must(t, os.MkdirAll(filepath.Join(gone, "objects", "pack"), 0o700))
	l := openLedger(t, c)
	if _, err := os.Stat(gone); err == nil {
		t.Error("what a killed process had thrown away is still there")
	}
	tip := l.store.kept()
	must(t, l.store.reset())
	if _, err := os.Stat(gone); err == nil || l.store.has(tip) {
		t.Error("it is not empty")
	}
}

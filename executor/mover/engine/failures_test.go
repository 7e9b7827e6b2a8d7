package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWrongPassword(t *testing.T) {
	l := newLab(t)
	l.write("f", "x")
	l.upload("")
	must(t, os.WriteFile(l.req.PasswordFile, []byte("battery staple"), 0o600))
	l.req.CacheDir += "2"
	_, err := l.run(OpUpload, VolumeRequest{})
	reasonIs(t, err, ReasonWrongPassword)
}

func TestMissingThings(t *testing.T) {
	l := newLab(t)
	res, err := run(context.Background(), withOp(l.req, OpProbe), l.opts)
	if err != nil || res.RepositoryExists {
		t.Fatalf("a probe of an empty store said %+v, %v", res, err)
	}
	_, err = l.run(OpRestore, VolumeRequest{Snapshot: "0123"})
	reasonIs(t, err, ReasonRepositoryMissing)
	l.write("f", "x")
	first := l.upload("")
	res, err = run(context.Background(), withOp(l.req, OpProbe), l.opts)
	if err != nil || !res.RepositoryExists {
		t.Fatalf("a probe of a repository said %+v, %v", res, err)
	}
	_, err = l.run(OpRestore, VolumeRequest{Snapshot: "0123456789abcdef0123456789abcdef"})
	reasonIs(t, err, ReasonSnapshotMissing)
	_, err = l.run(OpRestore, VolumeRequest{Name: "shop/other", Snapshot: first.Snapshot})
	reasonIs(t, err, ReasonSnapshotUnknown)
	_, err = l.run("explode", VolumeRequest{Path: l.src})
	reasonIs(t, err, ReasonBadRequest)
	l.req.PasswordFile += "-not-there"
	_, err = l.run(OpUpload, VolumeRequest{})
	reasonIs(t, err, ReasonCredentialsUnreadable)
}

func withOp(r Request, op Op) Request { r.Op = op; return r }

// TestUnusableRecordsCostTimeNotData names a parent and a held snapshot that are not there.
func TestUnusableRecordsCostTimeNotData(t *testing.T) {
	l := newLab(t)
	l.write("f", "x")
	up := l.upload("00000000000000000000000000000000")
	down := l.restore(up.Snapshot, "00000000000000000000000000000000")
	l.equal()
	if up.WarningCount != 1 || down.WarningCount != 1 {
		t.Errorf("warnings: upload %q, restore %q", up.Warnings, down.Warnings)
	}
}

// TestMoversThatStartAtOnce creates one repository from several movers.
func TestMoversThatStartAtOnce(t *testing.T) {
	long(t)
	l := newLab(t)
	l.write("f", "x")
	st := &raceStore{store: must1(l.opts.openStore(Repository{}, secrets{}))}
	l.opts.openStore = func(Repository, secrets) (store, error) { return st, nil }
	var wg sync.WaitGroup
	results := make([]Result, 4)
	for i := range results {
		wg.Go(func() {
			req := withOp(l.req, OpUpload)
			req.CacheDir = fmt.Sprintf("%s-%d", l.req.CacheDir, i)
			req.Volumes = []VolumeRequest{{Name: fmt.Sprintf("shop/%d", i), Path: l.src}}
			var err error
			if results[i], err = run(context.Background(), req, l.opts); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	created := 0
	for i, r := range results {
		if r.RepositoryCreated {
			created++
		}
		if _, err := l.run(OpRestore, VolumeRequest{Name: fmt.Sprintf("shop/%d", i), Snapshot: r.Volumes[0].Snapshot}); err != nil {
			t.Errorf("snapshot %d: %v", i, err)
		}
	}
	if created != 1 {
		t.Errorf("%d movers say they created the repository", created)
	}
}

// raceStore makes create atomic, as the condition of a PUT does.
type raceStore struct {
	store
	mu   sync.Mutex
	done bool
}

func (s *raceStore) create(ctx context.Context, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return nil
	}
	s.done = true
	return s.store.create(ctx, data)
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestSourceThatDoesNotHoldStill(t *testing.T) {
	long(t)
	cases := map[string]func(l *lab){
		"grows":    func(l *lab) { l.write("f", "longer than it was") },
		"rewrites": func(l *lab) { l.write("f", "y") },
		"new file": func(l *lab) { l.write("g", "appears") },
	}
	for name, happens := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.keepOpen()
			l.write("f", "x")
			l.opts.afterRead = func(rel string) {
				if rel == "f" {
					time.Sleep(testMargin)
					happens(l)
				}
			}
			_, err := l.run(OpUpload, VolumeRequest{})
			reasonIs(t, err, ReasonSourceChanged)
			l.req.Live = true
			live, err := l.run(OpUpload, VolumeRequest{})
			must(t, err)
			if live.WarningCount == 0 && name != "new file" {
				t.Errorf("no warning for a file that changed: %+v", live)
			}
			l.req.Live, l.opts.afterRead = false, func(string) {}
			last := l.upload(live.Snapshot)
			l.restore(last.Snapshot, "")
			l.equal()
		})
	}
}

func TestWhatIsNotCopiedIsSaid(t *testing.T) {
	l := newLab(t)
	l.write("f", "x")
	l.write("lost+found/#123", "from a check")
	must(t, unix.Mknod(filepath.Join(l.src, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	up := l.upload("")
	if up.WarningCount != 2 {
		t.Errorf("warnings %q, want two", up.Warnings)
	}
	must(t, os.Mkdir(filepath.Join(l.dst, "lost+found"), 0o700))
	l.restore(up.Snapshot, "")
	if _, err := os.Stat(filepath.Join(l.dst, "lost+found")); err != nil {
		t.Errorf("the target's lost+found is gone: %v", err)
	}
}

// TestPlantedLinks puts symbolic links that lead outside where a restore is going to write.
func TestPlantedLinks(t *testing.T) {
	long(t)
	for _, content := range []bool{false, true} {
		l := newLab(t)
		l.write("f", "file")
		l.write("d/e/g", "deep")
		first := l.upload("")
		l.restore(first.Snapshot, "")
		outside := t.TempDir()
		victim := filepath.Join(outside, "f")
		must(t, os.WriteFile(victim, []byte("not yours"), 0o600))
		must(t, os.Mkdir(filepath.Join(outside, "e"), 0o700))
		before := describe(t, outside)
		must(t, os.RemoveAll(filepath.Join(l.dst, "d")))
		must(t, os.Remove(filepath.Join(l.dst, "f")))
		must(t, os.Symlink(outside, filepath.Join(l.dst, "d")))
		must(t, os.Symlink(victim, filepath.Join(l.dst, "f")))
		must(t, os.Symlink(outside, filepath.Join(l.dst, "extra")))
		l.write("f", "file 2")
		second := l.upload(first.Snapshot)
		_, err := l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot, Content: content})
		must(t, err)
		l.equal()
		if d := diff(before, describe(t, outside)); d != "" {
			t.Errorf("content=%v: what lies outside changed:\n%s", content, d)
		}
	}
}

// TestNamesThatLeadOut opens names that a damaged repository could hold.
func TestNamesThatLeadOut(t *testing.T) {
	here := t.TempDir()
	must(t, os.Symlink("/etc", filepath.Join(here, "link")))
	must(t, os.Symlink("self", filepath.Join(here, "self")))
	d := must1(openRoot(here))
	defer d.close()
	for _, name := range []string{"link", "self"} {
		if sub, err := d.openDir(name); err == nil {
			sub.close()
			t.Errorf("the link %q was followed", name)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "/etc", "a\x00b"} {
		if fd, err := d.open(name, unix.O_RDONLY, 0); err == nil {
			unix.Close(fd)
			t.Errorf("%q was opened", name)
		}
		e := (&node{name: name, kind: kindFile}).encode(nil)
		if _, err := e.decode(); err == nil {
			t.Errorf("%q was accepted from a snapshot", name)
		}
	}
}

// TestDamageOnTheTarget changes files of the target without a trace in size or time.
func TestDamageOnTheTarget(t *testing.T) {
	l := newLab(t)
	l.keepOpen()
	big := strings.Repeat("0123456789abcdef", 5*pieceSize/16)
	l.write("big", big)
	l.write("small", "right")
	must(t, os.Symlink("right", filepath.Join(l.src, "s")))
	up := l.upload("")
	l.restore(up.Snapshot, "")
	p := filepath.Join(l.dst, "big")
	st := must1(os.Stat(p))
	must(t, os.WriteFile(p, []byte(strings.Replace(big, "cdef", "CDEF", 1)), 0o644))
	must(t, os.Chtimes(p, st.ModTime(), st.ModTime()))
	v, err := l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot, Held: up.Snapshot, Content: true})
	must(t, err)
	l.equal()
	if v.ChangedFiles != 1 || v.UnchangedFiles != 1 {
		t.Errorf("rewrote %d files and left %d, want 1 and 1", v.ChangedFiles, v.UnchangedFiles)
	}
	must(t, os.WriteFile(filepath.Join(l.dst, "small"), []byte("wrong"), 0o644))
	l.restore(up.Snapshot, up.Snapshot) // its time gives it away
	l.equal()
}

// TestFullTarget restores into a file system that is too small.
func TestFullTarget(t *testing.T) {
	long(t)
	l := newLab(t)
	if err := unix.Mount("tmpfs", l.dst, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(l.dst, unix.MNT_DETACH) })
	l.write("dir/fits", "small")
	must(t, os.WriteFile(filepath.Join(l.src, "dir/huge"), bytes.Repeat([]byte("not zero"), 1<<19), 0o644))
	up := l.upload("")
	_, err := l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot})
	reasonIs(t, err, ReasonNoSpace)
	if !strings.Contains(err.Error(), "dir/huge") {
		t.Errorf("the error does not name the file: %v", err)
	}
	must(t, os.Remove(filepath.Join(l.src, "dir/huge")))
	second := l.upload(up.Snapshot)
	_, err = l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: "", Content: true})
	must(t, err)
	l.equal()
}

// TestSparseFilesStaySparse restores a large file with little in it.
func TestSparseFilesStaySparse(t *testing.T) {
	long(t)
	l := newLab(t)
	f := must1(os.Create(filepath.Join(l.src, "sparse")))
	must1(f.WriteAt([]byte("x"), 100<<20))
	must(t, f.Close())
	up := l.upload("")
	l.restore(up.Snapshot, "")
	l.equal()
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(l.dst, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the target takes %d bytes", st.Blocks*512)
	}
}

// TestCancelled stops a run and expects to be told so.
func TestCancelled(t *testing.T) {
	l := newLab(t)
	for i := range 50 {
		l.write(fmt.Sprint(i), strings.Repeat("x", 1000))
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.opts.afterRead = func(string) { cancel() }
	req := withOp(l.req, OpUpload)
	req.Volumes = []VolumeRequest{{Name: "shop/data", Path: l.src}}
	_, err := run(ctx, req, l.opts)
	reasonIs(t, err, ReasonCancelled)
}

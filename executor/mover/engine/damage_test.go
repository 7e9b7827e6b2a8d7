package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// packs lists the repository's packs: of files ("p") or of directories ("q").
func (l *lab) packs(prefix string) (files []string) {
	l.t.Helper()
	place := must1(l.opts.openStore(Repository{}, secrets{})).(fileStore).path
	must(l.t, filepath.WalkDir(place, func(p string, e fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(place, p); err == nil && e.Type().IsRegular() && strings.HasPrefix(rel, prefix) {
			files = append(files, p)
		}
		return err
	}))
	if len(files) == 0 {
		l.t.Fatalf("the repository has no pack %s", prefix)
	}
	return files
}

// TestDamagedRepository damages packs of a repository: the restore says so in one word, whatever it
// reads, and does not call the target complete.
func TestDamagedRepository(t *testing.T) {
	damages := map[string]func(t *testing.T, p string){
		"missing": func(t *testing.T, p string) { must(t, os.Remove(p)) },
		"cut":     func(t *testing.T, p string) { must(t, os.Truncate(p, 40)) },
		"overwritten": func(t *testing.T, p string) {
			i := must1(os.Stat(p))
			must(t, os.WriteFile(p, bytes.Repeat([]byte("?"), int(i.Size())), 0o600))
		},
	}
	for name, damage := range damages {
		for _, prefix := range []string{"p", "q"} {
			for _, files := range []string{"large", "small"} {
				t.Run(fmt.Sprintf("%s %s of a %s file", name, prefix, files), func(t *testing.T) {
					long(t)
					l := newLab(t)
					if l.write("d/f", "small"); files == "large" {
						must(t, os.WriteFile(filepath.Join(l.src, "d/f"), noise(1, 20*pieceSize), 0o600))
					}
					up := l.upload("")
					for _, p := range l.packs(prefix) {
						damage(t, p)
					}
					l.req.CacheDir += "-of-another-pod"
					v, err := l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot, Verify: VerifyAll})
					reasonIs(t, err, ReasonRepositoryDamaged)
					if v.Snapshot != "" || v.Verified != nil {
						t.Errorf("the target is called complete: %+v", v)
					}
				})
			}
		}
	}
}

// TestFullInTheMiddleOfAFile runs out of space while a file is changed in place; with more space a
// repetition mends it.
func TestFullInTheMiddleOfAFile(t *testing.T) {
	l := newLab(t)
	l.keepOpen()
	if err := unix.Mount("tmpfs", l.dst, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(l.dst, unix.MNT_DETACH) })
	f := must1(os.Create(filepath.Join(l.src, "f")))
	defer f.Close()
	must1(f.WriteAt(noise(1, 10*pieceSize), 0))
	must(t, f.Truncate(60*pieceSize))
	first := l.upload("")
	l.restore(first.Snapshot, "")
	l.equal()
	for i := range int64(50) { // a little everywhere, and more in all than fits
		must1(f.WriteAt(noise(i, pieceSize), i*pieceSize))
	}
	second := l.upload(first.Snapshot)
	v, err := l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot})
	reasonIs(t, err, ReasonNoSpace)
	if v.Snapshot != "" || v.WrittenBytes == 0 {
		t.Errorf("the restore says %+v", v)
	}
	must(t, unix.Mount("tmpfs", l.dst, "tmpfs", unix.MS_REMOUNT, "size=20m"))
	v, err = l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Content: true, Verify: VerifyAll})
	must(t, err)
	l.equal()
	if v.Verified.Errors != 0 {
		t.Errorf("verification found %q", v.Verified.First)
	}
}

// TestDirectoryThatBecameALinkOut replaces a directory of the source by a link that leads out of the
// volume, and puts it back: nothing outside may change, by neither restore.
func TestDirectoryThatBecameALinkOut(t *testing.T) {
	for _, content := range []bool{false, true} {
		l := newLab(t)
		l.keepOpen()
		l.write("d/e/f", "inside")
		must(t, os.WriteFile(filepath.Join(l.src, "d/big"), noise(1, 9*pieceSize), 0o600))
		outside := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(outside, "e"), 0o700))
		for _, p := range []string{"e/f", "big"} {
			must(t, os.WriteFile(filepath.Join(outside, p), []byte("not yours"), 0o600))
		}
		before := describe(t, outside)
		held := ""
		step := func() {
			t.Helper()
			up := l.upload(held)
			_, err := l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot, Held: held, Content: content})
			must(t, err)
			l.equal()
			if d := diff(before, describe(t, outside)); d != "" {
				t.Fatalf("content=%v: what lies outside changed:\n%s", content, d)
			}
			held = up.Snapshot
		}
		step()
		must(t, os.Rename(filepath.Join(l.src, "d"), filepath.Join(l.src, "moved")))
		must(t, os.Symlink(outside, filepath.Join(l.src, "d")))
		step()
		must(t, os.Remove(filepath.Join(l.src, "d")))
		must(t, os.Rename(filepath.Join(l.src, "moved"), filepath.Join(l.src, "d")))
		must(t, os.WriteFile(filepath.Join(l.src, "d/big"), noise(2, 9*pieceSize), 0o600))
		step()
	}
}

// TestPathsAtTheLimits copies a tree that is deeper than a path may be long, in names that are no
// UTF-8 and as long as names can be.
func TestPathsAtTheLimits(t *testing.T) {
	l := newLab(t)
	l.keepOpen()
	name := strings.Repeat("\xe9", 255)
	make := func(root, text string) {
		d := must1(openRoot(root))
		for range 20 { // 5,100 bytes; the kernel takes 4,096 in one call
			if err := unix.Mkdirat(d.fd, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
				t.Fatal(err)
			}
			next := must1(d.openDir(name))
			d.close()
			d = next
		}
		defer d.close()
		fd := must1(unix.Openat(d.fd, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o600))
		must1(unix.Write(fd, []byte(text)))
		must(t, unix.Close(fd))
	}
	read := func(root string) string {
		d := must1(openRoot(root))
		defer func() { d.close() }()
		for range 20 {
			next, err := d.openDir(name)
			must(t, err)
			d.close()
			d = next
		}
		fd, err := unix.Openat(d.fd, "f", unix.O_RDONLY, 0)
		must(t, err)
		defer unix.Close(fd)
		buf := [64]byte{}
		return string(buf[:must1(unix.Read(fd, buf[:]))])
	}
	make(l.src, "first")
	first := l.upload("")
	l.restore(first.Snapshot, "")
	make(l.src, "second!")
	second := l.upload(first.Snapshot)
	v, err := l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot, Verify: VerifyChanged})
	must(t, err)
	if got := read(l.dst); got != "second!" || v.Verified.Errors != 0 || v.Verified.Files != 1 {
		t.Errorf("the target has %q, verified %+v", got, v.Verified)
	}
	for _, root := range []string{l.src, l.dst} { // the test's own clean-up cannot reach so deep
		d := must1(openRoot(root))
		must(t, d.removeAll(name, func() {}))
		d.close()
	}
}

package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// damage changes an entry of the target behind the back of its record: size and time stay.
func (l *lab) damage(rel string, change func(p string)) {
	l.t.Helper()
	p := filepath.Join(l.dst, rel)
	var st unix.Stat_t
	must(l.t, unix.Lstat(p, &st))
	change(p)
	times := []unix.Timespec{st.Atim, st.Mtim}
	must(l.t, unix.UtimesNanoAt(unix.AT_FDCWD, p, times, unix.AT_SYMLINK_NOFOLLOW))
}

func (l *lab) flip(at int64) func(p string) {
	return func(p string) {
		f := must1(os.OpenFile(p, os.O_RDWR, 0))
		defer f.Close()
		b := make([]byte, 1)
		must1(f.ReadAt(b, at))
		b[0] ^= 1
		must1(f.WriteAt(b, at))
	}
}

// verifyTree is what the tests of verification copy.
func verifyTree(l *lab) {
	must(l.t, os.WriteFile(filepath.Join(l.src, "big"), noise(1, 70*pieceSize+5), 0o644))
	l.write("d/small", "small")
	l.write("d/other", "other")
	l.link("d/other", "linked")
	must(l.t, os.Symlink("small", filepath.Join(l.src, "d/s")))
	must(l.t, unix.Mkfifo(filepath.Join(l.src, "d/p"), 0o600))
	must(l.t, unix.Setxattr(filepath.Join(l.src, "d/small"), "user.k", []byte("v"), 0))
	f := must1(os.Create(filepath.Join(l.src, "sparse")))
	must(l.t, f.Truncate(20*pieceSize))
	must(l.t, f.Close())
}

// TestVerifyFindsEveryDamage damages a target that a restore has every reason to trust.
func TestVerifyFindsEveryDamage(t *testing.T) {
	cases := map[string]struct {
		rel    string
		change func(l *lab, p string)
		want   string
	}{
		"a bit of a large file": {"big", func(l *lab, p string) { l.flip(69*pieceSize + 3)(p) }, fmt.Sprintf("from byte %d on, in 1 of 71", 69*pieceSize)},
		"its last byte":         {"big", func(l *lab, p string) { l.flip(70*pieceSize + 4)(p) }, "in 1 of 71"},
		"a bit of a small file": {"d/small", func(l *lab, p string) { l.flip(2)(p) }, "in 1 of 1"},
		"a byte in a hole":      {"sparse", func(l *lab, p string) { l.flip(7 * pieceSize)(p) }, "in 1 of 20"},
		"an attribute": {"d/small", func(l *lab, p string) {
			must(l.t, unix.Setxattr(p, "user.k", []byte("w"), 0))
		}, "user.k"},
		"the target of a link": {"d/s", func(l *lab, p string) {
			must(l.t, os.Remove(p))
			must(l.t, os.Symlink("other", p))
		}, "points to"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.keepOpen()
			verifyTree(l)
			up := l.upload("")
			v, err := l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot, Verify: VerifyAll})
			must(t, err)
			if v.Verified == nil || v.Verified.Errors != 0 || !v.Verified.Complete || v.Verified.Files != 4 {
				t.Fatalf("a good copy: %+v", v.Verified)
			}
			l.damage(c.rel, func(p string) { c.change(l, p) })
			v, err = l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot, Held: up.Snapshot, Verify: VerifyAll})
			must(t, err)
			if v.Verified.Errors != 1 || !strings.Contains(v.Verified.First[0], c.want) {
				t.Fatalf("found %+v, want one error that says %q", v.Verified, c.want)
			}
			v, err = l.run(OpRestore, VolumeRequest{Snapshot: up.Snapshot, Content: true, Verify: VerifyAll})
			must(t, err)
			if v.Verified.Errors != 0 {
				t.Fatalf("not mended by a restore that compares: %+v", v.Verified)
			}
			l.equal()
		})
	}
}

// TestVerifyComparesMetadata looks at a target without mending it first.
func TestVerifyComparesMetadata(t *testing.T) {
	l := newLab(t)
	l.keepOpen()
	verifyTree(l)
	up := l.upload("")
	l.restore(up.Snapshot, "")
	at := func(rel string) string { return filepath.Join(l.dst, rel) }
	must(t, os.Chmod(at("d/small"), 0o4600))
	must(t, os.Chown(at("big"), 12, 34))
	must(t, os.Remove(at("d/p")))
	must(t, os.WriteFile(at("more"), nil, 0o600))
	l.damage("linked", func(p string) {
		must(t, os.Remove(p))
		must(t, os.WriteFile(p, []byte("other"), 0o644))
	})
	must(t, os.Chmod(l.dst, 0o711))
	found := l.verifyOnly(up.Snapshot)
	for _, want := range []string{`"d/small" has mode 600`, `"big" belongs to 12:34`, `"d/p" is missing`, `"more" is on the target only`, `"/" has mode 711`, `"d" has the time`, "a file of its own"} {
		if !strings.Contains(strings.Join(found.First, "\n"), want) {
			t.Errorf("nothing says %s:\n%s", want, strings.Join(found.First, "\n"))
		}
	}
	if found.Errors != 7 {
		t.Errorf("%d errors, want 7: %q", found.Errors, found.First)
	}
}

// verifyOnly compares the target as it is.
func (l *lab) verifyOnly(id string) *Verified {
	l.t.Helper()
	ctx := l.t.(*testing.T).Context()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s := &session{options: l.opts, repo: l.open, pool: newPool(0, stop)}
	root := must1(openRoot(l.dst))
	defer root.close()
	c := &counters{}
	r := &restorer{session: s, objects: newObjects(l.open, &c.fetched), root: root, count: c, warn: &warnings{}}
	m, err := s.manifest(ctx, "shop/data", id)
	must(l.t, err)
	found, err := r.verify(ctx, VerifyAll, m)
	must(l.t, err)
	return found
}

// TestVerifyChangedReadsWhatWasWritten damages a file right after it was written, and one that was
// not: only the first is looked at.
func TestVerifyChangedReadsWhatWasWritten(t *testing.T) {
	l := newLab(t)
	l.keepOpen()
	verifyTree(l)
	first := l.upload("")
	l.restore(first.Snapshot, "")
	l.write("d/small", "SMALL")
	must(t, os.Chmod(filepath.Join(l.src, "big"), 0o600))
	l.link("d/other", "third")
	second := l.upload(first.Snapshot)
	l.damage("sparse", l.flip(3))
	l.opts.afterWrite = func(rel string) {
		if rel == "d/small" {
			l.damage(rel, l.flip(1))
		}
	}
	v, err := l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot, Verify: VerifyChanged})
	must(t, err)
	if v.Verified.Complete || v.Verified.Errors != 1 || !strings.Contains(v.Verified.First[0], "d/small") || v.Verified.Files != 3 {
		t.Fatalf("found %+v, want one error in three files", v.Verified)
	}
}

// TestVerifyMoreThanIsRemembered writes more entries than are remembered: then all is read back.
func TestVerifyMoreThanIsRemembered(t *testing.T) {
	r := &restorer{}
	r.writes.wanted = true
	for range maxRemembered + 10 {
		r.writes.add("x", nil)
	}
	if n := len(r.writes.entries); n != maxRemembered+1 {
		t.Fatalf("%d entries are remembered", n)
	}
}

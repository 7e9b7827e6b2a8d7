package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// change is one case: what is there first, what happens to it, and what must be true beyond equality.
type change struct {
	name          string
	before, after func(l *lab)
	check         func(t *testing.T, l *lab, up, down VolumeResult)
}

// TestChangesTheLibraryLoses has the seven cases in which the library's own incremental restore
// leaves the target different without an error (or fails for ever), as one table.
func TestChangesTheLibraryLoses(t *testing.T) {
	when := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, c := range slices.Concat(lostContent(when), lostTypes(when), ownCases(when)) {
		t.Run(c.name, c.run)
	}
}

// lostContent has the cases in which content, mode or target of an entry changes.
func lostContent(when time.Time) []change {
	return []change{
		{
			name:   "1 same size, mtime 1.5 s later, other content",
			before: func(l *lab) { l.write("f", "old bytes"); l.setTime("f", when) },
			after:  func(l *lab) { l.write("f", "new bytes"); l.setTime("f", when.Add(1500*time.Millisecond)) },
		},
		{
			name:   "2 a chmod alone",
			before: func(l *lab) { l.write("f", "x"); l.write("d/g", "y") },
			after: func(l *lab) {
				must(l.t, os.Chmod(filepath.Join(l.src, "f"), 0o600|os.ModeSetuid))
				must(l.t, os.Chmod(filepath.Join(l.src, "d"), 0o711|os.ModeSticky))
			},
			check: func(t *testing.T, _ *lab, _, down VolumeResult) {
				if down.WrittenBytes != 0 || down.ChangedMetadata != 2 {
					t.Errorf("wrote %d bytes and changed the metadata of %d entries, want 0 and 2", down.WrittenBytes, down.ChangedMetadata)
				}
			},
		},
		{
			name:   "3 a re-pointed symlink",
			before: func(l *lab) { must(l.t, os.Symlink("v1", filepath.Join(l.src, "current"))) },
			after: func(l *lab) {
				must(l.t, os.Remove(filepath.Join(l.src, "current")))
				must(l.t, os.Symlink("v2", filepath.Join(l.src, "current")))
			},
		},
		{
			name: "4 a symlink that became a file",
			before: func(l *lab) {
				l.write("precious", "must stay")
				must(l.t, os.Symlink("precious", filepath.Join(l.src, "link")))
			},
			after: func(l *lab) {
				must(l.t, os.Remove(filepath.Join(l.src, "link")))
				l.write("link", "a file now")
			},
			check: func(t *testing.T, l *lab, _, _ VolumeResult) {
				if b, err := os.ReadFile(filepath.Join(l.dst, "precious")); err != nil || string(b) != "must stay" {
					t.Errorf("the link was written through: %q, %v", b, err)
				}
			},
		},
	}
}

// lostTypes has the cases of names, times and types.
func lostTypes(when time.Time) []change {
	return []change{
		{
			name:   "5 CACHEDIR.TAG, .kopiaignore and placeholder names are ordinary files",
			before: func(*lab) {},
			after: func(l *lab) {
				l.write("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n")
				l.write("cache/data", "kept")
				l.write(".kopiaignore", "*.log\n")
				l.write("a.log", "kept too")
				l.write("x.kopia-entry", "no placeholder")
				l.write("y.kopia-entry/z", "no placeholder either")
			},
		},
		{
			name:   "6 same size and mtime, other content",
			before: func(l *lab) { l.write("f", "old bytes"); l.setTime("f", when) },
			after:  func(l *lab) { l.write("f", "new bytes"); l.setTime("f", when) },
			check: func(t *testing.T, _ *lab, up, _ VolumeResult) {
				if up.ChangedFiles != 1 {
					t.Errorf("%d files were read again, want 1", up.ChangedFiles)
				}
			},
		},
		{
			name:   "7 a file that became a symlink",
			before: func(l *lab) { l.write("f", "x"); l.write("t", "target") },
			after: func(l *lab) {
				must(l.t, os.Remove(filepath.Join(l.src, "f")))
				must(l.t, os.Symlink("t", filepath.Join(l.src, "f")))
			},
		},
	}
}

// ownCases has what the library cannot copy at all.
func ownCases(when time.Time) []change {
	return []change{
		{
			name:   "an owner takes setuid and capabilities with it",
			before: func(l *lab) { l.privileged(0) },
			after:  func(l *lab) { l.privileged(1000) },
		},
		{
			name: "hard links form, part and change",
			before: func(l *lab) {
				l.write("a", "1")
				l.write("g", "3")
				for _, names := range [][2]string{{"a", "b"}, {"a", "c"}, {"g", "h"}} {
					l.link(names[0], names[1])
				}
				l.write("d", "2")
				l.write("e", "2")
				l.setTime("a", when)
			},
			after: func(l *lab) {
				must(l.t, os.Remove(filepath.Join(l.src, "b"))) // b: equal to a and c but for its mode
				l.write("b", "1")
				must(l.t, os.Chmod(filepath.Join(l.src, "b"), 0o600))
				l.setTime("b", when)
				must(l.t, os.Remove(filepath.Join(l.src, "e")))
				l.link("d", "e")
				l.write("g", "changed behind both names")
			},
		},
	}
}

// privileged makes a file setuid and another one capable, which every chown undoes.
func (l *lab) privileged(owner int) {
	l.write("su", "x")
	l.write("cap", "x")
	for _, f := range []string{"su", "cap"} {
		must(l.t, os.Chown(filepath.Join(l.src, f), owner, owner))
	}
	must(l.t, os.Chmod(filepath.Join(l.src, "su"), 0o755|os.ModeSetuid))
	raw := "\x01\x00\x00\x02" + "\x00\x04\x00\x00" + strings.Repeat("\x00", 12) // cap_net_bind_service=ep
	must(l.t, unix.Setxattr(filepath.Join(l.src, "cap"), "security.capability", []byte(raw), 0))
}

func (l *lab) link(from, to string) {
	l.t.Helper()
	must(l.t, os.Link(filepath.Join(l.src, from), filepath.Join(l.src, to)))
}

func (c change) run(t *testing.T) {
	l := newLab(t)
	l.keepOpen()
	l.write("untouched", "stays as it is")
	c.before(l)
	first := l.upload("")
	l.restore(first.Snapshot, "")
	l.equal()
	c.after(l)
	up := l.upload(first.Snapshot)
	down := l.restore(up.Snapshot, first.Snapshot)
	l.equal()
	if up.UnchangedFiles == 0 || down.UnchangedFiles == 0 {
		t.Errorf("nothing was left alone: upload %+v, restore %+v", up, down)
	}
	if c.check != nil {
		c.check(t, l, up, down)
	}
	again := l.restore(up.Snapshot, up.Snapshot)
	if again.ChangedFiles+again.ChangedMetadata+again.DeletedEntries+again.WrittenBytes != 0 {
		t.Errorf("restoring what is held changed the target: %+v", again)
	}
}

// TestMappedWriterIsReadAgain writes through a mapping, takes a snapshot while the page is mapped,
// and stores once more: only a sync before the walk makes the second store move the change time.
func TestMappedWriterIsReadAgain(t *testing.T) {
	l := newLab(t)
	l.write("mapped", strings.Repeat("-", 8192))
	f, err := os.OpenFile(filepath.Join(l.src, "mapped"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mem)
	mem[0] = 'a'
	first := l.upload("")
	mem[1] = 'b' // no restore in between: it would sync the file system, too
	second := l.upload(first.Snapshot)
	l.restore(second.Snapshot, "")
	l.equal()
}

// TestYoungFilesAreReadAgain: a change time that is not older than the parent by the margin proves
// nothing, for a second change in the same tick of the clock would have the same time.
func TestYoungFilesAreReadAgain(t *testing.T) {
	l := newLab(t)
	l.write("f", "x")
	l.opts.margin = time.Hour
	first := l.upload("")
	if second := l.upload(first.Snapshot); second.ChangedFiles != 1 {
		t.Errorf("%d files were read again, want 1", second.ChangedFiles)
	}
	l.opts.margin = testMargin
	if third := l.upload(first.Snapshot); third.ChangedFiles != 0 {
		t.Errorf("%d files were read again, want none", third.ChangedFiles)
	}
}

// TestSourceStaysUntouched takes snapshots and compares everything a reader could move.
func TestSourceStaysUntouched(t *testing.T) {
	l := newLab(t)
	l.write("d/f", "content")
	must(t, os.Symlink("f", filepath.Join(l.src, "d/s")))
	must(t, unix.Mkfifo(filepath.Join(l.src, "p"), 0o600))
	must(t, os.Chmod(filepath.Join(l.src, "d/f"), 0o4750))
	stats := func() map[string]syscall.Stat_t {
		out := map[string]syscall.Stat_t{}
		must(t, filepath.Walk(l.src, func(p string, i os.FileInfo, err error) error {
			st := *i.Sys().(*syscall.Stat_t)
			if i.Mode()&os.ModeSymlink != 0 {
				st.Atim = syscall.Timespec{} // the kernel has no way to read a link without moving it
			}
			out[p] = st
			return err
		}))
		return out
	}
	stats() // this walk itself moves the access times of directories, once
	before := stats()
	first := l.upload("")
	l.upload(first.Snapshot)
	for p, have := range stats() {
		if have != before[p] {
			t.Errorf("%s changed:\n%+v\n%+v", p, before[p], have)
		}
	}
}

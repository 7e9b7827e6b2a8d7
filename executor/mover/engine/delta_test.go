package engine

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// deltaPieces is how large the file of these tests is.
const deltaPieces = 60

// deltaCase is a change of one large file, and how many of its pieces it may move.
type deltaCase struct {
	name    string
	change  func(l *lab, f *os.File)
	written int64 // bytes
	// kept says that the target's file must be the same inode as before.
	kept bool
}

func deltaCases() []deltaCase {
	const last = deltaPieces * pieceSize
	return []deltaCase{
		{"a page", func(_ *lab, f *os.File) { must1(f.WriteAt([]byte("page"), 5*pieceSize+8192)) }, pieceSize, true},
		{"two pages of one piece", func(_ *lab, f *os.File) {
			must1(f.WriteAt([]byte("page"), 7*pieceSize))
			must1(f.WriteAt([]byte("page"), 8*pieceSize-4))
		}, pieceSize, true},
		{"scattered pages", func(_ *lab, f *os.File) {
			for i := range int64(20) {
				must1(f.WriteAt([]byte("page"), i*3*pieceSize+4096))
			}
		}, 20 * pieceSize, true},
		{"an append", func(_ *lab, f *os.File) { must1(f.WriteAt([]byte("tail"), last)) }, 4, true},
		{"an append far behind", func(_ *lab, f *os.File) { must1(f.WriteAt([]byte("tail"), last+100*pieceSize)) }, 4, true},
		{"a short last piece grows", func(l *lab, f *os.File) { must(l.t, f.Truncate(last+10)) }, 0, true},
		{"cut in the middle of a piece", func(l *lab, f *os.File) { must(l.t, f.Truncate(last/2+77)) }, 77, true},
		{"cut to a small file", func(l *lab, f *os.File) { must(l.t, f.Truncate(100)) }, 100, false},
		{"a hole", func(l *lab, f *os.File) {
			must(l.t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 10*pieceSize, 20*pieceSize))
		}, 0, true},
		{"everything", func(_ *lab, f *os.File) { must1(f.WriteAt(noise(9, last), 0)) }, last, true},
		{"setuid, capabilities and a page", func(l *lab, f *os.File) {
			must1(f.WriteAt([]byte("page"), 0))
			must(l.t, f.Chmod(0o755|os.ModeSetuid))
			must(l.t, unix.Fsetxattr(int(f.Fd()), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00"+string(make([]byte, 12))), 0))
		}, pieceSize, true},
	}
}

func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

func inode(t *testing.T, p string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(p, &st))
	return st.Ino
}

// TestOnlyTheDifferenceIsMoved changes parts of a large file and counts what the restore writes: with
// a record to trust, and by content.
func TestOnlyTheDifferenceIsMoved(t *testing.T) {
	long(t)
	for _, c := range deltaCases() {
		for _, content := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, content=%v", c.name, content), func(t *testing.T) {
				c.run(t, content)
			})
		}
	}
}

func (c deltaCase) run(t *testing.T, content bool) {
	l := newLab(t)
	l.keepOpen()
	src, dst := filepath.Join(l.src, "f"), filepath.Join(l.dst, "f")
	must(t, os.WriteFile(src, noise(1, deltaPieces*pieceSize), 0o644))
	must(t, os.Link(src, filepath.Join(l.src, "linked")))
	first := l.upload("")
	l.restore(first.Snapshot, "")
	l.equal()
	was := inode(t, dst)
	f := must1(os.OpenFile(src, os.O_RDWR, 0))
	c.change(l, f)
	must(t, f.Close())
	second := l.upload(first.Snapshot)
	v, err := l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot, Content: content})
	must(t, err)
	l.equal()
	l.nothingLeft(second.Snapshot)
	if v.WrittenBytes > c.written || (!content && v.WrittenBytes < c.written) { // by content, even less can differ
		t.Errorf("wrote %d bytes, want %d", v.WrittenBytes, c.written)
	}
	if limit := c.written + c.written/5 + 4096; v.FetchedBytes > limit {
		t.Errorf("fetched %d bytes for %d", v.FetchedBytes, c.written)
	}
	if !content && v.ReadBytes != 0 {
		t.Errorf("read %d bytes although there is a record to trust", v.ReadBytes)
	}
	if kept := inode(t, dst) == was; kept != c.kept {
		t.Errorf("the file was kept: %v, want %v", kept, c.kept)
	}
	var st unix.Stat_t
	must(t, unix.Stat(src, &st))
	want := st.Blocks
	must(t, unix.Stat(dst, &st))
	if st.Blocks > want+64 {
		t.Errorf("the target's file takes %d blocks and the source's %d", st.Blocks, want)
	}
}

// TestLinkedAwayFileIsNotPatchedThrough changes a large file whose inode on the target is also that
// of another file of the snapshot: what is written for the one must not be seen in the other.
func TestLinkedAwayFileIsNotPatchedThrough(t *testing.T) {
	for _, content := range []bool{false, true} {
		l := newLab(t)
		l.keepOpen()
		must(t, os.WriteFile(filepath.Join(l.src, "a"), noise(1, 5*pieceSize), 0o644))
		l.link("a", "b")
		l.link("a", "c")
		first := l.upload("")
		l.restore(first.Snapshot, "")
		data := noise(1, 5*pieceSize)
		must(t, os.Remove(filepath.Join(l.src, "b")))
		must(t, os.WriteFile(filepath.Join(l.src, "b"), data, 0o644))
		copy(data[3*pieceSize:], "changed behind a and c only")
		f := must1(os.OpenFile(filepath.Join(l.src, "a"), os.O_WRONLY, 0))
		must1(f.WriteAt(data, 0))
		must(t, f.Close())
		second := l.upload(first.Snapshot)
		_, err := l.run(OpRestore, VolumeRequest{Snapshot: second.Snapshot, Held: first.Snapshot, Content: content})
		must(t, err)
		l.equal()
	}
}

// TestFileSystemWithoutHoles writes zeros where no hole can be punched.
func TestFileSystemWithoutHoles(t *testing.T) {
	l := newLab(t)
	if err := unix.Mount("ramfs", l.dst, "ramfs", 0, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(l.dst, unix.MNT_DETACH) })
	if err := holeIn(t, l.dst); err == nil {
		t.Skip("ramfs has learned to punch holes")
	}
	data := noise(1, 6*pieceSize)
	must(t, os.WriteFile(filepath.Join(l.src, "f"), data, 0o644))
	first := l.upload("")
	l.restore(first.Snapshot, "")
	copy(data[2*pieceSize:], make([]byte, 2*pieceSize))
	must(t, os.WriteFile(filepath.Join(l.src, "f"), data, 0o644))
	second := l.upload(first.Snapshot)
	v := l.restore(second.Snapshot, first.Snapshot)
	if got := must1(os.ReadFile(filepath.Join(l.dst, "f"))); !bytes.Equal(got, data) {
		t.Error("the zeros did not arrive")
	}
	if v.WrittenBytes != 2*pieceSize {
		t.Errorf("wrote %d bytes, want the two pieces of zeros", v.WrittenBytes)
	}
}

func holeIn(t *testing.T, dir string) error {
	t.Helper()
	f := must1(os.Create(filepath.Join(dir, "probe")))
	defer os.Remove(f.Name())
	defer f.Close()
	must(t, f.Truncate(8192))
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
}

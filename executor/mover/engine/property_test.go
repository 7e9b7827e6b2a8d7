package engine

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// oddNames are what programs and people call files.
func oddNames() []string {
	return []string{
		"a", "b", "c", "d", "new\nline", "caf\xe9", "\xff\xfe", "übung", " ", "-rf", "..a", "\"q\"", `"\xff\xfe"`,
		"%2f", "back\\slash", ".kopiaignore", "CACHEDIR.TAG", "x.kopia-entry", "\u2028", "<&>", strings.Repeat("n", 255),
	}
}

// mutator changes a tree at random.
type mutator struct {
	t    testing.TB
	rnd  *rand.Rand
	root string
}

// pick returns a random path below the root of an entry that ok accepts, or "".
func (m *mutator) pick(ok func(os.FileInfo) bool) string {
	var all []string
	_ = filepath.Walk(m.root, func(p string, i os.FileInfo, err error) error {
		if err == nil && (ok == nil || ok(i)) && p != m.root {
			all = append(all, p)
		}
		return nil
	})
	if len(all) == 0 {
		return ""
	}
	return all[m.rnd.Intn(len(all))]
}

func isDir(i os.FileInfo) bool  { return i.IsDir() }
func isFile(i os.FileInfo) bool { return i.Mode().IsRegular() }

// place returns a path that may or may not exist, in a random directory.
func (m *mutator) place() string {
	dir := m.pick(isDir)
	if dir == "" || m.rnd.Intn(3) == 0 {
		dir = m.root
	}
	names := oddNames()
	return filepath.Join(dir, names[m.rnd.Intn(len(names))])
}

func (m *mutator) bytes() []byte {
	sizes := []int{0, 1, 10, 4096, pieceSize - 1, pieceSize, pieceSize + 1, 3*pieceSize + 17, 12 * pieceSize}
	b := make([]byte, sizes[m.rnd.Intn(len(sizes))])
	if m.rnd.Intn(4) > 0 {
		m.rnd.Read(b)
	}
	return b
}

// step makes one change. What cannot be done where it lands is not done: another step will.
func (m *mutator) step() {
	steps := []func(){
		m.writeNew, m.writeNew, m.rewriteInPlace, m.rewriteKeepingTimes, m.appendTo, m.makeDir, m.makeDir, m.makeLink,
		m.hardLink, m.hardLink, m.fifo, m.socket, m.remove, m.rename, m.chmod, m.chown, m.touch, m.attr, m.acl, m.swap, m.writePages, m.writePages, m.resize, m.blank,
	}
	steps[m.rnd.Intn(len(steps))]()
}

// free says whether a file can be written at p: nothing is there, or a regular file. A mutator must
// neither follow a link out of its tree nor wait for the other end of a FIFO.
func free(p string) bool {
	i, err := os.Lstat(p)
	return os.IsNotExist(err) || (err == nil && i.Mode().IsRegular())
}

func (m *mutator) writeNew() {
	if p := m.place(); free(p) {
		_ = os.WriteFile(p, m.bytes(), 0o644)
	}
}

func (m *mutator) makeDir() {
	if p := m.place(); free(p) {
		_ = os.MkdirAll(filepath.Join(p, "deep", "er"), 0o755)
	}
}

func (m *mutator) fifo() { _ = unix.Mkfifo(m.place(), 0o640) }

func (m *mutator) socket() { _ = unix.Mknod(m.place(), unix.S_IFSOCK|0o751, 0) }

func (m *mutator) rewriteInPlace() {
	p := m.pick(isFile)
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if i, _ := f.Stat(); i.Size() > 0 {
		_, _ = f.WriteAt([]byte{byte(m.rnd.Int())}, m.rnd.Int63n(i.Size()))
	}
}

func (m *mutator) rewriteKeepingTimes() {
	p := m.pick(isFile)
	if i, err := os.Lstat(p); err == nil {
		m.rewriteInPlaceOf(p)
		_ = os.Chtimes(p, i.ModTime(), i.ModTime())
	}
}

func (m *mutator) rewriteInPlaceOf(p string) {
	b, err := os.ReadFile(p)
	if err != nil || len(b) == 0 {
		return
	}
	b[m.rnd.Intn(len(b))] ^= 0x55
	_ = os.WriteFile(p, b, 0)
}

func (m *mutator) appendTo() {
	p := m.pick(isFile)
	if f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0); err == nil {
		_, _ = f.Write([]byte("more"))
		f.Close()
	}
}

// open opens a random file for writing in place; nil if there is none.
func (m *mutator) open() (*os.File, int64) {
	f, err := os.OpenFile(m.pick(isFile), os.O_RDWR, 0)
	if err != nil {
		return nil, 0
	}
	i, err := f.Stat()
	must(m.t, err)
	return f, i.Size()
}

// writePages writes some pages in place, as a database does.
func (m *mutator) writePages() {
	f, size := m.open()
	if f == nil || size == 0 {
		return
	}
	defer f.Close()
	for range 1 + m.rnd.Intn(4) {
		page := make([]byte, 8192)
		m.rnd.Read(page)
		_, _ = f.WriteAt(page, m.rnd.Int63n(size)&^8191)
	}
}

// resize cuts a file or lets it grow by a hole.
func (m *mutator) resize() {
	if f, size := m.open(); f != nil {
		defer f.Close()
		_ = f.Truncate(m.rnd.Int63n(2*size + pieceSize))
	}
}

// blank makes a part of a file zeros, as a hole or written out.
func (m *mutator) blank() {
	f, size := m.open()
	if f == nil || size == 0 {
		return
	}
	defer f.Close()
	at, n := m.rnd.Int63n(size), 1+m.rnd.Int63n(3*pieceSize)
	if m.rnd.Intn(2) == 0 {
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
		return
	}
	_, _ = f.WriteAt(make([]byte, n), at)
}

func (m *mutator) makeLink() {
	p, targets := m.place(), []string{"a", "../b", "/absolute/nowhere", "nowhere\xff", strings.Repeat("l", 300)}
	_ = os.Remove(p)
	_ = os.Symlink(targets[m.rnd.Intn(len(targets))], p)
}

func (m *mutator) hardLink() {
	from, to := m.pick(isFile), m.place()
	if from == "" || from == to {
		return
	}
	_ = os.Remove(to)
	_ = os.Link(from, to)
}

func (m *mutator) remove() {
	if p := m.pick(nil); p != "" {
		_ = os.RemoveAll(p)
	}
}

func (m *mutator) rename() {
	if p := m.pick(nil); p != "" {
		_ = os.Rename(p, m.place())
	}
}

func (m *mutator) chmod() {
	modes := []uint32{0o644, 0o600, 0o4755, 0o2770, 0o1777, 0o000, 0o7777}
	if p := m.pick(func(i os.FileInfo) bool { return i.Mode()&os.ModeSymlink == 0 }); p != "" {
		_ = unix.Chmod(p, modes[m.rnd.Intn(len(modes))])
	}
}

func (m *mutator) chown() {
	if p := m.pick(nil); p != "" {
		_ = os.Lchown(p, m.rnd.Intn(3)*1000, m.rnd.Intn(3)*999)
	}
}

func (m *mutator) touch() {
	p := m.pick(nil)
	if p == "" {
		return
	}
	t := unix.Timespec{Sec: m.rnd.Int63n(1<<32) - 1<<30, Nsec: m.rnd.Int63n(1e9)}
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

func (m *mutator) attr() {
	p, name := m.pick(func(i os.FileInfo) bool { return isDir(i) || isFile(i) }), fmt.Sprintf("user.k%d", m.rnd.Intn(3))
	if p == "" {
		return
	}
	if m.rnd.Intn(3) == 0 {
		_ = unix.Lremovexattr(p, name)
		return
	}
	_ = unix.Lsetxattr(p, name, m.bytes()[:0:0], 0)
	_ = unix.Lsetxattr(p, name, []byte{byte(m.rnd.Int()), 0, 0xff}, 0)
}

// acl sets an ACL with a named user, on directories also as the default for what is created there.
func (m *mutator) acl() {
	p := m.pick(func(i os.FileInfo) bool { return isDir(i) || isFile(i) })
	if p == "" {
		return
	}
	raw := []byte("\x02\x00\x00\x00" + // version; then tag, permissions, id
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x05\x00\xe8\x03\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
		"\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")
	_ = unix.Lsetxattr(p, "system.posix_acl_access", raw, 0)
	if m.rnd.Intn(2) == 0 {
		_ = unix.Lsetxattr(p, "system.posix_acl_default", raw, 0)
	}
}

// swap puts something of another type in the place of an entry.
func (m *mutator) swap() {
	p := m.pick(nil)
	if p == "" {
		return
	}
	_ = os.RemoveAll(p)
	switch m.rnd.Intn(4) {
	case 0:
		_ = os.WriteFile(p, m.bytes(), 0o600)
	case 1:
		_ = os.MkdirAll(filepath.Join(p, "sub"), 0o700)
	case 2:
		_ = os.Symlink("elsewhere", p)
	default:
		_ = unix.Mkfifo(p, 0o600)
	}
}

func (m *mutator) steps(n int) {
	for range n {
		m.step()
	}
}

// rounds is how many rounds each seed of a property test runs.
func rounds(t *testing.T) (seeds, each int) {
	if testing.Short() {
		return 2, 3
	}
	return 6, 6
}

// TestTargetEqualsSource is the property: whatever happens to a source between snapshots, an
// incremental restore makes the target equal to it; and whatever happens to the target, a restore
// that compares content does.
func TestTargetEqualsSource(t *testing.T) {
	seeds, each := rounds(t)
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.keepOpen()
			rnd := rand.New(rand.NewSource(int64(seed)))
			source := &mutator{t: t, rnd: rnd, root: l.src}
			target := &mutator{t: t, rnd: rnd, root: l.dst}
			source.steps(60)
			held := ""
			for round := range each {
				t.Logf("round %d", round)
				up := l.upload(held)
				if rnd.Intn(3) == 0 {
					target.steps(15)
					l.restoreByContent(up.Snapshot, held)
				} else {
					l.restore(up.Snapshot, held)
				}
				l.equal()
				l.nothingLeft(up.Snapshot)
				held = up.Snapshot
				source.steps(1 + rnd.Intn(25))
			}
		})
	}
}

// restoreByContent restores as the daemon does after a damage: with Content, or with nothing known.
func (l *lab) restoreByContent(snapshot, held string) {
	l.t.Helper()
	v := VolumeRequest{Snapshot: snapshot, Held: held, Content: true, Verify: VerifyAll}
	if time.Now().UnixNano()%2 == 0 {
		v = VolumeRequest{Snapshot: snapshot, Verify: VerifyChanged}
	}
	res, err := l.run(OpRestore, v)
	must(l.t, err)
	if res.Verified.Errors > 0 {
		l.t.Errorf("verification found %q", res.Verified.First)
	}
}

// nothingLeft checks that a second restore of the same snapshot finds nothing to do.
func (l *lab) nothingLeft(snapshot string) {
	l.t.Helper()
	v := l.restore(snapshot, snapshot)
	if v.ChangedFiles+v.ChangedMetadata+v.DeletedEntries+v.WrittenBytes != 0 {
		l.t.Fatalf("a second restore changed the target: %+v", v)
	}
}

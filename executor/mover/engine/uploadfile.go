package engine

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// sectionSize is how much of a device one task reads; a multiple of pieceSize, so that the pieces are
// the same however it was read.
const sectionSize = 32 << 20

// file uploads a regular file, or takes its content over from the parent.
func (u *uploader) file(ctx context.Context, d *dir, n *node, st *unix.Stat_t, was *node, rel string) error {
	read := func() (*node, error) { return n, u.readIfChanged(ctx, d, n, was, rel) }
	if st.Nlink > 1 {
		n.links = u.linkGroup(st)
		read = func() (*node, error) { return u.readLinked(ctx, d, n, was, rel) }
	}
	first, err := read()
	if un, ok := unsettledBy(err); err != nil && !(ok && un.whole) {
		return err
	}
	if first != n {
		// Another path of the same file was read: one file has one content and one set of metadata.
		name := n.name
		*n = *first
		n.name = name
	} else {
		u.count.disk.Add(st.Blocks * 512) // st_blocks has this unit on every file system
	}
	u.count.files.Add(1)
	u.count.bytes.Add(n.size)
	return err
}

// linkGroup names the inode; the device matters only where another file system is mounted inside.
func (u *uploader) linkGroup(st *unix.Stat_t) string {
	key := strconv.FormatUint(st.Ino, 10)
	if uint64(st.Dev) != u.rootDev {
		key += fmt.Sprintf("@%x", st.Dev)
	}
	return key
}

// readLinked reads the file behind the first of its paths that comes along.
func (u *uploader) readLinked(ctx context.Context, d *dir, n, was *node, rel string) (*node, error) {
	u.mu.Lock()
	l := u.links[n.links]
	if l == nil {
		l = &linkedRead{}
		u.links[n.links] = l
	}
	u.mu.Unlock()
	var err error
	l.once.Do(func() {
		err = u.readIfChanged(ctx, d, n, was, rel)
		if un, ok := unsettledBy(err); ok && un.whole { // all of its paths get what was read once
			u.warn.add("%s", un.what)
			err = nil
		}
		if err == nil {
			l.node = n
		}
	})
	if err != nil {
		return nil, err
	}
	if l.node == nil { // the first path vanished or failed: this one stands for itself
		return n, u.readIfChanged(ctx, d, n, was, rel)
	}
	return l.node, nil
}

// readIfChanged is the rule of what counts as unchanged; see the package's documentation.
func (u *uploader) readIfChanged(ctx context.Context, d *dir, n, was *node, rel string) error {
	if was != nil && was.kind == kindFile && was.size == n.size && was.mtime == n.mtime &&
		was.ctime == n.ctime && was.inode == n.inode && before(n.ctime, u.parentAt) && u.reachable(ctx, was) {
		n.object, n.attrs = was.object, was.attrs
		u.count.unchanged.Add(1)
		return nil
	}
	u.count.changed.Add(1)
	if u.peer != nil {
		defer u.peer.remember(rel, was)()
	}
	return u.readFile(ctx, d, n, rel)
}

// reachable says whether whoever restores this snapshot has the content of an unchanged file, or can
// read it: what went straight to the target is not in the repository.
func (u *uploader) reachable(ctx context.Context, was *node) bool {
	if u.peer != nil {
		return true // the target holds the parent
	}
	hollow, err := u.objects.hollow(ctx, was.object, was.size)
	return err == nil && !hollow
}

func before(a, b unix.Timespec) bool {
	return a.Sec < b.Sec || (a.Sec == b.Sec && a.Nsec < b.Nsec)
}

// readFile stores the content and the attributes of a file.
func (u *uploader) readFile(ctx context.Context, d *dir, n *node, rel string) error {
	fd, err := d.openRead(n.name, unix.O_NONBLOCK)
	if err != nil {
		return u.lost(err, "open", rel)
	}
	f := os.NewFile(uintptr(fd), rel)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return sourceFailed(err, "look at", rel)
	}
	if kindOf(st.Mode) != kindFile {
		return u.changing(fmt.Sprintf("%q was replaced while it was read", rel), false)
	}
	opened := nodeOf(n.name, &st)
	opened.links = n.links
	*n = *opened
	if n.attrs, err = attrsOfFD(fd).read(); err != nil {
		return sourceFailed(err, "read the attributes of", rel)
	}
	size := n.size
	if n.object, n.size, err = u.content(ctx, f, &st, rel); err != nil {
		return err
	}
	u.afterRead(rel)
	if err := unix.Fstat(fd, &st); err != nil {
		return sourceFailed(err, "look at", rel)
	}
	if st.Size != size || n.size != size || st.Mtim != n.mtime || st.Ctim != n.ctime {
		return u.changing(fmt.Sprintf("%q changed while it was read", rel), true)
	}
	return nil
}

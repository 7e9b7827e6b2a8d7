package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sys/unix"
)

const (
	// sectionSize is how much of a large file one task reads; a multiple of pieceSize, so that the
	// pieces are the same however the file was read.
	sectionSize = 32 << 20
	readBuffer  = 1 << 20
)

// file uploads a regular file, or takes its content over from the parent.
func (u *uploader) file(ctx context.Context, d *dir, n *node, st *unix.Stat_t, was *node, rel string) error {
	read := func() (*node, error) { return n, u.readIfChanged(ctx, d, n, was, rel) }
	if st.Nlink > 1 {
		n.links = u.linkGroup(st)
		read = func() (*node, error) { return u.readLinked(ctx, d, n, was, rel) }
	}
	first, err := read()
	if err != nil {
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
	return nil
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
		if err = u.readIfChanged(ctx, d, n, was, rel); err == nil {
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
		was.ctime == n.ctime && was.inode == n.inode && before(n.ctime, u.parentAt) {
		n.object, n.attrs = was.object, was.attrs
		u.count.unchanged.Add(1)
		return nil
	}
	u.count.changed.Add(1)
	return u.readFile(ctx, d, n, rel)
}

func before(a, b unix.Timespec) bool {
	return a.Sec < b.Sec || (a.Sec == b.Sec && a.Nsec < b.Nsec)
}

// readFile stores the content and the attributes of a file.
func (u *uploader) readFile(ctx context.Context, d *dir, n *node, rel string) error {
	fd, err := d.openRead(n.name, unix.O_NONBLOCK)
	if err != nil {
		return u.lostOrSkip(err, "open", rel)
	}
	f := os.NewFile(uintptr(fd), rel)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return sourceFailed(err, "look at", rel)
	}
	if kindOf(st.Mode) != kindFile {
		if err := u.changing(fmt.Sprintf("%q was replaced while it was read", rel)); err != nil {
			return err
		}
		return errSkipped
	}
	opened := nodeOf(n.name, &st)
	opened.links = n.links
	*n = *opened
	if n.attrs, err = attrsOfFD(fd).read(); err != nil {
		return sourceFailed(err, "read the attributes of", rel)
	}
	size := n.size
	if n.object, n.size, err = u.content(ctx, f, size, rel); err != nil {
		return err
	}
	u.afterRead(rel)
	if err := unix.Fstat(fd, &st); err != nil {
		return sourceFailed(err, "look at", rel)
	}
	if st.Size != size || n.size != size || st.Mtim != n.mtime || st.Ctim != n.ctime {
		return u.changing(fmt.Sprintf("%q changed while it was read", rel))
	}
	return nil
}

// content stores size bytes of f, a large file in several sections at once.
func (u *uploader) content(ctx context.Context, f *os.File, size int64, rel string) (object.ID, int64, error) {
	if size <= 2*sectionSize {
		return u.section(ctx, f, 0, size, rel)
	}
	n := int((size + sectionSize - 1) / sectionSize)
	ids, got := make([]object.ID, n), make([]int64, n)
	g := u.pool.group()
	for i := range n {
		g.do(func() (err error) {
			start := int64(i) * sectionSize
			ids[i], got[i], err = u.section(ctx, f, start, min(sectionSize, size-start), rel)
			return err
		})
	}
	if err := g.wait(ctx); err != nil {
		return object.EmptyID, 0, err
	}
	return u.concatenate(ctx, ids, got, rel)
}

// concatenate joins sections. A file that became shorter while it was read ends at its first short
// section.
func (u *uploader) concatenate(ctx context.Context, ids []object.ID, got []int64, rel string) (object.ID, int64, error) {
	var total int64
	for i, n := range got {
		total += n
		if n < sectionSize {
			if ids = ids[:i+1]; n == 0 && i > 0 {
				ids = ids[:i]
			}
			break
		}
	}
	id, err := u.w.ConcatenateObjects(ctx, ids, repo.ConcatenateOptions{Compressor: metadataCompressor})
	if err != nil {
		return object.EmptyID, 0, storeFailed(err, "cannot store file %q", rel)
	}
	return id, total, nil
}

// section stores a part of f and says how many bytes there were to read.
func (u *uploader) section(ctx context.Context, f *os.File, start, length int64, rel string) (object.ID, int64, error) {
	opts := object.WriterOptions{MetadataCompressor: metadataCompressor}
	if length > 4*pieceSize {
		opts.AsyncWrites = 1 // read the next piece while one is hashed and encrypted
	}
	w := u.w.NewObjectWriter(ctx, opts)
	defer w.Close()
	buf := make([]byte, min(max(length, 1), readBuffer))
	var n int64
	for n < length {
		if ctx.Err() != nil {
			return object.EmptyID, 0, context.Cause(ctx)
		}
		k, err := f.ReadAt(buf[:min(int64(len(buf)), length-n)], start+n)
		if _, werr := w.Write(buf[:k]); werr != nil {
			return object.EmptyID, 0, storeFailed(werr, "cannot store file %q", rel)
		}
		n += int64(k)
		u.count.read.Add(int64(k))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return object.EmptyID, 0, sourceFailed(err, "read", rel)
		}
	}
	id, err := w.Result()
	if err != nil {
		return object.EmptyID, 0, storeFailed(err, "cannot store file %q", rel)
	}
	return id, n, nil
}

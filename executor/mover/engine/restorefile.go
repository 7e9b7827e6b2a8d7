package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"sync"

	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sys/unix"
)

// file makes a regular file equal to want. key names who asks, among the paths of one inode.
func (r *restorer) file(ctx context.Context, d *dir, want, was *node, have *unix.Stat_t, key, rel string) error {
	if have != nil && !r.mayKeep(have, key) {
		// The target's entry shares its inode with a path that is another file in the snapshot: what
		// is done to the one would be done to the other, so this one becomes a file of its own.
		was, have = nil, nil
	}
	same, err := r.sameContent(ctx, d, want, was, have, rel)
	if err != nil {
		return err
	}
	if same {
		r.count.unchanged.Add(1)
		return r.counted(r.fixOpened(d, want, was, have, rel))
	}
	if err := r.writeFile(ctx, d, was, want, rel); err != nil {
		return err
	}
	r.count.changed.Add(1)
	r.afterWrite(rel)
	return nil
}

// mayKeep says whether a path may keep the inode it has on the target. The first of several paths
// to ask may, and those that are the same file in the snapshot with it.
func (r *restorer) mayKeep(have *unix.Stat_t, key string) bool {
	if have.Nlink < 2 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	owner, ok := r.owners[have.Ino]
	if !ok {
		r.owners[have.Ino] = key
	}
	return !ok || owner == key
}

// sameContent says whether the target's file holds the wanted bytes already.
func (r *restorer) sameContent(ctx context.Context, d *dir, want, was *node, have *unix.Stat_t, rel string) (bool, error) {
	switch {
	case have == nil, have.Size != want.size:
		return false, nil
	case was != nil:
		return was.object == want.object, nil
	case want.size == 0:
		return true, nil
	}
	f, err := openFile(d, want.name, rel)
	if err != nil {
		return false, err
	}
	defer f.Close()
	pieces, err := r.objects.pieces(ctx, want.object, want.size)
	if err != nil {
		return false, storeFailed(err, "cannot read file %q of the snapshot", rel)
	}
	buf := make([]byte, min(want.size, pieceSize))
	for _, p := range pieces {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if p.Length > int64(len(buf)) {
			buf = make([]byte, p.Length)
		}
		n, err := f.ReadAt(buf[:p.Length], p.Start)
		r.count.read.Add(int64(n))
		if err != nil && err != io.EOF {
			return false, targetFailed(err, "read", rel)
		}
		same, err := r.objects.is(ctx, p.Object, buf[:n])
		if err != nil {
			return false, storeFailed(err, "cannot compare file %q", rel)
		}
		if !same || int64(n) != p.Length {
			return false, nil
		}
	}
	return true, nil
}

// writeFile gives the name of want in d the content and the metadata of want. old is what the target
// holds there by the record, nil if that is unknown: with it a later version can touch only the
// pieces that differ. This version writes a whole new file beside and renames it over the old one.
func (r *restorer) writeFile(ctx context.Context, d *dir, old, want *node, rel string) error {
	_ = old
	fd := -1
	temp, err := d.temp(func(name string) (err error) {
		fd, err = d.open(name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600)
		return err
	})
	if err != nil {
		return targetFailed(err, "create file", rel)
	}
	f := os.NewFile(uintptr(fd), rel)
	err = r.fill(ctx, f, want, rel)
	if err == nil {
		_, err = r.fixFD(int(f.Fd()), want, true, rel)
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = targetFailed(cerr, "write file", rel)
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd, temp, 0)
		return err
	}
	if err := d.replace(temp, want.name); err != nil {
		return targetFailed(err, "replace file", rel)
	}
	return nil
}

// fill writes the content of want into an empty file, sections of a large one at once.
func (r *restorer) fill(ctx context.Context, f *os.File, want *node, rel string) error {
	if want.size == 0 {
		return nil
	}
	pieces, err := r.objects.pieces(ctx, want.object, want.size)
	if err != nil {
		return storeFailed(err, "cannot read file %q of the snapshot", rel)
	}
	if err := f.Truncate(want.size); err != nil {
		return targetFailed(err, "set the size of file", rel)
	}
	if len(pieces) == 1 {
		return r.copyPieces(ctx, f, pieces, rel)
	}
	const perSection = sectionSize / pieceSize
	g := r.pool.group()
	for len(pieces) > 0 && ctx.Err() == nil {
		part := pieces[:min(perSection, len(pieces))]
		pieces = pieces[len(part):]
		g.do(func() error { return r.copyPieces(ctx, f, part, rel) })
	}
	return g.wait(ctx)
}

// copyPieces writes pieces to their places. A piece of zeros is left a hole: files that were sparse
// on the source must fit into a target of the same size.
func (r *restorer) copyPieces(ctx context.Context, f *os.File, pieces []object.IndirectObjectEntry, rel string) error {
	for _, p := range pieces {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		data, err := r.objects.read(ctx, p.Object, p.Length)
		if err != nil {
			return storeFailed(err, "cannot read file %q of the snapshot", rel)
		}
		r.count.written.Add(p.Length)
		if allZero(data) {
			continue
		}
		if _, err := f.WriteAt(data, p.Start); err != nil {
			return targetFailed(err, "write file", rel)
		}
	}
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// linkedWrite is a file with several paths: the first to come is written, the others are linked.
type linkedWrite struct {
	once sync.Once
	rel  string // "" until the first path is there
	ino  uint64
	err  error
}

// linkedFile makes a path of a file with several paths.
func (r *restorer) linkedFile(ctx context.Context, d *dir, want, was *node, have *unix.Stat_t, rel string) error {
	r.mu.Lock()
	l := r.links[want.links]
	if l == nil {
		l = &linkedWrite{}
		r.links[want.links] = l
	}
	r.mu.Unlock()
	l.once.Do(func() {
		if l.err = r.file(ctx, d, want, was, have, "links:"+want.links, rel); l.err != nil {
			return
		}
		st, err := d.stat(want.name)
		if err != nil {
			l.err = targetFailed(err, "look at", rel)
			return
		}
		l.rel, l.ino = rel, st.Ino
	})
	if l.err != nil || l.rel == rel {
		return l.err
	}
	if have != nil && have.Ino == l.ino {
		r.count.unchanged.Add(1)
		return nil
	}
	if err := r.link(d, want.name, l.rel); err != nil {
		return targetFailed(err, fmt.Sprintf("link %q to", l.rel), rel)
	}
	r.count.changed.Add(1)
	return nil
}

// link makes name in d another path of the file at rel.
func (r *restorer) link(d *dir, name, rel string) error {
	parent, err := r.root.walk(path.Dir("/" + rel))
	if err != nil {
		return err
	}
	defer parent.close()
	temp, err := d.temp(func(temp string) error {
		return unix.Linkat(parent.fd, path.Base(rel), d.fd, temp, 0)
	})
	if err != nil {
		return err
	}
	return d.replace(temp, name)
}

package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

// file makes a regular file equal to want. key names who asks, among the paths of one inode.
func (r *restorer) file(ctx context.Context, d *dir, want, was *node, have *unix.Stat_t, key, rel string) error {
	if have != nil && !r.mayKeep(have, key) {
		// The target's entry shares its inode with a path that is another file in the snapshot: what
		// is done to the one would be done to the other, so this one becomes a file of its own.
		was, have = nil, nil
	}
	if arrived, err := r.arrivals.holds(ctx, want, have, rel); err != nil {
		return storeFailed(err, "cannot read file %q of the snapshot", rel)
	} else if arrived {
		r.count.changed.Add(1)
		r.writes.add(rel, want)
		_, err := r.fixOpened(d, want, nil, have, rel)
		return err
	}
	same, err := r.content(ctx, d, want, was, have, rel)
	if err != nil {
		return err
	}
	if same {
		r.count.unchanged.Add(1)
		changed, err := r.fixOpened(d, want, was, have, rel)
		return r.counted(want, rel, changed, err)
	}
	r.count.changed.Add(1)
	r.writes.add(rel, want)
	r.afterWrite(rel)
	return nil
}

// content brings the wanted bytes to the target, and with them the metadata. same says that they
// were there: then nothing was done.
func (r *restorer) content(ctx context.Context, d *dir, want, was *node, have *unix.Stat_t, rel string) (same bool, err error) {
	switch {
	case have == nil:
	case was != nil && was.object == want.object, want.size == 0 && have.Size == 0:
		return true, nil
	case worthPatching(want, have):
		changed, handled, err := r.patchFile(ctx, d, want, was, rel)
		if err != nil || handled {
			return !changed, err
		}
	case was == nil && have.Size == want.size:
		if same, err := r.sameBytes(ctx, d, want, rel); err != nil || same {
			return same, err
		}
	}
	return false, r.writeFile(ctx, d, want, rel)
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

// sameBytes says whether the target's file, which is a small one, holds the wanted bytes.
func (r *restorer) sameBytes(ctx context.Context, d *dir, want *node, rel string) (bool, error) {
	f, err := openFile(d, want.name, rel)
	if err != nil {
		return false, err
	}
	defer f.Close()
	pieces, err := r.objects.pieces(ctx, want.object, want.size)
	if err != nil {
		return false, storeFailed(err, "cannot read file %q of the snapshot", rel)
	}
	p := &patch{r: r, f: f, want: want, rel: rel, size: want.size, read: &r.count.read}
	for _, e := range pieces {
		if same, err := p.holds(ctx, e, make([]byte, e.Length)); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// writeFile writes a whole new file with the content and the metadata of want beside its place and
// renames it over what is there.
func (r *restorer) writeFile(ctx context.Context, d *dir, want *node, rel string) error {
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

// fill writes the content of want into an empty file. A piece of zeros is left a hole: files that
// were sparse on the source must fit into a target of the same size.
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
	r.objects.announce(ctx, pieces)
	p := &patch{r: r, f: f, want: want, rel: rel}
	return r.inSections(ctx, pieces, p.putAll)
}

func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
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
	r.writes.add(rel, want)
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

package engine

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/kopia/kopia/snapshot"
	"golang.org/x/sys/unix"
)

// Verify says how much of a restored volume is read back from its disk and compared.
type Verify string

// What is verified.
const (
	VerifyNothing Verify = ""
	// VerifyChanged reads back what this run wrote.
	VerifyChanged Verify = "changed"
	// VerifyAll reads every file back.
	VerifyAll Verify = "all"
)

// Verified is what reading a volume back found. The checksums are the names of the snapshot's pieces,
// keyed BLAKE3 of the bytes that were read on the source. The kernel is told to forget what it has of
// each file before, so that the bytes come from the disk.
type Verified struct {
	// Complete says that every entry was verified, and not only what this run wrote.
	Complete bool `json:"complete,omitempty"`
	// Files and Bytes were read back and compared.
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
	// Errors counts entries that differ from the snapshot, and First has the first 20 of them.
	Errors     int64    `json:"errors,omitempty"`
	First      []string `json:"first,omitempty"`
	DurationMS int64    `json:"durationMs"`
}

// maxRemembered is how many written entries are remembered for verification; of more, everything is
// verified, which takes no memory.
const maxRemembered = 50_000

// writes remembers what a restore wrote.
type writes struct {
	mu      sync.Mutex
	wanted  bool
	entries []written
}

type written struct {
	rel  string
	node *node
}

func (w *writes) add(rel string, n *node) {
	if !w.wanted {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.entries) <= maxRemembered {
		w.entries = append(w.entries, written{rel, n})
	}
}

// verifier compares a target with a snapshot and changes nothing.
type verifier struct {
	*restorer
	mu    sync.Mutex
	out   Verified
	links map[string]uint64 // groups of paths whose file was compared, with its inode
}

// verify compares the target, which has been synced, with the snapshot. What differs is in the
// answer; an error means that it could not be found out.
func (r *restorer) verify(ctx context.Context, how Verify, m *snapshot.Manifest) (*Verified, error) {
	v := &verifier{restorer: r, links: map[string]uint64{}}
	begin := time.Now()
	var err error
	if v.out.Complete = how == VerifyAll || len(r.writes.entries) > maxRemembered; v.out.Complete {
		err = v.all(ctx, m)
	} else {
		err = v.written(ctx)
	}
	v.out.DurationMS = time.Since(begin).Milliseconds()
	return &v.out, err
}

func (v *verifier) all(ctx context.Context, m *snapshot.Manifest) error {
	n, t, err := v.rootOf(ctx, m)
	if err != nil {
		return err
	}
	if err := v.directory(ctx, v.root, t, ""); err != nil {
		return err
	}
	v.rootEntry(n)
	return nil
}

func (v *verifier) rootEntry(n *node) {
	st := &unix.Stat_t{}
	err := unix.Fstat(v.root.fd, st)
	v.metadata(n, st, attrsOfFD(v.root.fd), err, "/")
}

// written compares what this run wrote, entry by entry.
func (v *verifier) written(ctx context.Context) error {
	g := v.pool.group()
	for _, w := range v.writes.entries {
		if ctx.Err() != nil {
			break
		}
		if w.rel == "" {
			v.rootEntry(w.node)
			continue
		}
		g.do(func() error {
			d, err := v.root.walk(path.Dir("/" + w.rel))
			if err != nil {
				v.wrong(w.rel, "cannot be reached: %v", err)
				return nil
			}
			defer d.close()
			_, err = v.entry(ctx, d, w.node, w.rel)
			return err
		})
	}
	return g.wait(ctx)
}

// directory compares everything below d.
func (v *verifier) directory(ctx context.Context, d *dir, want *tree, rel string) error {
	names, err := d.names()
	if err != nil {
		v.wrong(rel, "cannot be listed: %v", err)
		return nil
	}
	for _, name := range names {
		if want.child(name) == nil && (rel != "" || name != lostFound) {
			v.wrong(join(rel, name), "is on the target only")
		}
	}
	g := v.pool.group()
	for _, n := range want.nodes {
		if ctx.Err() != nil {
			break
		}
		g.do(func() error {
			rel := join(rel, n.name)
			same, err := v.entry(ctx, d, n, rel)
			if err != nil || !same || n.kind != kindDir {
				return err
			}
			sub, err := d.openDir(n.name)
			if err != nil {
				v.wrong(rel, "cannot be opened: %v", err)
				return nil
			}
			defer sub.close()
			t, err := readTree(ctx, v.repo, n.object)
			if err != nil {
				return v.unreadable(err, rel)
			}
			return v.directory(ctx, sub, t, rel)
		})
	}
	return g.wait(ctx)
}

// entry compares one name, a directory without what is in it. there says that it is of the right kind.
func (v *verifier) entry(ctx context.Context, d *dir, n *node, rel string) (there bool, err error) {
	v.count.step()
	st, err := d.stat(n.name)
	if !v.metadata(n, st, attrsOfName(d, n.name), err, rel) {
		return false, nil
	}
	switch n.kind {
	case kindSymlink:
		to, err := d.readlink(n.name)
		if err != nil {
			v.wrong(rel, "cannot be read: %v", err)
			return true, nil
		}
		same, err := v.objects.is(ctx, n.object, []byte(to))
		if err != nil {
			return true, storeFailed(err, "cannot compare the link %q", rel)
		}
		if !same {
			v.wrong(rel, "points to %q", to)
		}
	case kindFile:
		return true, v.file(ctx, d, n, st, rel)
	}
	return true, nil
}

// metadata compares everything but the content; there is false if that makes no sense to compare.
func (v *verifier) metadata(n *node, st *unix.Stat_t, attrs attrTarget, err error, rel string) (there bool) {
	switch {
	case errors.Is(err, unix.ENOENT):
		v.wrong(rel, "is missing")
		return false
	case err != nil:
		v.wrong(rel, "cannot be looked at: %v", err)
		return false
	case kindOf(st.Mode) != n.kind:
		v.wrong(rel, "is of another type: its mode is %o", st.Mode)
		return false
	case ownerDiffers(st, n):
		v.wrong(rel, "belongs to %d:%d and should to %d:%d", st.Uid, st.Gid, n.uid, n.gid)
	case n.kind != kindSymlink && modeDiffers(st, n):
		v.wrong(rel, "has mode %o and should have %o", st.Mode&0o7777, n.perm)
	case !roundedTo(st.Mtim, n.mtime):
		v.wrong(rel, "has the time %d.%09d and should have %d.%09d", st.Mtim.Sec, st.Mtim.Nsec, n.mtime.Sec, n.mtime.Nsec)
	default:
		if have, err := attrs.read(); err != nil {
			v.wrong(rel, "has attributes that cannot be read: %v", err)
		} else if !have.equal(n.attrs) {
			v.wrong(rel, "has other extended attributes: %v", attrNames(have, n.attrs))
		}
	}
	return true
}

// attrNames are the names of attributes that differ.
func attrNames(have, want xattrs) (names []string) {
	for name, value := range want {
		if h, ok := have[name]; !ok || string(h) != string(value) {
			names = append(names, name)
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// file compares the content of a file; of one with several paths, once.
func (v *verifier) file(ctx context.Context, d *dir, n *node, st *unix.Stat_t, rel string) error {
	if n.links != "" {
		v.mu.Lock()
		ino, seen := v.links[n.links]
		v.links[n.links] = st.Ino
		v.mu.Unlock()
		if seen {
			if ino != st.Ino {
				v.wrong(rel, "is a file of its own and should be another path of one")
			}
			return nil
		}
	}
	if st.Size != n.size {
		v.wrong(rel, "has %d bytes and should have %d", st.Size, n.size)
		return nil
	}
	v.count.verifiedFiles.Add(1)
	if n.size == 0 {
		return nil
	}
	f, err := openFile(d, n.name, rel)
	if err != nil {
		v.wrong(rel, "cannot be opened: %v", err)
		return nil
	}
	defer f.Close()
	// A file system that keeps what it has read all the same costs nothing but the proof that it is on
	// the disk, and there is no other way to ask for it.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	pieces, err := v.objects.pieces(ctx, n.object, n.size)
	if err != nil {
		return storeFailed(err, "cannot read file %q of the snapshot", rel)
	}
	p := &patch{r: v.restorer, f: f, want: n, rel: rel, size: n.size, read: &v.count.verifiedBytes}
	switch other, err := p.compared(ctx, pieces); {
	case err != nil && reasonOf(err) == ReasonWriteFailed:
		v.wrong(rel, "cannot be read back: %v", err)
	case err != nil:
		return err
	case len(other) > 0:
		v.wrong(rel, "differs from byte %d on, in %d of %d pieces", other[0].Start, len(other), len(pieces))
	}
	return nil
}

// wrong notes an entry that is not as it should be.
func (v *verifier) wrong(rel, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Errors++
	if len(v.out.First) < maxWarnings {
		v.out.First = append(v.out.First, fmt.Sprintf("%q ", rel)+fmt.Sprintf(format, args...))
	}
}

package engine

import (
	"context"
	"errors"
	"os"
	"sort"
	"sync"

	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"golang.org/x/sys/unix"
)

// restorer makes one target equal to one snapshot.
type restorer struct {
	*session
	objects *objects
	// arrivals is what came straight from the source; nil without a direct transfer.
	arrivals *arrivals
	root     *dir
	count    *counters
	warn     *warnings
	writes   writes

	mu     sync.Mutex
	links  map[string]*linkedWrite
	owners map[uint64]string // who may keep an inode of the target that has several paths
}

// restore makes a volume equal to a snapshot and returns its ID.
func (s *session) restore(ctx context.Context, v VolumeRequest, c *counters, w *warnings) (string, error) {
	if v.Mode == ModeBlock {
		return s.restoreBlock(ctx, v, c, w)
	}
	return s.restoreWith(ctx, v, nil, c, w)
}

// restoreWith restores a snapshot of which a part has arrived already; a may be nil.
func (s *session) restoreWith(ctx context.Context, v VolumeRequest, a *arrivals, c *counters, w *warnings) (string, error) {
	want, err := s.manifest(ctx, v.Name, v.Snapshot)
	if err != nil {
		return "", err
	}
	root, err := openRoot(v.Path)
	if err != nil {
		return "", fail(ReasonWriteFailed, err, "cannot open the target directory %s", v.Path)
	}
	defer root.close()
	r := &restorer{
		session: s, objects: newObjects(s.repo, &c.fetched), arrivals: a, root: root, count: c, warn: w,
		links: map[string]*linkedWrite{}, owners: map[uint64]string{},
	}
	r.writes.wanted = v.Verify == VerifyChanged
	if err := r.tree(ctx, v, want); err != nil {
		return "", err
	}
	// The claim is about to be recorded as clean: everything has to be on the disk before that.
	if err := c.synced(ctx, root.fd, unix.Syncfs); err != nil {
		return "", targetFailed(err, "sync the file system of", v.Path)
	}
	if v.Verify != VerifyNothing {
		found, err := r.verify(ctx, v.Verify, want)
		if err != nil {
			return "", err
		}
		c.verified.Store(found)
	}
	return v.Snapshot, nil
}

// tree restores everything below the root and then the root itself.
func (r *restorer) tree(ctx context.Context, v VolumeRequest, m *snapshot.Manifest) error {
	wantRoot, want, err := r.rootOf(ctx, m)
	if err != nil {
		return err
	}
	heldRoot, held := r.held(ctx, v)
	if err := r.directory(ctx, r.root, want, held, ""); err != nil {
		return err
	}
	return r.finishDir(r.root, wantRoot, heldRoot, "")
}

func (r *restorer) rootOf(ctx context.Context, m *snapshot.Manifest) (*node, *tree, error) {
	t, err := readTree(ctx, r.repo, m.RootEntry.ObjectID)
	if err != nil {
		return nil, nil, r.unreadable(err, "")
	}
	e := &wireEntry{DirEntry: *m.RootEntry, Extra: t.self}
	n, err := e.rootNode()
	if err != nil {
		return nil, nil, fail(ReasonSnapshotUnknown, err, "the root of snapshot %q cannot be restored", m.ID)
	}
	return n, t, nil
}

// rootNode decodes the entry of a root, whose name is none.
func (e *wireEntry) rootNode() (*node, error) {
	named := *e
	named.Name = "root"
	return named.decode()
}

// held loads the snapshot that the target is said to hold; nil makes every file be compared by its
// content. A snapshot that cannot be used costs time, not data.
func (r *restorer) held(ctx context.Context, v VolumeRequest) (*node, *tree) {
	if v.Held == "" || v.Content {
		return nil, nil
	}
	m, err := r.manifest(ctx, v.Name, v.Held)
	if err == nil {
		var (
			n *node
			t *tree
		)
		if n, t, err = r.rootOf(ctx, m); err == nil {
			return n, t
		}
	}
	r.warn.add("every file is compared: the snapshot that the target holds cannot be used: %v", err)
	return nil, nil
}

// unreadable wraps an error met while loading a directory of the snapshot.
func (r *restorer) unreadable(err error, rel string) error {
	if errors.Is(err, errUnknownSnapshot) {
		return fail(ReasonSnapshotUnknown, err, "directory %q of the snapshot cannot be restored", rel)
	}
	return storeFailed(err, "cannot read directory %q of the snapshot", rel)
}

// directory makes what is in d equal to want. held is what d held by the record, nil if unknown.
func (r *restorer) directory(ctx context.Context, d *dir, want, held *tree, rel string) error {
	have, err := r.look(d, rel)
	if err != nil {
		return err
	}
	if err := r.removeExtra(d, want, have, rel); err != nil {
		return err
	}
	r.announceFiles(ctx, want, held, have)
	g := r.pool.group()
	for _, n := range want.nodes {
		if ctx.Err() != nil {
			break
		}
		g.do(func() error { return r.entry(ctx, d, n, held.child(n.name), have[n.name], join(rel, n.name)) })
	}
	return g.wait(ctx)
}

// announceFiles tells which files of a directory will be fetched, as far as that shows beforehand.
func (r *restorer) announceFiles(ctx context.Context, want, held *tree, have map[string]*unix.Stat_t) {
	for _, n := range want.nodes {
		was := held.child(n.name)
		if n.kind != kindFile || n.size == 0 || (have[n.name] != nil && (was == nil || was.object == n.object)) {
			continue
		}
		if _, large := n.object.IndexObjectID(); !large { // the pieces of a large one are announced when they are known
			r.objects.announce(ctx, []object.IndirectObjectEntry{{Length: n.size, Object: n.object}})
		}
	}
}

// look lists the target's directory.
func (r *restorer) look(d *dir, rel string) (map[string]*unix.Stat_t, error) {
	names, err := d.names()
	if err != nil {
		return nil, targetFailed(err, "list", rel)
	}
	have := make(map[string]*unix.Stat_t, len(names))
	for _, name := range names {
		if have[name], err = d.stat(name); err != nil {
			return nil, targetFailed(err, "look at", join(rel, name))
		}
		r.count.step()
	}
	return have, nil
}

// removeExtra removes what the snapshot does not have, and what it has as another type: first, so
// that there is room for what comes.
func (r *restorer) removeExtra(d *dir, want *tree, have map[string]*unix.Stat_t, rel string) error {
	names := make([]string, 0, len(have))
	for name := range have {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		k := kindOf(have[name].Mode)
		if n := want.child(name); n != nil && n.kind == k {
			continue
		} else if n == nil && rel == "" && name == lostFound && k == kindDir {
			continue
		}
		if err := d.removeAll(name, func() { r.count.deletions.Add(1) }); err != nil {
			return targetFailed(err, "remove", join(rel, name))
		}
		delete(have, name)
	}
	return nil
}

// entry makes one name equal to want. was is the record of it, have what is there; both may be nil.
func (r *restorer) entry(ctx context.Context, d *dir, want, was *node, have *unix.Stat_t, rel string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.count.step()
	if !recordHolds(was, have) || r.arrivals.touched(rel) {
		was = nil
	}
	switch want.kind {
	case kindDir:
		return r.subdirectory(ctx, d, want, was, have, rel)
	case kindSymlink:
		return r.symlink(ctx, d, want, was, have, rel)
	case kindFIFO:
		return r.fifo(d, want, was, have, rel)
	case kindSocket:
		return r.socket(d, want, was, have, rel)
	}
	r.count.files.Add(1)
	r.count.bytes.Add(want.size)
	if want.links != "" {
		return r.linkedFile(ctx, d, want, was, have, rel)
	}
	return r.file(ctx, d, want, was, have, "path:"+rel, rel)
}

// recordHolds says whether the target's entry still looks as the record says: then its content and
// its attributes are believed to be the recorded ones, too. A directory's time says nothing.
func recordHolds(was *node, have *unix.Stat_t) bool {
	if was == nil || have == nil || was.kind != kindOf(have.Mode) {
		return false
	}
	switch was.kind {
	case kindFile, kindSymlink:
		return have.Size == was.size && roundedTo(have.Mtim, was.mtime)
	}
	return true
}

func (r *restorer) subdirectory(ctx context.Context, d *dir, want, was *node, have *unix.Stat_t, rel string) error {
	if have == nil {
		if err := unix.Mkdirat(d.fd, want.name, 0o700); err != nil {
			return targetFailed(err, "create directory", rel)
		}
	}
	sub, err := d.openDir(want.name)
	if err != nil {
		return targetFailed(err, "open directory", rel)
	}
	defer sub.close()
	wantTree, err := readTree(ctx, r.repo, want.object)
	if err != nil {
		return r.unreadable(err, rel)
	}
	var heldTree *tree
	switch {
	case was == nil:
	case was.object == want.object:
		heldTree = wantTree
	default:
		if heldTree, err = readTree(ctx, r.repo, was.object); err != nil {
			r.warn.add("every file below %q is compared: its record cannot be used: %v", rel, err)
		}
	}
	if err := r.directory(ctx, sub, wantTree, heldTree, rel); err != nil {
		return err
	}
	return r.finishDir(sub, want, was, rel)
}

// symlink replaces a link that points elsewhere; links are never followed.
func (r *restorer) symlink(ctx context.Context, d *dir, want, was *node, have *unix.Stat_t, rel string) error {
	same := was != nil && was.object == want.object
	if !same && have != nil && have.Size == want.size {
		target, err := d.readlink(want.name)
		if err != nil {
			return targetFailed(err, "read the link", rel)
		}
		if same, err = r.objects.is(ctx, want.object, []byte(target)); err != nil {
			return storeFailed(err, "cannot compare the link %q", rel)
		}
	}
	if same {
		changed, err := r.fixName(d, want, was, have, rel)
		return r.counted(want, rel, changed, err)
	}
	target, err := r.objects.read(ctx, want.object, want.size)
	if err != nil {
		return storeFailed(err, "cannot read the link %q of the snapshot", rel)
	}
	return r.place(d, want, rel, func(name string) error {
		return unix.Symlinkat(string(target), d.fd, name)
	})
}

func (r *restorer) fifo(d *dir, want, was *node, have *unix.Stat_t, rel string) error {
	if have != nil {
		changed, err := r.fixOpened(d, want, was, have, rel)
		return r.counted(want, rel, changed, err)
	}
	return r.place(d, want, rel, func(name string) error {
		return unix.Mknodat(d.fd, name, unix.S_IFIFO|0o600, 0)
	})
}

// socket makes the name of a socket, as a copy with tar or rsync would: programs that expect to find
// and replace one find it. Nobody listens there until they do.
func (r *restorer) socket(d *dir, want, was *node, have *unix.Stat_t, rel string) error {
	if have != nil {
		changed, err := r.fixName(d, want, was, have, rel)
		return r.counted(want, rel, changed, err)
	}
	return r.place(d, want, rel, func(name string) error {
		return unix.Mknodat(d.fd, name, unix.S_IFSOCK|0o600, 0)
	})
}

// place creates an entry that has no content under a temporary name, gives it its metadata and
// moves it where it belongs.
func (r *restorer) place(d *dir, want *node, rel string, create func(name string) error) error {
	temp, err := d.temp(create)
	if err != nil {
		return targetFailed(err, "create", rel)
	}
	made := *want
	made.name = temp
	st, err := d.stat(temp)
	if err != nil {
		return targetFailed(err, "look at", rel)
	}
	if want.kind == kindFIFO {
		_, err = r.fixOpened(d, &made, nil, st, rel)
	} else {
		_, err = r.fixName(d, &made, nil, st, rel)
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd, temp, 0)
		return err
	}
	if err := d.replace(temp, want.name); err != nil {
		return targetFailed(err, "replace", rel)
	}
	r.writes.add(rel, want)
	return nil
}

// openFile opens an existing file or FIFO of the target for reading.
func openFile(d *dir, name, rel string) (*os.File, error) {
	fd, err := d.openRead(name, unix.O_NONBLOCK)
	if err != nil {
		return nil, targetFailed(err, "open", rel)
	}
	return os.NewFile(uintptr(fd), rel), nil
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"golang.org/x/sys/unix"
)

// lostFound belongs to the file system and not to the data, at the root of a volume.
const lostFound = "lost+found"

// flushEvery is how often a long upload makes what it wrote known to the repository, so that the
// next attempt after a kill does not send it again. Until then the library keeps what it knows of each
// object in memory, so that very many of them are a reason, too.
const (
	flushEvery   = 5 * time.Minute
	flushObjects = 100_000
)

// uploader takes one snapshot of one volume.
type uploader struct {
	*session
	w        repo.RepositoryWriter
	begin    time.Time
	objects  *objects
	count    *counters
	warn     *warnings
	parentAt unix.Timespec // a change time before this is proof; zero proves nothing
	rootDev  uint64
	// peer is the target's mover, which takes the contents of files; nil stores them in the repository.
	peer *peer

	mu    sync.Mutex
	links map[string]*linkedRead
	zeros map[int64]object.ID // what is nothing but zeros, by its length

	stored    atomic.Int64 // objects; see flushing
	readAgain atomic.Int64 // bytes; see settle
	pauses    atomic.Int32
}

// linkedRead is a file with several paths, read once.
type linkedRead struct {
	once sync.Once
	node *node
}

// upload takes a snapshot of a volume and returns its ID.
func (s *session) upload(ctx context.Context, v VolumeRequest, c *counters, w *warnings) (string, error) {
	if v.Mode == ModeBlock {
		return s.uploadBlock(ctx, v, c, w)
	}
	return s.uploadTo(ctx, v, nil, c, w)
}

// uploadTo takes a snapshot whose file contents go to p, or into the repository if p is nil.
func (s *session) uploadTo(ctx context.Context, v VolumeRequest, p *peer, c *counters, w *warnings) (string, error) {
	begin := s.now()
	root, err := openRoot(v.Path)
	if err != nil {
		return "", fail(ReasonReadFailed, err, "cannot open the source directory %s", v.Path)
	}
	defer root.close()
	switch err := c.synced(ctx, root.fd, unix.Syncfs); {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		w.add("the source's file system could not be synced before reading: %v", err)
	}
	u := &uploader{session: s, peer: p, objects: newObjects(s.repo, &c.fetched), count: c, warn: w, begin: begin}
	return s.snapshotted(ctx, v, u, func(ctx context.Context, u *uploader) (*snapshot.Manifest, error) {
		parent, err := u.parentTree(ctx, v)
		if err != nil {
			return nil, err
		}
		return u.root(ctx, root, parent)
	})
}

// snapshotted saves the snapshot that take makes.
func (s *session) snapshotted(ctx context.Context, v VolumeRequest, u *uploader, take func(context.Context, *uploader) (*snapshot.Manifest, error)) (string, error) {
	var id string
	err := repo.WriteSession(ctx, s.repo, repo.WriteSessionOptions{
		Purpose: "upload", OnUpload: func(n int64) { u.count.uploaded.Add(n) },
	}, func(ctx context.Context, rw repo.RepositoryWriter) error {
		u.w, u.links, u.zeros = rw, map[string]*linkedRead{}, map[int64]object.ID{}
		defer u.flushing(ctx)()
		m, err := take(ctx, u)
		if err != nil {
			return err
		}
		m.Source, m.Tags = sourceOf(v.Name), map[string]string{formatTag: formatVersion}
		if v.Mode != ModeFilesystem {
			m.Tags[modeTag] = string(v.Mode)
		}
		m.StartTime, m.EndTime = fs.UTCTimestampFromTime(u.begin), fs.UTCTimestampFromTime(s.now())
		saved, err := snapshot.SaveSnapshot(ctx, rw, m)
		if id = string(saved); err != nil {
			return err
		}
		return u.prune(ctx, v, id)
	})
	if err != nil {
		return "", storeFailed(err, "cannot store the snapshot")
	}
	return id, nil
}

// parentTree loads the previous snapshot's root. A parent that cannot be used costs time, not data:
// everything is read then.
func (u *uploader) parentTree(ctx context.Context, v VolumeRequest) (*tree, error) {
	if v.Parent == "" || v.Content {
		return nil, nil
	}
	m, err := u.manifest(ctx, v.Name, v.Parent)
	var t *tree
	if err == nil {
		t, err = readTree(ctx, u.repo, m.RootEntry.ObjectID)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		u.warn.add("every file is read: the previous snapshot cannot be used: %v", err)
		return nil, nil
	}
	u.parentAt = unix.NsecToTimespec(m.StartTime.ToTime().Add(-u.margin).UnixNano())
	return t, nil
}

// flushing flushes the session now and then until the returned function is called.
func (u *uploader) flushing(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for last, stored := time.Now(), int64(0); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if time.Since(last) < flushEvery && u.stored.Load()-stored < flushObjects {
				continue
			}
			last, stored = time.Now(), u.stored.Load()
			if err := u.w.Flush(ctx); err != nil && ctx.Err() == nil {
				u.pool.stop(storeFailed(err, "cannot flush the repository"))
			}
		}
	}()
	return func() { cancel(); <-done }
}

// root uploads the tree and describes its root, which has no parent to be an entry of.
func (u *uploader) root(ctx context.Context, d *dir, parent *tree) (*snapshot.Manifest, error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return nil, sourceFailed(err, "look at", ".")
	}
	u.rootDev = uint64(st.Dev)
	self := nodeOf(".", &st)
	attrs, err := attrsOfFD(d.fd).read()
	if err != nil {
		return nil, sourceFailed(err, "read the attributes of", ".")
	}
	self.attrs = attrs
	sum, err := u.directory(ctx, d, self, parent, "")
	if err != nil {
		return nil, err
	}
	e := self.encode(sum)
	return &snapshot.Manifest{RootEntry: &e.DirEntry, Stats: snapshot.Stats{
		TotalFileCount: int32(min(sum.TotalFileCount, 1<<31-1)), TotalFileSize: sum.TotalFileSize,
	}}, nil
}

// directory uploads what is in d and gives self its object.
func (u *uploader) directory(ctx context.Context, d *dir, self *node, parent *tree, rel string) (*fs.DirectorySummary, error) {
	names, err := d.names()
	if err != nil {
		return nil, sourceFailed(err, "list", rel)
	}
	entries, err := u.entries(ctx, d, names, parent, rel)
	if err != nil {
		return nil, err
	}
	if err := u.heldStill(d, self, rel); err != nil {
		return nil, err
	}
	wire := &wireDir{Summary: &fs.DirectorySummary{TotalDirCount: 1, MaxModTime: 0}}
	for _, e := range entries {
		if e != nil {
			wire.Entries = append(wire.Entries, e)
			addTo(wire.Summary, e)
		}
	}
	if rel == "" {
		wire.Self = self.extra()
	}
	if self.object, err = writeTree(ctx, u.w, wire); err != nil {
		return nil, storeFailed(err, "cannot store directory %q", rel)
	}
	return wire.Summary, nil
}

// entries uploads what the names of a directory stand for; nil is an entry of which nothing is kept.
func (u *uploader) entries(ctx context.Context, d *dir, names []string, parent *tree, rel string) ([]*wireEntry, error) {
	entries, unsettled := make([]*wireEntry, len(names)), make([]*unsettled, len(names))
	upload := func(i int) (err error) {
		entries[i], err = u.entry(ctx, d, names[i], parent, join(rel, names[i]))
		if un, ok := unsettledBy(err); ok {
			unsettled[i], err = un, nil
		}
		return err
	}
	g := u.pool.group()
	for i, name := range names {
		if ctx.Err() != nil {
			break
		}
		if rel == "" && name == lostFound && u.skipLostFound(d) {
			continue
		}
		g.do(func() error { return upload(i) })
	}
	if err := g.wait(ctx); err != nil {
		return nil, err
	}
	return entries, u.settle(ctx, entries, unsettled, upload)
}

// heldStill makes sure that no entry came or went while a source that should be at rest was read.
// In a live source that is ordinary.
func (u *uploader) heldStill(d *dir, self *node, rel string) error {
	if u.req.Live {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return sourceFailed(err, "look at", rel)
	}
	if st.Ctim != self.ctime || st.Mtim != self.mtime {
		return u.changing(fmt.Sprintf("directory %q changed while it was read", rel), true)
	}
	return nil
}

// skipLostFound says whether the root's lost+found is the file system's own.
func (u *uploader) skipLostFound(d *dir) bool {
	sub, err := d.openDir(lostFound)
	if err != nil {
		return false
	}
	defer sub.close()
	if names, err := sub.names(); err == nil && len(names) > 0 {
		u.warn.add("lost+found holds %d entries that a file system check put there; they are not copied", len(names))
	}
	return true
}

// entry uploads one entry; nil means that there is nothing to keep of it.
func (u *uploader) entry(ctx context.Context, d *dir, name string, parent *tree, rel string) (*wireEntry, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	u.count.step()
	st, err := d.stat(name)
	if err != nil {
		return nil, u.lost(err, "look at", rel)
	}
	n := nodeOf(name, st)
	var sum *fs.DirectorySummary
	switch n.kind {
	case kindDir:
		sum, err = u.subdirectory(ctx, d, n, parent.child(name), rel)
	case kindFile:
		err = u.file(ctx, d, n, st, parent.child(name), rel)
	case kindSymlink:
		err = u.symlink(ctx, d, n, rel)
	case kindFIFO, kindSocket:
		err = u.fifo(ctx, d, n, rel)
	default:
		u.warn.add("%q is a device and is not copied", rel)
		return nil, nil
	}
	if un, ok := unsettledBy(err); err != nil && !(ok && un.whole) {
		return nil, err
	}
	return n.encode(sum), err
}

func (u *uploader) subdirectory(ctx context.Context, d *dir, n, was *node, rel string) (*fs.DirectorySummary, error) {
	sub, err := d.openDir(n.name)
	if err != nil {
		return nil, u.lost(err, "open", rel)
	}
	defer sub.close()
	if n.attrs, err = attrsOfFD(sub.fd).read(); err != nil {
		return nil, sourceFailed(err, "read the attributes of", rel)
	}
	var parent *tree
	if was != nil && was.kind == kindDir && u.parentAt != (unix.Timespec{}) {
		if parent, err = readTree(ctx, u.repo, was.object); err != nil {
			u.warn.add("every file below %q is read: its previous snapshot cannot be used: %v", rel, err)
		}
	}
	return u.directory(ctx, sub, n, parent, rel)
}

func (u *uploader) symlink(ctx context.Context, d *dir, n *node, rel string) error {
	target, err := d.readlink(n.name)
	if err != nil {
		return u.lost(err, "read the link", rel)
	}
	n.size = int64(len(target))
	if n.attrs, err = attrsOfName(d, n.name).read(); err != nil {
		return sourceFailed(err, "read the attributes of", rel)
	}
	n.object, err = u.store(ctx, []byte(target))
	return err
}

func (u *uploader) fifo(ctx context.Context, d *dir, n *node, rel string) (err error) {
	if n.attrs, err = attrsOfName(d, n.name).read(); err != nil {
		return sourceFailed(err, "read the attributes of", rel)
	}
	n.object, err = u.store(ctx, nil)
	return err
}

// store writes a small object.
func (u *uploader) store(ctx context.Context, data []byte) (object.ID, error) {
	u.stored.Add(1)
	w := u.w.NewObjectWriter(ctx, object.WriterOptions{MetadataCompressor: metadataCompressor})
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return object.EmptyID, storeFailed(err, "cannot store an object")
	}
	id, err := w.Result()
	if err != nil {
		return object.EmptyID, storeFailed(err, "cannot store an object")
	}
	return id, nil
}

// lost judges an error on an entry that was listed a moment ago.
func (u *uploader) lost(err error, what, rel string) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE), // vanished
		errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENXIO): // replaced
		return u.changing(fmt.Sprintf("%q vanished or was replaced while it was read", rel), false)
	}
	return sourceFailed(err, what, rel)
}

// addTo sums an entry into its directory's summary, as kopia's own tools expect to find it.
func addTo(sum *fs.DirectorySummary, e *wireEntry) {
	if e.ModTime > sum.MaxModTime {
		sum.MaxModTime = e.ModTime
	}
	switch e.Type {
	case snapshot.EntryTypeSymlink:
		sum.TotalSymlinkCount++
	case snapshot.EntryTypeDirectory:
		sum.TotalFileCount += e.DirSummary.TotalFileCount
		sum.TotalFileSize += e.DirSummary.TotalFileSize
		sum.TotalDirCount += e.DirSummary.TotalDirCount
		sum.TotalSymlinkCount += e.DirSummary.TotalSymlinkCount
		sum.MaxModTime = max(sum.MaxModTime, e.DirSummary.MaxModTime)
	default:
		sum.TotalFileCount++
		sum.TotalFileSize += e.FileSize
	}
}

func join(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

package engine

import (
	"context"
	"fmt"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"golang.org/x/sys/unix"
)

// A snapshot of a block volume is a directory of extents: files named by where
// they begin in the device, in hexadecimal, which one after the other are the
// device. Extents, because the list of a file's pieces has to fit into memory.
const (
	modeTag    = "tag:tranship-mode"
	extentSize = 4 << 30 // a multiple of fileSection
)

func extentName(start int64) string { return fmt.Sprintf("%016x", start) }

// uploadBlock takes a snapshot of a device. All of it is read, for a device does not
// say what changed; only pieces that the repository does not have are sent. Nothing
// can tell whether it changed meanwhile either: what is read while the application
// runs serves to have most of it there already when it has stopped.
func (s *session) uploadBlock(ctx context.Context, v VolumeRequest, c *counters, w *warnings) (string, error) {
	begin := s.now()
	d, err := openDevice(v.Path, unix.O_RDONLY)
	if err != nil {
		return "", fail(ReasonReadFailed, err, "cannot open the source device %s", v.Path)
	}
	defer d.close()
	u := &uploader{session: s, count: c, warn: w, begin: begin}
	return s.snapshotted(ctx, v, u, func(ctx context.Context, u *uploader) (*snapshot.Manifest, error) {
		return u.device(ctx, d, u.parentExtents(ctx, v))
	})
}

// parentExtents is only for counting what changed: what cannot be had counts as changed.
func (u *uploader) parentExtents(ctx context.Context, v VolumeRequest) *tree {
	if v.Parent == "" {
		return nil
	}
	m, err := u.manifestOf(ctx, v.Name, v.Parent, ModeBlock)
	if err != nil {
		return nil
	}
	t, err := readTree(ctx, u.repo, m.RootEntry.ObjectID)
	if err != nil {
		return nil
	}
	return t
}

// device uploads every extent and the directory that lists them.
func (u *uploader) device(ctx context.Context, d *device, parent *tree) (*snapshot.Manifest, error) {
	wire := &wireDir{Summary: &fs.DirectorySummary{TotalDirCount: 1}}
	for start := int64(0); start < d.size; start += extentSize {
		n := &node{name: extentName(start), kind: kindFile, perm: 0o600, size: min(extentSize, d.size-start)}
		var err error
		if n.object, err = u.extent(ctx, d, start, n.size); err != nil {
			return nil, err
		}
		u.count.files.Add(1)
		u.count.bytes.Add(n.size)
		if was := parent.child(n.name); was != nil && was.object == n.object && was.size == n.size {
			u.count.unchanged.Add(1)
		} else {
			u.count.changed.Add(1)
		}
		e := n.encode(nil)
		wire.Entries = append(wire.Entries, e)
		addTo(wire.Summary, e)
	}
	root := &node{name: ".", kind: kindDir, perm: 0o700}
	wire.Self = root.extra()
	var err error
	if root.object, err = writeTree(ctx, u.w, wire); err != nil {
		return nil, storeFailed(err, "cannot store the list of extents")
	}
	e := root.encode(wire.Summary)
	return &snapshot.Manifest{RootEntry: &e.DirEntry, Stats: snapshot.Stats{
		TotalFileCount: int32(len(wire.Entries)), TotalFileSize: d.size,
	}}, nil
}

// extent stores a part of the device, several sections at once, as the list of its pieces.
func (u *uploader) extent(ctx context.Context, d *device, start, size int64) (object.ID, error) {
	ids := make([]object.ID, (size+pieceSize-1)/pieceSize)
	g := u.pool.group()
	for at := int64(0); at < size && ctx.Err() == nil; at += fileSection {
		section := ids[at/pieceSize : min(at+fileSection+pieceSize-1, size+pieceSize-1)/pieceSize]
		g.do(func() error { return u.deviceSection(ctx, d, start+at, min(fileSection, size-at), section) })
	}
	if err := g.wait(ctx); err != nil {
		return object.EmptyID, err
	}
	if len(ids) == 1 {
		return ids[0], nil
	}
	id, err := u.index(ctx, ids, size)
	if err != nil {
		return object.EmptyID, storeFailed(err, "cannot store extent %q of the device", extentName(start))
	}
	return id, nil
}

// deviceSection stores the pieces of a section. Those of zeros, of which a device that
// is not full has most, are hashed once.
func (u *uploader) deviceSection(ctx context.Context, d *device, start, length int64, ids []object.ID) error {
	buf := alignedBuffer(min(length, readBuffer))
	for at := int64(0); at < length; at += int64(len(buf)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		buf = buf[:min(int64(len(buf)), length-at)]
		if _, err := d.f.ReadAt(buf, start+at); err != nil {
			return sourceFailed(err, "read", fmt.Sprintf("the device at %d", start+at))
		}
		u.count.read.Add(int64(len(buf)))
		for rest := buf; len(rest) > 0; ids = ids[1:] {
			piece := rest[:min(len(rest), pieceSize)]
			rest = rest[len(piece):]
			var err error
			if allZero(piece) {
				ids[0], err = u.zeroPiece(ctx, int64(len(piece)))
			} else {
				ids[0], err = u.store(ctx, piece)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// zeroPiece is the object of so many zeros, at most a piece.
func (u *uploader) zeroPiece(ctx context.Context, length int64) (object.ID, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	id, ok := u.zeros[length]
	if ok {
		return id, nil
	}
	id, err := u.store(ctx, make([]byte, length))
	if err == nil {
		u.zeros[length] = id
	}
	return id, err
}

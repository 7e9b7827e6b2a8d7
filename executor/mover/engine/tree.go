package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"sort"
	"time"
	"unicode/utf8"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"golang.org/x/sys/unix"
)

const (
	streamType = "kopia:directory" // what kopia expects a directory object to begin with
	dirPrefix  = "k"               // and the prefix of its content, which puts it into metadata packs
)

// wireDir is a directory object: kopia's directory manifest and our own fields beside it.
type wireDir struct {
	StreamType string               `json:"stream"`
	Entries    []*wireEntry         `json:"entries"`
	Summary    *fs.DirectorySummary `json:"summary"`
	// Self describes the root of a snapshot, which has no entry in a parent.
	Self *wireExtra `json:"tranship,omitempty"`
}

// wireEntry is kopia's entry with what it has no field for.
type wireEntry struct {
	snapshot.DirEntry
	Extra *wireExtra `json:"tranship,omitempty"`
}

type wireExtra struct {
	// Name is set where the name is no UTF-8, which JSON cannot hold.
	Name []byte `json:"name,omitempty"`
	// Kind is set for what kopia has no type for: "fifo" and "socket".
	Kind string `json:"kind,omitempty"`
	// MTime is set where the time is out of the range of int64 nanoseconds.
	MTime *[2]int64 `json:"mtime,omitempty"`
	CTime [2]int64  `json:"ctime"`
	Inode uint64    `json:"inode"`
	Links string    `json:"links,omitempty"`
	Attrs xattrs    `json:"xattrs,omitempty"`
}

// tree is a directory of a snapshot.
type tree struct {
	nodes  []*node
	byName map[string]*node
	self   *wireExtra
}

// child returns an entry of a tree that may be nil.
func (t *tree) child(name string) *node {
	if t == nil {
		return nil
	}
	return t.byName[name]
}

// encode makes the wire form of an entry.
func (n *node) encode(sum *fs.DirectorySummary) *wireEntry {
	e := &wireEntry{Extra: n.extra()}
	e.DirEntry = snapshot.DirEntry{
		Name: n.name, Permissions: snapshot.Permissions(goMode(n.perm)), FileSize: n.size,
		UserID: n.uid, GroupID: n.gid, ObjectID: n.object, DirSummary: sum,
		ModTime: fs.UTCTimestampFromTime(time.Unix(n.mtime.Sec, n.mtime.Nsec)),
	}
	switch n.kind {
	case kindDir:
		e.Type = snapshot.EntryTypeDirectory
	case kindSymlink:
		e.Type = snapshot.EntryTypeSymlink
	case kindFIFO:
		e.Type, e.Extra.Kind = snapshot.EntryTypeFile, "fifo"
	case kindSocket:
		e.Type, e.Extra.Kind = snapshot.EntryTypeFile, "socket"
	default:
		e.Type = snapshot.EntryTypeFile
	}
	if !utf8.ValidString(n.name) {
		e.Name, e.Extra.Name = fmt.Sprintf("%+q", n.name), []byte(n.name)
	}
	const second = int64(time.Second)
	if n.mtime.Sec >= math.MaxInt64/second || n.mtime.Sec <= math.MinInt64/second {
		e.ModTime, e.Extra.MTime = 0, &[2]int64{n.mtime.Sec, n.mtime.Nsec}
	}
	return e
}

func (n *node) extra() *wireExtra {
	return &wireExtra{
		CTime: [2]int64{n.ctime.Sec, n.ctime.Nsec}, Inode: n.inode, Links: n.links, Attrs: n.attrs,
	}
}

// decode is the inverse of encode. An entry that this version cannot restore exactly is an error.
func (e *wireEntry) decode() (*node, error) {
	n := &node{
		name: e.Name, perm: unixPerm(os.FileMode(e.Permissions)), uid: e.UserID, gid: e.GroupID,
		size: e.FileSize, object: e.ObjectID, mtime: unix.NsecToTimespec(int64(e.ModTime)),
	}
	extra := e.Extra
	if extra == nil {
		return nil, fmt.Errorf("entry %q was not written by this program", e.Name)
	}
	n.attrs, n.links, n.inode = extra.Attrs, extra.Links, extra.Inode
	n.ctime = unix.Timespec{Sec: extra.CTime[0], Nsec: extra.CTime[1]}
	if extra.Name != nil {
		n.name = string(extra.Name)
	}
	if extra.MTime != nil {
		n.mtime = unix.Timespec{Sec: extra.MTime[0], Nsec: extra.MTime[1]}
	}
	switch {
	case e.Type == snapshot.EntryTypeDirectory && extra.Kind == "":
		n.kind, n.size = kindDir, 0
	case e.Type == snapshot.EntryTypeSymlink && extra.Kind == "":
		n.kind = kindSymlink
	case e.Type == snapshot.EntryTypeFile && extra.Kind == "":
		n.kind = kindFile
	case e.Type == snapshot.EntryTypeFile && extra.Kind == "fifo":
		n.kind = kindFIFO
	case e.Type == snapshot.EntryTypeFile && extra.Kind == "socket":
		n.kind = kindSocket
	default:
		return nil, fmt.Errorf("entry %q has the unknown type %q %q", n.name, e.Type, extra.Kind)
	}
	if !plainName(n.name) {
		return nil, fmt.Errorf("entry %q is no file name", n.name)
	}
	return n, nil
}

// writeTree stores a directory.
func writeTree(ctx context.Context, w repo.RepositoryWriter, d *wireDir) (object.ID, error) {
	sort.Slice(d.Entries, func(i, j int) bool { // kopia's order: directories first
		a, b := d.Entries[i], d.Entries[j]
		if x, y := a.Type == snapshot.EntryTypeDirectory, b.Type == snapshot.EntryTypeDirectory; x != y {
			return x
		}
		return a.Name < b.Name
	})
	d.StreamType = streamType
	ow := w.NewObjectWriter(ctx, object.WriterOptions{
		Prefix: dirPrefix, Compressor: metadataCompressor, MetadataCompressor: metadataCompressor,
	})
	defer ow.Close()
	if err := json.NewEncoder(ow).Encode(d); err != nil {
		return object.EmptyID, err
	}
	return ow.Result()
}

// errUnknownSnapshot marks a directory that cannot be read back exactly.
var errUnknownSnapshot = errors.New("not in the format of this version")

// readTree loads a directory of a snapshot.
func readTree(ctx context.Context, r repo.Repository, id object.ID) (*tree, error) {
	rd, err := r.OpenObject(ctx, id)
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer rd.Close()
	var d wireDir
	if err := json.NewDecoder(rd).Decode(&d); err != nil {
		return nil, fmt.Errorf("directory object: %w", damaged(ctx, err))
	}
	if d.StreamType != streamType {
		return nil, fmt.Errorf("directory object of type %q: %w", d.StreamType, errUnknownSnapshot)
	}
	t := &tree{nodes: make([]*node, 0, len(d.Entries)), byName: make(map[string]*node, len(d.Entries)), self: d.Self}
	for _, e := range d.Entries {
		n, err := e.decode()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUnknownSnapshot, err)
		}
		if t.byName[n.name] != nil {
			return nil, fmt.Errorf("entry %q comes twice: %w", n.name, errUnknownSnapshot)
		}
		t.nodes, t.byName[n.name] = append(t.nodes, n), n
	}
	return t, nil
}

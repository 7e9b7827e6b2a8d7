package gitsource

import (
	"fmt"
	"io"
	"math"
	"sort"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// change is one path that differs between two trees. A zero hash means that
// the path is not there on that side.
type change struct {
	path     string
	old, new object.TreeEntry
}

// diffTrees walks two trees side by side and descends only where hashes
// differ. Directories are reported by the files below them.
func diffTrees(s *store, prefix string, a, b plumbing.Hash, out func(change) error) error {
	w := &treeWalk{s: s, left: math.MaxInt, out: out}
	return w.diff(prefix, a, b)
}

// treeWalk compares two trees.
type treeWalk struct {
	s    *store
	left int // entries of the second tree that may still be met
	out  func(change) error
}

func (w *treeWalk) diff(prefix string, a, b plumbing.Hash) error {
	if a == b {
		return nil
	}
	left, err := w.s.folder(prefix, a)
	if err != nil {
		return err
	}
	right, err := w.s.folder(prefix, b)
	if err != nil {
		return err
	}
	if w.left -= len(right); w.left < 0 {
		return fail(ErrTooBig, nil, "cannot read folder %q: with it there are more than %d files and folders; set source.path to the folder with the plans", oneLine(prefix, 200), maxWalked)
	}
	i, j := 0, 0
	for i < len(left) || j < len(right) {
		var l, r object.TreeEntry
		switch {
		case j == len(right) || i < len(left) && sortKey(left[i]) < sortKey(right[j]):
			l = left[i]
			i++
		case i == len(left) || sortKey(right[j]) < sortKey(left[i]):
			r = right[j]
			j++
		default:
			l, r = left[i], right[j]
			i, j = i+1, j+1
		}
		if err := w.entry(prefix, l, r); err != nil {
			return err
		}
	}
	return nil
}

func (w *treeWalk) entry(prefix string, l, r object.TreeEntry) error {
	if l.Hash == r.Hash && l.Mode == r.Mode {
		return nil
	}
	name := l.Name + r.Name
	if !l.Hash.IsZero() && !r.Hash.IsZero() {
		name = l.Name
	}
	dirL, dirR := l.Mode == filemode.Dir, r.Mode == filemode.Dir
	if dirL || dirR {
		var a, b plumbing.Hash
		if dirL {
			a = l.Hash
		}
		if dirR {
			b = r.Hash
		}
		return w.diff(prefix+name+"/", a, b)
	}
	return w.out(change{path: prefix + name, old: l, new: r})
}

// sortKey is Git's order: a directory sorts as if its name ended in "/".
func sortKey(e object.TreeEntry) string {
	if e.Mode == filemode.Dir {
		return e.Name + "/"
	}
	return e.Name
}

// subtree finds the directory at a path; zero when there is none.
func subtree(s *store, root plumbing.Hash, path string) (plumbing.Hash, error) {
	at, prefix := root, ""
	for _, part := range splitPath(path) {
		e, err := lookup(s, prefix, at, part)
		if err != nil || e.Mode != filemode.Dir {
			return plumbing.ZeroHash, err
		}
		at, prefix = e.Hash, prefix+part+"/"
	}
	return at, nil
}

// fileAt finds the blob at a path; zero when there is none.
func fileAt(s *store, root plumbing.Hash, path string) (plumbing.Hash, error) {
	parts := splitPath(path)
	above := ""
	for _, part := range parts[:len(parts)-1] {
		above += part + "/"
	}
	dir, err := subtree(s, root, above)
	if err != nil || dir.IsZero() {
		return plumbing.ZeroHash, err
	}
	e, err := lookup(s, above, dir, parts[len(parts)-1])
	if err != nil || e.Mode != filemode.Regular {
		return plumbing.ZeroHash, err
	}
	return e.Hash, nil
}

func lookup(s *store, prefix string, dir plumbing.Hash, name string) (object.TreeEntry, error) {
	entries, err := s.folder(prefix, dir)
	if err != nil {
		return object.TreeEntry{}, err
	}
	for _, e := range entries {
		if e.Name == name {
			return e, nil
		}
	}
	return object.TreeEntry{}, nil
}

func splitPath(path string) []string {
	var parts []string
	for _, p := range strings.Split(path, "/") {
		if p != "" && p != "." {
			parts = append(parts, p)
		}
	}
	return parts
}

// builder makes new trees on top of a stored one, in memory. Only directories
// on a written path are read.
type builder struct {
	s       *store
	objects []plumbing.EncodedObject
	sign    func(payload []byte) ([]byte, error) // commits; nil leaves them unsigned
}

func (b *builder) encode(kind plumbing.ObjectType, data []byte) plumbing.Hash {
	o := inMemory(kind, data)
	b.objects = append(b.objects, o)
	return o.Hash()
}

func inMemory(kind plumbing.ObjectType, data []byte) plumbing.EncodedObject {
	o := &plumbing.MemoryObject{}
	o.SetType(kind)
	_, _ = o.Write(data) // a MemoryObject takes everything
	return o
}

// put returns the tree root with files written into it. Paths are relative
// and clean: they are made by this package.
func (b *builder) put(root plumbing.Hash, files map[string][]byte) (plumbing.Hash, error) {
	entries, err := b.s.tree(root)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	byName := map[string]object.TreeEntry{}
	for _, e := range entries {
		byName[e.Name] = e
	}
	below := map[string]map[string][]byte{}
	for path, data := range files {
		name, rest, deeper := strings.Cut(path, "/")
		if !deeper {
			byName[name] = object.TreeEntry{Name: name, Mode: filemode.Regular, Hash: b.blob(byName[name], data)}
			continue
		}
		if below[name] == nil {
			below[name] = map[string][]byte{}
		}
		below[name][rest] = data
	}
	for name, files := range below {
		sub := byName[name]
		if sub.Mode != filemode.Dir {
			sub = object.TreeEntry{}
		}
		h, err := b.put(sub.Hash, files)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		byName[name] = object.TreeEntry{Name: name, Mode: filemode.Dir, Hash: h}
	}
	return b.writeTree(root, byName)
}

// blob encodes data unless it is what the path already holds.
func (b *builder) blob(now object.TreeEntry, data []byte) plumbing.Hash {
	if h := plumbing.ComputeHash(plumbing.BlobObject, data); h == now.Hash {
		return h
	}
	return b.encode(plumbing.BlobObject, data)
}

func (b *builder) writeTree(old plumbing.Hash, byName map[string]object.TreeEntry) (plumbing.Hash, error) {
	t := object.Tree{Entries: make([]object.TreeEntry, 0, len(byName))}
	for _, e := range byName {
		t.Entries = append(t.Entries, e)
	}
	sort.Sort(object.TreeEntrySorter(t.Entries))
	o := &plumbing.MemoryObject{}
	if err := t.Encode(o); err != nil {
		return plumbing.ZeroHash, fmt.Errorf("cannot encode a tree: %w", err)
	}
	if o.Hash() != old {
		b.objects = append(b.objects, o)
	}
	return o.Hash(), nil
}

// commit encodes a commit and returns its hash.
func (b *builder) commit(tree plumbing.Hash, parents []plumbing.Hash, who object.Signature, message string) (plumbing.Hash, error) {
	c := object.Commit{Author: who, Committer: who, Message: message, TreeHash: tree, ParentHashes: parents}
	if b.sign != nil {
		payload := &plumbing.MemoryObject{}
		if err := c.EncodeWithoutSignature(payload); err != nil {
			return plumbing.ZeroHash, fmt.Errorf("cannot encode a commit: %w", err)
		}
		r, _ := payload.Reader() // a MemoryObject always has one
		signed, err := io.ReadAll(r)
		if err != nil {
			return plumbing.ZeroHash, fmt.Errorf("cannot encode a commit: %w", err)
		}
		signature, err := b.sign(signed)
		if err != nil {
			return plumbing.ZeroHash, fail(ErrMisconfigured, nil, "cannot sign the ledger's commit: %v", err)
		}
		c.PGPSignature = string(signature)
	}
	o := &plumbing.MemoryObject{}
	if err := c.Encode(o); err != nil {
		return plumbing.ZeroHash, fmt.Errorf("cannot encode a commit: %w", err)
	}
	b.objects = append(b.objects, o)
	return o.Hash(), nil
}

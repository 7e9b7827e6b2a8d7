package gitsource

import (
	"bytes"
	"errors"
	"io/fs"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// maxRecent is how many bytes of objects are kept in memory before they become a
// pack: a change of one plan in 10,000 makes twelve kilobytes, so each fortieth push
// makes one, in 40 ms.
const maxRecent = 512 << 10

// recent is a repository on disk, and in front of it objects of our own that are
// in no pack yet. They are in memory, and those of a commit are appended to one file
// at once, so that a process that is killed loses none: a file for each object costs
// more than all the rest of a push (ADR 41). Power that fails may take the end of that file,
// as it may take any file of a cache. Not safe for concurrent use.
type recent struct {
	*filesystem.Storage
	path    string // of that file; "" keeps the objects in memory only
	file    *os.File
	written int64 // bytes of it that count
	objects map[plumbing.Hash]plumbing.EncodedObject
	size    int64 // bytes of the objects
}

// recentObject is one object in the file. The objects of a commit are one line.
type recentObject struct {
	Kind plumbing.ObjectType `json:"kind"`
	Data []byte              `json:"data"`
}

// load reads what the process before has left. What follows a damaged line may
// stand on it, and does not count either.
func (r *recent) load() error {
	data, err := os.ReadFile(r.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.written = 0
	for line := range bytes.Lines(data) {
		var all []recentObject
		if decodeLine(line, &all) != nil {
			break
		}
		for _, each := range all {
			r.remember(inMemory(each.Kind, each.Data))
		}
		r.written += int64(len(line))
	}
	if r.written < int64(len(data)) { // what follows must not count again behind other lines
		return os.Truncate(r.path, r.written)
	}
	return nil
}

func (r *recent) remember(o plumbing.EncodedObject) {
	if r.objects == nil {
		r.objects = map[plumbing.Hash]plumbing.EncodedObject{}
	}
	if h := o.Hash(); r.objects[h] == nil {
		r.objects[h] = o
		r.size += o.Size()
	}
}

// fits says whether so many objects more may be kept here.
func (r *recent) fits(objects []plumbing.EncodedObject) bool {
	n := r.size
	for _, o := range objects {
		n += o.Size()
	}
	return r.path == "" || n <= maxRecent
}

// append keeps all of the objects, or after an error none.
func (r *recent) append(objects []plumbing.EncodedObject) error {
	if r.path != "" {
		if err := r.write(objects); err != nil {
			return err
		}
	}
	for _, o := range objects {
		r.remember(o)
	}
	return nil
}

func (r *recent) write(objects []plumbing.EncodedObject) (err error) {
	all := make([]recentObject, len(objects))
	for i, o := range objects {
		data, err := contentOf(o)
		if err != nil {
			return err
		}
		all[i] = recentObject{o.Type(), data}
	}
	line, err := encodeLine(all)
	if err != nil {
		return err
	}
	if r.file == nil {
		if r.file, err = os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
			return err
		}
	}
	// At this place, and not at the end: a line that was torn is overwritten.
	if _, err = r.file.WriteAt(line, r.written); err == nil {
		r.written += int64(len(line))
	}
	return err
}

// empty is for objects that have become a pack.
func (r *recent) empty() error {
	r.objects, r.size, r.written = nil, 0, 0
	if r.file == nil { // load has read it, and nothing was written since
		return ignoreMissing(os.Remove(r.path))
	}
	return r.file.Truncate(0)
}

// Close implements io.Closer.
func (r *recent) Close() error {
	err := r.Storage.Close()
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return err
}

// EncodedObject implements storer.EncodedObjectStorer.
func (r *recent) EncodedObject(kind plumbing.ObjectType, h plumbing.Hash) (plumbing.EncodedObject, error) {
	o := r.objects[h]
	if o == nil {
		return r.Storage.EncodedObject(kind, h)
	}
	if kind != plumbing.AnyObject && kind != o.Type() {
		return nil, plumbing.ErrObjectNotFound
	}
	return o, nil
}

// HasEncodedObject implements storer.EncodedObjectStorer.
func (r *recent) HasEncodedObject(h plumbing.Hash) error {
	if r.objects[h] != nil {
		return nil
	}
	return r.Storage.HasEncodedObject(h)
}

// EncodedObjectSize implements storer.EncodedObjectStorer.
func (r *recent) EncodedObjectSize(h plumbing.Hash) (int64, error) {
	if o := r.objects[h]; o != nil {
		return o.Size(), nil
	}
	return r.Storage.EncodedObjectSize(h)
}

package gitsource

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

const (
	// objectCache is how many bytes of decoded objects are kept in memory: the
	// trees of an estate of 10,000 plans are half a megabyte, and its files are
	// kept decoded, by their blob's name.
	objectCache = 2 << 20
	// After so many packs a store is thrown away and fetched anew: go-git
	// neither repacks nor collects garbage.
	maxPacks = 60
	// keptRef names the commit that the store is known to hold completely, in packs.
	keptRef = plumbing.ReferenceName("refs/tranship/kept")
	// goneSuffix marks a store that is being removed.
	goneSuffix = ".gone"
	// recentFile has the objects that are in no pack yet.
	recentFile = "tranship-recent"
)

// store is a bare, shallow object store on disk, in a directory of mode 0700.
// It is a cache: reset and fetch again repairs it. Safe for concurrent use;
// one process at a time (lockDir).
type store struct {
	dir string

	mu    sync.Mutex
	st    *recent
	packs int
	newer plumbing.Hash // kept, and not in a pack yet; zero when keptRef is the newest
}

// openStore opens the store in dir, or makes an empty one, also of one that power
// which failed has left with damaged packs.
func openStore(dir string) (*store, error) {
	s := &store{dir: dir}
	if err := os.RemoveAll(dir + goneSuffix); err != nil {
		return nil, fmt.Errorf("cannot remove what is left of an old Git cache: %w; remove it by hand", err)
	}
	err := s.open()
	if err == nil && !s.sound() {
		err = s.reset()
	}
	return s, err
}

// sound says that all packs can be used. go-git loads their indexes in the order of
// names, and after one that is damaged has no more of them, without a word.
func (s *store) sound() bool {
	if err := s.st.Storage.HasEncodedObject(plumbing.ZeroHash); !errors.Is(err, plumbing.ErrObjectNotFound) {
		return false
	}
	packs, err := filepath.Glob(s.packFile("*.pack"))
	indexes, failed := filepath.Glob(s.packFile("*.idx"))
	if err = errors.Join(err, failed); len(packs) != len(indexes) {
		return false
	}
	for _, pack := range packs {
		if filepath.Base(pack) != "pack-"+lastHash(pack)+".pack" {
			return false
		}
	}
	return err == nil
}

// lastHash is what a pack ends with: the hash of the rest, and its name.
func lastHash(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close() // read only
	var sum plumbing.Hash
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil && end > int64(len(sum)) {
		_, err = f.ReadAt(sum[:], end-int64(len(sum)))
	}
	if err != nil {
		return ""
	}
	return sum.String()
}

func (s *store) packFile(name string) string { return filepath.Join(s.dir, "objects", "pack", name) }

func (s *store) open() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the Git cache: %w; give the daemon a writable --data-dir", err)
	}
	s.attach()
	s.st.path, s.newer = filepath.Join(s.dir, recentFile), plumbing.ZeroHash
	if err := errors.Join(s.st.Init(), s.st.load()); err != nil {
		return fmt.Errorf("cannot make the Git cache in %s: %w; give the daemon a writable --data-dir", s.dir, err)
	}
	packs, err := filepath.Glob(s.packFile("*.pack"))
	s.packs = len(packs)
	return err
}

// attach reads the repository in dir; it touches nothing yet.
func (s *store) attach() {
	s.st = &recent{Storage: filesystem.NewStorageWithOptions(osfs.New(s.dir, osfs.WithBoundOS()),
		cache.NewObjectLRU(objectCache), filesystem.Options{KeepDescriptors: true})}
}

// reset empties the store. Whoever is killed meanwhile leaves all of it or nothing:
// one that lacks some of its packs would be believed.
func (s *store) reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.st.Close() // whatever it holds is thrown away
	gone := s.dir + goneSuffix
	err := os.RemoveAll(gone)
	if err == nil {
		err = ignoreMissing(os.Rename(s.dir, gone))
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("cannot empty the Git cache %s: %w; remove it by hand", s.dir, err)
	}
	return s.open()
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.Close()
}

// worn says that the store has grown enough to be fetched anew.
func (s *store) worn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packs > maxPacks
}

// kept is the commit set by keep; zero when there is none.
func (s *store) kept() plumbing.Hash {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ref, err := s.st.Reference(keptRef); err == nil && s.newer.IsZero() {
		return ref.Hash()
	}
	return s.newer
}

// keep remembers a commit whose objects have all been read or written. The
// reference is set only then, so a torn fetch never counts as a "have"; and only
// to what is in packs, so that the repository is sound by itself.
func (s *store) keep(h plumbing.Hash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.st.Reference(keptRef)
	if s.newer = h; err == nil && s.st.objects[h] != nil {
		return nil
	}
	err = s.pack(nil)
	if err == nil {
		err = s.st.SetReference(plumbing.NewHashReference(keptRef, h))
	}
	if err != nil {
		return fmt.Errorf("cannot write to the Git cache %s: %w", s.dir, err)
	}
	s.newer = plumbing.ZeroHash
	return nil
}

func (s *store) haves() []plumbing.Hash {
	if h := s.kept(); !h.IsZero() && s.has(h) {
		return []plumbing.Hash{h}
	}
	return nil
}

func (s *store) has(h plumbing.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.HasEncodedObject(h) == nil
}

func (s *store) boundary() ([]plumbing.Hash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.st.Shallow()
	if err != nil {
		return nil, fmt.Errorf("cannot read the Git cache %s: %w", s.dir, err)
	}
	return b, nil
}

// receive adds a pack from the network. An empty pack is no error: the store
// then had everything.
func (s *store) receive(pack io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.unpack(pack)
	if errors.Is(err, packfile.ErrEmptyPackfile) {
		return nil
	}
	s.packs++
	return err
}

func (s *store) moveBoundary(shallow, unshallow []plumbing.Hash) error {
	if len(shallow) == 0 && len(unshallow) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := s.st.Shallow()
	if err != nil {
		return fmt.Errorf("cannot read the Git cache %s: %w", s.dir, err)
	}
	set := map[plumbing.Hash]bool{}
	for _, h := range append(now, shallow...) {
		set[h] = true
	}
	for _, h := range unshallow {
		delete(set, h)
	}
	var list []plumbing.Hash
	for h := range set {
		list = append(list, h)
	}
	if err := s.st.SetShallow(list); err != nil {
		return fmt.Errorf("cannot write to the Git cache %s: %w", s.dir, err)
	}
	return nil
}

func (s *store) commit(h plumbing.Hash) (*object.Commit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := object.GetCommit(s.st, h)
	if err != nil {
		return nil, fmt.Errorf("cannot read commit %s: %w", h, err)
	}
	return c, nil
}

func (s *store) tree(h plumbing.Hash) ([]object.TreeEntry, error) {
	if h.IsZero() {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := object.GetTree(s.st, h)
	if err != nil {
		return nil, fmt.Errorf("cannot read tree %s: %w", h, err)
	}
	return t.Entries, nil
}

func (s *store) size(h plumbing.Hash) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.st.EncodedObjectSize(h)
	if err != nil {
		return 0, fmt.Errorf("cannot read blob %s: %w", h, err)
	}
	return n, nil
}

func (s *store) blob(h plumbing.Hash) (data []byte, err error) {
	return s.content(plumbing.BlobObject, h)
}

// raw is an object's content, which must be what its name is the hash of: a
// person's clone was not filled by us.
func (s *store) raw(kind plumbing.ObjectType, h plumbing.Hash) ([]byte, error) {
	data, err := s.content(kind, h)
	if err == nil && plumbing.ComputeHash(kind, data) != h {
		err = fail(ErrUnreachable, nil, "cannot read %s %s: its content is damaged; run git fsck, and clone again", kind, h)
	}
	return data, err
}

func (s *store) content(kind plumbing.ObjectType, h plumbing.Hash) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.st.EncodedObject(kind, h)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s %s: %w", kind, h, err)
	}
	data, err := contentOf(o)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s %s: %w", kind, h, err)
	}
	return data, nil
}

func contentOf(o plumbing.EncodedObject) (data []byte, err error) {
	rd, err := o.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	return io.ReadAll(rd)
}

// add keeps objects of our own, all of them or after an error none.
func (s *store) add(objects []plumbing.EncodedObject) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.st.fits(objects) {
		err = s.st.append(objects)
	} else {
		err = s.pack(objects)
	}
	if err != nil {
		return fmt.Errorf("cannot write to the Git cache %s: %w", s.dir, err)
	}
	return nil
}

// pack makes one pack of what is recent, and of these objects.
func (s *store) pack(objects []plumbing.EncodedObject) error {
	all := slices.Concat(slices.Collect(maps.Values(s.st.objects)), objects)
	if len(all) == 0 {
		return nil
	}
	data, err := encodePack(all)
	if err == nil {
		err = s.unpack(bytes.NewReader(data))
	}
	if err != nil {
		return err
	}
	s.packs++
	if err := s.sync("pack-" + hex.EncodeToString(data[len(data)-len(plumbing.ZeroHash):])); err != nil {
		return err
	}
	return s.st.empty()
}

// sync has a pack on the disk before the only other place of its objects is emptied:
// the journal's own sync, right after it, would bring that to the disk and not the pack.
func (s *store) sync(pack string) error {
	for _, end := range []string{".pack", ".idx"} {
		f, err := os.Open(s.packFile(pack + end))
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return err
		}
	}
	return syncDir(s.packFile(""))
}

// Package walk compares two folders entry by entry. It shares no code with the
// product's mover: it is the demonstration's own witness.
package walk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Entry is everything about a file, folder or link that a copy has to keep.
// Links are not counted: a copy of a hard link may be a file of its own.
type Entry struct {
	Path     string
	Mode     uint32 // type and permissions as lstat has them
	UID, GID uint32
	Size     int64 // 0 for folders: their size is the file system's own business
	MTime    int64 // nanoseconds
	Rdev     uint64
	Link     string // target of a symbolic link
	Attrs    string // extended attributes with their values
	SHA256   string // of a regular file's content
}

// Tree lists the entries below root, root itself included, in order of path.
func Tree(root string) ([]Entry, error) {
	var entries []Entry
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot walk %s: %w", root, err)
		}
		e, err := lookAt(root, path)
		entries = append(entries, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := sums(root, entries); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return entries, nil
}

func lookAt(root, path string) (Entry, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return Entry{}, fmt.Errorf("cannot look at %q: %w", path, err)
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Path: rel, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, MTime: st.Mtim.Nano(), Rdev: st.Rdev}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		e.Size = 0
	case syscall.S_IFLNK:
		if e.Link, err = os.Readlink(path); err != nil {
			return e, fmt.Errorf("cannot read the link %q: %w", path, err)
		}
	}
	e.Attrs, err = attributes(path)
	return e, err
}

// sums reads the files; a worker a processor.
func sums(root string, entries []Entry) error {
	next := make(chan *Entry)
	errs := make([]error, runtime.NumCPU())
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for e := range next {
				sum, err := sum(filepath.Join(root, e.Path))
				e.SHA256, errs[i] = sum, errors.Join(errs[i], err)
			}
		})
	}
	for i := range entries {
		if entries[i].Mode&syscall.S_IFMT == syscall.S_IFREG {
			next <- &entries[i]
		}
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("cannot read %q: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

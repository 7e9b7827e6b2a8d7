package gitsource

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// working lists the files of the working tree below a path, as a commit of all
// of them would hold them. What .gitignore names counts only where the commit
// known has it.
func (l *Local) working(below string, known map[string]object.TreeEntry) (map[string]object.TreeEntry, error) {
	patterns, err := gitignore.ReadPatterns(osfs.New(l.root), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read .gitignore: %w", err)
	}
	w := walker{l: l, known: known, folders: map[string]bool{}, ignored: gitignore.NewMatcher(patterns), all: map[string]object.TreeEntry{}}
	for file := range known {
		for dir := path.Dir(file); dir != "." && !w.folders[dir]; dir = path.Dir(dir) {
			w.folders[dir] = true
		}
	}
	start := filepath.Join(l.root, filepath.FromSlash(below))
	if _, err := os.Stat(start); errors.Is(err, fs.ErrNotExist) {
		return w.all, nil
	}
	err = filepath.WalkDir(start, w.visit)
	return w.all, err
}

type walker struct {
	l       *Local
	known   map[string]object.TreeEntry
	folders map[string]bool // of what is known
	ignored gitignore.Matcher
	all     map[string]object.TreeEntry
}

func (w *walker) visit(full string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(w.l.root, full)
	if err != nil || rel == "." {
		return err
	}
	file := filepath.ToSlash(rel)
	switch {
	case d.Name() == ".git" && !d.IsDir(): // of a second working tree
		return nil
	case d.Name() == ".git":
		return fs.SkipDir
	case d.IsDir() && w.known[file].Mode == filemode.Submodule:
		w.all[file] = w.known[file]
		return fs.SkipDir
	case d.IsDir():
		if w.ignored.Match(strings.Split(file, "/"), true) && !w.folders[file] {
			return fs.SkipDir
		}
		return nil
	}
	if _, there := w.known[file]; !there && w.ignored.Match(strings.Split(file, "/"), false) {
		return nil
	}
	if len(w.all) >= maxEntries {
		return fail(ErrTooBig, nil, "cannot read %s: it has more than %d files; set source.path to the folder with the plans", w.l.root, maxEntries)
	}
	return w.take(full, file, d)
}

func (w *walker) take(full, file string, d fs.DirEntry) error {
	mode, read := filemode.Regular, os.ReadFile
	switch {
	case d.Type()&fs.ModeSymlink != 0:
		mode, read = filemode.Symlink, func(name string) ([]byte, error) {
			to, err := os.Readlink(name)
			return []byte(to), err
		}
	case !d.Type().IsRegular():
		return nil // Git keeps no pipes and devices
	}
	data, err := read(full)
	if err != nil {
		return err
	}
	h := plumbing.ComputeHash(plumbing.BlobObject, data)
	if was := w.known[file]; was.Hash == h {
		w.all[file] = was
		return nil
	}
	b := builder{s: w.l.store}
	w.all[file] = object.TreeEntry{Mode: mode, Hash: b.encode(plumbing.BlobObject, data)}
	return w.l.store.add(b.objects)
}

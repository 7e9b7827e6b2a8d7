package gitsource

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tranship/tranship/spec"
)

// Folder is a file or folder on this machine, for what is checked before it is
// committed.
type Folder struct {
	Path string
	// Scope is the folder that the daemon reads, where ignore files begin to count;
	// "" is the top of the clone that Path is in, or Path itself outside of one.
	Scope  string
	Ignore []string // patterns of the configuration
}

// Found is what lies in a Folder.
type Found struct {
	Files   []FoundFile     // of documents that the daemon would read, by name
	Ignored int             // files that it would not
	Refused []spec.Document // lines of ignore files that do not count
}

// FoundFile is one file; Path is below Folder.Path.
type FoundFile struct {
	spec.File
	Name string // in the clone that it is in, or else below Folder.Path
}

// Read reads the documents that the daemon would read.
func (f Folder) Read() (*Found, error) {
	at, err := real(f.Path)
	if err != nil {
		return nil, err
	}
	w := &folderWalk{top: top(at), ignores: map[string][]byte{}}
	start := w.top
	if f.Scope != "" {
		if start, err = real(f.Scope); err != nil {
			return nil, err
		}
	}
	for dir := at; within(start, dir) && dir != start; {
		dir = filepath.Dir(dir)
		if err := w.readIgnores(dir); err != nil {
			return nil, err
		}
	}
	if err := filepath.WalkDir(at, w.visit); err != nil {
		return nil, err
	}
	out, g := &Found{}, newIgnoring(w.ignores, f.Ignore)
	for _, file := range slices.Sorted(maps.Keys(g.problems)) {
		out.Refused = append(out.Refused, g.problems[file]...)
	}
	for _, full := range w.found {
		if g.ignores(w.name(full)) {
			out.Ignored++
			continue
		}
		data, err := os.ReadFile(full)
		if err != nil {
			return nil, err
		}
		shown := filepath.Join(f.Path, strings.TrimPrefix(full, at))
		out.Files = append(out.Files, FoundFile{File: spec.File{Path: filepath.ToSlash(shown), Data: data}, Name: w.name(full)})
	}
	return out, nil
}

// real is a path as findClone has it.
func real(name string) (string, error) {
	full, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(full)
}

func within(dir, file string) bool {
	return file == dir || strings.HasPrefix(file, strings.TrimSuffix(dir, string(filepath.Separator))+string(filepath.Separator))
}

// top is what the paths of patterns begin at.
func top(at string) string {
	if root, _, err := findClone(at); err == nil {
		return root
	}
	if info, err := os.Stat(at); err == nil && !info.IsDir() {
		return filepath.Dir(at)
	}
	return at
}

type folderWalk struct {
	top     string
	ignores map[string][]byte
	found   []string
}

func (w *folderWalk) name(full string) string {
	rel, err := filepath.Rel(w.top, full)
	if err != nil {
		return filepath.ToSlash(full)
	}
	return filepath.ToSlash(rel)
}

func (w *folderWalk) readIgnores(dir string) error {
	full := filepath.Join(dir, spec.IgnoreFile)
	data, err := os.ReadFile(full)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	w.ignores[w.name(full)] = data
	return err
}

func (w *folderWalk) visit(full string, d fs.DirEntry, err error) error {
	switch {
	case err != nil:
		return err
	case d.IsDir() && d.Name() == ".git":
		return fs.SkipDir
	case d.IsDir():
		return w.readIgnores(full)
	case d.Type().IsRegular() && slices.Contains([]string{".yaml", ".yml"}, path.Ext(d.Name())):
		w.found = append(w.found, full)
	}
	return nil
}

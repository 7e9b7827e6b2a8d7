// Package image writes container images as docker-archive tars, without a daemon
// or a registry. The same input gives the same bytes.
package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Spec says what an image is made of: one layer of the root file system, if there
// is one, and of the files.
type Spec struct {
	Ref        string
	Root       string // folder of a root file system, kept with owners, modes and links
	Files      []File
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
}

// File is a file of the image, owned by root.
type File struct {
	Path   string // in the image
	Source string // file to copy
	Link   string // or: target of a symbolic link
	Data   []byte // or: the content itself
	Mode   int64  // 0: as the source's
}

// ParseFile reads "path=source", or "path=->target" for a symbolic link.
func ParseFile(arg string) (File, error) {
	p, source, ok := strings.Cut(arg, "=")
	if !ok || p == "" || source == "" {
		return File{}, fmt.Errorf("cannot read %q: want PATH-IN-IMAGE=FILE or PATH-IN-IMAGE=->TARGET", arg)
	}
	if target, link := strings.CutPrefix(source, "->"); link {
		return File{Path: p, Link: target}, nil
	}
	return File{Path: p, Source: source}, nil
}

// Write writes the image to out.
func Write(out io.Writer, s Spec) (err error) {
	layer, err := os.CreateTemp("", "bed-layer-*")
	if err != nil {
		return fmt.Errorf("cannot make a temporary file for the layer: %w", err)
	}
	defer os.Remove(layer.Name())
	defer func() { err = errors.Join(err, layer.Close()) }()
	digest := sha256.New()
	if err := writeLayer(io.MultiWriter(layer, digest), s); err != nil {
		return fmt.Errorf("cannot write the layer of %s: %w", s.Ref, err)
	}
	size, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return writeArchive(out, s, hex.EncodeToString(digest.Sum(nil)), layer, size)
}

func writeArchive(out io.Writer, s Spec, digest string, layer io.Reader, size int64) error {
	config, err := json.Marshal(configOf(s, digest))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName, layerName := hex.EncodeToString(sum[:])+".json", digest+".tar"
	manifest, err := json.Marshal([]any{map[string]any{"Config": configName, "RepoTags": []string{s.Ref}, "Layers": []string{layerName}}})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(out)
	for _, part := range []struct {
		name string
		size int64
		from io.Reader
	}{
		{"manifest.json", int64(len(manifest)), strings.NewReader(string(manifest))},
		{configName, int64(len(config)), strings.NewReader(string(config))},
		{layerName, size, layer},
	} {
		if err := tw.WriteHeader(&tar.Header{Name: part.name, Mode: 0o644, Size: part.size}); err != nil {
			return fmt.Errorf("cannot write the archive: %w", err)
		}
		if _, err := io.Copy(tw, part.from); err != nil {
			return fmt.Errorf("cannot write the archive: %w", err)
		}
	}
	return tw.Close()
}

func configOf(s Spec, digest string) map[string]any {
	env := s.Env
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	}
	dir := s.WorkingDir
	if dir == "" {
		dir = "/"
	}
	const epoch = "1970-01-01T00:00:00Z" // a date would make each build another image
	return map[string]any{
		"architecture": "amd64", "os": "linux", "created": epoch,
		"config":  map[string]any{"Entrypoint": s.Entrypoint, "Cmd": s.Cmd, "Env": env, "User": s.User, "WorkingDir": dir},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
		"history": []any{map[string]any{"created": epoch, "created_by": "bed image"}},
	}
}

// writeLayer writes the root file system first: a file of the same path replaces
// what the root has.
func writeLayer(out io.Writer, s Spec) error {
	tw := tar.NewWriter(out)
	l := &layerWriter{tw: tw, made: map[string]bool{}}
	files := slices.Clone(s.Files)
	if s.Root == "" {
		files = append(files, base()...)
	}
	slices.SortStableFunc(files, func(a, b File) int { return strings.Compare(clean(a.Path), clean(b.Path)) })
	for _, f := range files {
		l.replaced = append(l.replaced, clean(f.Path))
	}
	if s.Root != "" {
		if err := l.addRoot(s.Root); err != nil {
			return err
		}
	} else if err := l.dir("tmp", 0o1777); err != nil {
		return err
	}
	for _, f := range files {
		if err := l.addFile(f); err != nil {
			return fmt.Errorf("cannot add %s: %w", f.Path, err)
		}
	}
	return tw.Close()
}

// base is what nearly every program expects of a file system.
func base() []File {
	return []File{
		{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nuser:x:1000:\nnobody:x:65534:\n")},
	}
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+filepath.ToSlash(p)), "/") }

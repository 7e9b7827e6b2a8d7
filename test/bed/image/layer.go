package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// layerWriter writes the entries of one layer.
type layerWriter struct {
	tw       *tar.Writer
	made     map[string]bool // folders already written
	replaced []string        // paths that come from the files, not from the root
}

func (l *layerWriter) dir(name string, mode int64) error {
	if name == "" || name == "." || l.made[name] {
		return nil
	}
	if err := l.dir(parent(name), 0o755); err != nil {
		return err
	}
	l.made[name] = true
	return l.tw.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode, ModTime: epoch})
}

var epoch = time.Unix(0, 0)

func parent(name string) string {
	if p := path.Dir(name); p != "." {
		return p
	}
	return ""
}

func (l *layerWriter) addFile(f File) error {
	name := clean(f.Path)
	if err := l.dir(parent(name), 0o755); err != nil {
		return err
	}
	if f.Link != "" {
		return l.tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: f.Link, Mode: 0o777, ModTime: epoch})
	}
	if f.Source == "" {
		return l.regular(name, f.Mode, int64(len(f.Data)), bytes.NewReader(f.Data))
	}
	in, err := os.Open(f.Source)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.Source)
	}
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
		if info.Mode()&0o111 != 0 {
			mode = 0o755
		}
	}
	return l.regular(name, mode, info.Size(), in)
}

func (l *layerWriter) regular(name string, mode, size int64, from io.Reader) error {
	if err := l.tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: size, ModTime: epoch}); err != nil {
		return err
	}
	_, err := io.Copy(l.tw, from)
	return err
}

// addRoot writes a whole root file system. WalkDir goes in lexical order, which
// keeps the output the same from run to run.
func (l *layerWriter) addRoot(root string) error {
	links := map[inode]string{}
	return filepath.WalkDir(root, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot read the root file system: %w", err)
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		if slices.Contains(l.replaced, name) {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return l.addEntry(name, p, info, links)
	})
}

type inode struct{ dev, ino uint64 }

func (l *layerWriter) addEntry(name, p string, info fs.FileInfo, links map[inode]string) error {
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // means nothing without its process
	}
	var target string
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("cannot describe %s: %w", name, err)
	}
	h.Name = name
	h.Uname, h.Gname = "", "" // the names of this machine mean nothing in the image
	h.ModTime, h.AccessTime, h.ChangeTime = epoch, time.Time{}, time.Time{}
	h.Format = tar.FormatUnknown
	if info.IsDir() {
		h.Name += "/"
		l.made[name] = true
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, seen := links[id]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return l.tw.WriteHeader(h)
		}
		links[id] = name
	}
	if err := l.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	in, err := os.Open(p)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(l.tw, in)
	return err
}

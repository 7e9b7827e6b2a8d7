package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestParseFile(t *testing.T) {
	tests := []struct {
		arg  string
		want File
		ok   bool
	}{
		{"bin/app=/tmp/app", File{Path: "bin/app", Source: "/tmp/app"}, true},
		{"bin/sh=->busybox", File{Path: "bin/sh", Link: "busybox"}, true},
		{"bin/app", File{}, false},
		{"=x", File{}, false},
		{"x=", File{}, false},
	}
	for _, tt := range tests {
		got, err := ParseFile(tt.arg)
		if (err == nil) != tt.ok || got.Path != tt.want.Path || got.Source != tt.want.Source || got.Link != tt.want.Link {
			t.Errorf("ParseFile(%q) = %+v, %v", tt.arg, got, err)
		}
	}
}

// entries unpacks the only layer of an archive.
func entries(t *testing.T, archive []byte) map[string]*tar.Header {
	t.Helper()
	var manifest []struct{ Layers []string }
	found := map[string]*tar.Header{}
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case h.Name == "manifest.json":
			if err := json.NewDecoder(tr).Decode(&manifest); err != nil {
				t.Fatal(err)
			}
		case h.Name == manifest[0].Layers[0]:
			for layer := tar.NewReader(tr); ; {
				h, err := layer.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				found[h.Name] = h
			}
		}
	}
}

func TestWriteIsDeterministic(t *testing.T) {
	app := filepath.Join(t.TempDir(), "app")
	write(t, app, 0o755)
	spec := Spec{Ref: "localhost/x:1", Entrypoint: []string{"/bin/app"}, Files: []File{{Path: "/bin/sh", Link: "app"}, {Path: "/bin/app", Source: app}}}
	var first, second bytes.Buffer
	if err := Write(&first, spec); err != nil {
		t.Fatal(err)
	}
	spec.Files[0], spec.Files[1] = spec.Files[1], spec.Files[0]
	if err := Write(&second, spec); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the order of the arguments changed the image")
	}
	got := entries(t, first.Bytes())
	for name, mode := range map[string]int64{"bin/app": 0o755, "etc/passwd": 0o644, "tmp/": 0o1777, "bin/": 0o755} {
		if h := got[name]; h == nil || h.Mode != mode {
			t.Errorf("%s: %+v, want mode %o", name, h, mode)
		}
	}
	if h := got["bin/sh"]; h == nil || h.Linkname != "app" {
		t.Errorf("bin/sh: %+v", h)
	}
}

func TestRootIsKept(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "run"), 0o4750)
	write(t, filepath.Join(root, "etc/app.conf"), 0o640)
	if err := os.Symlink("app.conf", filepath.Join(root, "etc/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(root, "run"), filepath.Join(root, "run2")); err != nil {
		t.Fatal(err)
	}
	over := filepath.Join(t.TempDir(), "over")
	write(t, over, 0o644)
	var out bytes.Buffer
	if err := Write(&out, Spec{Ref: "x:1", Root: root, Files: []File{{Path: "etc/app.conf", Source: over, Mode: 0o600}}}); err != nil {
		t.Fatal(err)
	}
	got := entries(t, out.Bytes())
	if h := got["run"]; h == nil || h.Mode != 0o4750 {
		t.Errorf("run: %+v, want mode 4750", h)
	}
	if h := got["run2"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "run" {
		t.Errorf("run2: %+v, want a hard link to run", h)
	}
	if h := got["etc/link"]; h == nil || h.Linkname != "app.conf" {
		t.Errorf("etc/link: %+v", h)
	}
	if h := got["etc/app.conf"]; h == nil || h.Mode != 0o600 {
		t.Errorf("etc/app.conf: %+v, want the file of the arguments", h)
	}
	if got["etc/passwd"] != nil {
		t.Error("a root file system got a passwd that it does not have")
	}
}

func write(t *testing.T, path string, mode uint32) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(filepath.Base(path)), 0o600); err != nil {
		t.Fatal(err)
	}
	fileMode := os.FileMode(mode & 0o777)
	if mode&0o4000 != 0 {
		fileMode |= os.ModeSetuid
	}
	if err := os.Chmod(path, fileMode); err != nil {
		t.Fatal(err)
	}
}

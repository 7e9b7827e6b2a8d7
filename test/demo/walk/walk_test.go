package walk

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair makes a folder with some of everything, and a faithful copy of it.
func pair(t *testing.T) (source, target string) {
	t.Helper()
	source, target = filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "target")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(source, "dir", "empty"), 0o750))
	must(os.WriteFile(filepath.Join(source, "dir", "file"), []byte("content"), 0o640))
	must(os.WriteFile(filepath.Join(source, "dir", "new\nline \xe9"), nil, 0o600))
	must(os.WriteFile(filepath.Join(source, "other"), []byte(strings.Repeat("x", 300_000)), 0o600))
	must(os.Symlink("file", filepath.Join(source, "dir", "link")))
	must(syscall.Mkfifo(filepath.Join(source, "pipe"), 0o600))
	if err := syscall.Setxattr(filepath.Join(source, "other"), "user.note", []byte("a\x00b"), 0); err != nil {
		t.Skipf("no extended attributes here: %v", err)
	}
	out, err := exec.Command("cp", "-a", source, target).CombinedOutput()
	if err != nil {
		t.Fatalf("cannot copy: %v: %s", err, out)
	}
	return source, target
}

func TestEqual(t *testing.T) {
	source, target := pair(t)
	s, differences, err := Compare(source, target, 10)
	if err != nil || len(differences) > 0 {
		t.Fatalf("a faithful copy: %v, %v", differences, err)
	}
	if s.Entries != 8 {
		t.Errorf("%d entries, want 8", s.Entries)
	}
}

// keepTime changes something and puts its time back.
func keepTime(path string, change func() error) error {
	info, err := os.Lstat(path)
	if err == nil {
		err = change()
	}
	if err == nil {
		err = os.Chtimes(path, info.ModTime(), info.ModTime())
	}
	return err
}

// changes are what may go wrong with a copy, and what must be said of it.
var changes = []struct {
	name   string
	change func(dir string) error
	want   string
}{
	{"one flipped byte", func(dir string) error {
		path := filepath.Join(dir, "other")
		return keepTime(path, func() error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("y"), 200_000)
			f.Close()
			return err
		})
	}, "SHA-256"},
	{"mode of a file", func(dir string) error { return os.Chmod(filepath.Join(dir, "other"), 0o601) }, "mode"},
	{"mode of a folder", func(dir string) error { return os.Chmod(filepath.Join(dir, "dir", "empty"), 0o755) }, "mode"},
	{"setuid", func(dir string) error { return os.Chmod(filepath.Join(dir, "other"), 0o600|os.ModeSetuid) }, "mode"},
	{"mtime by a nanosecond", func(dir string) error {
		path := filepath.Join(dir, "other")
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		at := info.ModTime().Add(time.Nanosecond)
		return os.Chtimes(path, at, at)
	}, "mtime"},
	{"value of an attribute", func(dir string) error {
		return syscall.Setxattr(filepath.Join(dir, "other"), "user.note", []byte("a\x00c"), 0)
	}, "attributes"},
	{"missing attribute", func(dir string) error { return syscall.Removexattr(filepath.Join(dir, "other"), "user.note") }, "attributes"},
	{"missing entry", func(dir string) error {
		return keepTime(filepath.Join(dir, "dir"), func() error { return os.Remove(filepath.Join(dir, "dir", "empty")) })
	}, "missing"},
	{"added entry", func(dir string) error {
		return keepTime(dir, func() error { return os.WriteFile(filepath.Join(dir, "more"), nil, 0o600) })
	}, "target only"},
	{"target of a link", func(dir string) error {
		path := filepath.Join(dir, "dir", "link")
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.Symlink("none", path)
	}, "link target"},
	{"owner", func(dir string) error { return os.Lchown(filepath.Join(dir, "dir", "link"), 12345, 12345) }, "owner"},
	{"another type", func(dir string) error {
		path := filepath.Join(dir, "pipe")
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.WriteFile(path, nil, 0o600)
	}, "mode"},
}

// TestSeesEveryChange changes one thing at a time on the copy.
func TestSeesEveryChange(t *testing.T) {
	for _, tt := range changes {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "owner" && os.Geteuid() != 0 {
				t.Skip("only root may give files away")
			}
			source, target := pair(t)
			if err := tt.change(target); err != nil {
				t.Fatal(err)
			}
			_, differences, err := Compare(source, target, 10)
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(differences, "\n"); !strings.Contains(all, tt.want) {
				t.Errorf("differences %q do not tell of %q", all, tt.want)
			}
		})
	}
}

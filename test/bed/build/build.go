// Package build builds the programs that the bed runs, from modules of their own,
// and keeps them in a cache that all checkouts share.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Module is a folder with a go.mod of its own.
type Module struct {
	Dir      string   // below test/bed
	Programs []string // import paths of main packages
	LDFlags  string
	Files    []Files
}

// Files are copied from a dependency of the module.
type Files struct {
	Module string // path of the dependency
	Globs  []string
	To     string // folder beside the programs
}

// Cache is where built programs are.
type Cache struct {
	Dir    string // of the cache
	Source string // test/bed
	Report func(string)
}

// DefaultDir is the cache that all checkouts of this user share.
func DefaultDir() (string, error) {
	home, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the cache folder, set HOME: %w", err)
	}
	return filepath.Join(home, "tranship", "bed"), nil
}

// Ensure builds what is missing of the module, and returns the folder with its
// programs. A program is kept as soon as it is built: an interrupted build goes on.
func (c Cache) Ensure(ctx context.Context, m Module) (string, error) {
	key, err := c.key(ctx, m)
	if err != nil {
		return "", err
	}
	out := filepath.Join(c.Dir, "bin", m.Dir+"-"+key)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache: %w", err)
	}
	for _, program := range m.Programs {
		if err := c.program(ctx, m, program, out); err != nil {
			return "", err
		}
	}
	for _, f := range m.Files {
		if err := c.files(ctx, m, f, out); err != nil {
			return "", err
		}
	}
	return out, nil
}

// key changes with whatever changes the programs.
func (c Cache) key(ctx context.Context, m Module) (string, error) {
	version, err := c.goCommand(ctx, m, "version").Output()
	if err != nil {
		return "", fmt.Errorf("cannot run go, which builds the programs of the bed: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %q %q %q\n", version, runtime.GOARCH, m.Programs, m.LDFlags, m.Files)
	root := filepath.Join(c.Source, m.Dir)
	err = filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(p, "_test.go") {
			return err
		}
		if name := e.Name(); !strings.HasSuffix(name, ".go") && name != "go.mod" && name != "go.sum" {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", strings.TrimPrefix(p, root), len(data))
		h.Write(data)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("cannot read the sources of %s: %w", m.Dir, err)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func (c Cache) goCommand(ctx context.Context, m Module, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(c.Source, m.Dir)
	// The programs run in images without a C library, and a workspace of the
	// developer's must not change what they are made of.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	return cmd
}

func (c Cache) program(ctx context.Context, m Module, program, out string) error {
	name := path.Base(program)
	if program == "." {
		name = m.Dir
	}
	target := filepath.Join(out, name)
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	start := time.Now()
	c.Report("building " + name)
	temporary := target + ".new"
	cmd := c.goCommand(ctx, m, "build", "-trimpath", "-buildvcs=false", "-ldflags", strings.TrimSpace("-s -w "+m.LDFlags), "-o", temporary, program)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s in %s: %w\n%s", program, cmd.Dir, err, text)
	}
	if err := os.Rename(temporary, target); err != nil {
		return fmt.Errorf("cannot keep %s: %w", name, err)
	}
	c.Report(fmt.Sprintf("built %s in %s", name, time.Since(start).Round(time.Second)))
	return nil
}

// files copies data files of a dependency, which are not in this repository.
func (c Cache) files(ctx context.Context, m Module, f Files, out string) error {
	target := filepath.Join(out, f.To)
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	dir, err := c.goCommand(ctx, m, "list", "-m", "-f", "{{.Dir}}", f.Module).Output()
	if err != nil {
		return fmt.Errorf("cannot find module %s: %w", f.Module, err)
	}
	temporary := target + ".new"
	if err := errors.Join(os.RemoveAll(temporary), os.MkdirAll(temporary, 0o755)); err != nil {
		return fmt.Errorf("cannot make %s: %w", temporary, err)
	}
	var found []string
	for _, glob := range f.Globs {
		some, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), glob))
		if err != nil {
			return fmt.Errorf("cannot look for %s: %w", glob, err)
		}
		found = append(found, some...)
	}
	slices.Sort(found)
	if len(found) == 0 {
		return fmt.Errorf("cannot find %v in module %s: has its version changed?", f.Globs, f.Module)
	}
	for _, file := range found {
		data, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(temporary, filepath.Base(file)), data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("cannot copy %s: %w", file, err)
		}
	}
	return os.Rename(temporary, target)
}

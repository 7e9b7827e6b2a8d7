// Package gitea runs a real Gitea, built from its module, and what Tranship says
// and does with it (ADR 38). Its tests need Go, a C compiler, git and ssh-keygen,
// and the first of them builds Gitea, which is then kept for all checkouts.
package gitea

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	module = "code.gitea.io/gitea"
	// tags choose the database; the web pages' scripts and styles, which the
	// module lacks, are not needed for Git and the API.
	tags = "sqlite sqlite_unlock_notify"
)

// Ensure builds the Gitea that the go.mod in source names, unless it is there
// already, and returns its folder: the program and the files that it reads. It
// may take minutes; report is told before and after.
func Ensure(ctx context.Context, source string, report func(string)) (string, error) {
	home, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the cache folder, set HOME: %w", err)
	}
	version, err := goCommand(ctx, source, "list", "-m", "-f", "{{.Version}}", module)
	if err != nil {
		return "", err
	}
	key := sha256.New()
	for _, file := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(source, file))
		if err != nil {
			return "", fmt.Errorf("cannot tell which Gitea to build: %w", err)
		}
		key.Write(data)
	}
	out := filepath.Join(home, "tranship", fmt.Sprintf("gitea-%s-%s-%s-%s", version, runtime.GOOS, runtime.GOARCH, hex.EncodeToString(key.Sum(nil))[:8]))
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	start := time.Now()
	report("building Gitea " + version)
	if err := build(ctx, source, version, out); err != nil {
		return "", err
	}
	report(fmt.Sprintf("built Gitea %s in %s", version, time.Since(start).Round(time.Second)))
	return out, nil
}

// build fills a folder of its own, so that out is whole or not there.
func build(ctx context.Context, source, version, out string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("cannot make the cache: %w", err)
	}
	temporary, err := os.MkdirTemp(filepath.Dir(out), "gitea-new-")
	if err != nil {
		return fmt.Errorf("cannot make the cache: %w", err)
	}
	defer os.RemoveAll(temporary)
	if _, err := goCommand(ctx, source, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.Version="+strings.TrimPrefix(version, "v"), "-tags", tags, "-o", filepath.Join(temporary, "gitea"), module); err != nil {
		return err
	}
	dir, err := goCommand(ctx, source, "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return err
	}
	for _, part := range []string{"options", "templates"} {
		if err := os.CopyFS(filepath.Join(temporary, part), os.DirFS(filepath.Join(dir, part))); err != nil {
			return fmt.Errorf("cannot copy %s of Gitea: %w", part, err)
		}
	}
	if err := os.Rename(temporary, out); err != nil {
		if _, there := os.Stat(out); there == nil {
			return nil // somebody else has built the same meanwhile
		}
		return fmt.Errorf("cannot keep the built Gitea: %w", err)
	}
	return nil
}

func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "go", args...)
	c.Dir = dir
	// Gitea's SQLite is C; a workspace of the developer's must not change what is built.
	c.Env = append(os.Environ(), "CGO_ENABLED=1", "GOWORK=off", "GOFLAGS=-mod=readonly")
	var said strings.Builder
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], dir, err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
}

package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tranship/tranship/spec"
)

// commandLimit bounds every program that is run beside the daemon. It is there
// for one that hangs: what a busy machine needs is far below.
const commandLimit = 10 * time.Minute

// Lab is a branch, a ledger, a configuration and a daemon of its own on the
// bed. Log may be read at any time; everything else is for one goroutine.
type Lab struct {
	Bed    *Bed
	Binary string // the product
	Dir    string // clone, config, secrets, data
	Name   string // unique; the branches and the prefix in the bucket carry it
	Log    *Log   // what its daemons have printed
	Listen string // where its daemons answer probes and metrics; empty for nowhere

	daemon *process
}

// New makes a lab in dir for the product at binary; its name begins with
// prefix. The clone is made, and nothing is running yet.
func New(bed *Bed, binary, dir, prefix string) (*Lab, error) {
	sum := sha256.Sum256([]byte(dir + time.Now().String()))
	l := &Lab{Bed: bed, Binary: binary, Dir: dir, Name: prefix + hex.EncodeToString(sum[:4]), Log: &Log{}}
	return l, l.clone()
}

// LoadImage puts the product into an image of its own content and loads it
// into every node. The bed runs in bedDir; its program is in source.
func (l *Lab) LoadImage(source, bedDir string) (ref string, err error) {
	raw, err := os.ReadFile(l.Binary)
	if err != nil {
		return "", fmt.Errorf("cannot read the product (%w): make build", err)
	}
	sum := sha256.Sum256(raw)
	ref = "localhost/tranship:" + hex.EncodeToString(sum[:6])
	tar := filepath.Join(l.Dir, "image.tar")
	for _, args := range [][]string{
		{"image", "--out", tar, "--ref", ref, "--entrypoint", "/tranship", "tranship=" + l.Binary},
		{"load", "--dir", bedDir, tar},
	} {
		if _, err := l.Run("go", append([]string{"-C", source, "run", "."}, args...)...); err != nil {
			return "", fmt.Errorf("cannot load the product into the bed: %w", err)
		}
	}
	return ref, os.Remove(tar)
}

// Write puts a file below the lab's folder.
func (l *Lab) Write(name, text string) error {
	path := filepath.Join(l.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot make the folder of %s: %w", name, err)
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// Run executes a program and returns what it prints on its standard output; the
// error has all that it said, which is then returned, too. Warnings that a
// program prints beside its answer are no part of it.
func (l *Lab) Run(name string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), commandLimit)
	defer stop()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "GIT_SSL_CAINFO="+l.Bed.Git.CAFile, "GIT_TERMINAL_PROMPT=0") // a variable of the machine's would win over http.sslCAInfo
	c.WaitDelay = time.Second
	var out, all bytes.Buffer
	both := &together{into: &all}
	c.Stdout, c.Stderr = io.MultiWriter(&out, both), both
	if err := c.Run(); err != nil {
		return all.String(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, all.Bytes())
	}
	return out.String(), nil
}

// together takes what a program prints on two streams.
type together struct {
	mu   sync.Mutex
	into io.Writer
}

// Write implements io.Writer.
func (t *together) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.into.Write(p)
}

// Git runs C git in the clone, as a developer.
func (l *Lab) Git(args ...string) (string, error) {
	base := []string{"-C", filepath.Join(l.Dir, "clone"), "-c", "user.name=Dana Dev", "-c", "user.email=dana@example.com"}
	return l.Run("git", append(base, args...)...)
}

// Ledger is the name of the ledger's branch.
func (l *Lab) Ledger() string { return "tranship/ledger-" + l.Name }

// Fsck fetches the ledger's branch, which becomes FETCH_HEAD, and has C git check
// every object of it and of what was read. Without a ledger there is nothing to check.
func (l *Lab) Fsck() error {
	ref, err := l.Git("ls-remote", "origin", "refs/heads/"+l.Ledger())
	if err != nil || ref == "" {
		return err
	}
	if _, err := l.Git("fetch", "-q", "origin", l.Ledger()); err != nil {
		return err
	}
	if out, err := l.Git("fsck", "--strict", "--no-dangling", "FETCH_HEAD"); err != nil || strings.TrimSpace(out) != "" {
		return fmt.Errorf("git fsck --strict says of %s: %s %w", l.Ledger(), out, err)
	}
	return nil
}

func (l *Lab) clone() error {
	u, err := url.Parse(l.Bed.Git.URL)
	if err != nil {
		return fmt.Errorf("cannot read the address of the Git server: %w", err)
	}
	password, err := Text(l.Bed.Git.Dev.PasswordFile)
	if err != nil {
		return err
	}
	u.User = url.UserPassword(l.Bed.Git.Dev.User, password)
	if err := os.MkdirAll(filepath.Join(l.Dir, "clone"), 0o700); err != nil {
		return fmt.Errorf("cannot make the clone's folder: %w", err)
	}
	if _, err := l.Git("init", "-q", "-b", l.Name); err != nil {
		return err
	}
	_, err = l.Git("remote", "add", "origin", u.String())
	return err
}

// Commit writes files (an empty text deletes), pushes them to the branch that
// the daemon reads, and returns the commit.
func (l *Lab) Commit(message string, files map[string]string) (string, error) {
	for name, text := range files {
		if err := l.place(filepath.Join("clone", name), text); err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{{"add", "-A"}, {"commit", "-q", "-m", message}} {
		if _, err := l.Git(args...); err != nil {
			return "", err
		}
	}
	if err := l.Push(); err != nil {
		return "", err
	}
	head, err := l.Git("rev-parse", "HEAD")
	return strings.TrimSpace(head), err
}

// Push sends what was committed to the branch that the daemon reads.
func (l *Lab) Push() error {
	_, err := l.Git("push", "-q", "origin", "HEAD:refs/heads/"+l.Name)
	return err
}

func (l *Lab) place(name, text string) error {
	if text != "" {
		return l.Write(name, text)
	}
	if err := os.Remove(filepath.Join(l.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot delete %s: %w", name, err)
	}
	return nil
}

// Kubectl runs the bed's own on a cluster.
func (l *Lab) Kubectl(kubeconfig string, args ...string) (string, error) {
	return l.Run(l.Bed.Kubectl, append([]string{"--kubeconfig", kubeconfig}, args...)...)
}

// Remove takes away what a plan and its namespace may have left on both
// clusters, without waiting and without an error: it is for the end.
func (l *Lab) Remove(plan, namespace string) {
	selector := "tranship.dev/plan=" + spec.ShortName(plan)
	for _, k := range []string{l.Bed.Source.Kubeconfig, l.Bed.Target.Kubeconfig} {
		_, _ = l.Kubectl(k, "delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
		_, _ = l.Kubectl(k, "-n", "velero", "delete", "backups.velero.io,restores.velero.io,backupstoragelocations.velero.io,secret,configmap", "-l", selector, "--ignore-not-found", "--wait=false")
		_, _ = l.Kubectl(k, "-n", "tranship-system", "delete", "pod,job,pvc,configmap,secret", "-l", selector, "--ignore-not-found", "--wait=false")
	}
}

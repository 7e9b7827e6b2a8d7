package gittest

import (
	"os"
	"path/filepath"
)

// Work is a person's clone of a repository, with one branch checked out.
type Work struct {
	Repo *Repo
	Dir  string
}

// Clone makes a working copy. An empty repository gets the branch main.
func (r *Repo) Clone() *Work {
	r.t.Helper()
	w := &Work{Repo: r, Dir: r.t.TempDir()}
	r.run("", "git", "clone", "-q", r.Dir, w.Dir)
	return w
}

// Git runs git in the working copy.
func (w *Work) Git(args ...string) string {
	w.Repo.t.Helper()
	return w.Repo.run("", "git", append([]string{"-C", w.Dir}, args...)...)
}

// Write writes a file; "" removes it.
func (w *Work) Write(path, text string) *Work {
	w.Repo.t.Helper()
	full := filepath.Join(w.Dir, path)
	err := os.MkdirAll(filepath.Dir(full), 0o755)
	if err == nil && text == "" {
		err = os.Remove(full)
	} else if err == nil {
		err = os.WriteFile(full, []byte(text), 0o644)
	}
	if err != nil {
		w.Repo.t.Fatal(err)
	}
	return w
}

// Commit commits everything and returns the commit.
func (w *Work) Commit(message string) string {
	w.Repo.t.Helper()
	w.Git("add", "-A")
	w.Git("commit", "-q", "--allow-empty", "-m", message)
	return w.Git("rev-parse", "HEAD")
}

// Push commits and pushes the current branch, by force where it was rewritten.
func (w *Work) Push(message string) string {
	w.Repo.t.Helper()
	h := w.Commit(message)
	w.Git("push", "-q", "-f", "origin", "HEAD")
	return h
}

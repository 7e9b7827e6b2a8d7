package gitsource

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// Local is a clone on this machine, such as the checkout of a CI job. It is
// only read: what a merge would make is kept in memory. Not safe for
// concurrent use.
type Local struct {
	root  string // of the working tree
	own   *filesystem.Storage
	heads []storer.ReferenceStorer // of this working tree, then of the whole clone
	store *store
}

// OpenLocal opens the clone that a folder is in.
func OpenLocal(dir string) (*Local, error) {
	root, git, err := findClone(dir)
	if err != nil {
		return nil, err
	}
	shared := git
	if data, err := os.ReadFile(filepath.Join(git, "commondir")); err == nil {
		shared = filepath.Join(git, strings.TrimSpace(string(data)))
	}
	l := &Local{root: root, own: storageAt(shared)}
	if shared != git {
		l.heads = append(l.heads, storageAt(git))
	}
	l.heads = append(l.heads, l.own)
	l.store = &store{dir: shared, st: &recent{Storage: l.own}}
	return l, nil
}

func storageAt(dir string) *filesystem.Storage {
	return filesystem.NewStorageWithOptions(osfs.New(dir), cache.NewObjectLRU(objectCache), filesystem.Options{KeepDescriptors: true, AlternatesFS: osfs.New("/")})
}

// findClone goes up from a folder to the working tree and its .git.
func findClone(dir string) (root, git string, err error) {
	at, err := filepath.Abs(dir)
	if err == nil {
		at, err = filepath.EvalSymlinks(at)
	}
	if err != nil {
		return "", "", fail(ErrMisconfigured, err, "cannot read %s; name a folder of the clone", dir)
	}
	for root = at; ; root = filepath.Dir(root) {
		git = filepath.Join(root, ".git")
		info, err := os.Stat(git)
		switch {
		case err == nil && info.IsDir():
			return root, git, nil
		case err == nil:
			git, err = gitLink(root, git)
			return root, git, err
		case root == filepath.Dir(root):
			return "", "", fail(ErrMisconfigured, nil, "cannot find a clone at %s or above it; run this in a checkout of the repository", dir)
		}
	}
}

// gitLink follows the file that stands for .git in a second working tree.
func gitLink(root, file string) (string, error) {
	data, err := os.ReadFile(file)
	to, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "gitdir: ")
	if err != nil || !ok {
		return "", fail(ErrMisconfigured, err, "cannot read %s: it leads to no clone", file)
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(root, to)
	}
	return to, nil
}

// Close frees what reading has opened.
func (l *Local) Close() error { return l.store.close() }

// Root is the folder of the working tree.
func (l *Local) Root() string { return l.root }

// View reads a ledger from a commit or branch of the clone.
func (l *Local) View(rev string) (*View, error) {
	c, err := l.commit(rev)
	if err != nil {
		return nil, err
	}
	label := &remote{url: "this clone", branch: plumbing.NewBranchReferenceName(rev)}
	return &View{rec: &records{s: l.store, root: c.TreeHash}, shared: true, tip: c.Hash, when: c.Committer.When}, knownFormat(l.store, c.TreeHash, label)
}

// revisions are the names under which a branch or tag is looked for.
var revisions = []string{"%s", "refs/%s", "refs/tags/%s", "refs/heads/%s", "refs/remotes/%s", "refs/remotes/origin/%s"}

// commit finds a commit by its full name, or by a branch or tag.
func (l *Local) commit(rev string) (*object.Commit, error) {
	h := plumbing.ZeroHash
	if plumbing.IsHash(rev) {
		h = plumbing.NewHash(rev)
	}
	for _, form := range revisions {
		for _, refs := range l.heads {
			name := plumbing.ReferenceName(fmt.Sprintf(form, rev))
			if ref, err := storer.ResolveReference(refs, name); err == nil && h.IsZero() {
				h = ref.Hash()
			} else if ref, err := refs.Reference(name); err == nil && ref.Type() == plumbing.SymbolicReference && h.IsZero() {
				if ref, err := storer.ResolveReference(l.own, ref.Target()); err == nil {
					h = ref.Hash()
				}
			}
		}
	}
	missing := fail(ErrBranchMissing, nil, "cannot find commit %q in this clone; give the full name of a commit, a branch or a tag that was fetched (a CI job often fetches one commit only: let it fetch all history)", oneLine(rev, 100))
	if h.IsZero() {
		return nil, missing
	}
	if tag, err := object.GetTag(l.store.st, h); err == nil {
		h = tag.Target
	}
	c, err := object.GetCommit(l.store.st, h)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, missing
	}
	return c, err
}

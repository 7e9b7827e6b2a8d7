package gitsource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// Change is what is to be merged.
type Change struct {
	Into   string          // the commit, branch or tag that it is merged into
	Head   string          // the change's own commit; "" is the working tree as it is
	Path   string          // only documents below it count
	Source spec.Repository // Path and Ignore: of these the daemon reads documents
	Shard  *spec.Shard     // whose plans count; nil: all of them
	Limits spec.Limits
	Now    time.Time // of the merge
}

// Merge is a branch before and after a change is merged, as the daemon would
// read it.
type Merge struct {
	Before, After *reconciler.Desired
	Into          string   // commit
	Notes         []string // what makes the comparison less than exact
}

// mergedAs names the merge that was never made.
const mergedAs = "the merge of this change"

// Merge finds out what the branch will say once a change is merged: what the
// change has edited since the two parted, on top of what the branch says now.
// Files that both have edited are taken from the change, and noted.
func (l *Local) Merge(ctx context.Context, c Change) (*Merge, error) {
	into, err := l.commit(c.Into)
	if err != nil {
		return nil, err
	}
	head, err := l.commit(cmp.Or(c.Head, "HEAD"))
	if err != nil {
		return nil, err
	}
	m := &Merge{Into: into.Hash.String()}
	root, only := scope(c.Source.Path, c.Path)
	src := &Source{store: l.store, path: root, only: only, ignore: c.Source.Ignore, limits: c.Limits, shard: c.Shard, remote: &remote{url: "this clone", branch: plumbing.NewBranchReferenceName(c.Into)}}
	tree, err := l.merged(src, m, into, head, c.Head == "")
	if err != nil {
		return nil, err
	}
	b := builder{s: l.store}
	who := object.Signature{Name: mergedAs, When: c.Now}
	merge, err := b.commit(tree, []plumbing.Hash{into.Hash}, who, mergedAs)
	if err == nil {
		err = l.store.add(b.objects)
	}
	if err != nil {
		return nil, err
	}
	if err := l.read(ctx, src, m, into, merge); err != nil {
		return nil, err
	}
	part := only != "" || root != strings.Join(splitPath(c.Source.Path), "/")
	m.Before.Partial, m.After.Partial = part, part
	return m, nil
}

// scope is where reading begins, so that ignore files count as they do for the
// daemon, and how the paths begin of what counts: folders below the one that the
// daemon reads, or one beside it as if the daemon read that.
func scope(read, below string) (root, only string) {
	read, below = strings.Join(splitPath(read), "/"), strings.Join(splitPath(below), "/")
	if below == "" || read == below {
		return read, ""
	}
	if read == "" || strings.HasPrefix(below, read+"/") {
		return read, below + "/"
	}
	return below, ""
}

// read reads both commits as the daemon would: one poll after the other.
func (l *Local) read(ctx context.Context, src *Source, m *Merge, into *object.Commit, merge plumbing.Hash) error {
	before, err := src.snapshot(ctx, nil, into)
	if err != nil {
		return err
	}
	c, err := l.store.commit(merge)
	if err != nil {
		return err
	}
	a := before.assemble(src.limits)
	m.Before = desired(a, into)
	after, err := src.snapshot(ctx, before, c)
	if err != nil {
		return err
	}
	pc := after.after(before, src.limits)
	pc.Approval = approval(c)
	m.After = desired(after.assemble(src.limits), c)
	m.After.Commits = []reconciler.PlanCommit{pc}
	return nil
}

func desired(a *assembled, c *object.Commit) *reconciler.Desired {
	return &reconciler.Desired{Commit: c.Hash.String(), Approval: approval(c), Closures: a.closures, Problems: a.problems, Other: a.other, Documents: a.counts}
}

// merged makes the tree of the merge.
func (l *Local) merged(src *Source, m *Merge, into, head *object.Commit, working bool) (plumbing.Hash, error) {
	parted := into
	if bases, err := head.MergeBase(into); err == nil && len(bases) > 0 {
		parted = bases[0]
	} else if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
		return plumbing.ZeroHash, fmt.Errorf("cannot find where the change began: %w", err)
	} else {
		m.Notes = append(m.Notes, "this clone does not have the history in which the change began, so that all of it is compared with the branch: let the CI job fetch all history")
	}
	var files [3]map[string]object.TreeEntry // when they parted, now, with the change
	var err error
	for i, c := range []*object.Commit{parted, into, head} {
		if i == 2 && working {
			files[i], err = l.working(src.path, files[0])
		} else {
			files[i], err = l.files(src, c)
		}
		if err != nil {
			return plumbing.ZeroHash, err
		}
	}
	all, both := threeWay(files[0], files[1], files[2])
	for _, p := range both {
		m.Notes = append(m.Notes, fmt.Sprintf("%s was edited on the branch too; what is said here goes by this change's version", p))
	}
	return l.plant(all)
}

func (l *Local) files(src *Source, c *object.Commit) (map[string]object.TreeEntry, error) {
	dir, err := subtree(l.store, c.TreeHash, src.path)
	if err != nil {
		return nil, err
	}
	changed, err := src.changes(plumbing.ZeroHash, dir)
	all := make(map[string]object.TreeEntry, len(changed))
	for _, ch := range changed {
		all[ch.path] = ch.new
	}
	return all, err
}

// threeWay puts what was edited since base on top of into. both are the files
// that both sides have edited differently.
func threeWay(base, into, head map[string]object.TreeEntry) (all map[string]object.TreeEntry, both []string) {
	all = maps.Clone(into)
	edit := func(file string, now object.TreeEntry) {
		was, theirs := base[file], into[file]
		if was.Hash == now.Hash {
			return
		}
		if theirs.Hash != was.Hash && theirs.Hash != now.Hash {
			both = append(both, file)
		}
		if delete(all, file); !now.Hash.IsZero() {
			all[file] = now
		}
	}
	for file, now := range head {
		edit(file, now)
	}
	for file := range base {
		if _, there := head[file]; !there {
			edit(file, object.TreeEntry{})
		}
	}
	slices.Sort(both)
	return all, both
}

// plant makes a tree of files.
func (l *Local) plant(files map[string]object.TreeEntry) (plumbing.Hash, error) {
	below := map[string]map[string]object.TreeEntry{}
	here := map[string]object.TreeEntry{}
	for file, e := range files {
		name, rest, deeper := strings.Cut(file, "/")
		if !deeper {
			here[name] = object.TreeEntry{Name: name, Mode: e.Mode, Hash: e.Hash}
			continue
		}
		if below[name] == nil {
			below[name] = map[string]object.TreeEntry{}
		}
		below[name][rest] = e
	}
	for name, files := range below {
		h, err := l.plant(files)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		here[name] = object.TreeEntry{Name: name, Mode: filemode.Dir, Hash: h}
	}
	b := builder{s: l.store}
	h, err := b.writeTree(plumbing.ZeroHash, here)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return h, l.store.add(b.objects)
}

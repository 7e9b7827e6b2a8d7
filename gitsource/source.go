package gitsource

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

var _ reconciler.Source = (*Source)(nil)

// Source reads the manifests of one branch. Safe for concurrent use; one Read
// goes on at a time.
type Source struct {
	remote *remote
	store  *store
	lock   *os.File
	path   string
	only   string   // documents whose paths begin otherwise are left out; for Merge
	ignore []string // patterns of the configuration
	limits spec.Limits
	shard  *spec.Shard

	mu    sync.Mutex
	last  *reading  // of the newest Read that succeeded
	trust *trusting // nil: no approval policy
}

// reading is an accepted answer and what it was made from.
type reading struct {
	tip, since plumbing.Hash
	snap       *snapshot
	desired    *reconciler.Desired
}

// OpenSource opens the cache; it does not ask the server.
func OpenSource(c Config) (*Source, error) {
	r, err := c.source()
	if err != nil {
		return nil, err
	}
	below := strings.Join(splitPath(c.Spec.Source.Path), "/")
	if slices.Contains(splitPath(c.Spec.Source.Path), "..") {
		return nil, fail(ErrMisconfigured, nil, "cannot use source.path %q: it leaves the repository; name a folder inside it", c.Spec.Source.Path)
	}
	trust, err := newTrusting(c.Spec.Trust)
	if err != nil {
		return nil, err
	}
	s, lock, err := c.cache("source")
	if err != nil {
		return nil, err
	}
	return &Source{remote: r, store: s, lock: lock, path: below, ignore: c.Spec.Source.Ignore, limits: c.Spec.Limits, shard: c.Spec.Shard, trust: trust}, nil
}

// Close frees the data directory.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.store.close(), s.lock.Close())
}

// Read polls the branch and returns its state; see reconciler.Source. The
// result is shared between calls and must not be changed. An error (of the
// kinds of this package) means that nothing is known about the tip.
func (s *Source) Read(ctx context.Context, since string) (*reconciler.Desired, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since != "" && !plumbing.IsHash(since) {
		return nil, fail(ErrMisconfigured, nil, "cannot compare with commit %q: this is no commit's name", oneLine(since, 60))
	}
	base := plumbing.NewHash(since)
	tip, err := s.remote.tip(ctx)
	if err != nil {
		return nil, err
	}
	if tip.IsZero() {
		return nil, fail(ErrBranchMissing, nil, "cannot find %s of %s; push it, or correct source.%s", s.remote.said, s.remote.url, s.remote.field)
	}
	if r := s.last; r != nil && r.tip == tip && (r.since == base || base == tip) {
		same := *r.desired
		same.Unchanged, same.Trust = true, s.trust.now()
		if base != r.since {
			same.Commits, same.Rewritten = nil, false
		}
		return &same, nil
	}
	r, err := s.read(ctx, base, tip)
	if err != nil {
		return nil, err
	}
	r.desired.Unchanged = s.last != nil && s.last.tip == tip
	s.last = r
	return r.desired, nil
}

func (s *Source) read(ctx context.Context, base, tip plumbing.Hash) (*reading, error) {
	h, err := bring(ctx, s.remote, s.store, base, tip)
	if err != nil {
		return nil, err
	}
	c, err := s.store.commit(tip)
	if err != nil {
		return nil, err
	}
	snap, commits, err := s.follow(ctx, base, h, c)
	if err != nil {
		if errors.Is(err, plumbing.ErrObjectNotFound) { // a cache that has lost objects is fetched anew by the next poll
			err = errors.Join(err, s.store.reset())
		}
		return nil, err
	}
	missing, err := s.noFolder(base, h, snap)
	if err != nil {
		return nil, err
	}
	if missing != "" && base.IsZero() { // nothing is recorded that could tell more
		return nil, fail(ErrMisconfigured, nil, "cannot find folder %q in %s of %s; correct source.path", s.path, s.remote.said, s.remote.url)
	}
	d := &reconciler.Desired{NoFolder: missing, Commit: tip.String(), Approval: approval(c), Commits: commits, Rewritten: !base.IsZero() && !h.linked, Trust: s.trust.now()}
	a := snap.assemble(s.limits)
	d.Closures, d.Problems, d.Other, d.Documents = a.closures, a.problems, a.other, a.counts
	return &reading{tip: tip, since: base, snap: snap, desired: d}, nil
}

// noFolder is the folder that is read, if the tip has none of that name. Where it
// was there when the branch began to move, its name is right and commits have removed
// all that was in it; otherwise what is recorded tells that from a wrong name.
func (s *Source) noFolder(base plumbing.Hash, h history, tip *snapshot) (string, error) {
	if !tip.dir.IsZero() || s.path == "" {
		return "", nil
	}
	if !h.linked || len(h.steps) == 0 {
		return s.path, nil
	}
	root, err := rootTree(s.store, base)
	if err != nil {
		return "", err
	}
	dir, err := subtree(s.store, root, s.path)
	if err != nil || !dir.IsZero() {
		return "", err
	}
	return s.path, nil
}

// follow reads the tip, going through every commit since base.
func (s *Source) follow(ctx context.Context, base plumbing.Hash, h history, tip *object.Commit) (*snapshot, []reconciler.PlanCommit, error) {
	if !h.linked || len(h.steps) == 0 {
		snap, err := s.snapshot(ctx, s.newest(), tip)
		if err == nil && h.linked && s.last != nil && s.last.tip == tip.Hash {
			snap.plans = s.last.snap.plans // with what earlier commits said
		}
		return snap, nil, err
	}
	snap := s.newest()
	if snap == nil || snap.commit != base {
		c, err := s.store.commit(base)
		if err != nil {
			return nil, nil, err
		}
		if snap, err = s.snapshot(ctx, snap, c); err != nil {
			return nil, nil, err
		}
	}
	commits := make([]reconciler.PlanCommit, 0, len(h.steps))
	for _, st := range h.steps {
		next, err := s.snapshot(ctx, snap, st.commit)
		if err != nil {
			return nil, nil, err
		}
		pc := next.after(snap, s.limits)
		pc.Approval = approval(st.commit)
		if s.trust != nil {
			if err := s.prove(ctx, snap, next, st, &pc); err != nil {
				return nil, nil, err
			}
		}
		commits = append(commits, pc)
		snap = next
	}
	return snap, commits, nil
}

func (s *Source) newest() *snapshot {
	if s.last == nil {
		return nil
	}
	return s.last.snap
}

// approval says who made a commit; for a merge, that is who merged.
func approval(c *object.Commit) spec.Approval {
	subject, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	return spec.Approval{
		Commit: c.Hash.String(), Author: person(c.Author), Committer: person(c.Committer),
		Time: metav1.NewTime(c.Committer.When.UTC()), Subject: oneLine(subject, 200),
	}
}

func isDocument(name string) bool {
	ext := path.Ext(name)
	return ext == ".yaml" || ext == ".yml"
}

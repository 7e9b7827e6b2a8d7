package gitsource

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// deepenings are the numbers of commits asked for when the history on disk
// does not reach far enough; the last one means all of it.
var deepenings = []int{1, 100, 5000, 1<<31 - 1}

// history is what the branch went through between two commits.
type history struct {
	linked bool   // base is the tip or an ancestor of it
	steps  []step // of (base, tip], oldest first; only when linked
}

// step is one move of the branch: a commit and the one it is compared with.
type step struct {
	commit *object.Commit
	parent plumbing.Hash
}

// bring makes the store hold tip and the history back to base. A store that
// turns out damaged is emptied once and fetched anew. An unlinked history is
// only reported when it is certain: every path was followed to a root commit
// or to an ancestor of base.
func bring(ctx context.Context, r *remote, s *store, base, tip plumbing.Hash) (history, error) {
	if s.worn() && !s.has(tip) {
		if err := s.reset(); err != nil {
			return history{}, err
		}
	}
	h, err := bringOnce(ctx, r, s, base, tip)
	var typed *Error
	if err == nil || ctx.Err() != nil || errors.As(err, &typed) {
		return h, err
	}
	if err := s.reset(); err != nil {
		return history{}, err
	}
	return bringOnce(ctx, r, s, base, tip)
}

func bringOnce(ctx context.Context, r *remote, s *store, base, tip plumbing.Hash) (history, error) {
	if fresh := s.kept().IsZero(); fresh || !s.has(tip) {
		depth := 0
		if fresh {
			depth = deepenings[0]
		}
		if err := r.download(ctx, s, tip, depth); err != nil {
			return history{}, err
		}
	}
	if _, err := rootTree(s, tip); err != nil {
		return history{}, err
	}
	if base.IsZero() {
		return history{}, s.keep(tip)
	}
	for _, depth := range deepenings[1:] {
		h, certain, err := between(s, base, tip)
		if err != nil {
			return history{}, err
		}
		if err := s.keep(tip); err != nil || certain {
			return h, err
		}
		if err := r.download(ctx, s, tip, depth); err != nil {
			return history{}, fmt.Errorf("cannot read the history behind %s: %w", tip, err)
		}
	}
	h, certain, err := between(s, base, tip)
	if err == nil && !certain {
		err = fail(ErrUnreachable, nil, "cannot read the whole history behind %s of %s; try later", tip, r.url)
	}
	return h, err
}

func rootTree(s *store, commit plumbing.Hash) (plumbing.Hash, error) {
	c, err := s.commit(commit)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	_, err = s.tree(c.TreeHash)
	return c.TreeHash, err
}

// between says how the branch came from base to tip. certain is false when the
// shallow boundary was met and base may lie behind it.
func between(s *store, base, tip plumbing.Hash) (h history, certain bool, err error) {
	edge, err := shallowSet(s)
	if err != nil {
		return history{}, false, err
	}
	if steps, ok, err := firstParents(s, base, tip, edge); ok || err != nil {
		return history{linked: true, steps: steps}, true, err
	}
	found, met, err := walk(s, tip, base, edge)
	if err != nil {
		return history{}, false, err
	}
	if _, linked := found[base]; linked {
		steps, err := mainline(s, found, base, tip)
		return history{linked: true, steps: steps}, true, err
	}
	if len(met) > 0 && s.has(base) {
		// base cannot lie behind a commit that is an ancestor of base.
		behind, _, err := walk(s, base, plumbing.ZeroHash, edge)
		if err != nil {
			return history{}, false, err
		}
		met = slices.DeleteFunc(met, func(m plumbing.Hash) bool { _, ok := behind[m]; return ok })
	}
	return history{}, len(met) == 0, nil
}

// firstParents is the usual case: base is on the first-parent chain of tip.
func firstParents(s *store, base, tip plumbing.Hash, edge map[plumbing.Hash]bool) ([]step, bool, error) {
	var steps []step
	for at := tip; at != base; {
		c, err := s.commit(at)
		if err != nil {
			return nil, false, err
		}
		if edge[at] || len(c.ParentHashes) == 0 {
			return nil, false, nil
		}
		at = c.ParentHashes[0]
		steps = append(steps, step{commit: c, parent: at})
	}
	slices.Reverse(steps)
	return steps, true, nil
}

// walk collects the commits that can be reached from a commit, with their
// parents. It does not go past stop or the shallow boundary; the boundary's
// commits that it came to are returned as met.
func walk(s *store, from, stop plumbing.Hash, edge map[plumbing.Hash]bool) (found map[plumbing.Hash][]plumbing.Hash, met []plumbing.Hash, err error) {
	found = map[plumbing.Hash][]plumbing.Hash{}
	for todo := []plumbing.Hash{from}; len(todo) > 0; {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, ok := found[h]; ok {
			continue
		}
		if h == stop {
			found[h] = nil
			continue
		}
		c, err := s.commit(h)
		if err != nil {
			return nil, nil, err
		}
		found[h] = c.ParentHashes
		if edge[h] {
			met = append(met, h)
			continue
		}
		todo = append(todo, c.ParentHashes...)
	}
	return found, met, nil
}

func shallowSet(s *store) (map[plumbing.Hash]bool, error) {
	list, err := s.boundary()
	if err != nil {
		return nil, err
	}
	set := make(map[plumbing.Hash]bool, len(list))
	for _, h := range list {
		set[h] = true
	}
	return set, nil
}

// mainline returns what the branch went through when base is not on tip's
// first-parent chain: somebody merged the branch into his own and pushed that.
// The oldest commit of the chain that contains base is then compared with
// base. The side branch under it was never the branch, so its commits approve
// nothing by themselves.
func mainline(s *store, found map[plumbing.Hash][]plumbing.Hash, base, tip plumbing.Hash) ([]step, error) {
	holds := containing(found, base)
	var steps []step
	for at := tip; at != base && holds[at]; {
		c, err := s.commit(at)
		if err != nil {
			return nil, err
		}
		next := base
		if holds[c.ParentHashes[0]] {
			next = c.ParentHashes[0]
		}
		steps = append(steps, step{commit: c, parent: next})
		at = next
	}
	slices.Reverse(steps)
	return steps, nil
}

// containing says which commits have base among their ancestors.
func containing(found map[plumbing.Hash][]plumbing.Hash, base plumbing.Hash) map[plumbing.Hash]bool {
	children := map[plumbing.Hash][]plumbing.Hash{}
	for hash, parents := range found {
		for _, p := range parents {
			children[p] = append(children[p], hash)
		}
	}
	holds := map[plumbing.Hash]bool{}
	for todo := []plumbing.Hash{base}; len(todo) > 0; {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, child := range children[h] {
			if !holds[child] {
				holds[child] = true
				todo = append(todo, child)
			}
		}
	}
	return holds
}

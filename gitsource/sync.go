package gitsource

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"sigs.k8s.io/yaml"

	"github.com/tranship/tranship/reconciler"
)

// Check asks the server whether this daemon still holds the ledger and whether
// the ledger is as it left it. It costs one short request when nothing
// changed. Errors are those of Push.
func (l *Ledger) Check(ctx context.Context) error {
	if err := l.usable(); err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	free, err := l.take(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask the ledger in time: %w", err)
	}
	defer free()
	return l.sync(ctx)
}

// sync compares the tip with the server's. The caller has the turn.
func (l *Ledger) sync(ctx context.Context) error {
	tip, err := l.remote.tip(ctx)
	if err != nil {
		return err
	}
	if err := l.advance(ctx, tip); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = true
	return nil
}

// advance accepts a new tip, or says why not (safety property 12). What of our
// own journal the new commits already hold is dropped from it, so that nothing
// is written twice after a lost reply, even across a restart.
func (l *Ledger) advance(ctx context.Context, tip plumbing.Hash) error {
	l.mu.Lock()
	base := plumbing.NewHash(l.j.head.Tip)
	id, adopted := l.j.head.ID, slices.Clone(l.j.head.Adopted)
	l.mu.Unlock()
	if tip.IsZero() {
		if base.IsZero() {
			return nil
		}
		return fail(ErrLedgerRewritten, nil, "cannot go on: branch %s of %s is gone, and with it the ledger; push commit %s there again, or run `tranship ledger adopt` to begin anew",
			l.remote.branch.Short(), l.remote.url, base)
	}
	h, err := bring(ctx, l.remote, l.store, base, tip)
	if err != nil {
		return err
	}
	if !base.IsZero() && !h.linked {
		if h, err = l.acrossYears(ctx, base, tip); err != nil {
			return err
		}
	}
	if err := l.knownFormat(tip); err != nil {
		return err
	}
	if base.IsZero() {
		if base, err = l.begin(ctx, tip); err != nil {
			return err
		}
		if h, err = bring(ctx, l.remote, l.store, base, tip); err != nil {
			return err
		}
	}
	news, err := l.inspect(h, base, tip, id, adopted)
	if err != nil {
		return err
	}
	return l.accept(tip, news)
}

// begin is for a daemon that remembers nothing: one on a new machine, or whose
// data directory was emptied. It goes on from the newest commit that a daemon
// made, which accepted everything below it; what somebody else has put on top is
// judged as if this daemon had been there.
func (l *Ledger) begin(ctx context.Context, tip plumbing.Hash) (plumbing.Hash, error) {
	for _, depth := range deepenings[1:] {
		last, certain, err := l.newestOfOurs(tip)
		switch {
		case err != nil:
			return last, err
		case last == tip:
			return tip, nil
		case !last.IsZero():
			return last, l.accept(last, news{})
		case certain:
			return last, fail(ErrLedgerEdited, nil, "cannot go on: no commit of branch %s of %s is a daemon's, or none is signed with a key of ledger.signers; put back the branch that the daemon wrote, or run `tranship ledger adopt` to accept this one",
				l.remote.branch.Short(), l.remote.url)
		}
		if err := l.remote.download(ctx, l.store, tip, depth); err != nil {
			return last, fmt.Errorf("cannot read the history behind %s: %w", tip, err)
		}
	}
	return plumbing.ZeroHash, fail(ErrUnreachable, nil, "cannot read the whole history behind %s of %s; try later", tip, l.remote.url)
}

// newestOfOurs looks for it from the tip down, as far as the store reaches.
func (l *Ledger) newestOfOurs(tip plumbing.Hash) (last plumbing.Hash, certain bool, err error) {
	edge, err := shallowSet(l.store)
	if err != nil {
		return last, false, err
	}
	for at := tip; ; {
		c, err := l.store.commit(at)
		if err != nil {
			return last, false, err
		}
		if m, err := l.marks(c); err != nil || m.ours {
			return at, true, err
		}
		if edge[at] || len(c.ParentHashes) == 0 {
			return last, !edge[at], nil
		}
		at = c.ParentHashes[0]
	}
}

// news is what the commits behind a new tip tell this daemon.
type news struct {
	seq   int64 // newest entry of our journal that they hold
	epoch int64 // newest epoch that our own commits raised
	adopt string
}

// inspect looks at the commits from the newest down. Below a commit of
// `tranship ledger adopt` nothing is asked any more, but what of ours is there.
func (l *Ledger) inspect(h history, base, tip plumbing.Hash, id string, adopted []string) (news, error) {
	var n news
	if base.IsZero() || base == tip {
		return n, nil
	}
	steps := h.steps
	if !h.linked {
		var err error
		if steps, err = l.unlinked(tip); err != nil {
			return n, err
		}
	}
	for _, st := range slices.Backward(steps) {
		m, err := l.marks(st.commit)
		if err != nil {
			return n, err
		}
		switch {
		case m.ours && m.journal == id:
			n.seq, n.epoch = max(n.seq, m.seq), max(n.epoch, m.epoch)
		case n.adopt != "":
		case m.ours && !m.adopts.IsZero() && !slices.Contains(adopted, st.commit.Hash.String()):
			n.adopt = st.commit.Hash.String()
		case !m.ours:
			if err := l.harmless(st); err != nil {
				return n, err
			}
		}
	}
	if !h.linked && n.adopt == "" {
		return n, fail(ErrLedgerRewritten, nil, "cannot go on: branch %s of %s was rewritten: its tip %.12s does not descend from %.12s, the last one that this daemon wrote; push that commit again, or run `tranship ledger adopt`",
			l.remote.branch.Short(), l.remote.url, tip, base)
	}
	return n, nil
}

// unlinked is the first-parent chain of a tip that does not lead to ours.
func (l *Ledger) unlinked(tip plumbing.Hash) ([]step, error) {
	edge, err := shallowSet(l.store)
	if err != nil {
		return nil, err
	}
	var steps []step
	for at := tip; ; {
		c, err := l.store.commit(at)
		if err != nil {
			return nil, err
		}
		if edge[at] || len(c.ParentHashes) == 0 {
			break
		}
		at = c.ParentHashes[0]
		steps = append(steps, step{commit: c, parent: at})
	}
	slices.Reverse(steps)
	return steps, nil
}

// harmless refuses a commit of somebody else's that changes records.
func (l *Ledger) harmless(st step) error {
	before, err := rootTree(l.store, st.parent)
	if err != nil {
		return err
	}
	return diffTrees(l.store, "", before, st.commit.TreeHash, func(c change) error {
		if !strings.HasPrefix(c.path, "status/") && !strings.HasPrefix(c.path, "runs/") && c.path != formatFile && c.path != checkpointFile && c.path != yearFile {
			return nil
		}
		return fail(ErrLedgerEdited, nil, "cannot go on: commit %.12s by %s changed %s of the ledger by hand; revert it by resetting the branch, or run `tranship ledger adopt` to accept it",
			st.commit.Hash, oneLine(person(st.commit.Committer), 100), c.path)
	})
}

func person(s object.Signature) string {
	return oneLine(s.Name, 100) + " <" + oneLine(s.Email, 100) + ">"
}

// knownFormat refuses a ledger that a newer release has written.
func (l *Ledger) knownFormat(tip plumbing.Hash) error {
	root, err := rootTree(l.store, tip)
	if err != nil {
		return err
	}
	return knownFormat(l.store, root, l.remote)
}

func knownFormat(s *store, root plumbing.Hash, r *remote) error {
	data, err := readFile(s, root, formatFile)
	if err != nil {
		return err
	}
	var f struct {
		Kind   string `json:"kind"`
		Format int    `json:"format"`
	}
	if data == nil || yaml.Unmarshal(data, &f) != nil || f.Kind != "Ledger" || f.Format < 1 {
		return fail(ErrLedgerEdited, nil, "cannot use branch %s of %s: it is not a Tranship ledger (%s is missing or unreadable); set ledger.branch to a branch that nobody else uses", r.branch.Short(), r.url, formatFile)
	}
	if f.Format > formatVersion {
		return fail(ErrFormat, nil, "cannot use the ledger in branch %s of %s: it has format %d, and this release knows %d; upgrade the daemon", r.branch.Short(), r.url, f.Format, formatVersion)
	}
	return nil
}

// accept moves to a tip that was found good, unless it carries a higher epoch
// than ours: then this daemon has been replaced, for ever.
func (l *Ledger) accept(tip plumbing.Hash, n news) error {
	seen, err := l.daemonAt(tip)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	head := l.j.head
	if head.Epoch > 0 && seen.Epoch > max(head.Epoch, n.epoch) {
		l.superseded = l.superseded || l.epoch > 0
		if err := l.j.supersede(); err != nil {
			return err
		}
		if l.superseded {
			return fmt.Errorf("epoch %d is held by %q: %w", seen.Epoch, seen.Holder, reconciler.ErrSuperseded)
		}
	}
	if l.epoch > 0 { // resumed: the reply to our own raise was lost
		l.epoch = max(l.epoch, n.epoch)
	}
	if tip == l.tip && head.Tip == tip.String() && n == (news{}) {
		return nil
	}
	if n.adopt != "" {
		l.j.drop(n.seq)
		if err := l.yield(plumbing.NewHash(head.Tip), tip); err != nil {
			return err
		}
		l.adopted = l.epoch > 0
	}
	err = l.j.settle(n.seq, func(h *journalHead) {
		h.Tip, h.Epoch = tip.String(), max(h.Epoch, n.epoch)
		if n.adopt != "" {
			h.Adopted = append(h.Adopted, n.adopt)
		}
	})
	l.tip = tip
	return err
}

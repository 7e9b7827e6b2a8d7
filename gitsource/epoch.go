package gitsource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// Acquire makes this process the one daemon of the ledger: it raises the epoch
// in status/_daemon.yaml by a compare-and-swap push and returns the new one.
// Nothing can be recorded before. A daemon that restarts with its data
// directory simply raises it. Otherwise the ledger must have been silent for
// SeenWithin, or takeOver must be true: the error is then ErrHeld and names
// the other daemon. A daemon that was superseded needs takeOver. Other errors
// are those of Push. It tries until ctx ends.
func (l *Ledger) Acquire(ctx context.Context, holder string, takeOver bool) (epoch int64, err error) {
	if holder = oneLine(holder, 200); holder == "" {
		return 0, fail(ErrMisconfigured, nil, "cannot acquire the ledger without a holder's name; set --holder")
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	free, err := l.take(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot acquire the ledger in time: %w", err)
	}
	defer free()
	err = l.persist(ctx, func() (bool, error) {
		epoch, err = l.raise(ctx, holder, takeOver, 0)
		return err == nil, err
	})
	return epoch, err
}

// RaiseAbove raises the epoch of the daemon that holds the ledger above one that a
// cluster remembers: of a ledger that was lost and began anew, or was put back from
// a backup. Whether another daemon holds it now, Git says: the raise is a
// compare-and-swap push on a tip that still carries our epoch, so that a daemon
// which was replaced gets reconciler.ErrSuperseded, and one that cannot see Git
// gets an error that passes. It may be called where `--take-over` or a Lease
// allows it only. Safe for concurrent use; it returns the epoch that holds now.
func (l *Ledger) RaiseAbove(ctx context.Context, seen int64) (epoch int64, err error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	free, err := l.take(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot raise the epoch in time: %w", err)
	}
	defer free()
	if epoch = l.Epoch(); epoch > seen {
		return epoch, nil
	}
	l.mu.Lock()
	holder := l.holder
	l.mu.Unlock()
	err = l.persist(ctx, func() (bool, error) {
		epoch, err = l.raise(ctx, holder, false, seen)
		return err == nil, err
	})
	return epoch, err
}

// Resume goes on where this data directory left off when the server could not
// be asked, or did not answer with the ledger that we know: an application that
// a run has stopped must not stay down for as long as Git does. why is the error
// of Acquire, and comes back where it forbids that, or where nothing was ever
// held. The epoch is the old one: only one process has this data directory, and
// the clusters refuse it when another daemon has acted since. Nothing that needs
// a push begins before the server agrees.
func (l *Ledger) Resume(holder string, why error) (int64, error) {
	for _, kind := range []error{ErrHeld, ErrFormat, ErrMisconfigured, reconciler.ErrSuperseded} {
		if errors.Is(why, kind) {
			return 0, why
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.j.head.Epoch == 0 || l.j.head.Superseded {
		return 0, why
	}
	l.epoch, l.holder, l.resumed = l.j.head.Epoch, oneLine(holder, 200), why
	l.log.Warn("the ledger could not be acquired; going on with what the data directory knows", "epoch", l.epoch, "error", why)
	return l.epoch, nil
}

// raise takes the next epoch, which is above the one given as well.
func (l *Ledger) raise(ctx context.Context, holder string, takeOver bool, above int64) (int64, error) {
	if err := l.sync(ctx); err != nil {
		return 0, err
	}
	l.mu.Lock()
	tip, head := l.tip, l.j.head
	l.mu.Unlock()
	seen, err := l.daemonAt(tip)
	if err != nil {
		return 0, err
	}
	if seen.Shard != "" && seen.Shard != l.shard {
		return 0, fail(ErrHeld, nil, "cannot use branch %s of %s: it is the ledger of shard %q, and this daemon's shard is %q; give each shard a ledger.branch of its own",
			l.remote.branch.Short(), l.remote.url, seen.Shard, l.shard)
	}
	if err := l.mayTake(seen, tip, head, takeOver); err != nil {
		return 0, err
	}
	epoch := max(seen.Epoch, head.Epoch, above) + 1
	seen.Epoch, seen.Holder, seen.Version, seen.Shard, seen.Time = epoch, holder, l.version, l.shard, metav1.NewTime(time.Now().UTC())
	c, err := l.raising(seen, tip, head.ID)
	if err != nil {
		l.unsync()
		return 0, err
	}
	// The name goes to disk first: after a crash in between, the commit's
	// journal trailer proves that the new epoch is ours.
	if err := l.settle(0, func(h *journalHead) { h.Holder = holder }); err != nil {
		return 0, err
	}
	if err := l.push(ctx, c, func(h *journalHead) { h.Epoch, h.Superseded = epoch, false }, 0); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch, l.holder, l.superseded = epoch, holder, false
	return epoch, nil
}

// raising is the commit that takes the ledger; on an empty branch it is the
// first one.
func (l *Ledger) raising(d spec.DaemonStatus, tip plumbing.Hash, journal string) (*draft, error) {
	data, err := spec.EncodeDaemonStatus(&d)
	if err != nil {
		return nil, err
	}
	var root plumbing.Hash
	if !tip.IsZero() {
		if root, err = rootTree(l.store, tip); err != nil {
			return nil, err
		}
	}
	message := commitMessage([]entry{{Subject: fmt.Sprintf("Begin epoch %d of %s", d.Epoch, d.Holder)}},
		[]string{fmt.Sprintf("%s: %d", epochTrailer, d.Epoch), fmt.Sprintf("%s: %s:0", journalTrailer, journal)})
	return l.draft(tip, root, map[string][]byte{daemonFile: data}, message)
}

func (l *Ledger) mayTake(seen spec.DaemonStatus, tip plumbing.Hash, head journalHead, takeOver bool) error {
	ours := head.Epoch > 0 && head.Epoch == seen.Epoch // the data directory counts: a pod has a new name each time
	switch {
	case takeOver, seen.Epoch == 0:
		return nil
	case head.Superseded:
		return fail(ErrHeld, nil, "cannot acquire the ledger: %q took it over (epoch %d) from the daemon of this data directory; stop that one and start this one with --take-over, or leave it stopped", seen.Holder, seen.Epoch)
	case ours:
		return nil
	}
	last := seen.Time.Time
	if c, err := l.store.commit(tip); err == nil && c.Committer.When.After(last) {
		last = c.Committer.When
	}
	if ago := time.Since(last); ago < l.seen {
		return fail(ErrHeld, nil, "cannot acquire the ledger: %q holds it (epoch %d) and wrote to it %s ago; stop that daemon and wait %s, or start this one with --take-over",
			seen.Holder, seen.Epoch, max(ago, 0).Round(time.Second), l.seen)
	}
	return nil
}

// daemonAt reads status/_daemon.yaml of a commit; empty when there is none.
func (l *Ledger) daemonAt(tip plumbing.Hash) (spec.DaemonStatus, error) {
	if tip.IsZero() {
		return spec.DaemonStatus{}, nil
	}
	root, err := rootTree(l.store, tip)
	if err != nil {
		return spec.DaemonStatus{}, err
	}
	rec := &records{s: l.store, root: root}
	d, err := rec.daemon()
	if err != nil || d == nil {
		return spec.DaemonStatus{}, err
	}
	return *d, nil
}

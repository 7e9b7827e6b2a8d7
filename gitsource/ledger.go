package gitsource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

var _ reconciler.Ledger = (*Ledger)(nil)

const (
	defaultBatch = 5 * time.Second
	// daemonEvery bounds commits that hold nothing but the daemon's own status.
	daemonEvery = time.Minute
	// pushWait bounds a Push whose context has no deadline: the caller has
	// its own clock for outages and must get its turn.
	pushWait = 20 * time.Second
)

// Ledger is the record in Git, with the journal in front of it. Open it, call
// Acquire, run Serve in a goroutine, and Close it at the end. Safe for
// concurrent use.
type Ledger struct {
	remote  *remote
	store   *store
	lock    *os.File
	redact  *Redactor
	plain   func(plan string) int
	log     *slog.Logger
	version string
	shard   string
	seen    time.Duration
	author  object.Signature
	person  string
	sealer  *sealer
	batch   time.Duration
	now     func() time.Time // for the year only
	never   bool             // begin a new year

	writing sync.Mutex     // held by Record: what is held back of a log goes with its next piece
	found   map[string]int // by run: values taken out of its logs since it was loaded; guarded by writing

	// turn is held by whoever talks to the server or moves the tip.
	turn chan struct{}

	mu         sync.Mutex // guards what follows and the journal
	j          *journal
	tip        plumbing.Hash // accepted; its objects are in the store
	synced     bool          // tip was compared with the server in this process
	resumed    error         // why the server was not asked; the first Load takes its word
	holder     string
	epoch      int64 // zero until acquired
	superseded bool
	adopted    bool // by a person, and not loaded since
	health     Health
}

// Health is what monitoring wants to know of a ledger.
type Health struct {
	Unpushed  int       // changes in the journal that are not in Git
	LastPush  time.Time // zero before the first
	LastError error     // of the newest attempt; nil after a success
}

// OpenLedger opens the journal and the cache; it does not ask the server.
func OpenLedger(c Config) (*Ledger, error) {
	r, err := c.ledger()
	if err != nil {
		return nil, err
	}
	seal, err := newSealer(c)
	if err != nil {
		return nil, err
	}
	s, lock, err := c.cache("ledger")
	if err != nil {
		return nil, err
	}
	j, err := openJournal(filepath.Join(c.DataDir, "journal", safeName(strings.ReplaceAll(r.branch.Short(), "/", "-"))+".jsonl"))
	if err != nil {
		return nil, errors.Join(err, s.close(), lock.Close())
	}
	l := &Ledger{
		remote: r, store: s, lock: lock, j: j, redact: NewRedactor(c.SecretValues), plain: c.SecretsPlain, found: map[string]int{}, log: c.log(), version: c.Version, person: c.Person,
		seen: cmp.Or(c.SeenWithin, defaultSeenWithin), batch: defaultBatch, turn: make(chan struct{}, 1),
		author: object.Signature{Name: cmp.Or(c.Spec.Ledger.AuthorName, "Tranship"), Email: cmp.Or(c.Spec.Ledger.AuthorEmail, "tranship@localhost")},
		tip:    plumbing.NewHash(j.head.Tip),
		sealer: seal, now: time.Now, never: c.Spec.Ledger.Rotation == spec.RotationNever,
	}
	if c.Spec.Shard != nil {
		l.shard = c.Spec.Shard.Name
	}
	if d := c.Spec.Ledger.BatchInterval; d != nil && d.Duration > 0 {
		l.batch = d.Duration
	}
	if j.note != "" {
		l.log.Warn(j.note)
	}
	return l, nil
}

// Close frees the data directory. What is not pushed stays in the journal.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.j.close(), l.store.close(), l.lock.Close())
}

// Health may be called at any time.
func (l *Ledger) Health() Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.health
	h.Unpushed = len(l.j.entries)
	return h
}

// Epoch is the one that Acquire raised; zero before.
func (l *Ledger) Epoch() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// usable says whether this daemon may still write.
func (l *Ledger) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.superseded:
		return fmt.Errorf("cannot write to the ledger: %w", reconciler.ErrSuperseded)
	case l.epoch == 0:
		return fail(ErrNotAcquired, nil, "cannot write to the ledger before its epoch is acquired; this is a mistake in the program")
	}
	return nil
}

// Record appends changes to the journal, fsynced together before it returns, and
// queues them for the next commit. Secret values are taken out first. Where a run
// has ended, the plan's LastDigest is set to that of the record as it is written.
// After an error none of them counts. After an adoption it answers
// reconciler.ErrAdopted until Load was called: what was decided before may not be
// laid over what a person has accepted.
func (l *Ledger) Record(_ context.Context, changes ...reconciler.Change) error {
	if err := l.usable(); err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	held := l.heldBack()
	entries := make([]entry, 0, len(changes))
	for _, c := range changes {
		e, err := l.entryOf(c, held)
		if err != nil {
			return err
		}
		if len(e.Files) > 0 || len(e.Logs) > 0 || len(e.Held) > 0 {
			entries = append(entries, e)
		}
	}
	if len(entries) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.superseded {
		return fmt.Errorf("cannot write to the ledger: %w", reconciler.ErrSuperseded)
	}
	if l.adopted {
		return fmt.Errorf("cannot write to the ledger yet: %w", reconciler.ErrAdopted)
	}
	return l.j.append(entries...)
}

func (l *Ledger) entryOf(c reconciler.Change, held map[string]heldTail) (entry, error) {
	e := entry{Files: map[string]string{}, Subject: l.redact.Known(c.Message), Trailers: maps.Clone(c.Trailers)}
	for k, v := range e.Trailers {
		e.Trailers[k] = l.redact.Known(v)
	}
	l.addLogs(&e, c, held)
	return e, l.encode(&e, c)
}

func (l *Ledger) encode(e *entry, c reconciler.Change) error {
	for _, r := range c.Runs {
		data, err := clean(l.redact, r, runForm, l.noteRedacted)
		if err != nil {
			return fmt.Errorf("cannot record run %q: %w", r.Metadata.Name, err)
		}
		file := spec.RunPath(r)
		e.Files[file] = string(data)
		if r.Status.Ended == nil {
			continue
		}
		e.Ends = append(e.Ends, file)
		for _, p := range c.Plans {
			if p.Recorded.LastRunPath == file {
				p.Recorded.LastDigest = digestOf(data)
			}
		}
	}
	for _, p := range c.Plans {
		data, err := clean(l.redact, p, statusForm, nil)
		if err != nil {
			return fmt.Errorf("cannot record plan %q: %w", p.Metadata.Name, err)
		}
		e.Files[statusPath(p.Metadata.Name)] = string(data)
	}
	if c.Daemon == nil {
		return nil
	}
	d := *c.Daemon
	l.mu.Lock()
	d.Epoch, d.Holder, d.Shard = l.epoch, l.holder, l.shard
	l.mu.Unlock()
	data, err := clean(l.redact, &d, daemonForm, nil)
	if err != nil {
		return fmt.Errorf("cannot record the daemon's status: %w", err)
	}
	e.Files[daemonFile] = string(data)
	return nil
}

// Push returns nil once everything recorded before the call is in Git. It
// tries until ctx ends (20 seconds when ctx has no deadline). An error
// that cannot pass comes at once: reconciler.ErrSuperseded,
// ErrLedgerRewritten, ErrLedgerEdited, ErrFormat.
func (l *Ledger) Push(ctx context.Context) error {
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.Lock()
	want := l.j.head.Next - 1
	l.mu.Unlock()
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	free, err := l.take(ctx)
	if err != nil {
		return fmt.Errorf("cannot push to the ledger in time: %w", err)
	}
	defer free()
	return l.flush(ctx, want)
}

func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, pushWait)
}

// take waits for the right to talk to the server.
func (l *Ledger) take(ctx context.Context) (func(), error) {
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pending is what the journal holds and Git does not.
func (l *Ledger) pending() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.j.entries)
}

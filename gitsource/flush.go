package gitsource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// Serve commits what is queued, once a batch interval, until ctx ends; then it
// tries a last time, for at most five seconds. When nothing is queued it looks
// at the ledger once a minute. It returns reconciler.ErrSuperseded as soon as
// it learns that another daemon has taken over, and nil at the end of ctx.
// Other failures are logged and tried again: the journal keeps everything. Those
// that are reconciler.ErrLedgerChanged go to changed as well, each time, and so does
// reconciler.ErrAdopted until the ledger was loaded.
func (l *Ledger) Serve(ctx context.Context, changed func(error)) error {
	var last, year time.Time // of a successful exchange, and before which no new year is begun
	for ctx.Err() == nil {
		t := time.NewTimer(l.batch*9/10 + rand.N(l.batch/5+1))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			continue
		}
		if l.unread() {
			changed(reconciler.ErrAdopted)
		}
		idle := time.Since(last) >= daemonEvery
		err := l.usable()
		switch batch := l.pending(); {
		case err != nil:
		case l.remote.resting(maxRest) > 0: // no run waits here, so the server gets what it asked for
			continue
		case worthCommit(batch, idle):
			err = l.round(ctx)
		case idle:
			err = l.Check(ctx)
		default:
			continue
		}
		if errors.Is(err, reconciler.ErrSuperseded) || errors.Is(err, ErrNotAcquired) {
			return err
		}
		if err == nil {
			last = time.Now()
			l.turnYear(ctx, &year)
		} else if ctx.Err() == nil {
			l.log.Warn("the ledger could not be pushed; the journal keeps the records", "error", err)
		}
		if errors.Is(err, reconciler.ErrLedgerChanged) {
			changed(err)
		}
	}
	return l.lastWords(ctx)
}

// unread says that somebody has adopted the ledger since it was loaded.
func (l *Ledger) unread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.adopted
}

func (l *Ledger) lastWords(ctx context.Context) error {
	if len(l.pending()) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := l.Push(ctx)
	if errors.Is(err, reconciler.ErrSuperseded) {
		return err
	}
	if err != nil {
		l.log.Warn("the last records are not in Git yet; the journal keeps them", "error", err)
	}
	return nil
}

// round is a Push with more patience: it may have to fetch the ledger anew.
func (l *Ledger) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return l.Push(ctx)
}

// worthCommit keeps commits that hold nothing but the daemon's own status rare.
func worthCommit(batch []entry, idle bool) bool {
	for i := range batch {
		if !batch[i].quiet() {
			return true
		}
	}
	return len(batch) > 0 && idle
}

// lasting failures do not pass by trying again.
func lasting(err error) bool {
	for _, kind := range []error{reconciler.ErrSuperseded, ErrLedgerRewritten, ErrLedgerEdited, ErrFormat, ErrHeld, ErrNotAcquired} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// flush pushes until entry number want is in Git. The caller has the turn.
func (l *Ledger) flush(ctx context.Context, want int64) error {
	return l.persist(ctx, func() (bool, error) {
		if err := l.usable(); err != nil {
			return false, err
		}
		if err := l.ready(ctx); err != nil {
			return false, err
		}
		batch := l.pending()
		if len(batch) == 0 || batch[0].Seq > want {
			return true, nil
		}
		return false, l.publish(ctx, batch)
	})
}

// persist repeats an attempt until it says done, with growing pauses after
// failures, and remembers the newest failure for Health.
func (l *Ledger) persist(ctx context.Context, attempt func() (done bool, err error)) error {
	var pause backoff
	for stale := 0; ; {
		done, err := false, l.sealer.refresh(ctx)
		if err == nil {
			done, err = attempt()
		}
		l.mu.Lock()
		l.health.LastError = err
		l.mu.Unlock()
		switch {
		case err != nil && l.lost(err): // the next attempt fetches it
		case err == nil && done:
			return nil
		case err == nil:
			pause, stale = backoff{}, 0
			continue
		case lasting(err):
			return err
		case errors.Is(err, errStale):
			if stale++; stale <= 2 { // the new tip is here already, and whoever waits meets the next one
				continue
			}
			pause.last = min(pause.last, 200*time.Millisecond) // somebody got on: no reason to stand back
		}
		if pause.wait(ctx) != nil {
			return fmt.Errorf("cannot push to the ledger in time: %w", err)
		}
	}
}

// ready makes sure that the tip is known and in the store.
func (l *Ledger) ready(ctx context.Context) error {
	l.mu.Lock()
	synced := l.synced
	l.mu.Unlock()
	if synced && !l.store.worn() {
		return nil
	}
	if l.store.worn() {
		if err := l.store.reset(); err != nil {
			return err
		}
	}
	return l.sync(ctx)
}

// publish puts a batch into one commit and pushes it. Whatever the server
// answers, the branch says what happened: our commit is there, or another one
// is, or nothing has changed.
func (l *Ledger) publish(ctx context.Context, batch []entry) error {
	last := batch[len(batch)-1].Seq
	c, err := l.build(batch)
	if err != nil {
		l.unsync()
		return err
	}
	if c == nil { // Git has all of it already
		return l.settle(last, nil)
	}
	return l.push(ctx, c, func(h *journalHead) {}, last)
}

// push sends a commit on top of the tip and finds out whether it landed. nil
// means that it did.
func (l *Ledger) push(ctx context.Context, c *draft, change func(*journalHead), covers int64) error {
	sent := l.remote.upload(ctx, c.parent, c.hash, c.objects)
	if sent != nil {
		tip, err := l.remote.tip(ctx)
		if err != nil {
			return sent // nothing is known; the next attempt looks again
		}
		if tip != c.hash {
			if tip == c.parent {
				return sent
			}
			if err := l.advance(ctx, tip); err != nil {
				return err
			}
			return l.unlessCovered(covers)
		}
	}
	err := l.store.add(c.objects)
	if err == nil {
		err = l.store.keep(c.hash)
	}
	if err != nil {
		l.unsync()
		l.log.Warn("the Git cache could not be written and will be fetched anew", "error", err)
	}
	return l.settle(covers, func(h *journalHead) {
		change(h)
		h.Tip = c.hash.String()
	})
}

// unlessCovered forgives a failed push when the new tip contains our commit:
// the reply was lost, and somebody else has committed since.
func (l *Ledger) unlessCovered(covers int64) error {
	if batch := l.pending(); covers > 0 && (len(batch) == 0 || batch[0].Seq > covers) {
		return nil
	}
	return errStale
}

// errStale says that another commit came first and was accepted: push again.
var errStale = errors.New("the ledger has moved on")

func (l *Ledger) settle(covers int64, change func(*journalHead)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.j.settle(covers, change)
	l.tip = plumbing.NewHash(l.j.head.Tip)
	l.health.LastPush, l.health.LastError = time.Now(), err
	return err
}

func (l *Ledger) unsync() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = false
}

// draft is a commit that is not pushed yet.
type draft struct {
	parent, hash plumbing.Hash
	objects      []plumbing.EncodedObject
}

// build makes the commit of a batch on top of the tip; nil when it would
// change nothing.
func (l *Ledger) build(batch []entry) (*draft, error) {
	l.mu.Lock()
	tip, epoch, holder := l.tip, l.epoch, l.holder
	id := l.j.head.ID
	l.mu.Unlock()
	root, files, err := l.merge(tip, batch)
	if err != nil {
		return nil, err
	}
	if text, ok := files[daemonFile]; ok {
		// A record replayed from before a restart carries the epoch of then.
		if files[daemonFile], err = restamp(text, epoch, holder); err != nil {
			return nil, err
		}
	}
	sums, err := l.check(root, files, ends(batch))
	if err != nil {
		return nil, err
	}
	own := []string{fmt.Sprintf("%s: %d", epochTrailer, epoch), fmt.Sprintf("%s: %s:%d", journalTrailer, id, batch[len(batch)-1].Seq)}
	return l.draft(tip, root, files, commitMessage(batch, append(own, sums...)))
}

// merge lays the entries over each other, the newest file winning, and adds
// log pieces to what the logs hold in Git.
func (l *Ledger) merge(tip plumbing.Hash, batch []entry) (root plumbing.Hash, files map[string][]byte, err error) {
	if !tip.IsZero() {
		if root, err = rootTree(l.store, tip); err != nil {
			return root, nil, err
		}
	}
	files = map[string][]byte{}
	added := map[string]string{}
	for _, e := range batch {
		for path, text := range e.Files {
			files[path] = []byte(text)
		}
		for _, piece := range e.Logs {
			added[piece.Path] += piece.Text
		}
	}
	for path, text := range added {
		now, err := readFile(l.store, root, path)
		if err != nil {
			return root, nil, err
		}
		// Joined once more before anything is hashed: a secret that was split
		// between two pieces is whole only here.
		files[path] = appendLog(now, l.redact.After(string(now), text))
	}
	return root, files, nil
}

// ends lists the records of a batch whose runs have ended.
func ends(batch []entry) (files []string) {
	for i := range batch {
		files = append(files, batch[i].Ends...)
	}
	return files
}

func (l *Ledger) draft(tip, root plumbing.Hash, files map[string][]byte, message string) (*draft, error) {
	if tip.IsZero() {
		var err error
		if files[yearFile], err = yearText(l.now().UTC().Year(), nil); err != nil {
			return nil, err
		}
		files[formatFile], files[readmeFile] = formatText(), []byte(readmeText)
	}
	b := &builder{s: l.store}
	tree, err := b.put(root, files)
	if err != nil || tree == root {
		return nil, err
	}
	return l.seal(b, tip, tree, message)
}

func (l *Ledger) seal(b *builder, tip, tree plumbing.Hash, message string) (*draft, error) {
	who := l.author
	who.When = time.Now().UTC()
	var parents []plumbing.Hash
	if !tip.IsZero() {
		parents = []plumbing.Hash{tip}
	}
	b.sign = l.sealer.sign
	hash, err := b.commit(tree, parents, who, message)
	if err != nil {
		return nil, err
	}
	return &draft{parent: tip, hash: hash, objects: b.objects}, nil
}

func restamp(text []byte, epoch int64, holder string) ([]byte, error) {
	d, err := spec.DecodeDaemonStatus(text)
	if err != nil {
		return nil, err
	}
	if d.Epoch == epoch && d.Holder == holder {
		return text, nil
	}
	d.Epoch, d.Holder = epoch, holder
	return spec.EncodeDaemonStatus(d)
}

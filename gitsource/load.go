package gitsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// Load returns the newest record: Git's, overlaid with what the journal holds
// and Git does not, also from before a restart. Once the server was read in
// this process, or the daemon was resumed, an outage does not matter. Where the
// ledger was rewritten or edited, the records of the last accepted tip come
// with Changed set, when the cache still has them.
func (l *Ledger) Load(ctx context.Context) (*reconciler.Recorded, error) {
	return l.load(ctx, true)
}

// load is Load; known: what it returns is what this daemon goes on with.
func (l *Ledger) load(ctx context.Context, known bool) (*reconciler.Recorded, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	free, err := l.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the ledger in time: %w", err)
	}
	defer free()
	l.mu.Lock()
	failed := l.resumed
	synced := l.synced || failed != nil
	l.resumed = nil
	l.mu.Unlock()
	if failed == nil {
		failed = l.sync(ctx)
	}
	strange := errors.Is(failed, reconciler.ErrLedgerChanged)
	if failed != nil && !strange && (lasting(failed) || !synced) {
		return nil, failed
	}
	out, err := l.recorded()
	if err != nil && !strange && l.lost(err) {
		if err = l.sync(ctx); err == nil {
			out, err = l.recorded()
		}
	}
	switch {
	case err != nil && strange:
		return nil, failed
	case err != nil:
		return nil, err
	case strange:
		out.Changed = failed.Error()
	}
	l.mu.Lock()
	l.adopted = l.adopted && !known // the turn is ours: no other adoption comes in between
	l.mu.Unlock()
	l.forget(known)
	return out, nil
}

func (l *Ledger) recorded() (*reconciler.Recorded, error) {
	rec, err := l.records()
	if err != nil {
		return nil, err
	}
	return rec.load()
}

// lost says that an error is about an object that the cache should have, and empties
// it: what it holds cannot be told any more, and is fetched anew.
func (l *Ledger) lost(err error) bool {
	if !errors.Is(err, plumbing.ErrObjectNotFound) {
		return false
	}
	l.log.Warn("the Git cache has lost objects and will be fetched anew", "error", err)
	l.unsync()
	if err := l.store.reset(); err != nil {
		l.log.Warn("the Git cache could not be emptied", "error", err)
	}
	return true
}

// Run reads the record of a run by its path in the ledger (spec.RunPath).
func (l *Ledger) Run(ctx context.Context, file string) (*spec.Run, error) {
	l.mu.Lock()
	synced := l.synced
	l.mu.Unlock()
	if !synced {
		if _, err := l.load(ctx, false); err != nil {
			return nil, err
		}
	}
	rec, err := l.records()
	if err != nil {
		return nil, err
	}
	return rec.run(file)
}

// records is the accepted tip with the journal's files laid over it.
func (l *Ledger) records() (*records, error) {
	l.mu.Lock()
	tip := l.tip
	over := map[string][]byte{}
	for _, e := range l.j.entries {
		for file, text := range e.Files {
			over[file] = []byte(text)
		}
	}
	l.mu.Unlock()
	rec := &records{s: l.store, over: over}
	if tip.IsZero() {
		return rec, nil
	}
	var err error
	rec.root, err = rootTree(l.store, tip)
	return rec, err
}

// records reads the files of a ledger.
type records struct {
	s    *store
	root plumbing.Hash
	over map[string][]byte // path -> newer content
}

func readFile(s *store, root plumbing.Hash, file string) ([]byte, error) {
	h, err := fileAt(s, root, file)
	if err != nil || h.IsZero() {
		return nil, err
	}
	return s.blob(h)
}

// read returns nil for a file that is not there.
func (r *records) read(file string) ([]byte, error) {
	if data, ok := r.over[file]; ok {
		return data, nil
	}
	return readFile(r.s, r.root, file)
}

func (r *records) daemon() (*spec.DaemonStatus, error) {
	data, err := r.read(daemonFile)
	if err != nil || data == nil {
		return nil, err
	}
	d, err := spec.DecodeDaemonStatus(data)
	return d, wrongRecord(daemonFile, err)
}

// wrongRecord is the error for a record that cannot be read: nothing may be
// started on the ground of it (safety property 12).
func wrongRecord(file string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, spec.ErrNewerFormat):
		return fail(ErrFormat, err, "cannot read %s of the ledger", file)
	}
	return fail(ErrLedgerEdited, err, "cannot read %s of the ledger; put back the version before in Git, then run `tranship ledger adopt`", file)
}

// plans reads the status of every plan.
func (r *records) plans() (map[string]*spec.PlanStatus, error) {
	dir, err := subtree(r.s, r.root, "status")
	if err != nil {
		return nil, err
	}
	plans := map[string]*spec.PlanStatus{}
	add := func(file string, data []byte) error {
		st, err := spec.DecodeStatus(data)
		if err != nil {
			return wrongRecord(file, err)
		}
		plans[st.Metadata.Name] = st
		return nil
	}
	err = diffTrees(r.s, "status/", plumbing.ZeroHash, dir, func(c change) error {
		if _, newer := r.over[c.path]; newer || c.path == daemonFile || !strings.HasSuffix(c.path, ".yaml") {
			return nil
		}
		data, err := r.s.blob(c.new.Hash)
		if err != nil {
			return err
		}
		return add(c.path, data)
	})
	if err != nil {
		return nil, err
	}
	for file, data := range r.over {
		if strings.HasPrefix(file, "status/") && file != daemonFile {
			if err := add(file, data); err != nil {
				return nil, err
			}
		}
	}
	return plans, nil
}

func (r *records) load() (*reconciler.Recorded, error) {
	out := &reconciler.Recorded{Open: map[string]*spec.Run{}}
	d, err := r.daemon()
	if err != nil {
		return nil, err
	}
	if d != nil {
		out.Daemon = *d
	}
	if out.Plans, err = r.plans(); err != nil {
		return nil, err
	}
	for name, st := range out.Plans {
		open := st.Recorded.OpenRun
		if open == "" {
			continue
		}
		run, _, err := r.findRun(name, open)
		if err != nil {
			return nil, err
		}
		if run == nil {
			return nil, fail(ErrLedgerEdited, nil, "cannot go on: the ledger says that run %s of plan %s is under way, and has no record of it; put the record back in Git, then run `tranship ledger adopt`", open, name)
		}
		out.Open[open] = run
	}
	out.Origin = out.Daemon.Accepted == "" && len(out.Plans) == 0
	return out, nil
}

// run reads a record by its path.
func (r *records) run(file string) (*spec.Run, error) {
	if path.Clean(file) != file || !strings.HasPrefix(file, "runs/") {
		return nil, fmt.Errorf("cannot read run %q: this is no path of a run's record", file)
	}
	data, err := r.read(file)
	if err != nil {
		return nil, err
	}
	if data == nil {
		return nil, fail(ErrLedgerEdited, nil, "cannot read %s: the ledger has no such record", file)
	}
	run, err := spec.DecodeRun(data)
	return run, wrongRecord(file, err)
}

// findRun looks for a run by name, the newest month first. It returns nil when
// there is none.
func (r *records) findRun(plan, name string) (*spec.Run, string, error) {
	base, ok := runFile(name)
	if !ok {
		return nil, "", nil
	}
	dirs, err := r.months("runs", plan)
	if err != nil {
		return nil, "", err
	}
	for file := range r.over {
		if strings.HasPrefix(file, "runs/") && path.Base(path.Dir(file)) == spec.ShortName(plan) {
			dirs = append(dirs, path.Dir(file))
		}
	}
	for _, dir := range slices.Backward(dirs) {
		file := path.Join(dir, base)
		data, err := r.read(file)
		if err != nil {
			return nil, "", err
		}
		if data == nil || !bytes.Contains(data, []byte(name)) {
			continue
		}
		run, err := spec.DecodeRun(data)
		return run, file, wrongRecord(file, err)
	}
	return nil, "", nil
}

// months lists the directories <top>/<yyyy>/<mm>/<plan> that exist, oldest first.
func (r *records) months(top, plan string) ([]string, error) {
	var out []string
	years, err := r.list(top)
	if err != nil {
		return nil, err
	}
	for _, y := range years {
		months, err := r.list(path.Join(top, y))
		if err != nil {
			return nil, err
		}
		for _, m := range months {
			dir := path.Join(top, y, m, spec.ShortName(plan))
			h, err := subtree(r.s, r.root, dir)
			if err != nil {
				return nil, err
			}
			if !h.IsZero() {
				out = append(out, dir)
			}
		}
	}
	return out, nil
}

// list returns the names in a directory, sorted.
func (r *records) list(dir string) ([]string, error) {
	h, err := subtree(r.s, r.root, dir)
	if err != nil {
		return nil, err
	}
	entries, err := r.s.tree(h)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	slices.Sort(names)
	return names, nil
}

package gitsource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// Limits of what is read from a commit.
const (
	maxEntries = 50_000
	maxFile    = 1 << 20 // bytes
)

// parsed is one file of a commit, decoded. It never changes and is shared by
// every snapshot that has the same blob at the same path.
type parsed struct {
	blob plumbing.Hash
	docs []spec.Document
}

// planAt is what is known of a plan's document at a commit.
type planAt struct {
	state   spec.State
	attempt int
	known   bool // false: there is a document, and no commit so far could be read
	missing bool // not found, and a file that cannot be read may hide it
}

// snapshot is one commit's documents. It never changes once made.
type snapshot struct {
	commit  plumbing.Hash
	dir     plumbing.Hash // tree of the configured folder
	entries int           // files of any kind
	files   *table[*parsed]
	plans   *table[planAt]
	edited  []string   // with only: the plans that differ from the snapshot before
	only    bool       // nothing but plans that were whole and stay whole differs
	asm     *assembled // nil until asked for

	approvals map[string]plumbing.Hash // folders of approvals; nil until asked for
	ignoring  *ignoring
}

// snapshot reads a commit, parsing only what differs from the snapshot from
// (nil: everything).
func (s *Source) snapshot(ctx context.Context, from *snapshot, c *object.Commit) (*snapshot, error) {
	dir, err := subtree(s.store, c.TreeHash, s.path)
	if err != nil {
		return nil, err
	}
	from, changed, err := s.compare(from, dir)
	if err != nil {
		return nil, err
	}
	next := &snapshot{commit: c.Hash, dir: dir, entries: from.entries, ignoring: from.ignoring}
	if from.files != nil {
		next.files = from.files.copy()
	} else {
		next.files = newTable(map[string]*parsed{})
		if next.ignoring, err = s.ignoringOf(changed); err != nil {
			return nil, err
		}
		for file, docs := range next.ignoring.problems {
			next.files.set(file, &parsed{docs: docs})
		}
	}
	var todo []change
	for _, ch := range changed {
		if ch.old.Hash.IsZero() {
			next.entries++
		}
		if ch.new.Hash.IsZero() {
			next.entries--
		}
		if ignoreFile(ch) {
			continue
		}
		next.files.delete(ch.path)
		if !ch.new.Hash.IsZero() && wanted(ch) && strings.HasPrefix(ch.path, s.only) && !next.ignoring.ignores(ch.path) {
			todo = append(todo, ch)
		}
	}
	if next.entries > maxEntries {
		return nil, s.tooMany()
	}
	read, err := s.parse(ctx, todo)
	if err != nil {
		return nil, err
	}
	for file, p := range read {
		next.files.set(file, p)
	}
	next.files = next.files.settled()
	if next.edited, next.only = editedPlans(from, next, changed); next.only {
		next.edit(from.asm, next.edited, s.limits)
		next.plans = from.plans.copy()
		for _, name := range next.edited {
			next.plans.set(name, next.planIn(from.asm.where[name], name))
		}
		next.plans = next.plans.settled()
		return next, nil
	}
	next.plans = next.read()
	return next, nil
}

// compare lists what differs from an older snapshot. Where that one is no help,
// because its tree is gone from the cache or an ignore file says now which files
// are read, it is everything, compared with nothing.
func (s *Source) compare(from *snapshot, dir plumbing.Hash) (*snapshot, []change, error) {
	if from != nil && !from.dir.IsZero() {
		changed, err := s.changes(from.dir, dir)
		if err == nil && !slices.ContainsFunc(changed, ignoreFile) || isTyped(err) {
			return from, changed, err
		}
	}
	changed, err := s.changes(plumbing.ZeroHash, dir)
	return &snapshot{}, changed, err
}

// planIn finds a plan that is known to be whole and alone in a file.
func (s *snapshot) planIn(file, name string) planAt {
	for _, d := range s.files.get(file).docs {
		if p, ok := d.Object.(*spec.MigrationPlan); ok && d.Name == name {
			return planOf(p)
		}
	}
	return planAt{}
}

func planOf(p *spec.MigrationPlan) planAt {
	return planAt{state: p.Spec.State, attempt: p.Spec.Cutover.AttemptOrDefault(), known: true}
}

func isTyped(err error) bool {
	var typed *Error
	return errors.As(err, &typed)
}

func (s *Source) tooMany() error {
	return fail(ErrTooBig, nil, "cannot read %s of %s: it has more than %d files; set source.path to the folder with the plans", s.remote.said, s.remote.url, maxEntries)
}

func (s *Source) changes(old, new plumbing.Hash) ([]change, error) {
	var out []change
	prefix := ""
	if s.path != "" {
		prefix = s.path + "/"
	}
	w := &treeWalk{s: s.store, left: maxWalked, out: func(c change) error {
		if out = append(out, c); len(out) > 2*maxEntries {
			return s.tooMany()
		}
		return nil
	}}
	err := w.diff(prefix, old, new)
	return out, err
}

// wanted says which entries are looked at: documents, and links that could
// stand for a folder of them.
func wanted(c change) bool {
	switch c.new.Mode {
	case filemode.Symlink, filemode.Submodule:
		return isDocument(c.path) || path.Ext(c.path) == ""
	}
	return isDocument(c.path)
}

// parse decodes files on all cores. The first failure to read a blob fails
// all of it: a state is read whole or not at all.
func (s *Source) parse(ctx context.Context, todo []change) (map[string]*parsed, error) {
	into := make(map[string]*parsed, len(todo))
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	next := make(chan change)
	for range min(runtime.GOMAXPROCS(0), len(todo)) {
		wg.Go(func() {
			for c := range next {
				p, err := s.parseOne(c)
				mu.Lock()
				if into[c.path] = p; err != nil {
					failed = errors.Join(failed, err)
				}
				mu.Unlock()
			}
		})
	}
	for _, c := range todo {
		if ctx.Err() != nil {
			break
		}
		next <- c
	}
	close(next)
	wg.Wait()
	if failed != nil {
		return nil, failed
	}
	return into, ctx.Err()
}

func (s *Source) parseOne(c change) (*parsed, error) {
	p := &parsed{blob: c.new.Hash}
	switch c.new.Mode {
	case filemode.Symlink:
		p.docs = refused(c.path, "this is a symbolic link, which is not followed: put the document itself here")
		return p, nil
	case filemode.Submodule:
		p.docs = refused(c.path, "this is a submodule, which is not read: an approval covers one repository, so put the documents here")
		return p, nil
	}
	n, err := s.store.size(c.new.Hash)
	if err != nil {
		return nil, err
	}
	if n > maxFile {
		p.docs = refused(c.path, fmt.Sprintf("the file has %d bytes, more than the %d that are read: split it", n, maxFile))
		return p, nil
	}
	data, err := s.store.blob(c.new.Hash)
	if err != nil {
		return nil, err
	}
	p.docs, _ = spec.Decode(spec.File{Path: c.path, Blob: c.new.Hash.String(), Data: data})
	s.shard.Divide(p.docs)
	return p, nil
}

// refused stands for whatever a file may hold. Without a kind and a name it
// keeps missing plans from being taken for removed ones.
func refused(file, message string) []spec.Document {
	return []spec.Document{{File: file, Line: 1, Problems: []spec.Problem{{File: file, Line: 1, Message: message}}}}
}

// documents lists all of them, in the order of their paths.
func (s *snapshot) documents() []spec.Document {
	var docs []spec.Document
	files := maps.Collect(s.files.all())
	for _, file := range slices.Sorted(maps.Keys(files)) {
		docs = append(docs, files[file].docs...)
	}
	return docs
}

// read finds the plans of a commit by itself, without what came before.
func (s *snapshot) read() *table[planAt] {
	plans := map[string]planAt{}
	for _, f := range s.files.all() {
		for _, d := range f.docs {
			if d.Kind != spec.KindMigrationPlan || d.Name == "" || d.Elsewhere {
				continue
			}
			p, ok := d.Object.(*spec.MigrationPlan)
			if _, twice := plans[d.Name]; !ok || twice {
				plans[d.Name] = planAt{} // there, and nobody can say which state it asks for
				continue
			}
			plans[d.Name] = planOf(p)
		}
	}
	return newTable(plans)
}

// hides says which plans may be there though nobody can see them. One that is seen
// in another shard is there, and not here.
func (s *snapshot) hides() func(plan string) bool {
	anything, named, elsewhere := false, map[string]bool{}, map[string]bool{}
	for _, f := range s.files.all() {
		for _, d := range f.docs {
			switch {
			case d.Elsewhere:
				elsewhere[d.Name] = true
			case d.Kind == "" && d.Name != "":
				named[d.Name] = true
			case d.Kind == "" && len(d.Problems) > 0:
				anything = true
			}
		}
	}
	return func(plan string) bool { return named[plan] || anything && !elsewhere[plan] }
}

// after says what a commit changed against the one before, and hands on what
// is known of plans that it does not show: a plan that cannot be read keeps
// its last readable state, so that mending it is neither a flip that nobody
// asked for nor one that is lost; and a plan that is missing while a file
// cannot be read is not removed before that file can be read again.
func (s *snapshot) after(before *snapshot, limits spec.Limits) reconciler.PlanCommit {
	pc := reconciler.PlanCommit{Plans: map[string]reconciler.PlanFlip{}}
	if s.only {
		for _, name := range s.edited {
			s.flip(&pc, before, name)
		}
	} else {
		pc.Removed = s.handOn(before)
		for name := range s.plans.all() {
			s.flip(&pc, before, name)
		}
	}
	if len(pc.Plans) == 0 {
		return pc
	}
	closures := s.assemble(limits).closures
	for name, flip := range pc.Plans {
		if c := closures[name]; c != nil {
			flip.Digest = c.Digest()
			pc.Plans[name] = flip
		}
	}
	return pc
}

func (s *snapshot) flip(pc *reconciler.PlanCommit, before *snapshot, name string) {
	now := s.plans.get(name)
	was, there := before.plans.find(name)
	if now.known && !now.missing && (!there || !was.known || was.state != now.state || was.attempt != now.attempt) {
		pc.Plans[name] = reconciler.PlanFlip{State: now.state, Attempt: now.attempt, Appeared: !there || !was.known}
	}
}

// handOn takes over what is known of plans that cannot be seen, and returns
// those that are gone.
func (s *snapshot) handOn(before *snapshot) (removed []string) {
	hides := s.hides()
	for name, was := range before.plans.all() {
		now, there := s.plans.find(name)
		switch {
		case !there && hides(name):
			was.missing = true
			s.plans.set(name, was)
		case !there:
			removed = append(removed, name)
		case !now.known:
			was.missing = false
			s.plans.set(name, was)
		}
	}
	slices.Sort(removed)
	return removed
}

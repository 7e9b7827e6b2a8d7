package gitsource

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"sigs.k8s.io/yaml"

	"github.com/tranship/tranship/spec"
)

const (
	yearFile        = "year.yaml"
	previousTrailer = "Tranship-Previous" // <last commit of the year before> <branch that keeps it>
)

// ledgerYear says which year a ledger is of, and where the one before is.
type ledgerYear struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Year       int    `json:"year"`
	Previous   *kept  `json:"previous,omitempty"`
}

// kept is the ledger of the year before: a branch that nobody moves any more.
type kept struct {
	Branch string `json:"branch"`
	Commit string `json:"commit"`
}

func yearText(year int, previous *kept) ([]byte, error) {
	return yaml.Marshal(ledgerYear{APIVersion: spec.APIVersion, Kind: "LedgerYear", Year: year, Previous: previous})
}

// yearAt reads year.yaml; the zero value where a ledger has none yet.
func yearAt(s *store, root plumbing.Hash) (y ledgerYear, err error) {
	data, err := readFile(s, root, yearFile)
	if err == nil && data != nil && (yaml.UnmarshalStrict(data, &y) != nil || y.Year < 2000) {
		err = fail(ErrLedgerEdited, nil, "cannot read %s of the ledger; put back the version before in Git, then run `tranship ledger adopt`", yearFile)
	}
	return y, err
}

// due returns the year that is over, or 0.
func (l *Ledger) due() (int, error) {
	l.mu.Lock()
	tip := l.tip
	l.mu.Unlock()
	if l.never || tip.IsZero() {
		return 0, nil
	}
	c, err := l.store.commit(tip)
	if err != nil {
		return 0, err
	}
	y, err := yearAt(l.store, c.TreeHash)
	if err != nil {
		return 0, err
	}
	if y.Year == 0 { // written by a version before rotation
		y.Year = c.Committer.When.UTC().Year()
	}
	if l.now().UTC().Year() <= y.Year {
		return 0, nil
	}
	return y.Year, nil
}

// turnYear begins the ledger of a new year when it is due. What fails is logged
// and tried again within the hour; the ledger goes on as it is meanwhile.
func (l *Ledger) turnYear(ctx context.Context, again *time.Time) {
	if over, err := l.due(); err == nil && over == 0 || time.Now().Before(*again) {
		return
	}
	*again = time.Now().Add(time.Hour)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := l.rotate(ctx); err != nil {
		l.log.Warn("the ledger of the new year could not be begun; the one of the old year goes on", "error", err)
	}
}

// rotate keeps the ledger under <branch>-<year> and moves the branch to a first
// commit that names the old tip. Every push is a compare-and-swap, and each can be
// the last thing that this process does: the next one finds the old year kept, or
// the new one begun. Nothing is done unless it is due.
func (l *Ledger) rotate(ctx context.Context) error {
	free, err := l.take(ctx)
	if err != nil {
		return fmt.Errorf("cannot begin the ledger of a new year in time: %w", err)
	}
	defer free()
	if err := l.sealer.refresh(ctx); err != nil {
		return err
	}
	if err := l.sync(ctx); err != nil {
		return err
	}
	over, err := l.due()
	if err != nil || over == 0 {
		return err
	}
	l.mu.Lock()
	tip := l.tip
	l.mu.Unlock()
	old := l.remote.on(plumbing.NewBranchReferenceName(fmt.Sprintf("%s-%d", l.remote.branch.Short(), over)))
	if err := l.keepYear(ctx, old, tip); err != nil {
		return err
	}
	c, err := l.firstOf(l.now().UTC().Year(), tip, kept{Branch: old.branch.Short(), Commit: tip.String()})
	if err != nil {
		return err
	}
	return l.push(ctx, c, func(*journalHead) {}, 0)
}

// keepYear makes the branch of the year that is over, or moves one forward that a
// process before us has made.
func (l *Ledger) keepYear(ctx context.Context, old *remote, tip plumbing.Hash) error {
	at, err := old.tip(ctx)
	if err != nil || at == tip {
		return err
	}
	if !at.IsZero() {
		h, err := bring(ctx, l.remote, l.store, at, tip)
		if err != nil {
			return err
		}
		if !h.linked {
			return fail(ErrRejected, nil, "cannot keep the ledger's year: branch %s is there and holds something else; rename it", old.branch.Short())
		}
	}
	if err := old.upload(ctx, at, tip, nil); err != nil {
		if now, lost := old.tip(ctx); lost != nil || now != tip {
			return err
		}
	}
	return nil
}

// firstOf is the first commit of a year. It has no parent; the compare-and-swap
// is against the old tip.
func (l *Ledger) firstOf(year int, tip plumbing.Hash, previous kept) (*draft, error) {
	root, err := rootTree(l.store, tip)
	if err != nil {
		return nil, err
	}
	text, err := yearText(year, &previous)
	if err != nil {
		return nil, err
	}
	b := &builder{s: l.store}
	tree, err := b.carry(root, text)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	epoch, id := l.epoch, l.j.head.ID
	l.mu.Unlock()
	message := commitMessage([]entry{{Subject: fmt.Sprintf("Begin the ledger of %d", year)}}, []string{fmt.Sprintf("%s: %d", epochTrailer, epoch),
		fmt.Sprintf("%s: %s:0", journalTrailer, id), fmt.Sprintf("%s: %s %s", previousTrailer, previous.Commit, previous.Branch)})
	c, err := l.seal(b, plumbing.ZeroHash, tree, message)
	if err == nil {
		c.parent = tip
	}
	return c, err
}

// carry makes the tree of a new year: all of the old one but the records and logs
// of runs that nothing refers to any more. Those are in the old year.
func (b *builder) carry(root plumbing.Hash, year []byte) (plumbing.Hash, error) {
	files, err := needed(b.s, root)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	entries, err := b.s.tree(root)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	byName := map[string]object.TreeEntry{}
	for _, e := range entries {
		if e.Name != "runs" && e.Name != "logs" {
			byName[e.Name] = e
		}
	}
	byName[yearFile] = object.TreeEntry{Name: yearFile, Mode: filemode.Regular, Hash: b.encode(plumbing.BlobObject, year)}
	return b.graft(byName, files)
}

// graft puts files that the server has already into a tree.
func (b *builder) graft(byName map[string]object.TreeEntry, files map[string]plumbing.Hash) (plumbing.Hash, error) {
	below := map[string]map[string]plumbing.Hash{}
	for path, h := range files {
		name, rest, deeper := strings.Cut(path, "/")
		if !deeper {
			byName[name] = object.TreeEntry{Name: name, Mode: filemode.Regular, Hash: h}
			continue
		}
		if below[name] == nil {
			below[name] = map[string]plumbing.Hash{}
		}
		below[name][rest] = h
	}
	for name, files := range below {
		h, err := b.graft(map[string]object.TreeEntry{}, files)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		byName[name] = object.TreeEntry{Name: name, Mode: filemode.Dir, Hash: h}
	}
	return b.writeTree(plumbing.ZeroHash, byName)
}

// needed are the records and logs that statuses refer to: of runs that go on, of
// the newest run of each plan, and of the cutover that a rollback would undo,
// with the last rollback that has tried it.
func needed(s *store, root plumbing.Hash) (map[string]plumbing.Hash, error) {
	rec := &records{s: s, root: root}
	plans, err := rec.plans()
	if err != nil {
		return nil, err
	}
	files := map[string]plumbing.Hash{}
	for name, st := range plans {
		paths := []string{st.Recorded.LastRunPath, st.Recorded.CutoverPath, st.Recorded.LastBackPath}
		if st.Recorded.OpenRun != "" {
			_, open, err := rec.findRun(name, st.Recorded.OpenRun)
			if err != nil {
				return nil, err
			}
			paths = append(paths, open)
		}
		for _, p := range slices.DeleteFunc(paths, func(p string) bool { return !strings.HasPrefix(p, "runs/") }) {
			h, err := fileAt(s, root, p)
			if err != nil {
				return nil, err
			}
			if h.IsZero() {
				continue
			}
			files[p] = h
			dir, err := subtree(s, root, logDir(p))
			if err != nil {
				return nil, err
			}
			logs, err := s.tree(dir)
			if err != nil {
				return nil, err
			}
			for _, e := range logs {
				files[logDir(p)+"/"+e.Name] = e.Hash
			}
		}
	}
	return files, nil
}

// previousOf reads which commit the first one of a year goes on from.
func previousOf(message string) (commit plumbing.Hash, branch string, ok bool) {
	values := trailersOf(message)[previousTrailer]
	if len(values) != 1 {
		return plumbing.ZeroHash, "", false
	}
	hash, branch, ok := strings.Cut(values[0], " ")
	return plumbing.NewHash(hash), branch, ok && plumbing.IsHash(hash)
}

// acrossYears finds the way from base to a tip that does not descend from it: by
// first commits of years, each of which must carry over what was there and change
// nothing. It is unlinked where there is no such way.
func (l *Ledger) acrossYears(ctx context.Context, base, tip plumbing.Hash) (history, error) {
	steps, err := l.unlinked(tip)
	if err != nil {
		return history{}, err
	}
	first := tip
	if len(steps) > 0 {
		first = steps[0].parent
	}
	c, err := l.store.commit(first)
	if err != nil {
		return history{}, err
	}
	previous, _, ok := previousOf(c.Message)
	if !ok {
		return history{}, nil
	}
	h, err := bring(ctx, l.remote, l.store, base, previous)
	if err == nil && !h.linked {
		h, err = l.acrossYears(ctx, base, previous)
	}
	if err != nil || !h.linked {
		return history{}, err
	}
	before, err := rootTree(l.store, previous)
	if err != nil {
		return history{}, err
	}
	if same, err := carries(l.store, before, c.TreeHash); err != nil || !same {
		return history{}, err
	}
	h.steps = append(append(h.steps, step{commit: c, parent: previous}), steps...)
	return h, l.store.keep(tip)
}

// carries says whether the first tree of a year is that of the old one, without
// records and logs that nothing refers to.
func carries(s *store, old, now plumbing.Hash) (bool, error) {
	same := true
	err := diffTrees(s, "", old, now, func(c change) error {
		past := c.new.Hash.IsZero() && (strings.HasPrefix(c.path, "runs/") || strings.HasPrefix(c.path, "logs/"))
		same = same && (past || c.path == yearFile)
		return nil
	})
	if err != nil || !same {
		return false, err
	}
	files, err := needed(s, old)
	if err != nil {
		return false, err
	}
	for p, h := range files {
		at, err := fileAt(s, now, p)
		if err != nil || at != h {
			return false, err
		}
	}
	return true, nil
}

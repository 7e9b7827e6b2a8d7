package gitsource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/tranship/tranship/spec"
)

// AuditOptions say what a ledger is compared with.
type AuditOptions struct {
	// Dir is a clone to read instead of the configured URLs; Plans is the clone of
	// the plans' repository, empty when it is the same.
	Dir, Plans string
	// Signers are the keys that commits may be signed with; nil means those of the
	// configuration. Without any, signatures are not asked for.
	Signers []spec.TrustedKey
	// Known are commits and checkpoints ("12 sha256:...") that somebody has kept:
	// the ledger must hold them.
	Known []string
	// From is a commit up to which everything has been looked at by a person: what is
	// found there is reported apart. Empty means nothing has.
	From string
}

// Finding is one thing of a ledger that no daemon of ours would have written.
type Finding struct {
	Commit string `json:"commit"`
	Path   string `json:"path,omitempty"` // empty: the commit itself
	What   string `json:"what"`
	Want   string `json:"want"` // how it should be
	at     int
}

// Adoption is one `tranship ledger adopt`.
type Adoption struct {
	Commit  string    `json:"commit"`
	By      string    `json:"by"` // as the commit says: who ran the command, or else its committer
	Time    time.Time `json:"time"`
	Accepts string    `json:"accepts"` // the commit that was the tip
}

// AuditReport is what an audit of a ledger has found.
type AuditReport struct {
	Ledger     string         `json:"ledger"`
	Tip        string         `json:"tip"`
	Time       time.Time      `json:"time"` // of the tip
	Commits    int            `json:"commits"`
	Plans      int            `json:"plans"`
	Runs       int            `json:"runs"`
	Epoch      int64          `json:"epoch"`
	Signed     map[string]int `json:"signed,omitempty"`     // commits by the name of the key
	Checkpoint string         `json:"checkpoint,omitempty"` // newest, computed from the records
	Adoptions  []Adoption     `json:"adoptions,omitempty"`
	Notes      []string       `json:"notes,omitempty"` // what was not checked, and why
	Findings   []Finding      `json:"findings"`
	Before     []Finding      `json:"before,omitempty"` // up to AuditOptions.From
}

// Audit walks a whole ledger, from its first commit, and reports everything that
// a daemon would not have written. It changes nothing. An error says that the
// ledger could not be read or the options make no sense, not that something is
// wrong with it.
func Audit(ctx context.Context, c Config, o AuditOptions) (*AuditReport, error) {
	a := &auditor{plans: map[string]*planTrail{}, runs: map[string]*runTrail{}, journals: map[string]int64{}, years: map[plumbing.Hash]plumbing.Hash{}, gaps: map[plumbing.Hash]string{}, report: &AuditReport{Findings: []Finding{}, Signed: map[string]int{}}}
	signers := o.Signers
	if signers == nil {
		signers = c.Spec.Ledger.Signers
	}
	if len(signers) > 0 {
		// A key that has expired since was good when it signed.
		keys, err := NewKeyring(signers, func() time.Time { return a.now })
		if err != nil {
			return nil, err
		}
		a.keys = keys
	} else {
		a.note("signatures were not checked: no key is given; list them in ledger.signers, or in a file with --allowed-signers")
	}
	if err := a.knows(o.Known); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tranship-audit-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left there is a clone
	tip, err := a.open(ctx, c, o, dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = a.s.close() }()
	return a.report, a.walk(ctx, tip, o.From)
}

// open finds the ledger and the plans.
func (a *auditor) open(ctx context.Context, c Config, o AuditOptions, tmp string) (tip plumbing.Hash, err error) {
	ledger, plans := c.Spec.Ledger.Branch, c.Spec.Source.Branch
	if ledger == "" {
		ledger = defaultLedgerBranch
	}
	if plans == "" {
		plans = defaultBranch
	}
	if o.Dir != "" {
		a.report.Ledger = o.Dir + " branch " + ledger
		if a.s, tip, err = openClone(o.Dir, ledger); err != nil {
			return tip, err
		}
		a.bring = func(context.Context, plumbing.Hash) error { return nil }
		a.tipOf = func(_ context.Context, branch string) (plumbing.Hash, error) {
			s, h, err := openClone(o.Dir, branch)
			if err == nil {
				err = s.close()
			}
			return h, err
		}
		other := o.Plans
		if other == "" {
			other = o.Dir
		}
		s, at, err := openClone(other, plans)
		if err == nil {
			a.source, err = ancestors(s, at)
			err = errors.Join(err, s.close())
		}
		return tip, a.without(err)
	}
	r, err := c.ledger()
	if err != nil {
		return tip, err
	}
	a.report.Ledger = r.url + " branch " + ledger
	if a.s, tip, err = fetchAll(ctx, r, filepath.Join(tmp, "ledger")); err != nil {
		return tip, err
	}
	a.bring = func(ctx context.Context, h plumbing.Hash) error { return r.download(ctx, a.s, h, 0) }
	a.tipOf = func(ctx context.Context, branch string) (plumbing.Hash, error) {
		return r.on(plumbing.NewBranchReferenceName(branch)).tip(ctx)
	}
	src, err := c.source()
	if err != nil {
		return tip, err
	}
	s, at, err := fetchAll(ctx, src, filepath.Join(tmp, "plans"))
	if err == nil {
		a.source, err = ancestors(s, at)
		err = errors.Join(err, s.close())
	}
	return tip, a.without(err)
}

// without notes that the plans could not be read; the rest is checked all the same.
func (a *auditor) without(err error) error {
	if err != nil {
		a.source = nil
		a.note("whether approving commits are on the plans' branch was not checked: %s", oneLine(err.Error(), 300))
	}
	return nil
}

// fetchAll brings a branch with its whole history.
func fetchAll(ctx context.Context, r *remote, dir string) (*store, plumbing.Hash, error) {
	tip, err := r.tip(ctx)
	if err != nil {
		return nil, tip, err
	}
	if tip.IsZero() {
		return nil, tip, fail(ErrBranchMissing, nil, "cannot find branch %s of %s; correct the branch in the configuration", r.branch.Short(), r.url)
	}
	s, err := openStore(dir)
	if err != nil {
		return nil, tip, err
	}
	if err := r.download(ctx, s, tip, 0); err != nil {
		return nil, tip, errors.Join(err, s.close())
	}
	return s, tip, nil
}

// openClone opens a person's clone for reading, bare or not, and finds a branch
// in it, its own or origin's.
func openClone(dir, branch string) (*store, plumbing.Hash, error) {
	git := dir
	if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil {
		git = filepath.Join(dir, ".git")
	}
	if info, err := os.Stat(filepath.Join(git, "objects")); err != nil || !info.IsDir() {
		return nil, plumbing.ZeroHash, fail(ErrNotFound, nil, "cannot find a Git repository in %s; name the directory of a clone", dir)
	}
	s := &store{dir: git}
	s.attach()
	for _, name := range []string{"refs/heads/" + branch, "refs/remotes/origin/" + branch} {
		ref, err := s.st.Reference(plumbing.ReferenceName(name))
		if err != nil {
			continue
		}
		edge, err := s.boundary()
		if err == nil && len(edge) > 0 {
			err = fail(ErrMisconfigured, nil, "cannot audit the clone in %s: it is shallow; run git fetch --unshallow there", dir)
		}
		if err != nil {
			return nil, plumbing.ZeroHash, errors.Join(err, s.close())
		}
		return s, ref.Hash(), nil
	}
	return nil, plumbing.ZeroHash, errors.Join(s.close(), fail(ErrBranchMissing, nil, "cannot find branch %s in %s, nor origin's; fetch it, or name another", branch, dir))
}

func ancestors(s *store, tip plumbing.Hash) (map[plumbing.Hash]bool, error) {
	found, _, err := walk(s, tip, plumbing.ZeroHash, nil)
	if err != nil {
		return nil, err
	}
	set := make(map[plumbing.Hash]bool, len(found))
	for h := range found {
		set[h] = true
	}
	return set, nil
}

var (
	keptCommit     = regexp.MustCompile(`^[0-9a-f]{7,40}$`)
	keptCheckpoint = regexp.MustCompile(`^[0-9]+ sha256:[0-9a-f]{64}$`)
)

func (a *auditor) knows(kept []string) error {
	for _, k := range kept {
		k = strings.Join(strings.Fields(k), " ")
		if !keptCommit.MatchString(k) && !keptCheckpoint.MatchString(k) {
			return fail(ErrMisconfigured, nil, "cannot look for %q in the ledger: a kept commit has 7 to 40 hex digits, a checkpoint looks like \"12 sha256:...\"", oneLine(k, 100))
		}
		a.kept = append(a.kept, k)
	}
	return nil
}

// auditor walks a ledger. What it carries from commit to commit is what the
// commits before have said.
type auditor struct {
	s      *store
	keys   *Keyring
	now    time.Time              // of the commit that is looked at
	source map[plumbing.Hash]bool // nil: not known
	report *AuditReport

	tipOf func(ctx context.Context, branch string) (plumbing.Hash, error)
	bring func(ctx context.Context, h plumbing.Hash) error
	years map[plumbing.Hash]plumbing.Hash // first commit of a year: last of the one before
	gaps  map[plumbing.Hash]string        // first commit of a year: what is wrong with the one before

	at       int // number of the commit that is looked at
	commit   plumbing.Hash
	epoch    int64
	journals map[string]int64
	plans    map[string]*planTrail
	runs     map[string]*runTrail // by the path of the record
	kept     []string             // not met yet
	sums     bool                 // checkpoints have begun
	sum      checkpoint           // as the ledger says
	truth    checkpoint           // as the records say
	bad      badRange
}

// planTrail is what the chain of a plan's records has come to.
type planTrail struct {
	numbers    map[spec.RunKind]int
	last, path string // digest and path of the record that ended last
	open       string // the run that goes on
}

type runTrail struct {
	run   *spec.Run
	ended bool
}

func (a *auditor) note(format string, args ...any) {
	a.report.Notes = append(a.report.Notes, fmt.Sprintf(format, args...))
}

// find reports about the present commit.
func (a *auditor) find(path, want, format string, args ...any) {
	a.report.Findings = append(a.report.Findings, Finding{Commit: a.commit.String(), Path: path, What: fmt.Sprintf(format, args...), Want: want, at: a.at})
}

// walk looks at every commit of the first-parent line, oldest first.
func (a *auditor) walk(ctx context.Context, tip plumbing.Hash, from string) error {
	var line []plumbing.Hash
	for at := tip; !at.IsZero(); {
		line = append(line, at)
		c, _, err := a.read(at)
		if err != nil {
			return err
		}
		if len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		} else {
			at = a.yearBefore(ctx, at, c.Message)
		}
	}
	slices.Reverse(line)
	looked := -1
	for i, h := range line {
		if from != "" && strings.HasPrefix(h.String(), from) {
			looked = i
		}
		a.at, a.commit = i, h
		if err := a.examine(h); err != nil {
			return err
		}
	}
	if from != "" && (looked < 0 || !keptCommit.MatchString(from)) {
		return fail(ErrMisconfigured, nil, "cannot begin at %q: the ledger has no such commit; that is a finding by itself unless the name is wrong", oneLine(from, 100))
	}
	a.endRange()
	for _, k := range a.kept {
		a.find("", "in the history: something was cut off, or the ledger was rewritten", "the ledger does not hold %q, which somebody has kept", k)
	}
	r := a.report
	slices.SortStableFunc(r.Findings, func(x, y Finding) int { return x.at - y.at })
	cut := 0
	for cut < len(r.Findings) && r.Findings[cut].at <= looked {
		cut++
	}
	r.Before, r.Findings = r.Findings[:cut:cut], r.Findings[cut:]
	r.Tip, r.Time, r.Commits, r.Plans, r.Runs, r.Epoch = tip.String(), a.now, len(line), len(a.plans), len(a.runs), a.epoch
	if a.sums {
		r.Checkpoint = a.truth.String()
	}
	return nil
}

// read returns a commit and its bytes as Git stores them. Bytes that do not
// belong to the name are an error: then the clone itself is damaged.
func (a *auditor) read(h plumbing.Hash) (*object.Commit, []byte, error) {
	raw, err := a.s.raw(plumbing.CommitObject, h)
	if err != nil {
		return nil, nil, err
	}
	c, err := a.s.commit(h)
	return c, raw, err
}

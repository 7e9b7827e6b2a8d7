package gitsource

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// View reads a ledger from Git alone, for the command line. It shows one
// commit; open another for newer records. Safe for concurrent use.
type View struct {
	r    *remote
	rec  *records
	dir  string
	tip  plumbing.Hash
	when time.Time

	shared bool // the store is somebody else's
}

// LogFile is one log of a run.
type LogFile struct {
	Name string // "mover-upload.log"
	Text string
}

// OpenView fetches the newest commit of the ledger into a temporary directory,
// which Close removes. Config.DataDir is not used.
func OpenView(ctx context.Context, c Config) (*View, error) {
	r, err := c.ledger()
	if err != nil {
		return nil, err
	}
	tip, err := r.tip(ctx)
	if err != nil {
		return nil, err
	}
	if tip.IsZero() {
		return nil, fail(ErrBranchMissing, nil, "cannot find branch %s of %s: no daemon has written there yet; start the daemon, or correct ledger.branch", r.branch.Short(), r.url)
	}
	return viewAt(ctx, r, tip)
}

// viewAt fetches one commit of a ledger.
func viewAt(ctx context.Context, r *remote, tip plumbing.Hash) (v *View, err error) {
	dir, err := os.MkdirTemp("", "tranship-ledger-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	s, err := openStore(filepath.Join(dir, "git"))
	if err != nil {
		return nil, err
	}
	if _, err := bring(ctx, r, s, plumbing.ZeroHash, tip); err != nil {
		return nil, err
	}
	commit, err := s.commit(tip)
	if err != nil {
		return nil, err
	}
	v = &View{r: r, rec: &records{s: s, root: commit.TreeHash}, dir: dir, tip: tip, when: commit.Committer.When}
	return v, knownFormat(s, commit.TreeHash, r)
}

// Close removes the temporary directory.
func (v *View) Close() error {
	if v.shared {
		return nil
	}
	return errors.Join(v.rec.s.close(), os.RemoveAll(v.dir))
}

// Recorded is everything that the daemon would load.
func (v *View) Recorded() (*reconciler.Recorded, error) { return v.rec.load() }

// Older is the last commit of the year before, which the caller closes too; nil
// where this is the first year. Records that nothing refers to any more are there only.
func (v *View) Older(ctx context.Context) (*View, error) {
	y, err := yearAt(v.rec.s, v.rec.root)
	if err != nil || y.Previous == nil {
		return nil, err
	}
	last := plumbing.NewHash(y.Previous.Commit)
	r := v.r.on(plumbing.NewBranchReferenceName(y.Previous.Branch))
	tip, err := r.tip(ctx)
	if err == nil && tip != last {
		err = fail(ErrLedgerRewritten, nil, "cannot read the ledger of the year before: branch %s of %s must end in commit %s; push it there again", oneLine(y.Previous.Branch, 100), r.url, last)
	}
	if err != nil {
		return nil, err
	}
	return viewAt(ctx, r, last)
}

// Commit is the ledger's commit that is shown, and when it was made.
func (v *View) Commit() (hash string, when time.Time) { return v.tip.String(), v.when }

// Daemon is status/_daemon.yaml; nil when there is none.
func (v *View) Daemon() (*spec.DaemonStatus, error) { return v.rec.daemon() }

// Plans returns the status of every plan, by name.
func (v *View) Plans() (map[string]*spec.PlanStatus, error) { return v.rec.plans() }

// Plan returns one status; nil when the ledger has none.
func (v *View) Plan(name string) (*spec.PlanStatus, error) {
	file := statusPath(name)
	data, err := v.rec.read(file)
	if err != nil || data == nil {
		return nil, err
	}
	st, err := spec.DecodeStatus(data)
	return st, wrongRecord(file, err)
}

// Runs lists the paths of a plan's run records, the newest month last.
func (v *View) Runs(plan string) ([]string, error) {
	dirs, err := v.rec.months("runs", plan)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, dir := range dirs {
		names, err := v.rec.list(dir)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			out = append(out, path.Join(dir, n))
		}
	}
	return out, nil
}

// Run returns a run by its name, or by its path as Runs lists it; nil when the
// ledger has none.
func (v *View) Run(plan, run string) (*spec.Run, error) {
	if strings.HasPrefix(run, "runs/") {
		return v.rec.run(run)
	}
	r, _, err := v.rec.findRun(plan, run)
	return r, err
}

// Logs returns the logs of a run, by name.
func (v *View) Logs(plan, run string) ([]LogFile, error) {
	file, ok := runFile(run)
	if !ok {
		return nil, nil
	}
	dirs, err := v.rec.months("logs", plan)
	if err != nil {
		return nil, err
	}
	for _, month := range slices.Backward(dirs) {
		dir := path.Join(month, strings.TrimSuffix(file, ".yaml"))
		names, err := v.rec.list(dir)
		if err != nil {
			return nil, err
		}
		var out []LogFile
		for _, n := range names {
			data, err := v.rec.read(path.Join(dir, n))
			if err != nil {
				return nil, err
			}
			out = append(out, LogFile{Name: n, Text: string(data)})
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, nil
}

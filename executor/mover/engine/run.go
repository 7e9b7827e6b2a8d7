package engine

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/repo/manifest"
	"github.com/kopia/kopia/snapshot"
)

const (
	formatTag     = "tag:tranship-format"
	formatVersion = "1"
)

// options are what tests change; a real run takes them from defaults.
type options struct {
	openStore func(Repository, secrets) (store, error)
	// margin is how much older than the parent's start a change time must be to prove that the
	// parent read the file after its last change: it covers the granularity of time stamps and
	// what a file server's clock may be behind ours.
	margin time.Duration
	now    func() time.Time
	// settlePause is how long an entry that moved is left alone before it is read again.
	settlePause time.Duration
	// safety are the margins of maintenance.
	safety maintenance.SafetyParameters
	log    *slog.Logger
	// afterRead and afterWrite run when a file was read or written.
	afterRead, afterWrite func(rel string)
	// afterPiece runs when a piece of a large file was written.
	afterPiece func(rel string)
	// dialPatience is how long a sender tries to reach its receiver.
	dialPatience time.Duration
	// listening is told where a receiver listens.
	listening func(net.Addr)
	// listMemory is what the lists of a direct transfer may take, in bytes.
	listMemory int64
}

func defaults() options {
	return options{
		openStore: newS3Store, margin: 5 * time.Second, settlePause: 200 * time.Millisecond, safety: maintenance.SafetyFull, now: time.Now, log: slog.Default(),
		afterRead: func(string) {}, afterWrite: func(string) {}, afterPiece: func(string) {},
		dialPatience: dialPatience, listening: func(net.Addr) {}, listMemory: listMemoryOf(),
	}
}

// session is one run with an open repository.
type session struct {
	options
	req     Request
	repo    repo.DirectRepository
	pool    *pool
	traffic *traffic
}

// operation is a row of the table of operations.
type operation struct {
	mayCreate bool // the repository, if there is none
	readOnly  bool
	volume    func(*session, context.Context, VolumeRequest, *counters, *warnings) (snapshotID string, err error)
	// all does every volume of the request at once, instead of one after the other.
	all func(*session, context.Context, *Result) error
}

func operations() map[Op]operation {
	return map[Op]operation{
		OpProbe:   {readOnly: true},
		OpPurge:   {readOnly: true},
		OpUpload:  {mayCreate: true, volume: (*session).upload},
		OpRestore: {readOnly: true, volume: (*session).restore},
		OpSend:    {mayCreate: true, volume: (*session).send},
		OpReceive: {mayCreate: true, readOnly: true, all: (*session).receive},
	}
}

// Run does what the request asks for. The result is complete also on an error: it has the volumes
// that were done, the error and its reason. No secret is in the result nor in the error.
func Run(ctx context.Context, req Request) (Result, error) {
	return run(ctx, req, defaults())
}

func run(ctx context.Context, req Request, o options) (Result, error) {
	if err := req.validate(); err != nil {
		return (&Warm{}).ended(Result{}, err)
	}
	w, res, err := open(ctx, req, o)
	if err != nil || w == nil {
		return res, err
	}
	return w.run(ctx, req, res)
}

// Warm is a repository that was opened before it is known what to do with it, so that the work can
// begin at once when that is known. It serves one Run and is not safe for concurrent use.
type Warm struct {
	options
	repo    repo.DirectRepository
	secrets secrets
	traffic traffic
	// stop is called by the library's own goroutines when it gives the repository up.
	mu   sync.Mutex
	stop context.CancelCauseFunc
	dead error
}

// Open opens the repository of a request whose volumes are not known yet. The error has a reason
// and holds no secret.
func Open(ctx context.Context, req Request) (*Warm, error) {
	w, _, err := open(ctx, req, defaults())
	if err == nil && w == nil {
		err = fail(ReasonRepositoryMissing, nil, "there is no repository yet")
	}
	return w, err
}

// Run reads what others have written to the repository since Open, does the request and closes the
// repository.
func (w *Warm) Run(ctx context.Context, req Request) (Result, error) {
	begin := time.Now()
	res := Result{RepositoryExists: true}
	err := req.validate()
	if err == nil {
		if err = w.repo.Refresh(ctx); err != nil {
			err = storeFailed(err, "cannot read what is new in the repository")
		}
	}
	if err != nil {
		return w.ended(res, errors.Join(err, w.Close(ctx)))
	}
	res.RepositoryOpenMS = time.Since(begin).Milliseconds()
	return w.run(ctx, req, res)
}

// Close lets go of a repository that is not needed after all.
func (w *Warm) Close(ctx context.Context) error {
	if err := w.repo.Close(context.WithoutCancel(ctx)); err != nil {
		return storeFailed(err, "cannot close the repository")
	}
	return nil
}

// open opens the repository of a request. Without an error nil means that a probe found none, or that
// a purge has left none.
func open(ctx context.Context, req Request, o options) (*Warm, Result, error) {
	var res Result
	w := &Warm{options: o}
	op, ok := operations()[req.Op]
	if !ok {
		err := fail(ReasonBadRequest, nil, "the request asks for the unknown operation %q", req.Op)
		res, rerr := w.ended(res, err)
		return nil, res, rerr
	}
	err := req.validatePlace()
	if err == nil {
		w.secrets, err = readSecrets(req.CredentialsFile, req.PasswordFile)
	}
	if err == nil {
		err = w.open(ctx, req, op, &res)
	}
	if err != nil {
		res, err = w.ended(res, err)
		return nil, res, err
	}
	if w.repo == nil {
		return nil, res, nil
	}
	return w, res, nil
}

func (w *Warm) open(ctx context.Context, req Request, op operation, res *Result) error {
	begin := time.Now()
	defer func() { res.RepositoryOpenMS = time.Since(begin).Milliseconds() }()
	st, err := w.openStore(req.Repository, w.secrets)
	if err != nil {
		return err
	}
	blobs, err := st.open(ctx, &w.traffic)
	if err != nil {
		return storeFailed(err, "cannot open the store")
	}
	if req.Op == OpPurge {
		err = purge(ctx, blobs, req.Repository.Prefix)
		res.Purged = err == nil
		return err
	}
	f := newFront(ctx, blobs)
	f.format, res.RepositoryCreated, err = ensureRepository(ctx, st, w.secrets.password, op.mayCreate)
	if err != nil {
		return err
	}
	if res.RepositoryExists = f.format != nil; !res.RepositoryExists {
		return missing(req)
	}
	if _, err := format.ParseKopiaRepositoryJSON(f.format); err != nil {
		return fail(ReasonRepositoryDamaged, err, "what makes the prefix %q a repository cannot be read", req.Repository.Prefix)
	}
	w.repo, err = openRepository(ctx, f, opening{w.secrets.password, req.CacheDir, op.readOnly, w.fatal})
	return err
}

// fatal ends the run that is going on, or the next one.
func (w *Warm) fatal(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = err
	if w.stop != nil {
		w.stop(err)
	}
}

// run does the volumes of a request and closes the repository.
func (w *Warm) run(parent context.Context, req Request, res Result) (Result, error) {
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	w.mu.Lock()
	w.stop = stop
	if w.dead != nil {
		stop(w.dead)
	}
	w.mu.Unlock()
	var err error
	s := &session{options: w.options, req: req, repo: w.repo, pool: newPool(req.Parallel, stop), traffic: &w.traffic}
	switch op := operations()[req.Op]; {
	case op.all != nil:
		err = op.all(s, ctx, &res)
	case op.volume != nil:
		for _, v := range req.Volumes {
			if err = s.volume(ctx, op, v, &res); err != nil {
				break
			}
		}
		if err == nil {
			s.maintained(ctx, &res)
		}
	}
	if cerr := w.Close(ctx); err == nil {
		err = cerr
	}
	return w.ended(res, err)
}

// ended makes a result fit to be shown: with its error, and without secrets.
func (w *Warm) ended(res Result, err error) (Result, error) {
	if err != nil {
		res.Reason = reasonOf(err)
		res.Error = w.secrets.clean(err.Error())
		if next := res.Reason.next(); next != "" {
			res.Error += " (" + next + ")"
		}
		err = &Error{Reason: res.Reason, What: res.Error}
	}
	for _, v := range res.Volumes {
		for i, text := range v.Warnings {
			v.Warnings[i] = w.secrets.clean(text)
		}
	}
	return res, err
}

// missing judges that there is no repository: for a probe that is an answer.
func missing(req Request) error {
	if req.Op == OpProbe {
		return nil
	}
	return fail(ReasonRepositoryMissing, nil, "there is no repository in bucket %s under %q",
		req.Repository.Bucket, req.Repository.Prefix)
}

// volume runs the operation on one volume and keeps what came of it, also when it failed.
func (s *session) volume(ctx context.Context, op operation, v VolumeRequest, res *Result) error {
	var (
		c counters
		w warnings
	)
	begin := time.Now()
	c.traffic = s.traffic
	ctx, stop := c.watch(ctx, s.log.With("op", string(s.req.Op), "volume", v.Name), progressEvery)
	id, err := op.volume(s, ctx, v, &c, &w)
	stop()
	if err != nil && reasonOf(context.Cause(ctx)) == ReasonStalled {
		err = context.Cause(ctx)
	}
	out := VolumeResult{Name: v.Name, Snapshot: id, Warnings: w.first, WarningCount: w.count,
		DurationMS: time.Since(begin).Milliseconds()}
	c.fill(&out)
	res.Volumes = append(res.Volumes, out)
	if err != nil {
		return wrapVolume(err, s.req.Op, v.Name)
	}
	s.log.Info("volume done", "op", string(s.req.Op), "volume", v.Name, "snapshot", id, "files", out.Files,
		"bytes", out.Bytes, "changedFiles", out.ChangedFiles, "warnings", out.WarningCount, "durationMs", out.DurationMS)
	return nil
}

func wrapVolume(err error, op Op, name string) error {
	return fail(reasonOf(err), err, "cannot %s volume %s", op, name)
}

// manifest loads a snapshot of the volume, which is of a file system.
func (s *session) manifest(ctx context.Context, volume, id string) (*snapshot.Manifest, error) {
	return s.manifestOf(ctx, volume, id, ModeFilesystem)
}

func (s *session) manifestOf(ctx context.Context, volume, id string, mode Mode) (*snapshot.Manifest, error) {
	m, err := snapshot.LoadSnapshot(ctx, s.repo, manifest.ID(id))
	switch {
	case errors.Is(err, snapshot.ErrSnapshotNotFound):
		return nil, fail(ReasonSnapshotMissing, nil, "the repository holds no snapshot %q of volume %s", id, volume)
	case err != nil:
		return nil, storeFailed(damaged(ctx, err), "cannot load snapshot %q of volume %s", id, volume)
	case m.Source != sourceOf(volume):
		return nil, fail(ReasonSnapshotUnknown, nil, "snapshot %q is of volume %s, not of %s", id, m.Source.Path, volume)
	case m.Tags[formatTag] != formatVersion:
		return nil, fail(ReasonSnapshotUnknown, nil, "snapshot %q of volume %s has format %q; this version knows %q",
			id, volume, m.Tags[formatTag], formatVersion)
	case m.Tags[modeTag] != string(mode):
		return nil, fail(ReasonSnapshotUnknown, nil, "snapshot %q of volume %s has the mode %q and the claim %q",
			id, volume, m.Tags[modeTag], mode)
	case m.RootEntry == nil || m.RootEntry.Type != snapshot.EntryTypeDirectory || m.IncompleteReason != "":
		return nil, fail(ReasonSnapshotUnknown, nil, "snapshot %q of volume %s is not complete", id, volume)
	}
	return m, nil
}

func sourceOf(volume string) snapshot.SourceInfo {
	return snapshot.SourceInfo{Host: identity, UserName: identity, Path: "/" + volume}
}

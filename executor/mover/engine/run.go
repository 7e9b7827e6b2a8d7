package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/kopia/kopia/repo"
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
	log    *slog.Logger
	// afterRead and afterWrite run when a file was read or written.
	afterRead, afterWrite func(rel string)
	// afterPiece runs when a piece of a large file was written.
	afterPiece func(rel string)
}

func defaults() options {
	return options{
		openStore: newS3Store, margin: 5 * time.Second, now: time.Now, log: slog.Default(),
		afterRead: func(string) {}, afterWrite: func(string) {}, afterPiece: func(string) {},
	}
}

// session is one run with an open repository.
type session struct {
	options
	req  Request
	repo repo.DirectRepository
	pool *pool
}

// operation is a row of the table of operations.
type operation struct {
	mayCreate bool // the repository, if there is none
	readOnly  bool
	volume    func(*session, context.Context, VolumeRequest, *counters, *warnings) (snapshotID string, err error)
}

func operations() map[Op]operation {
	return map[Op]operation{
		OpProbe:   {readOnly: true},
		OpUpload:  {mayCreate: true, volume: (*session).upload},
		OpRestore: {readOnly: true, volume: (*session).restore},
	}
}

// Run does what the request asks for. The result is complete also on an error: it has the volumes
// that were done, the error and its reason. No secret is in the result nor in the error.
func Run(ctx context.Context, req Request) (Result, error) {
	return run(ctx, req, defaults())
}

func run(ctx context.Context, req Request, o options) (Result, error) {
	var (
		res Result
		sec secrets
	)
	err := req.validate()
	if err == nil {
		sec, err = readSecrets(req.CredentialsFile, req.PasswordFile)
	}
	if err == nil {
		err = runOperation(ctx, req, o, sec, &res)
	}
	if err != nil {
		res.Reason = reasonOf(err)
		res.Error = sec.clean(err.Error())
		if next := res.Reason.next(); next != "" {
			res.Error += " (" + next + ")"
		}
		err = &Error{Reason: res.Reason, What: res.Error}
	}
	for _, v := range res.Volumes {
		for i, w := range v.Warnings {
			v.Warnings[i] = sec.clean(w)
		}
	}
	return res, err
}

func runOperation(parent context.Context, req Request, o options, sec secrets, res *Result) (err error) {
	op, ok := operations()[req.Op]
	if !ok {
		return fail(ReasonBadRequest, nil, "the request asks for the unknown operation %q", req.Op)
	}
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	begin := time.Now()
	st, err := o.openStore(req.Repository, sec)
	if err != nil {
		return err
	}
	res.RepositoryExists, res.RepositoryCreated, err = ensureRepository(ctx, st, sec.password, op.mayCreate)
	if err != nil {
		return err
	}
	if !res.RepositoryExists {
		return missing(req, res, begin)
	}
	rep, err := openRepository(ctx, st, opening{sec.password, req.CacheDir, op.readOnly, stop})
	if err != nil {
		return err
	}
	res.RepositoryOpenMS = time.Since(begin).Milliseconds()
	defer func() {
		if cerr := rep.Close(context.WithoutCancel(ctx)); cerr != nil && err == nil {
			err = storeFailed(cerr, "cannot close the repository")
		}
	}()
	s := &session{options: o, req: req, repo: rep, pool: newPool(req.Parallel, stop)}
	if op.volume == nil {
		return nil
	}
	for _, v := range req.Volumes {
		if err := s.volume(ctx, op, v, res); err != nil {
			return err
		}
	}
	return nil
}

// missing ends a run that found no repository: for a probe that is an answer.
func missing(req Request, res *Result, begin time.Time) error {
	res.RepositoryOpenMS = time.Since(begin).Milliseconds()
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
	stop := report(ctx, s.log, s.req.Op, v.Name, &c)
	id, err := op.volume(s, ctx, v, &c, &w)
	stop()
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

// manifest loads a snapshot of the volume.
func (s *session) manifest(ctx context.Context, volume, id string) (*snapshot.Manifest, error) {
	m, err := snapshot.LoadSnapshot(ctx, s.repo, manifest.ID(id))
	switch {
	case errors.Is(err, snapshot.ErrSnapshotNotFound):
		return nil, fail(ReasonSnapshotMissing, nil, "the repository holds no snapshot %q of volume %s", id, volume)
	case err != nil:
		return nil, storeFailed(err, "cannot load snapshot %q of volume %s", id, volume)
	case m.Source != sourceOf(volume):
		return nil, fail(ReasonSnapshotUnknown, nil, "snapshot %q is of volume %s, not of %s", id, m.Source.Path, volume)
	case m.Tags[formatTag] != formatVersion:
		return nil, fail(ReasonSnapshotUnknown, nil, "snapshot %q of volume %s has format %q; this version knows %q",
			id, volume, m.Tags[formatTag], formatVersion)
	case m.RootEntry == nil || m.RootEntry.Type != snapshot.EntryTypeDirectory || m.IncompleteReason != "":
		return nil, fail(ReasonSnapshotUnknown, nil, "snapshot %q of volume %s is not complete", id, volume)
	}
	return m, nil
}

func sourceOf(volume string) snapshot.SourceInfo {
	return snapshot.SourceInfo{Host: identity, UserName: identity, Path: "/" + volume}
}

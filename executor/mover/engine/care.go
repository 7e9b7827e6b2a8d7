package engine

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotgc"
	"golang.org/x/sync/errgroup"
)

// prune forgets the snapshots of a volume that nobody needs any more: its target has a newer one, or
// an attempt that came to nothing made them. It is part of the session that saves the new snapshot.
func (u *uploader) prune(ctx context.Context, v VolumeRequest, saved string) error {
	if len(v.Keep) == 0 {
		return nil
	}
	all, err := snapshot.ListSnapshots(ctx, u.w, sourceOf(v.Name))
	if err != nil {
		return fmt.Errorf("cannot list the snapshots of volume %s: %w", v.Name, err)
	}
	for _, m := range all {
		if id := string(m.ID); id == saved || slices.Contains(v.Keep, id) {
			continue
		}
		if err := u.w.DeleteManifest(ctx, m.ID); err != nil {
			return fmt.Errorf("cannot forget snapshot %s of volume %s: %w", m.ID, v.Name, err)
		}
	}
	return nil
}

// maintenanceLimit bounds what a stage run waits for. Maintenance that is cut off, like a mover that
// is killed in it, leaves a repository that is whole; the next one goes on.
const maintenanceLimit = 15 * time.Minute

// maintain does the library's maintenance if it is due: every hour the quick one, which packs the
// metadata of many small uploads together, and every day the full one, which gives back what belongs
// to no snapshot. Its margins are the library's, made for other movers at work at the same time:
// nothing younger than a day is touched, and what is found unused twice, four hours apart, is deleted
// from the store a day after it was last written anew. Space comes back two to three days late.
func (s *session) maintain(ctx context.Context) (mode string, err error) {
	ctx, stop := context.WithTimeout(ctx, maintenanceLimit)
	defer stop()
	err = repo.DirectWriteSession(ctx, s.repo, repo.WriteSessionOptions{Purpose: "maintenance"},
		func(ctx context.Context, w repo.DirectRepositoryWriter) error {
			if err := owned(ctx, w); err != nil {
				return err
			}
			return maintenance.RunExclusive(ctx, w, maintenance.ModeAuto, false, func(ctx context.Context, p maintenance.RunParameters) error {
				mode = string(p.Mode)
				if p.Mode == maintenance.ModeFull {
					if err := snapshotgc.Run(ctx, w, true, s.safety, p.MaintenanceStartTime); err != nil {
						return err
					}
				}
				return maintenance.Run(ctx, p, s.safety)
			})
		})
	return mode, err
}

// owned says in the repository that our movers maintain it; the library does nothing otherwise.
func owned(ctx context.Context, w repo.DirectRepositoryWriter) error {
	if ours, err := maintenance.IsOwnedByThisUser(ctx, w); err != nil || ours {
		return err
	}
	p := maintenance.DefaultParams()
	p.Owner = w.ClientOptions().UsernameAtHost()
	if err := maintenance.SetParams(ctx, w, &p); err != nil {
		return err
	}
	return w.Flush(ctx)
}

// planPrefix is what a purge demands of a prefix: it ends in the place of one plan's data.
var planPrefix = regexp.MustCompile(`(^|/)data/[^/]+/$`)

const purgeParallel = 16

// purge deletes everything below the request's prefix. The blob that makes it a repository goes last:
// a purge that was cut off is continued by the next.
func purge(ctx context.Context, st blob.Storage, prefix string) error {
	if !planPrefix.MatchString(prefix) {
		return fail(ReasonBadRequest, nil, "the prefix %q is not the place of a plan's data: nothing is deleted", prefix)
	}
	all, err := blob.ListAllBlobs(ctx, st, "")
	if err == nil {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(purgeParallel)
		for _, m := range all {
			if m.BlobID != format.KopiaRepositoryBlobID && ctx.Err() == nil {
				g.Go(func() error { return st.DeleteBlob(ctx, m.BlobID) })
			}
		}
		err = g.Wait()
	}
	if err == nil {
		err = st.DeleteBlob(ctx, format.KopiaRepositoryBlobID)
	}
	if err != nil {
		return storeFailed(err, "cannot delete what lies under %q", prefix)
	}
	return nil
}

// maintained is maintain for a run whose work is done: what fails in it fails nothing else.
func (s *session) maintained(ctx context.Context, res *Result) {
	if !s.req.Maintain {
		return
	}
	mode, err := s.maintain(ctx)
	res.Maintained = mode
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		res.MaintenanceError = storeFailed(err, "cannot maintain the repository").Error()
	}
}

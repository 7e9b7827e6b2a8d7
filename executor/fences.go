package executor

import (
	"context"
	"errors"
	"sync"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
)

// fences remembers on which clusters this daemon's epoch stands. Safe for
// concurrent use.
type fences struct {
	mu sync.Mutex
	at map[string]int64 // by the cluster's UID
}

// raise puts the epoch on both clusters of a run with the first look at it, as far
// as they answer. A daemon that this one has replaced, and that is cut off from Git,
// learns of it from the clusters alone: also from the one where this daemon has
// nothing to do for now. The only error is ErrSuperseded; what else goes wrong is
// tried with every look, and no effect begins on a cluster before it went well.
func (f *fences) raise(ctx context.Context, e *kube.Env) error {
	for _, side := range bothSides {
		c := e.On(side)
		if c == nil || f.stands(c.UID, e.Settings.Epoch) {
			continue
		}
		stands, err := c.Raise(ctx, &e.Settings)
		if errors.Is(err, reconciler.ErrSuperseded) {
			return err
		}
		if err != nil {
			e.Log.Debug("the epoch is not on the cluster yet", "cluster", c.Name, "error", err)
			continue
		}
		if stands {
			f.note(c.UID, e.Settings.Epoch)
		}
	}
	return nil
}

func (f *fences) stands(cluster string, epoch int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at[cluster] >= epoch
}

func (f *fences) note(cluster string, epoch int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil {
		f.at = map[string]int64{}
	}
	f.at[cluster] = epoch
}

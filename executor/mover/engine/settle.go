package engine

import (
	"context"
	"errors"
	"time"

	"github.com/kopia/kopia/snapshot"
)

// A source that is in use does not hold still. What moved while it was read is read again after the
// rest of its directory, a few times and within bounds, and then reported: the next copy reads it in
// any case, for its change time is younger than this snapshot.
const (
	settleTries = 3
	// settleBytes are read again at most for each volume: a database's file changes all the time.
	settleBytes = 256 << 20
	// settlePauses bounds how often a volume's upload waits for something to settle.
	settlePauses = 20
)

// unsettled is an entry that did not hold still while it was read.
type unsettled struct {
	what string
	// whole says that what was read makes an entry whose size and content agree.
	whole bool
}

// Error says what happened to which entry.
func (u *unsettled) Error() string { return u.what }

func unsettledBy(err error) (*unsettled, bool) {
	var u *unsettled
	return u, errors.As(err, &u)
}

// changing judges that the source does not hold still, which only a live one may.
func (u *uploader) changing(what string, whole bool) error {
	if !u.req.Live {
		return fail(ReasonSourceChanged, nil, "%s", what)
	}
	return &unsettled{what: what, whole: whole}
}

// settle reads the unsettled entries of a directory again and reports those that never settle.
func (u *uploader) settle(ctx context.Context, entries []*wireEntry, left []*unsettled, upload func(int) error) error {
	for try := 0; try < settleTries; try++ {
		var again []int
		for i, un := range left {
			if un != nil && u.mayReadAgain(entries[i]) {
				again = append(again, i)
			}
		}
		if len(again) == 0 || u.pauses.Add(1) > settlePauses {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(u.settlePause):
		}
		for _, i := range again {
			left[i] = nil
			u.uncount(entries[i])
			if err := upload(i); err != nil {
				return err
			}
		}
	}
	for _, un := range left {
		if un != nil {
			u.warn.add("%s; the next copy reads it again", un.what)
		}
	}
	return nil
}

// mayReadAgain takes an entry's size from what may be read again.
func (u *uploader) mayReadAgain(e *wireEntry) bool {
	if e == nil {
		return true
	}
	return u.readAgain.Add(e.FileSize) <= settleBytes
}

// uncount takes an entry out of the counters before it is counted again.
func (u *uploader) uncount(e *wireEntry) {
	if e != nil && e.Type == snapshot.EntryTypeFile {
		u.count.files.Add(-1)
		u.count.bytes.Add(-e.FileSize)
		u.count.changed.Add(-1)
	}
}

package gitsource

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
)

// Four daemons have a ledger each in one repository, and somebody else moves
// their branches, one at every second push: nothing is lost or doubled, and a
// commit costs two retries at most.
func TestFourLedgersAndAForeignWriter(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	const events = 100
	var ledgers []*Ledger
	for w := range 4 {
		c := testConfig(t, s, r)
		c.Spec.Ledger.Branch = fmt.Sprintf("tranship/ledger-%d", w)
		ledgers = append(ledgers, acquired(t, c, "a"))
	}
	ref := func(w int) string { return fmt.Sprintf("refs/heads/tranship/ledger-%d", w) }
	var mu sync.Mutex // the branch is not pushed to while it is moved: update-ref asks nobody
	pushes, moves := 0, 0
	s.Inject(receivePack, 1<<20, func(w http.ResponseWriter, _ *http.Request, serve func(http.ResponseWriter)) {
		mu.Lock()
		defer mu.Unlock()
		if pushes++; pushes%2 == 0 {
			moves++
			at := ref(moves % 4)
			r.Git("update-ref", at, r.Git("commit-tree", "-p", at, "-m", "hello", at+"^{tree}"))
		}
		serve(w)
	})
	var wg sync.WaitGroup
	for w, l := range ledgers {
		wg.Go(func() {
			for i := range events {
				c := planChange(fmt.Sprintf("plan-%d", i), fmt.Sprintf("by %d", w))
				c.Logs = []reconciler.Log{{Plan: "shared", Run: "shared-stage-1", Name: "all.log", Text: fmt.Sprintf("event %d\n", i)}}
				err := l.Record(testContext(t), c)
				if err == nil && i%7 == w {
					err = l.Push(testContext(t))
				}
				if err != nil {
					t.Error(err)
				}
			}
			if err := l.Push(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	commits := 0
	for w, l := range ledgers {
		tip, err := l.remote.tip(testContext(t))
		must(t, err)
		if tip != plumbing.NewHash(r.Git("rev-parse", ref(w))) {
			t.Fatal("the tips differ")
		}
		commits += len(strings.Fields(r.Git("log", "--format=%H", "--grep=^"+journalTrailer, ref(w)))) - 1 // without the first
		if n := len(strings.Fields(r.Git("ls-tree", "-r", "--name-only", ref(w), "status/"))); n != events+1 {
			t.Errorf("ledger %d has %d files of status", w, n)
		}
		var want strings.Builder
		for i := range events {
			fmt.Fprintf(&want, "event %d\n", i)
		}
		log := r.Git("show", ref(w)+":"+logPath("shared", "shared-stage-1", "all.log", time.Now()))
		if log+"\n" != want.String() {
			t.Errorf("ledger %d: %q", w, log)
		}
	}
	if retries := pushes - commits; retries > 2*commits || moves == 0 {
		t.Errorf("%d commits took %d pushes, with %d moves by another", commits, pushes, moves)
	}
	t.Logf("%d commits took %d pushes, with %d moves by another", commits, pushes, moves)
	r.Fsck()
}

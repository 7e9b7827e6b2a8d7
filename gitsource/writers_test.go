package gitsource

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
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
	retries := make([]retried, len(ledgers))
	var wg sync.WaitGroup
	for w, l := range ledgers {
		counted := retries[w].watch(l)
		wg.Go(func() {
			for i := range events {
				c := planChange(fmt.Sprintf("plan-%d", i), fmt.Sprintf("by %d", w))
				c.Logs = []reconciler.Log{{Plan: "shared", Run: "shared-stage-1", Name: "all.log", Text: fmt.Sprintf("event %d\n", i)}}
				err := l.Record(testContext(t), c)
				if err == nil {
					err = counted(func() error { return l.Push(testContext(t)) })
				}
				if err != nil {
					t.Error(err)
				}
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
	if moves == 0 {
		t.Error("nobody else moved a branch")
	}
	for w, h := range retries {
		for n, commits := range h {
			if n > 2 {
				t.Errorf("ledger %d: %d commits were tried again %d times", w, commits, n)
			}
		}
	}
	t.Logf("%d commits took %d pushes, with %d moves by another; commits by their retries: %v", commits, pushes, moves, retries)
	r.Fsck()
}

// retried counts commits by how often their push was tried again.
type retried map[int]int

// watch counts the pushes of a ledger.
func (h *retried) watch(l *Ledger) func(push func() error) error {
	via := &counting{transport: l.remote.via}
	l.remote.via, *h = via, retried{}
	return func(push func() error) error {
		before := via.pushes.Load()
		err := push()
		(*h)[int(via.pushes.Load()-before)-1]++
		return err
	}
}

// counting counts the pushes that are tried over a transport.
type counting struct {
	transport
	pushes atomic.Int64
}

func (c *counting) do(ctx context.Context, x call) (io.ReadCloser, error) {
	if x.service == receivePack && x.body != nil {
		c.pushes.Add(1)
	}
	return c.transport.do(ctx, x)
}

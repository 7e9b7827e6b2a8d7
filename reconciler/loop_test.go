package reconciler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// memory is a ledger without Git, for the loop's own logic only; the real one
// is tested against a real server in gitsource.
type memory struct {
	mu      sync.Mutex
	daemon  spec.DaemonStatus
	plans   map[string]*spec.PlanStatus
	runs    map[string]*spec.Run
	err     error
	pushed  error  // what a push answers
	strange string // how the ledger was changed
	unread  bool   // it was adopted, and not loaded since
	records int    // calls of Record
}

func newMemory() *memory {
	return &memory{plans: map[string]*spec.PlanStatus{}, runs: map[string]*spec.Run{}}
}

func (m *memory) Load(context.Context) (*Recorded, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unread = false
	r := &Recorded{Daemon: m.daemon, Plans: maps.Clone(m.plans), Open: map[string]*spec.Run{}, Origin: m.daemon.Accepted == "", Changed: m.strange}
	for n, run := range m.runs {
		if run.Status.Ended == nil {
			r.Open[n] = run
		}
	}
	return r, nil
}

func (m *memory) Record(_ context.Context, changes ...Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	if m.unread {
		return ErrAdopted
	}
	m.records++
	for _, c := range changes {
		if c.Daemon != nil {
			m.daemon = *c.Daemon
		}
		for _, p := range c.Plans {
			m.plans[p.Metadata.Name] = p
		}
		for _, r := range c.Runs {
			m.runs[r.Metadata.Name] = r
		}
	}
	return nil
}

func (m *memory) Push(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.err, m.pushed)
}

func (m *memory) Run(_ context.Context, path string) (*spec.Run, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.runs {
		if spec.RunPath(r) == path {
			return r, nil
		}
	}
	return nil, fmt.Errorf("no run at %s", path)
}

func (m *memory) status() spec.DaemonStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.daemon
}

func (m *memory) reason(plan string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if st := m.plans[plan]; st != nil {
		return reasonOf(st)
	}
	return ""
}

// branch is a manifest repository that the test commits to.
type branch struct {
	mu      sync.Mutex
	commits []*Desired
	trust   *Trust      // with a policy over plans/
	proof   *spec.Proof // of the commits to come
}

func (b *branch) commit(c *spec.Closure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := fmt.Sprintf("%040d", len(b.commits)+1)
	by := spec.Approval{Commit: id, Time: metav1.NewTime(time.Now())}
	d := &Desired{Commit: id, Approval: by, Closures: map[string]*spec.Closure{"shop": c}}
	f := PlanFlip{State: c.Plan.Spec.State, Attempt: c.Plan.Spec.Cutover.AttemptOrDefault(), Digest: c.Digest(), Appeared: len(b.commits) == 0}
	if b.trust != nil {
		d.Trust, f.Path, f.WasPath, f.Proof = b.trust, "plans/shop.yaml", "plans/shop.yaml", b.proof
	}
	d.Commits = []PlanCommit{{Approval: by, Plans: map[string]PlanFlip{"shop": f}}}
	b.commits = append(b.commits, d)
}

// Read returns the tip with the commits since the accepted one.
func (b *branch) Read(_ context.Context, since string) (*Desired, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.commits) == 0 {
		return nil, errors.New("the branch is empty")
	}
	tip := *b.commits[len(b.commits)-1]
	tip.Commits = nil
	for _, c := range b.commits {
		if c.Commit > since {
			tip.Commits = append(tip.Commits, c.Commits...)
		}
	}
	tip.Unchanged = tip.Commit == since
	return &tip, nil
}

// cluster makes every effect come true at once and counts it.
type cluster struct {
	mu    sync.Mutex
	made  map[string]int
	block chan struct{} // non-nil: effects wait
	halt  string        // only those of this step; "": all
	asked []string      // target clusters that were looked at
}

func (c *cluster) name(call Call) string { return call.Run.Metadata.Name + "/" + effect(call) }

func (c *cluster) Look(_ context.Context, call Call) (Observation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made[c.name(call)] > 0 || stepTable(call.Run.Spec.Kind)[call.Step.Name].ReadOnly {
		return Observation{Seen: Succeeded}, nil
	}
	return Observation{}, nil
}

func (c *cluster) Ensure(ctx context.Context, call Call) error {
	if c.block != nil && (c.halt == "" || c.halt == call.Step.Name) {
		select {
		case <-c.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[c.name(call)]++
	return nil
}

func (c *cluster) Survey(_ context.Context, of *spec.Closure, _ []spec.Volume) (Survey, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, of.Plan.Spec.TargetCluster)
	return Survey{Volumes: []spec.Volume{{Namespace: "shop", Claim: "data", Action: "copy"}}}, nil
}

type realClock struct{}

func (realClock) Now() time.Time                         { return time.Now() }
func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

type quiet struct{}

func (quiet) Notify(Event)                {}
func (quiet) Progress(string, []Progress) {}

// daemon runs a loop until the returned function is called.
func daemon(t *testing.T, b *branch, m *memory, c Executor) (stop func() error) {
	t.Helper()
	_, stop = daemonLoop(t, b, m, c)
	return stop
}

func daemonLoop(t *testing.T, b *branch, m *memory, c Executor) (l *Loop, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l = New(Config{Source: b, Ledger: m, Executor: c, Clock: realClock{}, Notifier: quiet{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Interval: func() time.Duration { return 5 * time.Millisecond }, Slots: always(4, 0)})
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			t.Fatal("the loop did not stop")
			return nil
		}
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("timed out waiting for %s", what)
}

func TestLoopServesTheWholeLife(t *testing.T) {
	b, m, c := &branch{}, newMemory(), &cluster{made: map[string]int{}}
	b.commit(closureIn(spec.Staged, 1))
	stop := daemon(t, b, m, c)
	say := func(reason string) {
		t.Helper()
		eventually(t, reason, func() bool { return m.reason("shop") == reason })
	}
	say("Staged")
	b.commit(closureIn(spec.Migrated, 1))
	say("Migrated")
	b.commit(closureIn(spec.RolledBack, 1, func(p *spec.PlanSpec) { p.Rollback.TargetWrites = "Discard" }))
	say("RolledBack")
	b.commit(closureIn(spec.Closed, 1))
	say("Closed")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(m.runs); n != 3 {
		t.Fatalf("%d runs, want migrate, rollback and close", n)
	}
	for e, n := range c.made {
		if n != 1 {
			t.Errorf("%s was made %d times", e, n)
		}
	}
}

// Whoever asks for a poll finds in the next status when that was heard.
func TestLoopNotesWhoAsked(t *testing.T) {
	b, m := &branch{}, newMemory()
	b.commit(closureIn(spec.Staged, 1))
	l, stop := daemonLoop(t, b, m, &cluster{made: map[string]int{}})
	defer func() { _ = stop() }()
	before := time.Now().Add(-time.Second)
	eventually(t, "the first commit", func() bool { return m.status().Accepted != "" })
	if m.status().LastHandledAt != nil {
		t.Error("nobody asked")
	}
	l.Trigger <- struct{}{}
	eventually(t, "the request is taken", func() bool { return len(l.Trigger) == 0 })
	l.Trigger <- struct{}{} // taken in the turn after the first
	eventually(t, "the request is taken", func() bool { return len(l.Trigger) == 0 })
	b.commit(closureIn(spec.Staged, 1))
	eventually(t, "the second commit", func() bool { return m.status().LastHandledAt != nil && m.status().LastHandledAt.After(before) })
}

// A daemon that starts with a configuration which does not read most plans any more
// holds the commit that was accepted before, until somebody lets it be.
func TestLoopHoldsWhatIsNotReadAnyMore(t *testing.T) {
	b, m := &branch{}, newMemory()
	b.commit(closureIn(spec.Staged, 1))
	commit := b.commits[0].Commit
	m.daemon.Accepted = commit
	for _, plan := range []string{"shop", "a", "b", "c"} {
		m.plans[plan] = newStatus(plan)
		m.plans[plan].Recorded.SeenState = spec.Staged
	}
	l, stop := daemonLoop(t, b, m, &cluster{made: map[string]int{}})
	eventually(t, "a hold", func() bool { return m.reason("a") == "ManyPlansRemoved" && m.reason("shop") == "ManyPlansRemoved" })
	l.Acknowledge(commit)
	eventually(t, "the removal", func() bool { return m.reason("a") == "Removed" && m.reason("shop") == "Staged" })
	if err := stop(); err != nil || m.status().Hold != nil {
		t.Errorf("%v, hold %+v", err, m.status().Hold)
	}
}

func TestLoopContinuesAfterARestart(t *testing.T) {
	b, m, c := &branch{}, newMemory(), &cluster{made: map[string]int{}, block: make(chan struct{})}
	b.commit(closureIn(spec.Staged, 1))
	stop := daemon(t, b, m, c)
	eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
	b.commit(closureIn(spec.Migrated, 1))
	eventually(t, "a run", func() bool { return m.reason("shop") == "Running" || m.reason("shop") == "CuttingOver" })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	close(c.block)
	stop = daemon(t, b, m, c)
	eventually(t, "Migrated", func() bool { return m.reason("shop") == "Migrated" })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if len(m.runs) != 1 {
		t.Fatalf("%d runs, want one cutover for one approval", len(m.runs))
	}
}

func TestLoopStopsWhenSuperseded(t *testing.T) {
	b, m, c := &branch{}, newMemory(), &cluster{made: map[string]int{}}
	b.commit(closureIn(spec.Staged, 1))
	stop := daemon(t, b, m, c)
	eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
	m.mu.Lock()
	m.err = ErrSuperseded
	m.mu.Unlock()
	b.commit(closureIn(spec.Migrated, 1))
	time.Sleep(50 * time.Millisecond)
	if err := stop(); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("got %v", err)
	}
	if len(c.made) != 0 {
		t.Fatalf("a superseded daemon acted: %v", c.made)
	}
}

// replaced finds with its first look that another daemon has taken over.
type replaced struct{ *cluster }

func (replaced) Look(context.Context, Call) (Observation, error) {
	return Observation{}, fmt.Errorf("epoch 2 is higher than ours: %w", ErrSuperseded)
}

func TestLoopStopsWhenALookFindsAnotherDaemon(t *testing.T) {
	b, m, c := &branch{}, newMemory(), &cluster{made: map[string]int{}}
	b.commit(closureIn(spec.Staged, 1))
	stop := daemon(t, b, m, replaced{c})
	eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
	b.commit(closureIn(spec.Migrated, 1))
	time.Sleep(50 * time.Millisecond)
	if err := stop(); !errors.Is(err, ErrSuperseded) || len(c.made) != 0 {
		t.Fatalf("got %v and %v", err, c.made)
	}
}

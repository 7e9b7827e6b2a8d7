package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// spoil makes somebody edit the ledger; mend adopts it.
func (m *memory) spoil() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.strange, m.pushed = "grace edited it", fmt.Errorf("push: %w", ErrLedgerChanged)
}

func (m *memory) mend() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.strange, m.pushed = "", nil
}

// cutOver runs a cutover up to a step whose effect blocks, and kills the daemon.
func cutOver(t *testing.T, b *branch, m *memory, until string) *cluster {
	t.Helper()
	c := &cluster{made: map[string]int{}, halt: until, block: make(chan struct{})}
	b.commit(closureIn(spec.Staged, 1))
	stop := daemon(t, b, m, c)
	eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
	b.commit(closureIn(spec.Migrated, 1))
	eventually(t, "step "+until, func() bool { return m.stateOf(until) == spec.StepRunning })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	close(c.block)
	return c
}

func (m *memory) stateOf(step string) spec.StepState {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.runs {
		for _, s := range r.Steps {
			if s.Name == step {
				return s.State
			}
		}
	}
	return ""
}

func (c *cluster) has(effect string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.made {
		if strings.HasSuffix(name, effect) {
			return true
		}
	}
	return false
}

// The ledger is edited while a daemon is away that had stopped the source: the
// next one puts the source back first, then asks; once the target is live it
// touches nothing (safety property 12). Adopted, it goes on.
func TestLedgerChangedWhileAway(t *testing.T) {
	for _, at := range []struct {
		step string
		back bool
	}{{"upload", true}, {"stop", true}, {"last-upload", true}, {"live", true}, {"start", false}, {"traffic", false}} {
		t.Run(at.step, func(t *testing.T) {
			b, m := &branch{}, newMemory()
			c := cutOver(t, b, m, at.step)
			m.spoil()
			before := len(c.made)
			stop := daemon(t, b, m, c)
			eventually(t, "LedgerChanged", func() bool { return m.reason("shop") == "LedgerChanged" })
			if at.back {
				eventually(t, "the end of the run", func() bool {
					m.mu.Lock()
					defer m.mu.Unlock()
					for _, r := range m.runs {
						return r.Status.Phase == spec.RunCanceled
					}
					return false
				})
			} else {
				time.Sleep(50 * time.Millisecond)
				if len(c.made) != before {
					t.Errorf("live, and it acted: %v", c.made)
				}
			}
			if stopped := slices.Contains([]string{"stop", "last-upload", "live"}, at.step); stopped && !c.has("undo:stop") {
				t.Errorf("the source was not put back: %v", c.made)
			}
			m.mend()
			want := "Migrated"
			if at.back {
				want = "CutoverNotDone"
			}
			eventually(t, want, func() bool { return m.reason("shop") == want })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The same while the daemon runs: it learns of it at a push.
func TestLedgerChangedBeforeThePushOfAStep(t *testing.T) {
	for step, want := range map[string]bool{"stop": true, "live": true} {
		t.Run(step, func(t *testing.T) {
			b, m := &branch{}, newMemory()
			c := &cluster{made: map[string]int{}, halt: "movers", block: make(chan struct{})}
			if step == "live" {
				c.halt = "hand-over"
			}
			b.commit(closureIn(spec.Staged, 1))
			stop := daemon(t, b, m, c)
			eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
			b.commit(closureIn(spec.Migrated, 1))
			eventually(t, c.halt, func() bool { return m.stateOf(c.halt) == spec.StepRunning })
			m.spoil()
			close(c.block)
			eventually(t, "LedgerChanged", func() bool { return m.reason("shop") == "LedgerChanged" })
			eventually(t, "the undo", func() bool { return c.has("undo:movers") == want })
			if c.has("do:" + step + ":1") {
				t.Errorf("%s came to effect without its record", step)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The ledger is edited while nothing is going on: whoever finds it says so, and a
// cutover that is approved before anybody has found it does not begin. Adopted, the
// same approval is served.
func TestLedgerChangedWhileIdle(t *testing.T) {
	for name, told := range map[string]bool{"found by the ledger": true, "found by the cutover": false} {
		t.Run(name, func(t *testing.T) {
			b, m := &branch{}, newMemory()
			b.commit(closureIn(spec.Staged, 1))
			l, stop := daemonLoop(t, b, m, &cluster{made: map[string]int{}})
			eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
			m.spoil()
			if told {
				l.LedgerChanged(ErrLedgerChanged)
				eventually(t, "LedgerChanged", func() bool { return m.reason("shop") == "LedgerChanged" })
			}
			b.commit(closureIn(spec.Migrated, 1))
			eventually(t, "LedgerChanged", func() bool { return m.reason("shop") == "LedgerChanged" && m.approved("shop") })
			m.mu.Lock()
			if len(m.runs) > 0 {
				t.Errorf("it began a run: %v", m.runs)
			}
			m.mu.Unlock()
			m.mend()
			eventually(t, "Migrated", func() bool { return m.reason("shop") == "Migrated" })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// approved says that a flip was accepted and no run has served it.
func (m *memory) approved(plan string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plans[plan].Recorded.Flip != nil
}

package reconciler

import (
	"slices"
	"testing"

	"github.com/tranship/tranship/spec"
)

// adopt makes a person write into the status of plan shop, and adopt the result.
func (m *memory) adopt(write func(st *spec.PlanStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := copyStatus(m.plans["shop"])
	write(st)
	m.plans["shop"], m.unread, m.strange, m.pushed = st, true, "", nil
}

func (m *memory) plan(name string) spec.Recorded {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plans[name].Recorded
}

// A person adopts a ledger while the daemon runs. What he wrote counts from then on,
// also of a plan with a run that goes on: the run goes on from its record, and no
// effect comes twice.
func TestAdoptedWhileTheDaemonRuns(t *testing.T) {
	byHand := func(st *spec.PlanStatus) {
		st.Recorded.Approvals = append(slices.Clone(st.Recorded.Approvals), "by hand")
	}
	for name, c := range map[string]struct{ at, told string }{
		"in a run, told by the ledger":       {"last-upload", "yes"},
		"in a run, found by its next record": {"last-upload", ""},
		"in a run after an edit was found":   {"live", "edited"},
		"idle, told by the ledger":           {"", "yes"},
		"idle, found by the next record":     {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b, m, cl := &branch{}, newMemory(), &cluster{made: map[string]int{}, halt: c.at}
			if c.at != "" {
				cl.block = make(chan struct{})
			}
			b.commit(closureIn(spec.Staged, 1))
			l, stop := daemonLoop(t, b, m, cl)
			eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
			if c.at != "" {
				b.commit(closureIn(spec.Migrated, 1))
				eventually(t, "step "+c.at, func() bool { return m.stateOf(c.at) == spec.StepRunning })
			}
			if c.told == "edited" {
				m.spoil()
				l.LedgerChanged(ErrLedgerChanged)
				eventually(t, "LedgerChanged", func() bool { return m.reason("shop") == "LedgerChanged" })
			}
			m.adopt(byHand)
			if c.told != "" {
				l.LedgerChanged(ErrAdopted)
			}
			if c.at != "" {
				close(cl.block)
			} else {
				b.commit(closureIn(spec.Migrated, 1))
			}
			eventually(t, "Migrated", func() bool { return m.reason("shop") == "Migrated" })
			if r := m.plan("shop"); !slices.Contains(r.Approvals, "by hand") || r.Numbers[spec.RunMigrate] != 1 {
				t.Errorf("what was adopted is lost: %+v", r)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What the adopted ledger does not know any more is not driven on.
func TestAdoptedWithoutTheRun(t *testing.T) {
	b, m, c := &branch{}, newMemory(), &cluster{made: map[string]int{}, halt: "upload", block: make(chan struct{})}
	b.commit(closureIn(spec.Staged, 1))
	l, stop := daemonLoop(t, b, m, c)
	eventually(t, "Staged", func() bool { return m.reason("shop") == "Staged" })
	b.commit(closureIn(spec.Migrated, 1))
	eventually(t, "step upload", func() bool { return m.stateOf("upload") == spec.StepRunning })
	m.adopt(func(st *spec.PlanStatus) { st.Recorded.OpenRun = ""; clear(m.runs) })
	l.LedgerChanged(ErrAdopted)
	eventually(t, "CutoverNotDone", func() bool { return m.reason("shop") == "CutoverNotDone" })
	close(c.block)
	if c.has("do:stop:1") || len(m.openRuns()) > 0 {
		t.Errorf("it was driven on: %v", c.made)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func (m *memory) openRuns() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.runs {
		names = append(names, name)
	}
	return names
}

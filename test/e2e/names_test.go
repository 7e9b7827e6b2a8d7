package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestAnotherLedgerWithThePlansName has a second daemon, with a ledger of its own,
// meet a plan whose name is taken on the clusters: it does nothing there and says
// whose it is, and the first goes on as if it had never been.
func TestAnotherLedgerWithThePlansName(t *testing.T) {
	long(t)
	l := newLab(t)
	stage := fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339))
	l.open(l.stateful(), "statefulset/db", stage)
	l.wait("a stage run", 3*time.Minute, func(s *story) bool { return s.Status.LastStage != nil && s.Status.Recorded.OpenRun == "" })
	l.kill()
	ours := l.text(l.dir + "/config.yaml")
	l.write("config.yaml", strings.Replace(ours, l.Ledger(), l.Ledger()+"-of-another", 1)+"\n")
	l.start()
	l.poll("the second daemon to be refused", time.Second, func() (string, bool) {
		text := l.Log.String()
		return tail(text, 2000), strings.Contains(text, "PlanNameTaken") && strings.Contains(text, "another ledger ("+l.bed.Git.URL)
	})
	l.kill()
	l.write("config.yaml", ours+"\n")
	l.start()
	l.flip(spec.Migrated, stage)
	s := l.waitReason("Migrated", 4*time.Minute)
	if s.Status.Recorded.Numbers[spec.RunMigrate] != 1 {
		t.Errorf("%+v", s.Status.Recorded)
	}
	l.flip(spec.Closed, "cutover: {attempt: 2}")
	l.waitReason("Closed", 3*time.Minute)
	l.nothingOfThePlanIsLeft()
}

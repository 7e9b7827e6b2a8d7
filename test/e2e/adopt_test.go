package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestAdoptedInTheMiddleOfACutover: somebody writes into the status of a plan whose
// cutover goes on, and adopts that. The daemon ends the cutover, once, and what he
// wrote is still there.
func TestAdoptedInTheMiddleOfACutover(t *testing.T) {
	const byHand = "0123456789abcdef0123456789abcdef01234567"
	l := newLab(t)
	l.openStaged(l.stateless(), "deployment/web", "")
	l.flip(spec.Migrated, "")
	l.wait("the cutover", time.Minute, func(s *story) bool { return s.Status.Recorded.OpenRun != "" })
	l.must(l.Signal(syscall.SIGSTOP))

	ledger := filepath.Join(l.t.TempDir(), "ledger")
	l.git("fetch", "-q", "origin", l.Ledger())
	l.git("worktree", "add", "-q", "--detach", ledger, "FETCH_HEAD")
	name := strings.TrimSpace(l.run("/bin/sh", "-ec", `cd "$0"; find status -name "*$1*"`, ledger, spec.ShortName(l.name)))
	file := filepath.Join(ledger, name)
	was, err := os.ReadFile(file)
	l.must(err)
	now := regexp.MustCompile(`(?m)^( +)approvals:\n`).ReplaceAllString(string(was), "${1}approvals:\n${1}- "+byHand+"\n")
	if now == string(was) {
		t.Fatalf("no approval is used up in %s:\n%s", name, was)
	}
	l.must(os.WriteFile(file, []byte(now), 0o600))
	l.git("-C", ledger, "commit", "-qam", "Use up an approval by hand")
	l.git("-C", ledger, "push", "-q", "origin", "HEAD:refs/heads/"+l.Ledger())
	l.run(l.binary, "ledger", "adopt", "--config", filepath.Join(l.dir, "config.yaml"), "--secrets-dir", filepath.Join(l.dir, "secrets"))
	l.must(l.Signal(syscall.SIGCONT))

	s := l.waitReason("Migrated", 4*time.Minute)
	r := s.Status.Recorded
	if !slices.Contains(r.Approvals, byHand) || len(r.Approvals) != 2 || r.Numbers[spec.RunMigrate] != 1 {
		t.Errorf("what was adopted is lost, or the cutover came twice: %+v", r)
	}
	if !strings.Contains(l.Log.String(), "goes on from what it says") {
		t.Error("the daemon did not notice the adoption")
	}
	l.nothingLeaks()
}

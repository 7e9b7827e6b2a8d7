package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestChangedPassword changes the repository's password between two stage runs: the second fails with
// one clear reason, and the application does not notice; with the password back the third succeeds.
func TestChangedPassword(t *testing.T) {
	long(t)
	l := newLab(t)
	begin := time.Now().UTC()
	stage := func(n int) string {
		return fmt.Sprintf("stage: {requestedAt: %q}", begin.Add(time.Duration(n)*time.Second).Format(time.RFC3339))
	}
	right := l.text(l.dir + "/secrets/s3/password")
	l.open(l.stateful(), "statefulset/db", stage(0))
	first := l.wait("a stage run", 3*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if first.Status.LastStage.Result != spec.RunSucceeded {
		t.Fatalf("the stage run: %+v", first.Run.Status)
	}
	pods := l.onSource("-n", l.name, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid} {.items[*].status.containerStatuses[0].restartCount}")

	next := func(n int) *story {
		t.Helper()
		last := l.mustStatus().Status.LastStage.Run
		l.flip(spec.Staged, stage(n))
		return l.wait("another stage run", 3*time.Minute, func(s *story) bool {
			return s.Status.LastStage != nil && s.Status.LastStage.Run != last && s.Status.Recorded.OpenRun == ""
		})
	}
	l.write("secrets/s3/password", "another password "+l.name)
	failed := next(1)
	said := fmt.Sprint(failed.Status.Conditions, failed.Status.LastFailure, failed.Status.LastStage, failed.Run.Status)
	if failed.Status.LastStage.Result == spec.RunSucceeded || !strings.Contains(said, "WrongPassword") || !strings.Contains(said, "give the password with which the repository was created") {
		t.Errorf("the stage run with another password: %s", said)
	}
	if got := l.onSource("-n", l.name, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid} {.items[*].status.containerStatuses[0].restartCount}"); got != pods {
		t.Errorf("the application's pods were %s and are %s", pods, got)
	}
	l.write("secrets/s3/password", right)
	if again := next(2); again.Status.LastStage.Result != spec.RunSucceeded {
		t.Errorf("with the right password again: %+v", again.Run.Status)
	}
	l.nothingLeaks()
}

// volumeData lists what lies in the store of a plan's volume data.
func (l *lab) volumeData() []string {
	l.t.Helper()
	keys, err := l.Bed.StoreKeys(l.t.Context(), l.name+"/data/")
	l.must(err)
	return keys
}

// mustStatus is the story as it is now.
func (l *lab) mustStatus() *story {
	l.t.Helper()
	return l.wait("a status", time.Minute, func(*story) bool { return true })
}

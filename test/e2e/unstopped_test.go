package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestMigrateWithoutStopping: with quiesce: false the source runs on, the
// target starts from the copy, and the record says what that means.
func TestMigrateWithoutStopping(t *testing.T) {
	long(t)
	l := newLab(t)
	const plan = "cutover: {quiesce: false}"
	l.openStaged(l.stateful(), "statefulset/db", plan)
	pods := func() string {
		return l.onSource("-n", l.name, "get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name}/{.metadata.uid} {end}")
	}
	before := pods()
	l.flip(spec.Migrated, plan)
	s := l.waitReason("Migrated", 4*time.Minute)
	if after := pods(); after != before || before == "" {
		t.Errorf("the source's pods were %s, they are %s", before, after)
	}
	if said := strings.Join(s.Run.Status.Warnings, "\n"); !strings.Contains(said, "was not stopped (cutover.quiesce: false): it still runs on cluster old") || s.Run.Status.StopSeconds != 0 {
		t.Errorf("stop time %.1f s, warnings %q", s.Run.Status.StopSeconds, said)
	}
	for _, pod := range []string{"db-0", "db-1"} {
		if got := strings.TrimSpace(l.onTarget("-n", l.name, "exec", pod, "--", "cat", "/data/born")); got != pod {
			t.Errorf("%s on the target says it was born as %q", pod, got)
		}
	}
	l.flip(spec.RolledBack, plan+"\nrollback: {targetWrites: Discard}")
	l.waitReason("RolledBack", 4*time.Minute)
	if after := pods(); after != before {
		t.Errorf("after the rollback the source's pods are %s, they were %s", after, before)
	}
	if got := l.onSource("-n", l.name, "get", "statefulset", "db", "-o", "jsonpath={.spec.persistentVolumeClaimRetentionPolicy.whenScaled}/{.metadata.annotations}"); !strings.HasPrefix(got, "Delete/") || strings.Contains(got, "tranship.dev/") {
		t.Errorf("the source's StatefulSet is %s", got)
	}
}

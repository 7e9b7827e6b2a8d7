package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

const directly = "volumes: {defaults: {transfer: Direct}}\n"

// stageRun waits for a stage run after the given number of them, and wants success.
func (l *lab) stageRun(number int) *story {
	l.t.Helper()
	s := l.wait(fmt.Sprintf("stage run %d", number), 3*time.Minute, func(s *story) bool {
		return s.Status.LastStage != nil && s.Status.Recorded.Numbers[spec.RunStage] >= number && !s.Status.LastStage.Ended.IsZero() &&
			strings.HasSuffix(s.Status.LastStage.Run, fmt.Sprintf("-%d", number))
	})
	if s.Status.LastStage.Result != spec.RunSucceeded {
		l.t.Fatalf("stage run %d: %+v", number, s.Run.Status)
	}
	return s
}

// TestDirectTransfer stages twice and cuts over with file contents that never
// touch the repository, and ends the plan there.
func TestDirectTransfer(t *testing.T) {
	l := newLab(t)
	stage := func() string {
		return fmt.Sprintf("%sstage: {requestedAt: %q}", directly, time.Now().UTC().Format(time.RFC3339))
	}
	l.open(l.stateful(), "statefulset/db", stage())
	l.wentDirectly(l.stageRun(1))
	l.flip(spec.Staged, stage())
	l.wentDirectly(l.stageRun(2))
	l.flip(spec.Migrated, directly)
	s := l.waitReason("Migrated", 4*time.Minute)
	t.Logf("stop time: %.1f s (application's own: %.1f s)", s.Run.Status.StopSeconds, s.Run.Status.OwnSeconds)
	l.wentDirectly(s)
	for _, pod := range []string{"db-0", "db-1"} {
		if got := strings.TrimSpace(l.onTarget("-n", l.name, "exec", pod, "--", "cat", "/data/born")); got != pod {
			t.Errorf("%s on the target says it was born as %q", pod, got)
		}
	}
	for _, k := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
		l.gone("the proofs of identity", k, "-n", "tranship-system", "get", "secrets,services", "-l", l.ofPlan("identity"))
	}
	l.flip(spec.Closed, directly)
	l.waitReason("Closed", 4*time.Minute)
	l.nothingOfThePlanIsLeft()
	if got := l.onTarget("-n", l.name, "get", "statefulset", "db", "-o", "jsonpath={.status.readyReplicas} {.spec.persistentVolumeClaimRetentionPolicy.whenScaled}"); got != "2 Delete" {
		t.Errorf("the application on the target after the end of the plan: %q, want %q", got, "2 Delete")
	}
	if got := l.onSource("-n", l.name, "get", "pvc", "-o", "name"); strings.Count(got, "persistentvolumeclaim/") != 2 {
		t.Errorf("claims of the source: %q, want both", got)
	}
	l.nothingLeaks()
}

// wentDirectly checks the record of a run.
func (l *lab) wentDirectly(s *story) {
	l.t.Helper()
	for _, v := range s.Run.Facts.Volumes {
		if v.Transfer != "Direct" || v.TransferReason != "" || v.Snapshot == "" {
			l.t.Fatalf("claim %s went by %q: %s", v.Claim, v.Transfer, v.TransferReason)
		}
	}
}

// TestDirectWithoutAWay asks for an address that nobody gives: there is no load
// balancer on the bed. The run goes through the repository and says why.
func TestDirectWithoutAWay(t *testing.T) {
	long(t)
	l := newLab(t)
	config := l.text(filepath.Join(l.dir, "config.yaml")) + "\n"
	l.write("config.yaml", strings.Replace(config, "mover: {", "mover: {receiver: LoadBalancer, ", 1))
	l.open(l.stateful(), "statefulset/db", fmt.Sprintf("%sstage: {requestedAt: %q}", directly, time.Now().UTC().Format(time.RFC3339)))
	for _, v := range l.stageRun(1).Run.Facts.Volumes {
		if v.Transfer != "Repository" || !strings.HasPrefix(v.TransferReason, "DirectUnreachable: ") || v.Held == "" || v.Held != v.Snapshot {
			t.Errorf("claim %s went by %q (%s) and holds %q of %q", v.Claim, v.Transfer, v.TransferReason, v.Held, v.Snapshot)
		}
	}
}

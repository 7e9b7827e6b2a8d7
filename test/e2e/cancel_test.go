package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestCancelLeavesNothing takes an approval back while the application is stopped:
// it runs on the source as before, and of the run nothing is left, on either
// cluster or in the store.
func TestCancelLeavesNothing(t *testing.T) {
	l := newLab(t)
	l.openStaged(l.slowToStop(), "deployment/web", "")
	l.flip(spec.Migrated, "")
	l.source("stopped", time.Minute, "{.spec.replicas}", "0")
	l.flip(spec.Staged, "")
	l.source("back", 3*time.Minute, "{.spec.replicas} {.status.readyReplicas}", "1 1")
	s := l.wait("the end of the run", 3*time.Minute, func(s *story) bool {
		return s.Status.Recorded.OpenRun == "" && s.Status.Recorded.Numbers[spec.RunMigrate] == 1
	})
	if s.Run.Status.Phase != spec.RunCanceled || len(s.Run.Status.Warnings) > 0 {
		t.Errorf("the run: %+v", s.Run.Status)
	}
	run := fmt.Sprintf("%s-%s-%d", spec.ShortName(l.name), spec.RunMigrate, 1)
	for _, kubeconfig := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
		kinds, err := l.kubectl(kubeconfig, "api-resources", "--verbs=list", "-o", "name")
		l.must(err)
		l.poll("no object of the run", time.Second, func() (string, bool) {
			out, err := l.kubectl(kubeconfig, "get", strings.Join(strings.Fields(kinds), ","), "-A", "-l", "tranship.dev/run="+run, "-o", "name")
			return fmt.Sprint(out, err), err == nil && strings.TrimSpace(out) == ""
		})
	}
	if out, err := l.kubectl(l.bed.Target.Kubeconfig, "get", "namespace", l.name, "--ignore-not-found", "-o", "name"); err != nil || out != "" {
		t.Errorf("the target still has %s %v", out, err)
	}
	if got := l.onSource("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.metadata.annotations}"); strings.Contains(got, "tranship.dev") {
		t.Errorf("the source's Deployment carries marks of ours: %s", got)
	}
	keys, err := l.Bed.StoreKeys(t.Context(), l.name+"/")
	l.must(err)
	for _, k := range keys {
		if strings.Contains(k, run) {
			t.Errorf("the store still has %s", k)
		}
	}
}

// TestACutoverWaitsForItsWindow approves outside of the plan's windows: the
// application runs on, the status says when the window opens, and a window that
// opens by a merge, which approves again, lets it go.
func TestACutoverWaitsForItsWindow(t *testing.T) {
	l := newLab(t)
	opens := time.Now().UTC().Add(48 * time.Hour).Truncate(time.Second)
	closed := fmt.Sprintf("windows: [{kind: Allow, from: %q, to: %q}]", opens.Format(time.RFC3339), opens.Add(time.Hour).Format(time.RFC3339))
	l.openStaged(l.slowToStop(), "deployment/web", closed)
	l.flip(spec.Migrated, closed)
	l.wait("OutsideWindow", time.Minute, func(s *story) bool {
		reason, message := s.condition("Ready")
		return reason == "OutsideWindow" && strings.Contains(message, opens.Format(time.RFC3339))
	})
	l.source("running", time.Second, "{.spec.replicas} {.status.readyReplicas}", "1 1")
	now := time.Now().UTC()
	l.flip(spec.Migrated, fmt.Sprintf("windows: [{kind: Allow, from: %q, to: %q}]\ncutover: {attempt: 2}", now.Add(-time.Hour).Format(time.RFC3339), now.Add(6*time.Hour).Format(time.RFC3339)))
	l.waitReason("Migrated", 3*time.Minute)
}

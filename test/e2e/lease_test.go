package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	shared "github.com/tranship/tranship/test/lab"
)

// TestTwoDaemonsUnderALease pauses the daemon that leads in the middle of a
// cutover. The other one takes the Lease and the ledger over and finishes; the
// first one wakes up and acts on nothing.
func TestTwoDaemonsUnderALease(t *testing.T) {
	l := newLab(t)
	lease := []string{"--lease", "tranship-system/" + l.name, "--lease-kubeconfig", l.bed.Source.Kubeconfig}
	t.Cleanup(func() {
		_, _ = l.kubectl(l.bed.Source.Kubeconfig, "-n", "tranship-system", "delete", "lease", l.name, "--ignore-not-found")
	})
	l.apply(l.slowToStop())
	l.rolledOut("deployment/web")
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, "")
	l.commit("Plan the move", files)
	l.must(l.Start(0, lease...))
	l.waitReason("Staged", time.Minute)

	said := &shared.Log{}
	second := exec.Command(l.binary, append(append([]string{"run", "--data-dir", t.TempDir(), "--listen", ""}, l.Flags()...), lease...)...)
	second.Stdout, second.Stderr = said, said
	l.must(second.Start())
	t.Cleanup(func() { _ = second.Process.Kill(); _ = second.Wait() })
	l.flip(spec.Migrated, "")
	l.source("stopped", time.Minute, "{.spec.replicas}", "0")
	l.must(l.Signal(syscall.SIGSTOP))
	paused := time.Now()
	s := l.waitReason("Migrated", 3*time.Minute)
	t.Logf("the other daemon had finished %.1f s after the first one was paused", time.Since(paused).Seconds())
	if s.Run.Metadata.Name != l.name+"-migrate-1" || !strings.Contains(said.String(), `"the daemon runs"`) {
		t.Errorf("the cutover was made again, or not by the second daemon: %s\n%s", s.Run.Metadata.Name, shared.Tail(said.String(), 3000))
	}
	pods := l.onTarget("-n", l.name, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}")
	l.must(l.Signal(syscall.SIGCONT))
	select {
	case <-l.Ended():
	case <-time.After(patience):
		t.Error("the first daemon woke up and goes on")
	}
	if text := l.Log.String(); !strings.Contains(text, "acts on nothing any more") {
		t.Errorf("the first daemon ended and did not say why:\n%s", shared.Tail(text, 3000))
	}
	if now := l.onTarget("-n", l.name, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"); now != pods {
		t.Errorf("pods on the target: %s, then %s", pods, now)
	}
	l.source("stopped still", time.Second, "{.spec.replicas}", "0")
	if again := l.mustStatus(); again.Run.Metadata.Name != s.Run.Metadata.Name || !again.Run.Status.Ended.Equal(s.Run.Status.Ended) {
		t.Errorf("the record changed: %+v", again.Run.Status)
	}
}

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

	said := l.second(append(l.Flags(), lease...)...)
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
	l.firstEnds()
	if now := l.onTarget("-n", l.name, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"); now != pods {
		t.Errorf("pods on the target: %s, then %s", pods, now)
	}
	l.source("stopped still", time.Second, "{.spec.replicas}", "0")
	if again := l.mustStatus(); again.Run.Metadata.Name != s.Run.Metadata.Name || !again.Run.Status.Ended.Equal(s.Run.Status.Ended) {
		t.Errorf("the record changed: %+v", again.Run.Status)
	}
}

// second starts another daemon, with a data directory of its own, until the test ends.
func (l *lab) second(flags ...string) (said *shared.Log) {
	l.t.Helper()
	said = &shared.Log{}
	c := exec.Command(l.binary, append([]string{"run", "--data-dir", l.t.TempDir(), "--listen", ""}, flags...)...)
	c.Stdout, c.Stderr = said, said
	l.must(c.Start())
	l.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return said
}

// firstEnds waits until the first daemon has found that it was replaced.
func (l *lab) firstEnds() {
	l.t.Helper()
	select {
	case <-l.Ended():
	case <-time.After(patience):
		l.t.Error("the first daemon goes on")
	}
	if text := l.Log.String(); !strings.Contains(text, "acts on nothing any more") {
		l.t.Errorf("the first daemon did not say why it ends:\n%s", shared.Tail(text, 3000))
	}
}

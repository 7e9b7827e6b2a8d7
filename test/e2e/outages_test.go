package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	shared "github.com/tranship/tranship/test/lab"
)

// TestAControlPlaneAwayForAMinute takes a part of a control plane away for a minute
// when the application has been stopped: it arrives whole, once, or runs on the
// source again and arrives with the next attempt.
func TestAControlPlaneAwayForAMinute(t *testing.T) {
	long(t)
	for name, c := range map[string]struct {
		of      func(*shared.Bed) *shared.Cluster
		service string
	}{
		"API server of the source": {func(b *shared.Bed) *shared.Cluster { return &b.Source }, "kube-apiserver"},
		"API server of the target": {func(b *shared.Bed) *shared.Cluster { return &b.Target }, "kube-apiserver"},
		"etcd of the source":       {func(b *shared.Bed) *shared.Cluster { return &b.Source }, "etcd"},
		"etcd of the target":       {func(b *shared.Bed) *shared.Cluster { return &b.Target }, "etcd"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.openStaged(l.numbered(), "deployment/web", "")
			n := l.numbers()
			l.flip(spec.Migrated, "")
			l.source("stopped", 2*time.Minute, "{.spec.replicas}", "0")
			n.letEnd()
			killed, began := 0, time.Now()
			l.must(l.bed.KeepDown(t.Context(), c.of(l.bed).Nodes[0], c.service, time.Minute, func() { killed++ }))
			t.Logf("killed %d times in %.0f s", killed, time.Since(began).Seconds())
			if killed < 5 {
				t.Error("it was not away")
			}
			n.arrives()
		})
	}
}

// arrives waits for the end of the cutover; one that has failed must have the source
// running, and succeed with the next attempt. Nothing may be missing or there twice.
func (n *numbers) arrives() {
	n.t.Helper()
	over := func(s *story) bool {
		reason, _ := s.condition("Ready")
		return reason == "Migrated" || reason == "CutoverNotDone" && s.Status.Recorded.OpenRun == ""
	}
	s := n.wait("the end of the cutover", 5*time.Minute, over)
	n.logTimes(s.Run)
	if reason, _ := s.condition("Ready"); reason != "Migrated" {
		n.t.Logf("the first attempt failed: %s", s.Status.LastFailure)
		n.source("back", time.Minute, "{.spec.replicas} {.status.readyReplicas}", "1 1")
		n.whole(n.onSource)
		n.flip(spec.Migrated, "cutover: {attempt: 2}")
		n.source("stopped again", 2*time.Minute, "{.spec.replicas}", "0")
		n.waitReason("Migrated", 5*time.Minute)
	}
	n.whole(n.onTarget)
	n.sound()
	if pods := n.onTarget("-n", n.name, "get", "pods", "-o", "name"); strings.Count(pods, "/") != 1 {
		n.t.Errorf("on the target run %s", pods)
	}
	n.source("stopped still", time.Second, "{.spec.replicas}", "0")
}

// TestALostNode takes a node off the network while the last changes are copied. The
// one on the target stays away: the application runs on the source again, and arrives
// with an attempt after the node is back. The one on the source comes back.
func TestALostNode(t *testing.T) {
	long(t)
	for name, c := range map[string]struct {
		step      string // in which the node is lost
		of        func(*shared.Bed) *shared.Cluster
		comesBack bool
	}{
		"of the source": {"last-upload", func(b *shared.Bed) *shared.Cluster { return &b.Source }, true},
		"of the target": {"last-restore", func(b *shared.Bed) *shared.Cluster { return &b.Target }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			cluster := c.of(l.bed)
			l.onSecondNode(cluster)
			app := strings.Replace(l.numbered(), "exit 0' TERM", "dd if=/dev/urandom of=/data/last bs=1M count=300; exit 0' TERM", 1)
			l.openStaged(app, "deployment/web", "cutover: {copyTimeout: 2m}")
			n := l.numbers()
			l.flip(spec.Migrated, "cutover: {copyTimeout: 2m}")
			l.source("stopped", 2*time.Minute, "{.spec.replicas}", "0")
			n.letEnd()
			node := cluster.Nodes[1]
			l.poll("step "+c.step, 20*time.Millisecond, func() (string, bool) {
				text := l.Log.String()
				return tail(text, 2000), strings.Contains(text, `"step":"`+c.step+`"`)
			})
			time.Sleep(time.Second) // it is in the middle of it
			t.Cleanup(func() { _ = l.bed.Plug(node, true) })
			l.must(l.bed.Plug(node, false))
			lost := time.Now()
			if c.comesBack {
				time.Sleep(time.Minute)
			} else {
				l.source("back", 5*time.Minute, "{.spec.replicas} {.status.readyReplicas}", "1 1")
				t.Logf("the application was back %.0f s after the node was lost", time.Since(lost).Seconds())
			}
			l.must(l.bed.Plug(node, true))
			l.on(cluster, "wait", "--for=condition=Ready", "node/"+node, kubePatience)
			n.arrives()
		})
	}
}

// onSecondNode lets nothing new run on the node of a control plane, which would be
// lost with it, until the test ends.
func (l *lab) onSecondNode(c *shared.Cluster) {
	l.t.Helper()
	l.t.Cleanup(func() { _, _ = l.kubectl(c.Kubeconfig, "uncordon", c.Nodes[0]) })
	l.on(c, "cordon", c.Nodes[0])
}

package e2e

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestFailuresEndInAConditionWithTheSourceRunning breaks one thing a row: each
// ends in a condition that says what to do, and the application runs on the
// source as before.
func TestFailuresEndInAConditionWithTheSourceRunning(t *testing.T) {
	rows := []struct {
		name   string
		break_ func(l *lab, files map[string]string)
		say    []string // words of the condition's or the run's message
	}{
		{"a broken manifest", func(l *lab, f map[string]string) { f["plan.yaml"] += "  sourceClutser: x\n" }, []string{"plan.yaml:", "sourceClutser"}},
		{"an unknown cluster", func(l *lab, f map[string]string) {
			f["plan.yaml"] = strings.Replace(f["plan.yaml"], "sourceCluster: old", "sourceCluster: olt", 1)
		}, []string{"olt"}},
		{"an unreachable cluster", func(l *lab, f map[string]string) {
			f["clusters/new.yaml"] = strings.Replace(f["clusters/new.yaml"], l.bed.Target.Server, "https://10.199.0.1:9", 1)
		}, []string{"10.199.0.1:9"}},
		{"a wrong token", func(l *lab, f map[string]string) {
			l.write("secrets/expired/token", "not-the-token-of-this-cluster")
			f["clusters/new.yaml"] = strings.Replace(f["clusters/new.yaml"], "token: {from: new}", "token: {from: expired}", 1)
		}, []string{"refuses the token", "expired"}},
		{"an untrusted certificate", func(l *lab, f map[string]string) {
			f["clusters/new.yaml"] = strings.Replace(f["clusters/new.yaml"], indent(l.text(l.bed.Target.CAFile), "    "), indent(l.text(l.bed.Source.CAFile), "    "), 1)
		}, []string{"caBundle"}},
		{"a missing bucket", func(l *lab, f map[string]string) {
			f["repositories/main.yaml"] = strings.Replace(f["repositories/main.yaml"], "bucket: "+l.bed.S3.Bucket, "bucket: nowhere", 1)
		}, []string{"nowhere"}},
		{"a namespace that does not exist", func(l *lab, f map[string]string) {
			f["plan.yaml"] = strings.Replace(f["plan.yaml"], "namespaces: [{name: "+l.name, "namespaces: [{name: no-such-namespace-"+l.name, 1)
		}, []string{"no-such-namespace"}},
		{"an object of someone else on the target", func(l *lab, f map[string]string) {
			l.onTarget("create", "namespace", l.name)
			l.onTarget("label", "namespace", l.name, "team=shop")
			l.onTarget("-n", l.name, "create", "configmap", "settings", "--from-literal=owner=someone")
		}, []string{"settings"}},
		{"an unsupported workload", func(l *lab, f map[string]string) {
			owner := l.onSource("-n", l.name, "get", "configmap", "settings", "-o", "jsonpath={.metadata.uid}")
			l.onSource("-n", l.name, "create", "deployment", "alone", "--replicas=0", "--image="+l.bed.Images["busybox"])
			l.onSource("-n", l.name, "patch", "deployment", "alone", "-p", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"settings","uid":"`+owner+`","controller":true}]}}`)
		}, []string{"workloads that something else controls", "alone"}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			l := newLab(t)
			l.apply(l.stateless())
			l.rolledOut("deployment/web")
			files := l.infrastructure()
			files["plan.yaml"] = l.plan(spec.Staged, "")
			l.start()
			l.commit("Plan the move", files)
			l.wait("the plan", time.Minute, func(s *story) bool { return s.Status.Recorded.SeenState == spec.Staged })
			files["plan.yaml"] = l.plan(spec.Migrated, "")
			r.break_(l, files)
			l.commit("Move the shop", files)
			said := func(s *story) string {
				text := fmt.Sprint(s.Status.Conditions, s.Status.Problems, s.Status.LastFailure)
				if s.Run != nil {
					text += fmt.Sprint(s.Run.Status)
				}
				return text
			}
			s := l.wait("a sentence with "+strings.Join(r.say, " and "), 2*time.Minute, func(s *story) bool {
				text := said(s)
				for _, w := range r.say {
					if !strings.Contains(text, w) {
						return false
					}
				}
				return s.Status.Recorded.OpenRun == ""
			})
			_, message := s.condition("Ready")
			t.Log(message)
			if got := l.onSource("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"); got != "2" {
				t.Errorf("the source has %q ready replicas, want 2", got)
			}
			l.nothingLeaks()
		})
	}
}

// TestKilledDuringTheCutover ends the daemon with SIGKILL again and again; the
// cutover finishes after the last restart, once.
func TestKilledDuringTheCutover(t *testing.T) {
	long(t)
	l := newLab(t)
	l.openStaged(l.stateful(), "statefulset/db", "")
	l.flip(spec.Migrated, "")
	random := rand.New(rand.NewSource(time.Now().UnixNano()))
	kills := 0
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); {
		time.Sleep(time.Duration(1000+random.Intn(5000)) * time.Millisecond)
		l.kill()
		kills++
		if s, err := l.status(); err == nil {
			if r, _ := s.condition("Ready"); r == "Migrated" {
				break
			}
		}
		l.start()
	}
	if !l.Running() {
		l.start()
	}
	s := l.waitReason("Migrated", 4*time.Minute)
	t.Logf("%d kills, run %s", kills, s.Run.Metadata.Name)
	if s.Status.Recorded.Numbers[spec.RunMigrate] != 1 {
		t.Errorf("%d cutovers for one approval", s.Status.Recorded.Numbers[spec.RunMigrate])
	}
	for _, pod := range []string{"db-0", "db-1"} {
		if got := strings.TrimSpace(l.onTarget("-n", l.name, "exec", pod, "--", "cat", "/data/born")); got != pod {
			t.Errorf("%s on the target says it was born as %q", pod, got)
		}
	}
}

// TestGitOutageStartsNothing stops the way to Git by a wrong password: no
// cutover starts, and it does once Git is back.
func TestGitOutageStartsNothing(t *testing.T) {
	l := newLab(t)
	l.openStaged(l.stateless(), "deployment/web", "")
	const refused = "the manifests cannot be read"
	before := strings.Count(l.Log.String(), refused)
	l.write("secrets/git/password", "wrong")
	l.poll("a read that is refused", 200*time.Millisecond, func() (string, bool) {
		return "", strings.Count(l.Log.String(), refused) > before
	})
	l.flip(spec.Migrated, "")
	time.Sleep(10 * time.Second)
	if got := l.onSource("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"); got != "2" {
		t.Fatalf("the source has %q replicas while Git cannot be reached", got)
	}
	l.write("secrets/git/password", l.text(l.bed.Git.Daemon.PasswordFile))
	l.waitReason("Migrated", 3*time.Minute)
}

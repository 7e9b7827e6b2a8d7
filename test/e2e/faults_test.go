package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

func requestStage() string {
	return fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339))
}

func (l *lab) ofPlan(component string) string {
	return "tranship.dev/component=" + component + ",tranship.dev/plan=" + spec.ShortName(l.name)
}

// said waits until the status or the record has every word, with no run open.
func (l *lab) said(limit time.Duration, words ...string) *story {
	l.t.Helper()
	return l.wait("a sentence with "+strings.Join(words, " and "), limit, func(s *story) bool {
		text := fmt.Sprint(s.Status.Conditions, s.Status.LastFailure)
		if s.Run != nil {
			text += fmt.Sprint(s.Run.Status)
		}
		for _, w := range words {
			if !strings.Contains(text, w) {
				return false
			}
		}
		return s.Status.Recorded.OpenRun == ""
	})
}

// TestAMoverWithoutMemorySaysSo gives the movers less memory than the program
// itself takes: the kernel kills it.
func TestAMoverWithoutMemorySaysSo(t *testing.T) {
	l := newLab(t)
	config := l.text(l.dir + "/config.yaml")
	l.write("config.yaml", strings.Replace(config, "mover: {", "mover: {memory: 16Mi, ", 1)+"\n")
	l.open(l.bulky(), "deployment/web", requestStage())
	s := l.said(3*time.Minute, "OOMKilled", "raise mover.memory in the daemon's configuration")
	t.Log(s.Status.LastFailure)
	l.sourceReady("1")
}

// TestAForeignPodOnTheStagedClaim mounts a staged claim of ours, as a second
// mover would: nothing is written beside it, and the pod is named.
func TestAForeignPodOnTheStagedClaim(t *testing.T) {
	long(t)
	l := newLab(t)
	l.open(l.bulky(), "deployment/web", requestStage())
	l.staged()
	claim := strings.TrimSpace(l.onTarget("-n", "tranship-system", "get", "pvc", "-l", l.ofPlan("staging"), "-o", "jsonpath={.items[0].metadata.name}"))
	l.applyOn(l.bed.Target.Kubeconfig, strings.NewReplacer("NAME", l.name, "PLAN", spec.ShortName(l.name), "CLAIM", claim, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Pod
metadata: {name: intruder-NAME, namespace: tranship-system}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: sleep, image: IMAGE, command: [sleep, "100000"], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: CLAIM}}]
`))
	t.Cleanup(func() {
		_, _ = l.kubectl(l.bed.Target.Kubeconfig, "-n", "tranship-system", "delete", "pod", "intruder-"+l.name, "--ignore-not-found", "--wait=false")
	})
	l.onTarget("-n", "tranship-system", "wait", "--for=condition=Ready", kubePatience, "pod/intruder-"+l.name)
	l.flip(spec.Migrated, "cutover: {copyTimeout: 60s}")
	s := l.said(3*time.Minute, "ClaimInUse", "intruder-"+l.name)
	t.Log(s.Status.LastFailure)
	l.sourceReady("1")
	l.onTarget("-n", "tranship-system", "delete", "pod", "intruder-"+l.name, "--wait=true")
	l.flip(spec.Migrated, "cutover: {attempt: 2}")
	l.waitReason("Migrated", 4*time.Minute)
}

// TestAnApplicationStartedByHandOnTheTarget has somebody create the namespace,
// the claim and the application on the target between the stages and the
// cutover: the cutover is refused before anything is stopped, and the data
// written there by hand stays.
func TestAnApplicationStartedByHandOnTheTarget(t *testing.T) {
	l := newLab(t)
	l.open(l.bulky(), "deployment/web", requestStage())
	l.staged()
	l.applyOn(l.bed.Target.Kubeconfig, l.bulky())
	l.onTarget("-n", l.name, "rollout", "status", "deployment/web", kubePatience)
	l.onTarget("-n", l.name, "exec", "deployment/web", "--", "sh", "-c", "echo by hand > /data/note && sync")
	l.flip(spec.Migrated, "")
	s := l.said(2*time.Minute, "CutoverNotDone", "claim "+l.name+"/data exists on cluster new", "Deployment "+l.name+"/web")
	t.Log(s.Status.LastFailure)
	l.sourceReady("1")
	if got := strings.TrimSpace(l.onTarget("-n", l.name, "exec", "deployment/web", "--", "cat", "/data/note")); got != "by hand" {
		t.Errorf("the note on the target says %q", got)
	}
}

// TestAWriterKilledInMidCopy takes the writer's pod away by force, as a lost
// node does, while it writes: the copy is made again and is complete.
func TestAWriterKilledInMidCopy(t *testing.T) {
	long(t)
	l := newLab(t)
	l.open(strings.Replace(l.bulky(), "count=48", "count=600", 1), "deployment/web", "")
	l.waitReason("Staged", time.Minute)
	l.flip(spec.Migrated, "")
	killed := false
	for end := time.Now().Add(3 * time.Minute); !killed && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		mark, _ := l.kubectl(l.bed.Target.Kubeconfig, "-n", "tranship-system", "get", "pvc", "-l", l.ofPlan("staging"), "-o", "jsonpath={.items[*].metadata.annotations}")
		if !strings.Contains(mark, "writing") {
			continue
		}
		pod, _ := l.kubectl(l.bed.Target.Kubeconfig, "-n", "tranship-system", "get", "pods", "-l", l.ofPlan("writer"), "--field-selector=status.phase=Running", "-o", "name")
		if pod = strings.TrimSpace(pod); pod == "" {
			continue
		}
		l.onTarget("-n", "tranship-system", "delete", pod, "--grace-period=0", "--force")
		killed = true
	}
	if !killed {
		t.Fatal("no writer was seen writing")
	}
	s := l.waitReason("Migrated", 5*time.Minute)
	for _, step := range s.Run.Steps {
		if step.Name == "restore-volumes" {
			t.Logf("restore-volumes: %d attempts, %s", step.Attempt, step.Message)
			if step.Attempt < 2 {
				t.Error("the writer was killed and the copy not made again")
			}
		}
	}
	l.onSource("-n", l.name, "scale", "deployment/web", "--replicas=1")
	l.rolledOut("deployment/web")
	was := l.onSource("-n", l.name, "exec", "deployment/web", "--", "sha256sum", "/data/big")
	if got := l.onTarget("-n", l.name, "exec", "deployment/web", "--", "sha256sum", "/data/big"); got != was {
		t.Errorf("the target has %s, the source %s", got, was)
	}
}

// staged waits for the first stage run, which must succeed.
func (l *lab) staged() {
	l.t.Helper()
	s := l.wait("a stage run", 3*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if s.Status.LastStage.Result != spec.RunSucceeded {
		l.t.Fatalf("the stage run: %+v", s.Run.Status)
	}
}

// applyOn puts YAML onto a cluster.
func (l *lab) applyOn(kubeconfig, yaml string) {
	l.t.Helper()
	l.write("more.yaml", yaml)
	if out, err := l.kubectl(kubeconfig, "apply", "-f", l.dir+"/more.yaml"); err != nil {
		l.t.Fatalf("%v\n%s", err, out)
	}
}

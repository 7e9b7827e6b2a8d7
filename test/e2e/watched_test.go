package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestStartedAgainAfterTheLastCopy has somebody start the application on the source
// when its pods are gone and its last changes are copied: the target never goes live,
// what runs on the source stays so, and who did it is named.
func TestStartedAgainAfterTheLastCopy(t *testing.T) {
	l := newLab(t)
	l.apply(l.slowToStop())
	l.rolledOut("deployment/web")
	files := l.infrastructure()
	files["hook.yaml"] = fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: Hook\nmetadata: {name: slow}\nspec: {image: %q, command: [sleep, \"15\"], backoffLimit: 0}\n", l.bed.Images["busybox"])
	hooks := fmt.Sprintf("hooks: [{hook: slow, phase: PostBackup, namespace: %s}]", l.name)
	files["plan.yaml"] = l.plan(spec.Staged, hooks)
	l.commit("Plan the move", files)
	l.start()
	l.waitReason("Staged", time.Minute)
	l.flip(spec.Migrated, hooks)
	l.poll("the hook to run", 200*time.Millisecond, func() (string, bool) {
		out, err := l.kubectl(l.bed.Source.Kubeconfig, "-n", l.name, "get", "jobs", "-l", "app.kubernetes.io/managed-by=tranship", "-o", "jsonpath={.items[*].status.active}")
		return fmt.Sprint(out, err), err == nil && strings.TrimSpace(out) == "1"
	})
	l.source("stopped", time.Second, "{.spec.replicas}", "0")
	l.onSource("-n", l.name, "scale", "deployment/web", "--replicas=1")
	s := l.said(3*time.Minute, "CutoverNotDone", "scaled back up to 1", "kubectl")
	for _, step := range s.Run.Steps {
		if step.Name == "still-stopped" && step.Reason != "ScaledBackUp" || step.Name == "hand-over" && step.State != "" && step.State != spec.StepPending {
			t.Errorf("%+v", step)
		}
	}
	l.source("running", time.Minute, "{.spec.replicas} {.status.readyReplicas}", "1 1")
	if out, err := l.kubectl(l.bed.Target.Kubeconfig, "get", "namespace", l.name, "--ignore-not-found", "-o", "name"); err != nil || out != "" {
		t.Errorf("the target still has %s %v", out, err)
	}
}

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// TestCopyBack rolls a finished cutover back with everything that was written on
// the target. The first try fails half way, because the source has no room for
// it: the application runs on the target again, as before. The second brings it
// all back, and leaves nothing on the target.
func TestCopyBack(t *testing.T) {
	l := newLab(t)
	there := l.name + "-new"
	t.Cleanup(func() {
		_, _ = l.kubectl(l.bed.Target.Kubeconfig, "delete", "namespace", there, "--ignore-not-found", "--wait=false")
	})
	app := strings.NewReplacer("storageClassName: bed-node", "storageClassName: bed-small-fs", "bs=1M count=60", "bs=1M count=8").Replace(l.archive())
	l.apply(fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", l.name) + app)
	l.rolledOut("deployment/archive")
	plan := func(state spec.State, attempt int) map[string]string {
		text := l.plan(state, fmt.Sprintf("volumes: {overrides: [{namespace: %s, claim: files, targetClaim: documents, storageClassName: bed-node}]}\ncutover: {attempt: %d}\nrollback: {targetWrites: CopyBack}", l.name, attempt))
		return map[string]string{"plan.yaml": strings.Replace(text, "namespaces: [{name: "+l.name+"}]", "namespaces: [{name: "+l.name+", targetName: "+there+"}]", 1)}
	}
	source := func(script string) string {
		t.Helper()
		return l.onSource("-n", l.name, "exec", "deployment/archive", "--", "sh", "-ec", script)
	}
	target := func(script string) string {
		t.Helper()
		return l.onTarget("-n", there, "exec", "deployment/archive", "--", "sh", "-ec", script)
	}
	source("cd /files; echo old > changed; echo gone > deleted; mkdir same; echo source > same/kept; chown 1234 same/kept")
	files := l.infrastructure()
	files["plan.yaml"] = plan(spec.Staged, 1)["plan.yaml"]
	l.commit("Plan the move", files)
	l.start()
	l.waitReason("Staged", time.Minute)
	l.commit("Move it", plan(spec.Migrated, 1))
	l.waitReason("Migrated", 4*time.Minute)
	target("cd /files; echo new > changed; rm deleted; mkdir more; echo target > more/written; chmod 640 more/written; ln -s ../changed more/link; mkdir crowd; i=0; while [ $i -lt 20000 ]; do : > crowd/$i; i=$((i+1)); done")

	l.commit("Take it back with everything", plan(spec.RolledBack, 1))
	s := l.waitReason("RollbackNotDone", 5*time.Minute)
	if _, say := s.condition("Ready"); !strings.Contains(say, "write-source") || !strings.Contains(say, "NoSpace") {
		t.Errorf("the status does not say what failed: %s", say)
	}
	if s.Run.Status.Phase != spec.RunFailed || s.Status.Recorded.State != spec.Migrated || s.Status.Recorded.RollbackFailed {
		t.Errorf("the run is %s, the plan %+v", s.Run.Status.Phase, s.Status.Recorded)
	}
	l.onTarget("-n", there, "rollout", "status", "deployment/archive", kubePatience)
	if got := target("cat /files/changed /files/more/written; ls /files/crowd | wc -l"); strings.Join(strings.Fields(got), " ") != "new target 20000" {
		t.Errorf("after the failure the target has %q", got)
	}
	if got := l.onSource("-n", l.name, "get", "deployment/archive", "pvc/files", "-o", "jsonpath={range .items[*]}{.spec.replicas}{.metadata.annotations.tranship\\.dev/mark}{end}"); !strings.HasPrefix(got, "0writing ") {
		t.Errorf("the source is half written and says %q", got)
	}

	target("cd /files; rm -r crowd; echo again > more/second")
	l.commit("Take it back with everything that has room", plan(spec.RolledBack, 2))
	s = l.waitReason("RolledBack", 5*time.Minute)
	_, say := s.condition("Ready")
	t.Logf("%s\nthe target was stopped, and the source not healthy, for %.1f s", say, s.Run.Status.StopSeconds)
	for _, want := range []string{"files and", "stays in the repository until the plan is closed: snapshot"} {
		if !strings.Contains(say, want) {
			t.Errorf("the condition does not say %q", want)
		}
	}
	l.rolledOut("deployment/archive")
	l.cameBack(source)
	l.gone("the target's objects", l.bed.Target.Kubeconfig, "-n", there, "get", "deployment,pvc,pods")
	for _, on := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
		l.gone("holders and movers", on, "get", "pods,jobs", "-A", "-l", "tranship.dev/plan="+spec.ShortName(l.name))
	}
	l.keptIsFetched()
	l.commit("Close it", plan(spec.Closed, 2))
	l.waitReason("Closed", 3*time.Minute)
	if got := l.onSource("-n", l.name, "get", "pvc", "files", "-o", "jsonpath={.metadata.annotations}"); strings.Contains(got, "tranship.dev/") {
		t.Errorf("a closed plan leaves on the source's claim %s", got)
	}
	l.nothingLeaks()
}

// keptIsFetched: what the source held before the copies back can be had again.
func (l *lab) keptIsFetched() {
	l.t.Helper()
	from := []string{"--config", filepath.Join(l.dir, "config.yaml"), "--secrets-dir", filepath.Join(l.dir, "secrets")}
	folder, claim := filepath.Join(l.t.TempDir(), "kept"), l.name+"/files"
	if got := l.run(l.binary, append([]string{"kept", l.name}, from...)...); !strings.HasPrefix(got, claim+"  ") {
		l.t.Errorf("what is kept: %q", got)
	}
	l.t.Log(l.run(l.binary, append([]string{"kept", l.name, claim, "--into", folder}, from...)...))
	got := l.run("/bin/sh", "-ec", `cd "$0"; ls -A . | grep -v lost; cat changed deleted same/kept; stat -c %u same/kept; du -k much | cut -f1; stat -c %a ..`, filepath.Join(folder, "volume"))
	if want := "changed deleted first much same old gone source 1234 8192 700"; strings.Join(strings.Fields(got), " ") != want {
		l.t.Errorf("what was kept has\n%s\nwant %s", got, want)
	}
	if _, err := l.Run(l.binary, append([]string{"kept", l.name, claim, "--into", folder}, from...)...); err == nil || !strings.Contains(err.Error(), "is not empty") {
		l.t.Errorf("a folder that is in use: %v", err)
	}
}

// cameBack: the source has what either side wrote, and nothing else.
func (l *lab) cameBack(source func(string) string) {
	l.t.Helper()
	got := source("cd /files; cat changed same/kept more/written more/second more/link; stat -c %u same/kept; stat -c %a more/written; readlink more/link; ls -A . more; du -k much | cut -f1")
	want := "new source target again new 1234 640 ../changed .: changed first more much same more: link second written 8192"
	if strings.Join(strings.Fields(strings.ReplaceAll(got, "lost+found", "")), " ") != want {
		l.t.Errorf("the source has\n%s\nwant %s", got, want)
	}
}

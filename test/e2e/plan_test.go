package e2e

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// proposed is what `tranship plan` prints of one plan, of what a test asks for.
type proposed struct {
	Name, Action, Digest string
	Objects              []spec.Count
	Volumes              []spec.Volume
	Scope                *spec.Scope
	Steps                []struct{ Name string }
}

// propose writes the plan's document and asks what merging it would do, in a form; a
// cutover must be foreseen.
func (l *lab) propose(form, extra string) string {
	l.t.Helper()
	l.write("clone/plan.yaml", l.plan(spec.Migrated, extra))
	out, err := l.Run(l.binary, append([]string{"plan", filepath.Join(l.dir, "clone"), "-o", form}, l.Flags()...)...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		l.t.Fatalf("tranship plan: %v, want exit status 2\n%s", err, out)
	}
	return out
}

// TestPlanOfAPullRequest: the plan on a pull request says what both clusters hold at
// that moment; the digest that it shows is the one that the merge approves; and a
// cutover that names the scope which it shows does not start once the source holds
// something else, which is named.
func TestPlanOfAPullRequest(t *testing.T) {
	l := newLab(t)
	l.openStaged(l.stateful(), "statefulset/db", "")
	surveyed := l.wait("a survey", time.Minute, func(s *story) bool { return s.Status.Scope != nil })
	l.git("switch", "-q", "-c", "change")
	var first struct{ Plans []proposed }
	l.must(json.Unmarshal([]byte(l.propose("json", "")), &first))
	if len(first.Plans) != 1 {
		t.Fatalf("%d plans are touched", len(first.Plans))
	}
	p := first.Plans[0]
	if p.Name != l.name || p.Action != "cutover" || p.Scope == nil || p.Scope.Digest != surveyed.Status.Scope.Digest {
		t.Errorf("the plan is %+v, the daemon's survey %+v", p, surveyed.Status.Scope)
	}
	objects := map[string]int{}
	for _, c := range p.Objects {
		objects[c.Kind] = c.Source
	}
	if objects["StatefulSet.apps"] != 1 || objects["Service"] != 1 {
		t.Errorf("objects: %+v", p.Objects)
	}
	var volumes []string
	for _, v := range p.Volumes {
		volumes = append(volumes, v.Namespace+"/"+v.Claim+" "+v.Capacity+" "+v.Action)
	}
	slices.Sort(volumes)
	if want := []string{l.name + "/data-db-0 64Mi copy", l.name + "/data-db-1 64Mi copy"}; !slices.Equal(volumes, want) {
		t.Errorf("volumes %q, want %q", volumes, want)
	}
	if !slices.ContainsFunc(p.Steps, func(s struct{ Name string }) bool { return s.Name == "stop" }) {
		t.Errorf("the steps lack the stop: %+v", p.Steps)
	}

	named := "cutover: {scope: " + p.Scope.Digest + "}"
	told := l.propose("text", named)
	for _, say := range []string{"merging   starts the cutover", "objects   1 StatefulSet.apps", l.name + "/data-db-0", "64Mi", "scope     " + p.Scope.Digest, "closure   sha256:"} {
		if !strings.Contains(told, say) {
			t.Errorf("the plan lacks %q:\n%s", say, told)
		}
	}
	l.git("commit", "-q", "-a", "-m", "Move the shop")
	l.onSource("-n", l.name, "create", "configmap", "late", "--from-literal=a=b")
	l.git("switch", "-q", l.name)
	l.git("merge", "-q", "--no-ff", "-m", "Merge the change", "change")
	l.must(l.Push())
	s := l.waitReason("PlanStale", time.Minute)
	if _, message := s.condition("Ready"); !strings.Contains(message, "new: ConfigMap "+l.name+"/late)") {
		t.Errorf("it is not said what changed: %s", message)
	}
	if f := s.Status.Recorded.Flip; f == nil || !strings.Contains(told, "closure   "+f.Digest+",") {
		t.Errorf("what was approved is not what was shown: %+v\n%s", f, told)
	}
	if got := l.onSource("-n", l.name, "get", "statefulset", "db", "-o", "jsonpath={.spec.replicas}"); got != "2" || s.Status.Recorded.OpenRun != "" {
		t.Errorf("something was started: run %q, %s replicas", s.Status.Recorded.OpenRun, got)
	}
}

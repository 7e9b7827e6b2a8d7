package workload

import (
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	dynamicfake "k8s.io/client-go/dynamic/fake"
)

// TestCountsOfARunningSourceAreReadOnce: without a stop (quiesce: false) the start
// records what runs on the source, and what is scaled there afterwards changes
// nothing of what is asked of the target.
func TestCountsOfARunningSourceAreReadOnce(t *testing.T) {
	begins := slices.ContainsFunc(reconciler.Itineraries[spec.RunMigrate], func(d reconciler.StepDef) bool { return d.Verb == "workload.start" && d.Intent })
	if !begins {
		t.Fatal("the step that starts the target records nothing before it acts")
	}
	e, source := fakeEnv([]runtime.Object{made("Deployment", "web", 2, nil).Unstructured, made("Deployment", "idle", 0, nil).Unstructured})
	there := func(name string) runtime.Object {
		return made("Deployment", name, 0, func(o map[string]any) {
			annotate(o, kube.AnnotationPlan, "shop")
			annotate(o, kube.AnnotationRun, e.RunLabel())
		}).Unstructured
	}
	other, target := fakeEnv([]runtime.Object{there("web"), there("idle")})
	e.Target = other.Target
	e.Run.Steps = []spec.Step{{Name: "start", Verb: "workload.start"}, {Name: "health", Verb: "workload.health"}}
	quiesce := false
	e.Run.Spec.Closure.Plan.Spec.Cutover.Quiesce = &quiesce

	pendFake(e, "workload.start")
	for name, n := range map[string]int64{"web": 5, "idle": 1} {
		scaleFake(t, source, name, n)
	}
	if err := ensureStart(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if web, idle := fetch(target, "web").replicas(), fetch(target, "idle").replicas(); web != 2 || idle != 0 {
		t.Errorf("the target got %d and %d replicas, want the 2 and 0 of the moment at which the start began", web, idle)
	}
	list, _, err := onTarget(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if want := map[string]int32{"web": 2}[p.recorded.Name]; p.recorded.Replicas != want {
			t.Errorf("health asks for %d replicas of %s, want %d", p.recorded.Replicas, p.recorded.Name, want)
		}
	}
}

// TestStartOfAStoppedSourceReadsNothing: the stop's own list is what counts, and
// the start costs the application no call to the source.
func TestStartOfAStoppedSourceReadsNothing(t *testing.T) {
	e, source := fakeEnv([]runtime.Object{made("Deployment", "web", 2, nil).Unstructured})
	pendFake(e, "workload.stop")
	source.ClearActions()
	was := e.Run.Facts.Workloads
	pendFake(e, "workload.start")
	if len(was) != 1 || len(e.Run.Facts.Workloads) != 1 || was[0].Replicas != e.Run.Facts.Workloads[0].Replicas || len(source.Actions()) > 0 {
		t.Errorf("recorded %+v, then %+v, with %d calls", was, e.Run.Facts.Workloads, len(source.Actions()))
	}
}

// TestARestartGoesOnWithoutWhatIsMissing: a copy back that failed starts on the
// target what is there, says what is not, and ends; a cutover starts nothing then.
func TestARestartGoesOnWithoutWhatIsMissing(t *testing.T) {
	for _, undo := range []bool{false, true} {
		e, _ := fakeEnv([]runtime.Object{made("Deployment", "web", 2, nil).Unstructured, made("Deployment", "gone", 2, nil).Unstructured})
		pendFake(e, "workload.stop")
		other, target := fakeEnv([]runtime.Object{made("Deployment", "web", 0, func(o map[string]any) {
			annotate(o, kube.AnnotationPlan, "shop")
			annotate(o, kube.AnnotationRun, e.RunLabel())
		}).Unstructured})
		e.Target = other.Target
		e.Step, e.Verb, e.Undo = spec.Step{Name: "undo-start", State: spec.StepUndoing}, "workload.start", undo
		o, err := lookStart(t.Context(), e)
		if want := map[bool]reconciler.Seen{true: reconciler.Absent, false: reconciler.Broken}[undo]; err != nil || o.Seen != want {
			t.Fatalf("undo %t: %+v, %v", undo, o, err)
		}
		if !undo {
			continue
		}
		if err := ensureStart(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if o, err = lookStart(t.Context(), e); err != nil || o.Seen != reconciler.Succeeded || o.Reason != reconciler.ReasonWorkloadMissing || !strings.Contains(o.Message, "gone") {
			t.Errorf("%+v, %v", o, err)
		}
		if n := fetch(target, "web").replicas(); n != 2 {
			t.Errorf("web has %d replicas", n)
		}
	}
}

// TestARestartGivesBackWhatRanOnTheTarget: what was scaled on the target since the
// cutover is started again with its own count, after a stop in two goes as well; and
// what a stop finds stopped has the source's.
func TestARestartGivesBackWhatRanOnTheTarget(t *testing.T) {
	source := []runtime.Object{made("Deployment", "web", 2, nil).Unstructured, made("Deployment", "idle", 0, nil).Unstructured, made("Deployment", "late", 4, nil).Unstructured}
	e, _ := fakeEnv(source)
	pendFake(e, "workload.stop")
	there := func(name string, n int64) runtime.Object {
		return made("Deployment", name, n, func(o map[string]any) {
			annotate(o, kube.AnnotationPlan, "shop")
			annotate(o, kube.AnnotationRun, e.RunLabel())
		}).Unstructured
	}
	other, target := fakeEnv([]runtime.Object{there("web", 5), there("idle", 3), there("late", 0)})
	e.Target = other.Target
	e.Step = spec.Step{Name: "undo-start", Verb: "workload.stop-target", State: spec.StepRunning}
	if o, err := lookStopTarget(t.Context(), e); err != nil || o.Facts != nil {
		t.Errorf("one that is never taken back records %+v, %v", o.Facts, err)
	}
	e.Step.Undo = "workload.start"
	for range 2 { // the second look finds web stopped
		o, err := lookStopTarget(t.Context(), e)
		if err != nil || o.Seen != reconciler.Absent {
			t.Fatalf("%+v, %v", o, err)
		}
		if o.Facts != nil {
			e.Run.Facts.OnTarget = o.Facts.OnTarget
		}
		scaleFake(t, target, "web", 0)
	}
	if err := ensureStopTarget(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	e.Step.State, e.Undo = spec.StepUndoing, true
	if err := ensureStart(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int32{"web": 5, "idle": 3, "late": 4} {
		if n := fetch(target, name).replicas(); n != want {
			t.Errorf("%s has %d replicas, want %d", name, n, want)
		}
	}
}

func scaleFake(t *testing.T, client *dynamicfake.FakeDynamicClient, name string, n int64) {
	t.Helper()
	i := fetch(client, name)
	field(i.Object, "spec/replicas", n)
	if _, err := client.Resource(i.kind.gvr).Namespace("shop").Update(t.Context(), i.Unstructured, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

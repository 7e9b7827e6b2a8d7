package workload

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	dynamicfake "k8s.io/client-go/dynamic/fake"
)

// The fifteen defects that were found in mig-controller's quiesce and around
// it. Each is shown not to be ours by a test below, or by the tests named in
// shownBy.

// shownBy are the tests of defects that live in other files.
var shownBy = map[int]map[string]string{
	4:  {"fake_test.go": "TestDrainedWaitsFor"},                                                                                                             // volumes to be moved were not waited for
	5:  {"fake_test.go": "TestTransientErrorsAreErrors"},                                                                                                    // one API error ended the migration
	6:  {"../../reconciler/kill_test.go": "TestKilledAtEveryInstant", "../../test/e2e/failures_test.go": "TestFailuresEndInAConditionWithTheSourceRunning"}, // a failure skipped its clean-up and left the source stopped
	8:  {"../velero/velero_test.go": "TestPhases"},                                                                                                          // PartiallyFailed was only a warning
	10: {"../preflight/bed_test.go": "TestBedPreflight", "../../reconciler/conflict_test.go": "TestConflict"},                                               // clusters and plans were told by their texts
	11: {"fake_test.go": "TestDrainedWaitsFor"},                                                                                                             // claims were told by name without namespace
	13: {"../velero/flow_bed_test.go": "TestBedMove"},                                                                                                       // the store was tried from the controller only: locations must be available on both sides
	14: {"../velero/faults_bed_test.go": "TestBedRollback"},                                                                                                 // cluster-scoped objects outlived the rollback
	15: {"../hook/hook_test.go": "TestHooksThatCannotRun"},                                                                                                  // a hook that is not there was dereferenced
}

// TestEveryDefectHasItsTest: the list cannot rot.
func TestEveryDefectHasItsTest(t *testing.T) {
	own := []int{1, 2, 3, 7, 9, 12}
	for n := 1; n <= 15; n++ {
		if slices.Contains(own, n) == (shownBy[n] != nil) {
			t.Errorf("defect %d must be shown here or elsewhere", n)
		}
		for file, name := range shownBy[n] {
			text, err := os.ReadFile(filepath.FromSlash(file))
			if err != nil || !strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)") {
				t.Errorf("defect %d: %s has no %s: %v", n, file, name, err)
			}
		}
	}
}

// stopAndBack stops what the client has, as often as told, and puts it back.
func stopAndBack(t *testing.T, e *kube.Env, stops int) {
	t.Helper()
	for range stops {
		pendFake(e, "workload.stop")
		turns(t, e, "workload.stop", nil)
	}
	e.Run.Facts = spec.Facts{} // only the annotations know
	turns(t, e, "workload.start-source", nil)
}

func sameAs(t *testing.T, client *dynamicfake.FakeDynamicClient, want item) {
	t.Helper()
	if got := fetch(client, want.GetName()); !reflect.DeepEqual(normal(got.Object), normal(want.Object)) {
		t.Errorf("got  %v\nwant %v", normal(got.Object), normal(want.Object))
	}
}

// Defect 1: a CronJob that people had suspended was resumed.
func TestDefect01ASuspendedCronJobIsNotResumed(t *testing.T) {
	cron, job := made("CronJob", "nightly", 0, nil), made("Job", "later", 0, nil)
	e, client := fakeEnv([]runtime.Object{cron.DeepCopy(), job.DeepCopy()})
	stopAndBack(t, e, 2)
	sameAs(t, client, cron)
	sameAs(t, client, job)
	for _, a := range client.Actions() {
		if a.GetVerb() == "patch" {
			t.Errorf("it was touched: %v", a)
		}
	}
}

// Defect 2: a Job that was quiesced twice lost its parallelism.
func TestDefect02AJobStoppedTwiceKeepsItsParallelism(t *testing.T) {
	job := made("Job", "once", 2, nil)
	e, client := fakeEnv([]runtime.Object{job.DeepCopy()})
	pendFake(e, "workload.stop")
	turns(t, e, "workload.stop", nil)
	if !fetch(client, "once").held() {
		t.Fatal("the Job was not stopped")
	}
	stopAndBack(t, e, 2)
	sameAs(t, client, job)
}

// Defect 3: with several plans in a namespace a StatefulSet was stopped by one
// rule and looked for by another, and stayed at zero.
func TestDefect03WhatOfSeveralPlansIsStoppedIsStartedAgain(t *testing.T) {
	of := func(team string) func(map[string]any) {
		return func(o map[string]any) {
			field(o, "metadata/labels", map[string]any{"team": team})
			field(o, "spec/volumeClaimTemplates", []any{map[string]any{"metadata": map[string]any{"name": "data"}}})
		}
	}
	ours, theirs := made("StatefulSet", "ours", 2, of("a")), made("StatefulSet", "theirs", 2, of("b"))
	e, client := fakeEnv([]runtime.Object{ours.DeepCopy(), theirs.DeepCopy()})
	e.Plan().LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
	pendFake(e, "workload.stop")
	turns(t, e, "workload.stop", nil)
	sameAs(t, client, theirs)
	if fetch(client, "ours").runs() {
		t.Error("the plan's own was not stopped")
	}
	stopAndBack(t, e, 1)
	sameAs(t, client, ours)
	sameAs(t, client, theirs)
}

// Defect 7: the volumes of a final migration could be copied before the stop,
// and no copy followed.
func TestDefect07TheLastCopyFollowsTheStop(t *testing.T) {
	at := map[string]int{}
	for n, d := range reconciler.Itineraries[spec.RunMigrate] {
		at[d.Name] = n
	}
	order := []string{"upload", "stop", "drained", "list-again", "last-upload", "last-restore", "hand-over", "live", "start"}
	for n := 1; n < len(order); n++ {
		if at[order[n]] <= at[order[n-1]] {
			t.Errorf("%s is step %d, %s is step %d", order[n], at[order[n]], order[n-1], at[order[n-1]])
		}
	}
}

// Defect 9: no phase had a time limit.
func TestDefect09EveryStepHasATimeLimit(t *testing.T) {
	for kind, steps := range reconciler.Itineraries {
		for _, d := range steps {
			if d.Timeout == nil || d.Timeout(&spec.Cutover{}) <= 0 || d.Timeout(&spec.Cutover{}) > 24*time.Hour {
				t.Errorf("step %s of %s", d.Name, kind)
			}
		}
	}
}

// Defect 12: one run changed what all runs are described by.
func TestDefect12ARunDoesNotChangeTheTableOfSteps(t *testing.T) {
	say := func() (all []string) {
		for _, d := range reconciler.Itineraries[spec.RunMigrate] {
			all = append(all, d.Name+d.Verb+d.Undo+d.NoUndo+d.Help)
		}
		return all
	}
	before := say()
	o := reconciler.Order{Kind: spec.RunMigrate, Plan: "shop", Closure: &spec.Closure{}, Volumes: []spec.Volume{{Action: "copy", Transfer: "Direct"}}, Approval: &spec.Approval{}}
	run := reconciler.Freeze(time.Now(), o, &spec.PlanStatus{})
	for n := range run.Steps {
		run.Steps[n].Name, run.Steps[n].Message = "changed", "changed"
	}
	if !slices.Equal(before, say()) {
		t.Error("the table changed")
	}
}

// What a CronJob has made is stopped with it, whatever its labels, and goes on
// with it; what another CronJob has made is left alone.
func TestJobsOfACronJobStopWithIt(t *testing.T) {
	yes := true
	by := func(cron string) func(map[string]any) {
		return func(o map[string]any) {
			field(o, "metadata/ownerReferences", []any{map[string]any{"apiVersion": "batch/v1", "kind": "CronJob", "name": cron, "uid": "uid-" + cron, "controller": yes}})
		}
	}
	labelled := func(o map[string]any) { field(o, "metadata/labels", map[string]any{"team": "a"}) }
	child, stranger := made("Job", "child", 1, by("cron")), made("Job", "stranger", 1, by("other"))
	e, client := fakeEnv([]runtime.Object{made("CronJob", "cron", 1, labelled).Unstructured, child.DeepCopy(), stranger.DeepCopy(), made("CronJob", "other", 1, nil).Unstructured})
	e.Plan().LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
	pendFake(e, "workload.stop")
	// One more, made between the list and the stop.
	if _, err := client.Resource(kindNamed("Job").gvr).Namespace("shop").Create(t.Context(), made("Job", "late", 1, by("cron")).Unstructured, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	turns(t, e, "workload.stop", nil)
	if !fetch(client, "child").held() || !fetch(client, "late").held() || !fetch(client, "cron").held() {
		t.Error("the CronJob or one of its Jobs was not stopped")
	}
	sameAs(t, client, stranger)
	parts := map[string]string{}
	for _, w := range e.Run.Facts.Workloads {
		parts[w.Name] = w.PartOf
	}
	if want := map[string]string{"cron": "", "child": "CronJob/cron", "late": "CronJob/cron"}; !reflect.DeepEqual(parts, want) {
		t.Errorf("recorded %v, want %v", parts, want)
	}
	turns(t, e, "workload.start-source", nil)
	sameAs(t, client, child)
}

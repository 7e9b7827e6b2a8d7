package gitsource

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// ending is the change with which a run ends.
func ending(run *spec.Run, st *spec.PlanStatus, message, log string) reconciler.Change {
	run, now := clonedRun(run), metav1.NewMicroTime(runStart.Add(60e9))
	run.Status = spec.RunStatus{Phase: spec.RunSucceeded, Reason: "Succeeded", Message: message, Started: run.Status.Started, Ended: &now}
	st = reconciler.Ended(st, run, spec.RunPath(run))
	return reconciler.Change{Runs: runs(run), Plans: plans(st), Message: run.Metadata.Name + ": Succeeded",
		Trailers: map[string]string{"Migration-Plan": run.Spec.Plan, "Migration-Run": run.Metadata.Name, "Prev-Record": run.Spec.Previous},
		Logs:     []reconciler.Log{{Plan: run.Spec.Plan, Run: run.Metadata.Name, Name: "stop.log", Text: log}}}
}

func clonedRun(r *spec.Run) *spec.Run {
	c := *r
	return &c
}

func sha(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// What the next record names is the record as Git has it, also where a secret
// value was taken out of it.
func TestTheDigestIsThatOfTheFile(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	c.SecretValues = func() [][]byte { return [][]byte{[]byte("hunter2-hunter2")} }
	l := acquired(t, c, "a")
	run, st := openRun("shop", 1)
	end := ending(run, st, "the password hunter2-hunter2 was refused", "one\n")
	must(t, l.Record(testContext(t), end))
	must(t, l.Push(testContext(t)))
	file := r.Git("show", ledgerRef+":"+spec.RunPath(run)) + "\n"
	if want := sha(file); strings.Contains(file, "hunter2") || end.Plans[0].Recorded.LastDigest != want || load(t, l).Plans["shop"].Recorded.LastDigest != want {
		t.Errorf("the digest is %s, the file's is %s:\n%s", end.Plans[0].Recorded.LastDigest, want, file)
	}
}

// The checkpoint can be computed by anybody: with sha256sum, as docs/audit.md says.
func TestCheckpointCoversRecordsAndLogs(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	l := acquired(t, testConfig(t, s, r), "a")
	digest, show := "", func(path string) string { return r.Git("show", ledgerRef+":"+path) + "\n" }
	for n := 1; n <= 2; n++ {
		var want strings.Builder
		fmt.Fprintln(&want, digest)
		for _, plan := range []string{"shop", "web"} {
			run, st := openRun(plan, n)
			must(t, l.Record(testContext(t), reconciler.Change{Runs: runs(run), Plans: plans(st)}))
			must(t, l.Record(testContext(t), ending(run, st, "", plan+" one\n")))
			must(t, l.Record(testContext(t), ending(run, st, "", "two\n"))) // an entry replayed
		}
		must(t, l.Push(testContext(t)))
		for _, plan := range []string{"shop", "web"} {
			run, _ := openRun(plan, n)
			path, log := spec.RunPath(run), show(spec.LogDir(run)+"/stop.log")
			if !strings.Contains(log, plan+" one\ntwo\n") {
				t.Fatalf("log: %q", log)
			}
			fmt.Fprintln(&want, path, sha(show(path)), sha(fmt.Sprintln("stop.log", sha(log))))
		}
		digest = sha(want.String())
		says := fmt.Sprintf("%d %s", 2*n, digest)
		if got := show(checkpointFile); !strings.Contains(got, digest) || !strings.Contains(got, fmt.Sprintf("records: %d\n", 2*n)) {
			t.Errorf("checkpoint is\n%s and must be %s", got, says)
		}
		if got := r.Git("log", "-1", "--format=%(trailers:key="+checkpointTrailer+",valueonly)", ledgerRef); strings.TrimSpace(got) != says {
			t.Errorf("trailer %q, must be %q", got, says)
		}
	}
	must(t, l.Record(testContext(t), planChange("shop", "x")))
	must(t, l.Push(testContext(t)))
	if got := r.Git("log", "-1", "--format=%(trailers:key="+checkpointTrailer+",valueonly)", ledgerRef); got != "" {
		t.Errorf("nothing has ended, and there is a checkpoint %q", got)
	}
	ledgerSound(t, r)
}

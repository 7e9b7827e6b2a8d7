package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shopRuns is a life of a plan: stage runs, a cutover that failed, one that was
// canceled, one that went well, its rollback, and one that goes on.
func shopRuns() []*spec.Run {
	at := time.Date(2026, 11, 3, 2, 0, 0, 0, time.UTC)
	number := map[spec.RunKind]int{}
	var all []*spec.Run
	add := func(kind spec.RunKind, took time.Duration, change func(*spec.Run)) *spec.Run {
		at = at.Add(24 * time.Hour)
		number[kind]++
		end := metav1.NewMicroTime(at.Add(took))
		run := &spec.Run{Metadata: spec.Metadata{Name: reconciler.RunName("shop", kind, number[kind])},
			Spec:   spec.RunSpec{Plan: "shop", Kind: kind, Number: number[kind], Digest: "sha256:dba49971f7d78988851985192fcfb054"},
			Steps:  []spec.Step{{Name: "preflight", State: spec.StepDone}, {Name: "stop"}},
			Status: spec.RunStatus{Phase: spec.RunSucceeded, Reason: "Succeeded", Started: metav1.NewMicroTime(at), Ended: &end}}
		run.Spec.Closure.Source.Metadata.Name, run.Spec.Closure.Target.Metadata.Name = "old", "new"
		if kind != spec.RunStage {
			run.Spec.ApprovedBy = &spec.Approval{Commit: "ff0ee1b62b3c5bd3d15f", Author: "Ada <ada@example.com>", Committer: "Grace <grace@example.com>",
				Time: metav1.NewTime(at.Add(-time.Minute)), Subject: "Merge: " + words[kind].asked + " of *the* shop"}
		}
		if change != nil {
			change(run)
		}
		all = append(all, run)
		return run
	}
	instants := func(run *spec.Run, names ...string) {
		for i, n := range names {
			run.Facts.Times = append(run.Facts.Times, spec.NamedTime{Name: n, Time: metav1.NewMicroTime(at.Add(time.Duration(10+i) * time.Second))})
		}
	}
	copied := func(run *spec.Run) {
		run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data", Bytes: 200 << 20, ChangedBytes: 10 << 20}, {Namespace: "shop", Claim: "media", Bytes: 1 << 30, ChangedBytes: 1 << 20}}
	}
	for n := range 5 {
		add(spec.RunStage, time.Duration(5+n)*time.Second, func(run *spec.Run) {
			copied(run)
			slot := metav1.NewTime(at)
			run.Spec.Slot = &slot
		})
	}
	add(spec.RunMigrate, 3*time.Minute, func(run *spec.Run) {
		run.Status.Phase, run.Status.Reason, run.Status.Message = spec.RunFailed, "Unhealthy", "step health: Deployment shop/web has no ready pod on cluster new after 10m"
		instants(run, reconciler.TimeStop)
		back := metav1.NewMicroTime(at.Add(2 * time.Minute))
		run.Steps[1].State, run.Steps[1].Undid = spec.StepUndone, &spec.Undid{Ended: &back}
	})
	add(spec.RunStage, 5*time.Second, func(run *spec.Run) {
		run.Status.Warnings = []string{"volume shop/data: 2 files changed while they were read"}
	})
	add(spec.RunMigrate, 20*time.Second, func(run *spec.Run) {
		run.Status.Phase, run.Status.Reason, run.Status.Message = spec.RunCanceled, "Canceled", "the plan says Staged since commit 1234"
	})
	add(spec.RunMigrate, 25*time.Second, func(run *spec.Run) {
		copied(run)
		off := -1.5
		run.Status.Reason, run.Status.StopSeconds, run.Status.OwnSeconds = "Migrated", 9.5, 3.1
		run.Facts.Estimate = &spec.Estimate{StopSeconds: 11, ErrorSeconds: &off}
		instants(run, reconciler.TimeStop, reconciler.TimeHealthy)
		run.Facts.Counts = []spec.Count{{Kind: "Service", Source: 2, Target: 2}}
		run.Facts.Traffic = []spec.Traffic{{Object: spec.Object{Kind: "Ingress", Namespace: "shop", Name: "web"}, OldAddress: "a.example.com", NewAddress: "b.example.com"}}
	})
	add(spec.RunRollback, 7*time.Second, func(run *spec.Run) {
		run.Spec.Undoes = "shop-migrate-3"
		run.Spec.ApprovedBy.Signers = []spec.Signer{{Key: "ada", Owner: "Ada", Way: spec.SignedCommits}, // an older record
			{Key: "grace", Owner: "Grace", Way: spec.Signatures, Fingerprint: "SHA256:4eD0QKnZ3b1kSrJrAqo4Wg6wkTzPz7ncKqvQzFhBvyU"}}
	})
	add(spec.RunStage, 0, func(run *spec.Run) {
		run.Status.Phase, run.Status.Ended, run.Steps[1].State = spec.RunRunning, nil, spec.StepRunning
	})
	return all
}

func TestHistoryIsForPeople(t *testing.T) {
	st := &spec.PlanStatus{Metadata: spec.Metadata{Name: "shop"}, Conditions: []metav1.Condition{{Type: "Ready", Status: "True", Reason: "RolledBack", Message: "the application runs on the source"}}}
	st.Recorded.State = spec.RolledBack
	never := &spec.PlanStatus{Metadata: spec.Metadata{Name: "never"}}
	told, none := tellingOf(st, shopRuns()), tellingOf(never, nil)
	for _, kind := range []string{"text", "markdown", "json"} {
		var out bytes.Buffer
		if err := histories[kind].one(&out, told); err != nil {
			t.Fatal(err)
		}
		out.WriteString("\n----\n\n")
		if err := histories[kind].one(&out, none); err != nil {
			t.Fatal(err)
		}
		out.WriteString("\n----\n\n")
		if err := histories[kind].all(&out, []telling{none, told}); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", "history."+kind)
		if *update {
			if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(want, out.Bytes()) {
			t.Errorf("%v: %s differs (go test -update writes it anew):\n%s", err, file, out.String())
		}
	}
}

func TestPeriods(t *testing.T) {
	day := func(d, h int) time.Time { return time.Date(2026, 11, d, h, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		since, until string
		holds        string // of the hours 0, 12 and 23 of days 3 to 5
	}{
		{"", "", "3.0 3.12 3.23 4.0 4.12 4.23 5.0 5.12 5.23"},
		{"2026-11-04", "", "4.0 4.12 4.23 5.0 5.12 5.23"},
		{"2026-11-04", "2026-11-04", "4.0 4.12 4.23"},
		{"2026-11-03T12:00:00Z", "2026-11-04T13:00:00+01:00", "3.12 3.23 4.0 4.12"},
	} {
		p, err := newPeriod(c.since, c.until)
		if err != nil {
			t.Fatal(err)
		}
		var holds []string
		for d := 3; d <= 5; d++ {
			for _, h := range []int{0, 12, 23} {
				if p.holds(day(d, h)) {
					holds = append(holds, fmt.Sprintf("%d.%d", d, h))
				}
			}
		}
		if got := strings.Join(holds, " "); got != c.holds {
			t.Errorf("%s to %s: %s", c.since, c.until, got)
		}
	}
	for _, bad := range [][2]string{{"yesterday", ""}, {"", "2026-13-01"}, {"2026-11-04", "2026-11-03"}} {
		if _, err := newPeriod(bad[0], bad[1]); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

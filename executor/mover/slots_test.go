package mover

import (
	"fmt"
	"sync"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// otherMover is a Job of another plan; ended says that it is over.
func otherMover(name string, ended bool) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: ourNamespace, Name: name, Labels: map[string]string{LabelComponent: ComponentReader}}}
	if ended {
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}
	}
	return j
}

// TestMoversWaitForASlot: who has to wait, at which limits, with how many
// movers there already.
func TestMoversWaitForASlot(t *testing.T) {
	for name, c := range map[string]struct {
		limits spec.Limits
		others []*batchv1.Job
		step   string
		waits  string
	}{
		"room":                    {limits: spec.Limits{MoversPerCluster: 2}, others: []*batchv1.Job{otherMover("a", false)}, step: "restore-volumes"},
		"the cluster is full":     {limits: spec.Limits{MoversPerCluster: 1}, others: []*batchv1.Job{otherMover("a", false), otherMover("b", true)}, step: "restore-volumes", waits: "waits for one of the 1 movers of cluster new (limits.moversPerCluster of the daemon's configuration): 1 run there, 0 of them for this plan"},
		"others have ended":       {limits: spec.Limits{MoversPerCluster: 1}, others: []*batchv1.Job{otherMover("a", true)}, step: "restore-volumes"},
		"the application waits":   {limits: spec.Limits{MoversPerCluster: 1}, others: []*batchv1.Job{otherMover("a", false)}, step: stepLastRestore},
		"others do not fill ours": {limits: spec.Limits{MoversPerPlan: 1}, others: []*batchv1.Job{otherMover("a", false)}, step: "restore-volumes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, target, e := copiedWorld(t)
			for _, j := range c.others {
				if err := target.Tracker().Add(j); err != nil {
					t.Fatal(err)
				}
			}
			e.Settings.Limits, e.Step.Attempt = c.limits, 2
			e.Run.Facts.Volumes[0].Snapshot = "s2"
			before := target.writes
			o := drive(t, at(e, c.step, "mover.restore"))
			if c.waits == "" {
				want(t, o, reconciler.Succeeded)
			} else if o.Seen != reconciler.Working || o.Reason != "MoverLimit" || o.Message != c.waits || target.writes != before {
				t.Errorf("%d %s after %d writes: %s", o.Seen, o.Reason, target.writes-before, o.Message)
			}
		})
	}
}

// A plan of many workloads starts as many movers as it may, and the others when
// those have ended.
func TestAPlanTakesTurns(t *testing.T) {
	_, target, e := copiedWorld(t)
	for i := range e.Run.Facts.Volumes {
		e.Run.Facts.Volumes[i].Group, e.Run.Facts.Volumes[i].Snapshot = fmt.Sprintf("StatefulSet/db/%d", i), "s2"
	}
	e.Settings.Limits, e.Step.Attempt = spec.Limits{MoversPerPlan: 1}, 2
	target.job = nil // nothing ends
	o := drive(t, at(e, "restore-volumes", "mover.restore"))
	jobs, err := target.BatchV1().Jobs(ourNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: kube.LabelAttempt + "=2"})
	if err != nil {
		t.Fatal(err)
	}
	running := len(jobs.Items)
	if o.Seen != reconciler.Working || running != 1 {
		t.Fatalf("%d movers of this attempt, %s: %s", running, o.Reason, o.Message)
	}
}

// Runs that start at the same instant have read the same free slots.
func TestSlotsAreBookedOnce(t *testing.T) {
	e := testEnv(newWorld(t), newWorld(t), "upload", "mover.upload")
	e.Settings.Limits = spec.Limits{MoversPerCluster: 3, MoversPerPlan: 3}
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := 0
	for i := range 20 {
		wg.Go(func() {
			s := &slots{e: e, on: e.Target, listed: map[string]bool{}}
			if booked.ask(s, fmt.Sprint("job-", i), true) == nil {
				mu.Lock()
				got++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got != 3 {
		t.Errorf("%d runs got one of three slots", got)
	}
}

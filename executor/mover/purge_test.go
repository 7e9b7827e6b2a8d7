package mover

import (
	"slices"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// purgeWorld is a target with the plan's credentials, whose Job answers with res.
func purgeWorld(t *testing.T, res engine.Result) (*world, func() reconciler.Observation, *[]engine.Request) {
	target := newWorld(t)
	var asked []engine.Request
	target.job = func(_ *world, _ *batchv1.Job, r engine.Request) engine.Result {
		asked = append(asked, r)
		return res
	}
	e := testEnv(newWorld(t), target, "purge-data", "mover.purge")
	e.Run.Spec.Kind = spec.RunClose
	s := &corev1.Secret{ObjectMeta: objectMeta(e, e.Settings.Namespace, SecretName(e), "secret")}
	target.stamp(s)
	if err := target.Tracker().Add(s); err != nil {
		t.Fatal(err)
	}
	return target, func() reconciler.Observation { return drive(t, e) }, &asked
}

// The purge is killed at every single API write, before and after it took effect; it always ends with
// the data deleted and no Job left behind.
func TestPurgeKilledAtEveryCall(t *testing.T) {
	for killAt := range 8 {
		for _, late := range []bool{false, true} {
			target, purge, asked := purgeWorld(t, engine.Result{Purged: true})
			target.killAt, target.late = killAt, late
			want(t, purge(), reconciler.Succeeded)
			if len(*asked) != 1 || (*asked)[0].Op != engine.OpPurge || (*asked)[0].Repository.Prefix == "" || len((*asked)[0].Volumes) > 0 {
				t.Fatalf("asked %+v", *asked)
			}
			jobs, _ := target.BatchV1().Jobs("").List(t.Context(), metav1.ListOptions{})
			if len(jobs.Items) > 0 {
				t.Fatalf("killed at %d: %d Jobs are left", killAt, len(jobs.Items))
			}
			want(t, purge(), reconciler.Succeeded) // looked at again
			if len(*asked) != 1 {
				t.Fatal("purged a second time")
			}
		}
	}
}

// A closed plan has nothing left, so the step waits for the pod that its Job leaves for its grace period.
func TestPurgeWaitsForItsPod(t *testing.T) {
	target, purge, _ := purgeWorld(t, engine.Result{Purged: true})
	want(t, purge(), reconciler.Succeeded)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ourNamespace, Name: "last", DeletionTimestamp: &metav1.Time{},
		Labels: map[string]string{kube.LabelPlan: kube.Short("shop"), LabelComponent: ComponentPurger, batchv1.JobNameLabel: "gone"}}}
	target.add(p)
	o := purge()
	if want(t, o, reconciler.Working); o.Reason != "JobLeaving" {
		t.Fatalf("%+v", o)
	}
	if err := target.Tracker().Delete(podResource, p.Namespace, p.Name); err != nil {
		t.Fatal(err)
	}
	want(t, purge(), reconciler.Succeeded)
}

func TestPurgeThatIsRefused(t *testing.T) {
	_, purge, _ := purgeWorld(t, engine.Result{Error: "access denied", Reason: engine.ReasonAccessDenied})
	if o := purge(); o.Seen != reconciler.Broken || !o.Final || o.Reason != string(engine.ReasonAccessDenied) {
		t.Fatalf("%+v", o)
	}
}

func TestPurgeWithoutCredentials(t *testing.T) {
	target := newWorld(t)
	e := testEnv(newWorld(t), target, "purge-data", "mover.purge")
	want(t, drive(t, e), reconciler.Succeeded)
	if target.writes > 0 {
		t.Fatalf("%d writes", target.writes)
	}
}

// A snapshot stays until the target is proven to hold a newer one.
func TestKept(t *testing.T) {
	for _, c := range []struct {
		v    spec.Volume
		want []string
	}{
		{spec.Volume{}, nil},
		{spec.Volume{Snapshot: "s2", Held: "s1"}, []string{"s2", "s1"}},
		{spec.Volume{Snapshot: "s2", Held: "s2"}, []string{"s2"}},
		{spec.Volume{Snapshot: "s2"}, []string{"s2"}},
	} {
		if got := kept(&c.v); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.v, got, c.want)
		}
	}
}

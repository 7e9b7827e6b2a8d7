package workload

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

func t2ctx() context.Context { return context.Background() }

func TestStopPatch(t *testing.T) {
	e := testEnv("shop")
	now := time.Date(2026, 12, 1, 22, 0, 0, 123456000, time.UTC)
	run := kube.Short("shop") + "-migrate-3"
	cases := []struct {
		name string
		item item
		want string // "" = nothing to do
	}{
		{"runs", made("Deployment", "web", 3, nil),
			`{"metadata":{"annotations":{"tranship.dev/changed-by":"` + run + `","tranship.dev/epoch":"7","tranship.dev/previous":"{\"pods\":3,\"ready\":3,\"replicas\":3}","tranship.dev/stopped-at":"2026-12-01T22:00:00.123456Z"},"resourceVersion":"5","uid":"uid-web"},"spec":{"replicas":0}}`},
		{"zero stays zero, unmarked", made("Deployment", "web", 0, nil), ""},
		{"retention first, in a patch of its own", made("StatefulSet", "db", 2, func(o map[string]any) {
			field(o, "spec/persistentVolumeClaimRetentionPolicy", map[string]any{"whenScaled": "Delete", "whenDeleted": "Retain"})
		}), `{"metadata":{"annotations":{"tranship.dev/changed-by":"` + run + `","tranship.dev/epoch":"7","tranship.dev/previous":"{\"claimRetention\":{\"whenScaled\":\"Delete\",\"whenDeleted\":\"Retain\"}}"},"resourceVersion":"5","uid":"uid-db"},"spec":{"persistentVolumeClaimRetentionPolicy":{"whenScaled":"Retain","whenDeleted":"Retain"}}}`},
		{"not before the controller knows the retention", made("StatefulSet", "db", 2, func(o map[string]any) { field(o, "metadata/generation", int64(3)) }), ""},
		{"scaled back up after this run's stop", made("Deployment", "web", 3, func(o map[string]any) {
			annotate(o, kube.AnnotationPrevious, `{"replicas":3}`)
			annotate(o, kube.AnnotationRun, run)
		}), ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ed, err := stopEdit(e, c.item, now)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if ed != nil {
				body, err := ed.body(c.item)
				if err != nil {
					t.Fatal(err)
				}
				got = string(body)
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// A merge patch with "annotations": null would delete everybody's.
func TestPatchNeverNullsAnnotations(t *testing.T) {
	body, err := (&edit{spec: map[string]any{"replicas": 2}}).body(made("Deployment", "web", 0, nil))
	if err != nil || strings.Contains(string(body), "annotations") {
		t.Errorf("%s %v", body, err)
	}
}

// Defect 2 of mig-controller: a second stop overwrote the remembered count
// with zero.
func TestSecondStopRemembersTheFirst(t *testing.T) {
	stopped := func(run string) item {
		return made("Deployment", "web", 0, func(o map[string]any) {
			annotate(o, kube.AnnotationPrevious, `{"replicas":3}`)
			annotate(o, kube.AnnotationRun, run)
		})
	}
	short := kube.Short("shop")
	for run, want := range map[string]int32{
		short + "-migrate-3":     3, // this run, after everything was lost
		short + "-migrate-1":     3, // an earlier attempt that was not undone
		short + "-b-migrate-1":   0, // another plan: its zero is the state we found
		"other-01234-migrate-1":  0,
		short + "-migrate-three": 0,
	} {
		list, err := intents(testEnv("shop"), []item{stopped(run)})
		if err != nil || list[0].Replicas != want {
			t.Errorf("%s: %+v %v", run, list, err)
		}
	}
}

func TestIntentsKeepTheRetentionThatRetainRecorded(t *testing.T) {
	e := testEnv("shop")
	i := made("StatefulSet", "db", 1, func(o map[string]any) {
		field(o, "spec/persistentVolumeClaimRetentionPolicy", map[string]any{"whenScaled": "Retain", "whenDeleted": "Retain"})
	})
	old := &spec.ClaimRetention{WhenScaled: "Delete", WhenDeleted: "Delete"}
	e.Run.Facts.Workloads = []spec.Workload{{Object: i.object(spec.Source), Replicas: 5, ClaimRetention: old}}
	list, err := intents(e, []item{i})
	if err != nil || len(list) != 1 || list[0].Replicas != 1 || list[0].ClaimRetention != old {
		t.Errorf("%+v %v", list, err)
	}
}

// Retain records the policy of each volume and leaves every other field alone.
func TestRetainRecordsPolicies(t *testing.T) {
	e, _ := fakeEnv([]runtime.Object{volumeNamed("pv-a", "Delete", "a"), volumeNamed("pv-b", "Retain", "b"), volumeNamed("pv-c", "Delete", "other")},
		claimNamed("a", "pv-a"), claimNamed("b", "pv-b"), claimNamed("c", "pv-c"), claimNamed("unbound", ""))
	for _, c := range []string{"unbound", "b", "a", "c"} {
		e.Run.Facts.Volumes = append(e.Run.Facts.Volumes, spec.Volume{Namespace: "shop", Claim: c, Action: "copy", Held: "snap-" + c, Files: 4})
	}
	pendFake(e, "workload.retain")
	want := map[string]string{"a": "Delete", "b": "Retain", "c": "", "unbound": ""} // pv-c is somebody else's
	for _, v := range e.Run.Facts.Volumes {
		if v.SourcePolicy != want[v.Claim] || v.Held != "snap-"+v.Claim || v.Files != 4 {
			t.Errorf("%+v", v)
		}
	}
	turns(t, e, "workload.retain", nil)
	for name, policy := range map[string]string{"pv-a": "Retain", "pv-b": "Retain", "pv-c": "Delete"} {
		pv, err := get(t2ctx(), e.Source, volumeKind, "", name)
		if err != nil || pv.reclaimPolicy() != policy {
			t.Errorf("%s: %s %v", name, pv.reclaimPolicy(), err)
		}
	}
}

// A claim on its way out ends the run before anything is stopped.
func TestRetainRefusesDyingClaims(t *testing.T) {
	dying := claimNamed("data-db-0", "pv")
	dying.DeletionTimestamp, dying.Finalizers = &metav1.Time{Time: time.Now()}, []string{"kubernetes.io/pvc-protection"}
	if v := claimVerdict(dying); v.seen != reconciler.Broken || v.reason != "ClaimTerminating" || !v.final {
		t.Errorf("%+v", v)
	}
	yes := true
	owned := func(claim, pod string) *corev1.PersistentVolumeClaim {
		c := claimNamed(claim, "pv")
		c.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: pod, Controller: &yes}}
		return c
	}
	if v := claimVerdict(owned("data-db-0", "db-0")); v.seen != reconciler.Working {
		t.Errorf("%+v", v)
	}
	if ephemeral(owned("data-db-0", "db-0")) || !ephemeral(owned("web-x-scratch", "web-x")) {
		t.Error("ephemeral claims are not told from a StatefulSet's")
	}
}

func TestHealth(t *testing.T) {
	set := func(path string, v any) func(map[string]any) {
		return func(o map[string]any) { field(o, path, v) }
	}
	cases := []struct {
		name string
		item item
		want string
	}{
		{"healthy Deployment", made("Deployment", "web", 2, nil), ""},
		{"zero replicas", made("Deployment", "web", 0, set("status", map[string]any{"observedGeneration": int64(2)})), ""},
		{"status is of an older spec", made("Deployment", "web", 2, set("status/observedGeneration", int64(1))), "has not seen"},
		{"a pod is missing", made("Deployment", "web", 2, set("status/readyReplicas", int64(1))), "1 of 2 pods are ready"},
		{"old template", made("Deployment", "web", 2, set("status/updatedReplicas", int64(1))), "1 of 2 pods have the newest template"},
		{"old template, paused", made("Deployment", "web", 2, func(o map[string]any) {
			field(o, "status/updatedReplicas", int64(0))
			field(o, "spec/paused", true)
		}), ""},
		{"not Available", made("Deployment", "web", 2, set("status/conditions", []any{})), "not Available"},
		{"healthy StatefulSet", made("StatefulSet", "db", 2, nil), ""},
		{"StatefulSet rolls", made("StatefulSet", "db", 2, set("status/updatedReplicas", int64(0))), "newest template"},
		{"StatefulSet OnDelete", made("StatefulSet", "db", 2, func(o map[string]any) {
			field(o, "status/updatedReplicas", int64(0))
			field(o, "spec/updateStrategy/type", "OnDelete")
		}), ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := c.item.kind.unhealthy(c.item)
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestPodTrouble(t *testing.T) {
	status := func(s corev1.ContainerStatus) corev1.PodStatus {
		s.Name = "app"
		return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{s}}
	}
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	no := false
	cases := []struct {
		name            string
		status          corev1.PodStatus
		reason, message string
	}{
		{"image", status(corev1.ContainerStatus{State: waiting("ImagePullBackOff", "no such image")}), "ImagePullBackOff", "container app waits: ImagePullBackOff (no such image)"},
		{"crash", status(corev1.ContainerStatus{State: waiting("CrashLoopBackOff", ""),
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}}), "CrashLoopBackOff", "ended with exit code 137 (OOMKilled)"},
		{"creating", status(corev1.ContainerStatus{State: waiting("ContainerCreating", "")}), "ContainerCreating", "is being created"},
		{"probe", status(corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, Started: &no}), "ContainersNotReady", "runs but is not ready"},
		{"nowhere to run", corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes"}}}, "Unschedulable", "0/2 nodes"},
		{"nothing yet", corev1.PodStatus{}, "NotReady", "no status"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			reason, message := PodTrouble(&corev1.Pod{Status: c.status})
			if reason != c.reason || !strings.Contains(message, c.message) {
				t.Errorf("%s: %s", reason, message)
			}
		})
	}
}

func TestDescribeLeft(t *testing.T) {
	grace, now := int64(30), time.Date(2026, 12, 1, 22, 1, 0, 0, time.UTC)
	l := left{owner: "Deployment shop/web", claims: []string{"media"}, pod: corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Finalizers: []string{"a/b"},
			DeletionTimestamp: &metav1.Time{Time: now.Add(-10 * time.Second)}, DeletionGracePeriodSeconds: &grace},
		Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}}
	reason, message := describeLeft(l, now)
	want := "pod shop/web-1 of Deployment shop/web is terminating since 2026-12-01T22:00:20Z (40s ago, grace period 30s), held by finalizers a/b on node n1 and uses claim media"
	if reason != "PodTerminating" || message != want {
		t.Errorf("%s: %s", reason, message)
	}
}

func TestScaledBackUpNamesTheManager(t *testing.T) {
	entry := func(manager, sub, fields string, minute int) metav1.ManagedFieldsEntry {
		at := metav1.NewTime(time.Date(2026, 12, 1, 22, minute, 0, 0, time.UTC))
		return metav1.ManagedFieldsEntry{Manager: manager, Subresource: sub, Time: &at, FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}}
	}
	i := made("Deployment", "web", 2, nil)
	yes := true
	i.SetManagedFields([]metav1.ManagedFieldsEntry{
		entry("kubectl", "", `{"f:spec":{"f:replicas":{}}}`, 1),
		entry("keda-operator", "scale", `{"f:spec":{"f:replicas":{}}}`, 3),
		entry("kubelet", "status", `{"f:status":{"f:replicas":{}}}`, 5),
	})
	i.SetLabels(map[string]string{"argocd.argoproj.io/instance": "shop-prod"})
	i.SetOwnerReferences([]metav1.OwnerReference{{Kind: "Shop", Name: "main", UID: types.UID("x"), Controller: &yes}})
	v := scaledBackUp(i, i.object(spec.Source))
	for _, part := range []string{"source Deployment shop/web", "up to 2", `"keda-operator" at 2026-12-01T22:03:00Z`, "Shop main", "kept by Argo CD application shop-prod"} {
		if !strings.Contains(v.message, part) {
			t.Errorf("%q lacks %q", v.message, part)
		}
	}
}

// Going forward a broken object ends the step before anything is touched;
// going back everything is started before a person is called.
func TestFold(t *testing.T) {
	list := []verdict{
		{seen: reconciler.Succeeded}, {seen: reconciler.Absent},
		{reconciler.Broken, "Bad", "a is bad", spec.Object{Side: spec.Source, Kind: "Deployment", Namespace: "n", Name: "a"}, true},
		{seen: reconciler.Broken, message: "b"}, {seen: reconciler.Broken, message: "c"}, {seen: reconciler.Broken, message: "d"},
	}
	o := fold(forward, list)
	if o.Seen != reconciler.Broken || !o.Final || o.Reason != "Bad" || o.Object != "source Deployment n/a" || o.Message != "a is bad; b; c; and 1 more" {
		t.Errorf("%+v", o)
	}
	if o := fold(backward, list); o.Seen != reconciler.Absent {
		t.Errorf("%+v", o)
	}
	if o := fold(forward, nil); o.Seen != reconciler.Succeeded {
		t.Errorf("%+v", o)
	}
}

// Every verb of the itineraries that this package serves exists, and those
// that only read have no Ensure.
func TestVerbsServeTheItineraries(t *testing.T) {
	verbs := Verbs()
	for kind, steps := range reconciler.Itineraries {
		for _, d := range steps {
			for _, name := range []string{d.Verb, d.Undo} {
				if v, ok := verbs[name]; strings.HasPrefix(name, "workload.") && (!ok || v.Look == nil || (v.Ensure == nil) != d.ReadOnly) {
					t.Errorf("%s of %s: %+v", name, kind, v)
				}
			}
		}
	}
}

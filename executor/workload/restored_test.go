package workload

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

func restoredItem(t *testing.T, text string) kube.Item {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return kube.Item{GVR: schema.GroupVersionResource{Version: "v1", Resource: strings.ToLower(u.GetKind()) + "s"}, Unstructured: u}
}

// Everything is judged by its conditions; what has none is good.
func TestConditions(t *testing.T) {
	for name, c := range map[string]struct{ object, reason, says string }{
		"no status":           {"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}", "", ""},
		"Ready":               {"{apiVersion: example.com/v1, kind: Shop, metadata: {name: a, namespace: shop}, status: {conditions: [{type: Ready, status: 'True'}]}}", "", ""},
		"not Ready":           {"{apiVersion: example.com/v1, kind: Shop, metadata: {name: a, namespace: shop}, status: {conditions: [{type: Ready, status: 'False', reason: NoLicense, message: buy one}]}}", "NoLicense", "target Shop shop/a is InProgress: buy one"},
		"Stalled":             {"{apiVersion: example.com/v1, kind: Shop, metadata: {name: a, namespace: shop}, status: {conditions: [{type: Stalled, status: 'True', reason: BadSpec, message: never}]}}", "BadSpec", "is Failed: never"},
		"not observed":        {"{apiVersion: example.com/v1, kind: Shop, metadata: {name: a, namespace: shop, generation: 2}, status: {observedGeneration: 1, conditions: [{type: Ready, status: 'True'}]}}", "LatestGenerationNotObserved", "observed generation is 1"},
		"on its way out":      {"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop, deletionTimestamp: '2026-01-01T00:00:00Z'}}", "Terminating", "is Terminating"},
		"broken conditions":   {"{apiVersion: example.com/v1, kind: Shop, metadata: {name: a, namespace: shop}, status: {conditions: 3}}", "UnknownStatus", "cannot be understood"},
		"a budget":            {"{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: a, namespace: shop, generation: 1}, status: {observedGeneration: 1}}", "", ""},
		"an unbound claim":    {"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, namespace: shop}, status: {phase: Pending}}", "NotBound", "not Bound"},
		"an ordinary Service": {"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {type: ClusterIP}, status: {loadBalancer: {}}}", "", ""},
	} {
		v := conditions(restoredItem(t, c.object))
		if v.reason != c.reason || !strings.Contains(v.message, c.says) || (v.seen == reconciler.Succeeded) != (c.reason == "") || v.final {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// A Service whose pods run needs an endpoint; one that selects nothing of the
// plan, or what does not run, never had any.
func TestServicesNeedEndpoints(t *testing.T) {
	yes, no := true, false
	slice := func(service string, ready *bool) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: service + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}}}
	}
	workloads := []pair{}
	for name, replicas := range map[string]int32{"web": 2, "idle": 0} {
		i := made("Deployment", name, int64(replicas), func(o map[string]any) {
			field(o, "spec/template/metadata/labels", map[string]any{"app": name})
		})
		workloads = append(workloads, pair{recorded: &spec.Workload{Replicas: replicas}, item: i})
	}
	for name, c := range map[string]struct {
		selector string
		slice    *discoveryv1.EndpointSlice
		healthy  bool
	}{
		"ready":              {"app: web", slice("a", &yes), true},
		"readiness unknown":  {"app: web", slice("a", nil), true},
		"not ready":          {"app: web", slice("a", &no), false},
		"another's endpoint": {"app: web", slice("b", &yes), false},
		"nothing runs":       {"app: idle", slice("b", &yes), true},
		"of another plan":    {"app: web, tier: x", slice("b", &yes), true},
		"no selector":        {"", slice("b", &yes), true},
		"ExternalName":       {"app: web}, type: ExternalName, externalName: db.example.com, x: {", slice("b", &yes), true},
	} {
		t.Run(name, func(t *testing.T) {
			e := testEnv("shop")
			e.Target = &kube.Cluster{Side: spec.Target, Name: "new", Kube: kubefake.NewClientset(c.slice)}
			r := &restored{}
			service := restoredItem(t, "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {selector: {"+c.selector+"}}}")
			if err := r.judgeServices(t2ctx(), e, []kube.Item{service}, workloads); err != nil {
				t.Fatal(err)
			}
			if healthy := len(r.verdicts) == 0; healthy != c.healthy || !healthy && r.verdicts[0].reason != "NoEndpoints" {
				t.Errorf("%+v", r.verdicts)
			}
		})
	}
}

func TestClaimsStayBound(t *testing.T) {
	claim := func(name string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
	}
	e := testEnv("shop")
	e.Target = &kube.Cluster{Side: spec.Target, Name: "new", Kube: kubefake.NewClientset(claim("good", corev1.ClaimBound), claim("lost", corev1.ClaimLost))}
	for _, name := range []string{"good", "lost", "gone"} {
		e.Run.Facts.Volumes = append(e.Run.Facts.Volumes, spec.Volume{TargetNamespace: "shop", TargetClaim: name, Action: "copy"})
	}
	e.Run.Facts.Volumes = append(e.Run.Facts.Volumes, spec.Volume{TargetNamespace: "shop", TargetClaim: "none", Action: "skip"})
	r := &restored{found: map[string]int{}}
	if err := r.judgeClaims(t2ctx(), e); err != nil {
		t.Fatal(err)
	}
	if len(r.verdicts) != 2 || r.verdicts[0].reason != "ClaimNotBound" || r.verdicts[1].reason != "ObjectMissing" || r.found["PersistentVolumeClaim"] != 2 {
		t.Errorf("%+v %v", r.verdicts, r.found)
	}
}

// The last lines of a crash help; values of Secrets never leave the cluster.
func TestHarmless(t *testing.T) {
	secrets := []corev1.Secret{{Data: map[string][]byte{"p": []byte("hunter22\n"), "long": []byte("hunter22-and-more"), "short": []byte("db"), "pem": []byte("begin\nMIIEabc\nend1\n"),
		"app.properties": []byte("db.user=app\ndb.code=tiger4tiger4\n"), "odd": []byte("p@ss\"w0rd&x")}}}
	for text, want := range map[string]string{
		"cannot open db\n":                       "cannot open db",
		"dial hunter22-and-more at db\nline two": "dial <hidden> at db | line two",
		"aHVudGVyMjI= is wrong":                  "<hidden> is wrong",
		"x MIIEabc y":                            "x <hidden> y",
		"PASSWORD is xyz\nbye":                   "<hidden> | bye",
		"postgres://u:p@db/x refused":            "<hidden>",
		"FATAL denied for app/tiger4tiger4@db":   "FATAL denied for app/<hidden>@db",
		`{"msg":"p@ss\"w0rd\u0026x is wrong"}`:   `{"msg":"<hidden> is wrong"}`,
		"GET /?q=p%40ss%22w0rd%26x":              "GET /?q=<hidden>",
		"":                                       "",
	} {
		if got := harmless(text, secrets); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestTheWorstPodIsNamed(t *testing.T) {
	pod := func(name, reason string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}}}
	}
	if p := worst([]corev1.Pod{pod("new", "ContainerCreating"), pod("bad", "CrashLoopBackOff")}); p == nil || p.Name != "bad" {
		t.Errorf("%+v", p)
	}
	if p := worst([]corev1.Pod{pod("new", "ContainerCreating")}); p == nil || p.Name != "new" {
		t.Errorf("%+v", p)
	}
	ok := pod("ok", "")
	ok.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if p := worst([]corev1.Pod{ok}); p != nil {
		t.Errorf("%+v", p)
	}
}

// A CronJob that the target got while the source still ran must not take the
// slots since then for missed: the source has run them.
func TestACronJobDoesNotRunTwice(t *testing.T) {
	at := "2026-12-01T01:00:00Z"
	for have, want := range map[string]string{"": at, "2026-12-01T00:00:00Z": at, "2026-12-01T02:00:00Z": "2026-12-01T02:00:00Z"} {
		cron := made("CronJob", "nightly", 0, func(o map[string]any) {
			field(o, "spec/suspend", true)
			o["status"] = map[string]any{}
			if have != "" {
				field(o, "status/lastScheduleTime", have)
			}
		})
		e, client := fakeEnv([]runtime.Object{cron.Unstructured})
		if err := carrySchedule(t2ctx(), e, pair{recorded: &spec.Workload{LastScheduled: at}, item: cron}); err != nil {
			t.Fatal(err)
		}
		got, _, _ := unstructured.NestedString(fetch(client, "nightly").Object, "status", "lastScheduleTime")
		if got != want {
			t.Errorf("%q became %q, want %q", have, got, want)
		}
	}
	source := made("CronJob", "nightly", 0, func(o map[string]any) { field(o, "status/lastScheduleTime", at) })
	if w, err := intent(testEnv("shop"), source); err != nil || w.LastScheduled != at {
		t.Errorf("%+v %v", w, err)
	}
}

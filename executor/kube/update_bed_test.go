package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// sameNames are objects that both clusters have; %[1]s tells the two apart.
const sameNames = `
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, labels: {of: %[1]s}, annotations: {who: %[1]s}}, data: {owner: %[1]s, %[1]s: only}}
---
{apiVersion: v1, kind: Secret, metadata: {name: password}, stringData: {k: kept-by-%[1]s}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: %[1]s}, ports: [{name: %[1]s, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: door}, spec: {type: NodePort, selector: {app: %[1]s}, ports: [{port: 80}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web}, spec: {rules: [{host: %[1]s.%[2]s.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web, labels: {of: %[1]s}}, spec: {minReplicas: 2, maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {of: %[1]s}}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "localhost/bed/busybox:1", env: [{name: OF, value: %[1]s}], command: [sleep, "86400"]}]}}}}
`

var sameKinds = []string{"v1:configmaps/settings", "v1:secrets/password", "v1:services/web", "v1:services/door", "networking.k8s.io/v1:ingresses/web", "autoscaling/v2:horizontalpodautoscalers/web", "apps/v1:deployments/web"}

// standing is the text of every object, without what servers and controllers
// keep count of; of managedFields it has who has set what.
func standing(t *testing.T, c *kube.Cluster, namespace string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, k := range sameKinds {
		of, name := k[:strings.LastIndex(k, "/")], k[strings.LastIndex(k, "/")+1:]
		i := slices.DeleteFunc(bedtest.List(t, c, namespace, of, ""), func(i kube.Item) bool { return i.GetName() != name })
		if len(i) != 1 {
			t.Fatalf("%s: %d objects", k, len(i))
		}
		o := i[0].DeepCopy()
		set := []string{}
		for _, f := range o.GetManagedFields() {
			if f.Subresource == "" {
				set = append(set, f.Manager+" "+string(f.Operation)+" "+string(f.FieldsV1.Raw))
			}
		}
		slices.Sort(set)
		delete(o.Object, "status")
		for _, f := range []string{"resourceVersion", "generation", "managedFields"} {
			unstructured.RemoveNestedField(o.Object, "metadata", f)
		}
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "deployment.kubernetes.io/revision")
		raw, err := json.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		all[k] = string(raw) + "\n" + strings.Join(set, "\n")
	}
	return all
}

// mortal lets a number of writes come true; the reply to the last of them is
// lost, and nothing works from then on.
type mortal struct {
	next http.RoundTripper
	left *atomic.Int64
}

func (m mortal) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.left.Load() <= 0 {
		return nil, errors.New("the daemon is dead")
	}
	res, err := m.next.RoundTrip(r)
	if err == nil && r.Method != http.MethodGet && res.StatusCode < 300 && m.left.Add(-1) <= 0 {
		_ = res.Body.Close()
		return nil, errors.New("the daemon died")
	}
	return res, err
}

// dying drives a step with daemons of which each dies after its first, second or
// third write, and says how many died.
func dying(t *testing.T, e *kube.Env, step, verb string) (deaths int) {
	t.Helper()
	mapped, typed := e.Target.Dynamic, e.Target.Kube
	defer func() { e.Target.Dynamic, e.Target.Kube = mapped, typed }()
	started := metav1.NewMicroTime(time.Now())
	e.Step = spec.Step{Name: step, Verb: verb, Attempt: 1, Started: &started, State: spec.StepRunning}
	v := kube.Verbs()[verb]
	bedtest.Await(t, verb, func() bool {
		left := &atomic.Int64{}
		left.Store(int64(1 + deaths%3))
		config := rest.CopyConfig(e.Target.Config)
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return mortal{next, left} })
		e.Target.Dynamic, e.Target.Kube = dynamic.NewForConfigOrDie(config), kubernetes.NewForConfigOrDie(config)
		o, err := v.Look(t.Context(), e)
		if err == nil && o.Seen == reconciler.Absent {
			err = v.Ensure(t.Context(), e)
		}
		if left.Load() <= 0 {
			deaths++
		} else if err != nil {
			t.Logf("%s: %v", verb, err) // somebody else has written
		}
		if o.Seen == reconciler.Broken {
			t.Fatalf("%s: %s: %s", verb, o.Reason, o.Message)
		}
		return err == nil && o.Seen == reconciler.Succeeded
	})
	return deaths
}

func ends(t *testing.T, e *kube.Env, step, verb string, want reconciler.Seen) reconciler.Observation {
	t.Helper()
	o := bedtest.Drive(t, e, kube.Verbs(), step, verb, 1)
	if o.Seen != want {
		t.Fatalf("%s: %s: %s", verb, o.Reason, o.Message)
	}
	return o
}

func field(t *testing.T, c *kube.Cluster, namespace, of, name, want string, path ...string) {
	t.Helper()
	if got := bedtest.Field(t, c, namespace, of, name, path...); got != want {
		t.Errorf("%s %s %s is %q, want %q", of, name, strings.Join(path, "."), got, want)
	}
}

func updating(t *testing.T) (e *kube.Env, from, to string) {
	t.Helper()
	id := time.Now().UnixNano() % 1e8
	from, to = fmt.Sprintf("updating-%d", id), fmt.Sprintf("updated-%d", id)
	e = bedtest.Env(t, from, from, to)
	e.Plan().Existing = spec.ExistingUpdate
	bedtest.Namespace(t, e.Source, from, nil)
	bedtest.Namespace(t, e.Target, to, nil)
	if _, err := e.Target.Kube.CoreV1().Namespaces().Get(t.Context(), e.Settings.Namespace, metav1.GetOptions{}); err != nil {
		bedtest.Namespace(t, e.Target, e.Settings.Namespace, nil)
	}
	t.Cleanup(func() {
		_ = e.Target.Kube.CoreV1().Secrets(e.Settings.Namespace).DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: kube.LabelPlan + "=" + kube.Short(from)})
	})
	return e, from, to
}

func keepers(t *testing.T, e *kube.Env) []kube.Item {
	t.Helper()
	return bedtest.List(t, e.Target, e.Settings.Namespace, "v1:secrets", kube.LabelPlan+"="+kube.Short(e.Run.Spec.Plan))
}

// TestBedUpdate has everything of the plan stand on the target before: it is
// updated, held, opened and put back by daemons that die after every write.
func TestBedUpdate(t *testing.T) {
	e, from, to := updating(t)
	bedtest.Put(t, e.Source, from, fmt.Sprintf(sameNames, "source", from))
	bedtest.Put(t, e.Target, to, fmt.Sprintf(sameNames, "target", from))
	bedtest.Await(t, "the target's own pods", func() bool {
		return bedtest.Field(t, e.Target, to, "apps/v1:deployments", "web", "status", "replicas") == "2"
	})
	before := standing(t, e.Target, to)
	ends(t, e, "dry-run", "kube.dry-run", reconciler.Succeeded)
	if after := standing(t, e.Target, to); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatalf("the dry run changed something:\n%v\n%v", before, after)
	}

	deaths := dying(t, e, "update", "kube.update")
	ends(t, e, "update", "kube.update", reconciler.Succeeded)
	field(t, e.Target, to, "v1:configmaps", "settings", `{"owner":"source","source":"only"}`, "data")
	field(t, e.Target, to, "apps/v1:deployments", "web", "0", "spec", "replicas")
	field(t, e.Target, to, "apps/v1:deployments", "web", "", "status", "replicas")
	field(t, e.Target, to, "v1:services", "door", "ClusterIP", "spec", "type")
	if len(e.Run.Facts.Updated) != 5 || len(keepers(t, e)) != 5 {
		t.Errorf("%d objects are recorded, %d remembered, want 5: %v", len(e.Run.Facts.Updated), len(keepers(t, e)), e.Run.Facts.Updated)
	}
	for _, i := range bedtest.List(t, e.Target, to, "v1:configmaps", kube.LabelRestore) {
		t.Errorf("%s looks as if it had been restored: it would be deleted", i.GetName())
	}
	deaths += dying(t, e, "autoscalers", "kube.autoscalers") + dying(t, e, "traffic", "kube.traffic")
	ends(t, e, "autoscalers", "kube.autoscalers", reconciler.Succeeded)
	ends(t, e, "traffic", "kube.traffic", reconciler.Succeeded)
	field(t, e.Target, to, "networking.k8s.io/v1:ingresses", "web", "web", "metadata", "name")
	field(t, e.Target, to, "autoscaling/v2:horizontalpodautoscalers", "web", "source", "metadata", "labels", "of")
	field(t, e.Target, to, "v1:services", "door", "NodePort", "spec", "type")
	if len(e.Run.Facts.Updated) != 7 || len(e.Run.Facts.Created)+len(e.Run.Facts.Skipped) != 0 {
		t.Errorf("recorded: %+v", e.Run.Facts)
	}

	for _, undo := range []string{"traffic", "autoscalers", "update"} {
		deaths += dying(t, e, undo, "kube."+undo+"-undo")
	}
	after := standing(t, e.Target, to)
	for k, want := range before {
		if after[k] != want {
			t.Errorf("%s is not what it was:\n%s\n%s", k, want, after[k])
		}
	}
	if n := len(keepers(t, e)); n > 0 {
		t.Errorf("%d Secrets are left", n)
	}
	if deaths < 15 {
		t.Errorf("only %d daemons died", deaths)
	}
	bedtest.Await(t, "the target's own pods are back", func() bool {
		return bedtest.Field(t, e.Target, to, "apps/v1:deployments", "web", "status", "readyReplicas") == "2"
	})
}

// TestBedUpdateOfAnEarlierRun: a cutover has updated everything and opened, and
// its undo has not come to an end. The next one takes it over, and its own undo
// puts back what was there first.
func TestBedUpdateOfAnEarlierRun(t *testing.T) {
	e, from, to := updating(t)
	bedtest.Put(t, e.Source, from, fmt.Sprintf(sameNames, "source", from))
	bedtest.Put(t, e.Target, to, fmt.Sprintf(sameNames, "target", from))
	before := standing(t, e.Target, to)
	for _, step := range []string{"update", "autoscalers", "traffic"} {
		ends(t, e, step, "kube."+step, reconciler.Succeeded)
	}
	e.Run.Spec.Number++
	e.Run.Facts = spec.Facts{}
	for _, step := range []string{"update", "autoscalers", "traffic"} {
		ends(t, e, step, "kube."+step, reconciler.Succeeded)
	}
	if len(e.Run.Facts.Updated) != 7 || len(keepers(t, e)) != 7 {
		t.Errorf("%d objects are recorded, %d remembered, want 7: %v", len(e.Run.Facts.Updated), len(keepers(t, e)), e.Run.Facts.Updated)
	}
	for _, undo := range []string{"traffic", "autoscalers", "update"} {
		ends(t, e, undo, "kube."+undo+"-undo", reconciler.Succeeded)
	}
	after := standing(t, e.Target, to)
	for k, want := range before {
		if after[k] != want {
			t.Errorf("%s is not what it was:\n%s\n%s", k, want, after[k])
		}
	}
	if n := len(keepers(t, e)); n > 0 {
		t.Errorf("%d Secrets are left", n)
	}
}

const (
	theSettings = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {of: %s}}"
	withLabel   = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 0, selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}, spec: {containers: [{name: c, image: x}]}}}}"
)

// TestBedUpdateIsRefused: what cannot be changed is named by the dry run.
func TestBedUpdateIsRefused(t *testing.T) {
	e, from, to := updating(t)
	bedtest.Put(t, e.Source, from, fmt.Sprintf(withLabel, "source"))
	bedtest.Put(t, e.Target, to, fmt.Sprintf(withLabel, "target"))
	o := ends(t, e, "dry-run", "kube.dry-run", reconciler.Broken)
	for _, say := range []string{"target Deployment " + to + "/web is not updated", "immutable"} {
		if !strings.Contains(o.Message, say) {
			t.Errorf("it does not say %q: %s", say, o.Message)
		}
	}
}

// TestBedUpdateMeetsOthers: somebody writes into an object after it was
// remembered, makes it anew after it was updated, or deletes what was remembered.
func TestBedUpdateMeetsOthers(t *testing.T) {
	e, from, to := updating(t)
	maps := e.Target.Kube.CoreV1().ConfigMaps(to)
	bedtest.Put(t, e.Source, from, fmt.Sprintf(theSettings, "source"))
	bedtest.Put(t, e.Target, to, fmt.Sprintf(theSettings, "target"))
	ends(t, e, "update", "kube.update", reconciler.Succeeded)

	if err := maps.Delete(t.Context(), "settings", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	bedtest.Put(t, e.Target, to, fmt.Sprintf(theSettings, "somebody"))
	ends(t, e, "update", "kube.update-undo", reconciler.Succeeded)
	field(t, e.Target, to, "v1:configmaps", "settings", `{"of":"somebody"}`, "data")

	ends(t, e, "update", "kube.update", reconciler.Succeeded)
	unmarked := []byte(`{"metadata":{"annotations":null},"data":{"of":"a tool that keeps it"}}`)
	if _, err := maps.Patch(t.Context(), "settings", "application/merge-patch+json", unmarked, metav1.PatchOptions{FieldManager: "argocd-controller"}); err != nil {
		t.Fatal(err)
	}
	o := ends(t, e, "update", "kube.update", reconciler.Broken)
	if !strings.Contains(o.Message, "it was changed by Argo CD (argocd-controller) after") || !o.Final {
		t.Errorf("%s", o.Message)
	}
	ends(t, e, "update", "kube.update-undo", reconciler.Succeeded)
	field(t, e.Target, to, "v1:configmaps", "settings", `{"of":"a tool that keeps it"}`, "data")

	ends(t, e, "update", "kube.update", reconciler.Succeeded)
	for _, s := range keepers(t, e) {
		if err := e.Target.Delete(t.Context(), s.Record(spec.Target)); err != nil {
			t.Fatal(err)
		}
	}
	if o := ends(t, e, "update", "kube.update-undo", reconciler.Broken); o.Reason != "FormerObjectLost" || !strings.Contains(o.Message, "target ConfigMap "+to+"/settings") {
		t.Errorf("%s: %s", o.Reason, o.Message)
	}
}

package workload

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

// lab is one namespace on real clusters, and a run to try the verbs with.
// Without the bed (TRANSHIP_BED names its bed.json) its tests are skipped.
type lab struct {
	*testing.T
	env *kube.Env
	ns  string
}

type bedCluster struct {
	Server    string `json:"server"`
	CAFile    string `json:"caFile"`
	TokenFile string `json:"tokenFile"`
}

func newLab(t *testing.T) *lab {
	t.Helper()
	path := os.Getenv("TRANSHIP_BED")
	if path == "" {
		t.Skip("TRANSHIP_BED names no bed.json")
	}
	text, err := os.ReadFile(path)
	var bed map[string]json.RawMessage
	if err == nil {
		err = json.Unmarshal(text, &bed)
	}
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, ns: fmt.Sprintf("workload-%x", time.Now().UnixNano()&0xffffffff)}
	l.env = testEnv(l.ns)
	l.env.Log = slog.New(slog.DiscardHandler)
	l.env.Source, l.env.Target = connect(t, spec.Source, bed["source"]), connect(t, spec.Target, bed["target"])
	for _, c := range []*kube.Cluster{l.env.Source, l.env.Target} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.ns}}
		if _, err := c.Kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Kube.CoreV1().Namespaces().Delete(context.Background(), l.ns, metav1.DeleteOptions{}) })
	}
	return l
}

func connect(t *testing.T, side spec.Side, raw json.RawMessage) *kube.Cluster {
	t.Helper()
	var b bedCluster
	if err := json.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: b.Server, BearerTokenFile: b.TokenFile, TLSClientConfig: rest.TLSClientConfig{CAFile: b.CAFile}, QPS: 100, Burst: 200}
	return &kube.Cluster{Side: side, Name: string(side), Config: config, Kube: kubernetes.NewForConfigOrDie(config), Dynamic: dynamic.NewForConfigOrDie(config),
		Discovery: memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(config))}
}

// create makes objects from YAML in the lab's namespace of a cluster.
func (l *lab) create(c *kube.Cluster, documents string) {
	l.Helper()
	for _, doc := range strings.Split(documents, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			l.Fatal(err)
		}
		resource := strings.ToLower(u.GetKind()) + "s"
		gvr := u.GroupVersionKind().GroupVersion().WithResource(resource)
		if _, err := c.Dynamic.Resource(gvr).Namespace(l.ns).Create(l.Context(), u, metav1.CreateOptions{}); err != nil {
			l.Fatal(err)
		}
	}
}

func (l *lab) get(c *kube.Cluster, kind, name string) item {
	l.Helper()
	i, err := get(l.Context(), c, kindNamed(kind), l.ns, name)
	if err != nil || !i.exists() {
		l.Fatalf("%s %s: %v", kind, name, err)
	}
	return i
}

// until waits for a condition on the bed.
func (l *lab) until(what string, ok func() bool) {
	l.Helper()
	bedtest.Await(l.T, what, ok)
}

// pend is the look before a step begins; its facts are recorded.
func (l *lab) pend(verb string) {
	l.Helper()
	l.env.Step = spec.Step{Name: verb, Verb: verb, Attempt: 1}
	o, err := Verbs()[verb].Look(l.Context(), l.env)
	if err != nil {
		l.Fatal(err)
	}
	l.merge(o.Facts)
}

func (l *lab) merge(f *spec.Facts) {
	if f == nil {
		return
	}
	have := &l.env.Run.Facts
	if f.Workloads != nil {
		have.Workloads = f.Workloads
	}
	if f.Volumes != nil {
		have.Volumes = f.Volumes
	}
	if f.Times != nil {
		have.Times = f.Times
	}
}

// inARow is how many effects may follow each other without a look that waits.
// Every workload may need two, and each at an instant of its own.
const inARow = 20

// do runs a verb as the loop does, until it succeeds or breaks. It counts
// the effects: an Ensure that leaves the look Absent would be a busy loop.
func (l *lab) do(verb string) reconciler.Observation {
	l.Helper()
	l.env.Step = spec.Step{Name: verb, Verb: verb, Attempt: 1, State: spec.StepRunning}
	v := Verbs()[verb]
	ctx, cancel := context.WithTimeout(l.Context(), bedtest.Patience)
	defer cancel()
	effects, row, said := 0, 0, ""
	for ctx.Err() == nil {
		turn, stop := context.WithCancel(ctx)
		o, err := v.Look(turn, l.env)
		if err == nil {
			l.merge(o.Facts)
		}
		if err == nil && o.Seen == reconciler.Absent {
			effects++
			if row++; row > inARow {
				l.Fatalf("%s stays absent after %d effects in a row", verb, row)
			}
			err = v.Ensure(turn, l.env)
		}
		if err != nil { // the loop tries again, too
			stop()
			bedtest.Again(l.T, verb, err)
			continue
		}
		switch o.Seen {
		case reconciler.Succeeded, reconciler.Broken:
			stop()
			l.Logf("%s: %v %s %s (%d effects)", verb, o.Seen, o.Reason, o.Message, effects)
			return o
		case reconciler.Working:
			row = 0
			if o.Message != said {
				l.Logf("%s waits: %s %s [%s]", verb, o.Reason, o.Message, o.Object)
			}
			said = o.Message
			select {
			case <-o.Wake:
			case <-time.After(o.Poll):
			}
		}
		stop()
	}
	l.Fatalf("%s did not end in %s: %s", verb, bedtest.Patience, said)
	return reconciler.Observation{}
}

func (l *lab) must(verb string) reconciler.Observation {
	l.Helper()
	o := l.do(verb)
	if o.Seen != reconciler.Succeeded {
		l.Fatalf("%s: %s: %s", verb, o.Reason, o.Message)
	}
	return o
}

// clean fails when an object carries anything of ours.
func (l *lab) clean(i item) {
	l.Helper()
	for k, v := range i.GetAnnotations() {
		if strings.HasPrefix(k, "tranship.dev/") {
			l.Errorf("%s still has %s=%s", i.GetName(), k, v)
		}
	}
}

// ready waits until a workload of a cluster is healthy.
func (l *lab) ready(c *kube.Cluster, kind, name string) {
	l.Helper()
	l.until(kind+" "+name+" is healthy", func() bool {
		i := l.get(c, kind, name)
		return i.kind.unhealthy(i) == ""
	})
}

// pods counts the pods of the namespace that may run and whose name starts with prefix.
func (l *lab) pods(c *kube.Cluster, prefix string) int {
	l.Helper()
	list, err := c.Kube.CoreV1().Pods(l.ns).List(l.Context(), metav1.ListOptions{})
	if err != nil {
		l.Fatal(err)
	}
	n := 0
	for _, p := range list.Items {
		if strings.HasPrefix(p.Name, prefix) && !done(&p) {
			n++
		}
	}
	return n
}

// noMore removes the objects of kinds whose definitions go with the test.
func (l *lab) noMore(kinds ...string) {
	for _, c := range []*kube.Cluster{l.env.Source, l.env.Target} {
		for _, k := range kinds {
			_ = c.Dynamic.Resource(kindNamed(k).gvr).Namespace(l.ns).DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{})
		}
	}
}

// mappers lets verbs of other packages find out about kinds.
func (l *lab) mappers() {
	for _, c := range []*kube.Cluster{l.env.Source, l.env.Target} {
		c.Mapper = restmapper.NewDeferredDiscoveryRESTMapper(c.Discovery)
	}
}

// drive runs a verb of another package to its success.
func (l *lab) drive(v kube.Verb) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 2*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		o, err := v.Look(ctx, l.env)
		switch {
		case err != nil:
			l.Fatal(err)
		case o.Seen == reconciler.Succeeded:
			l.merge(o.Facts)
			return
		case o.Seen == reconciler.Broken:
			l.Fatalf("%s: %s", o.Reason, o.Message)
		case o.Seen == reconciler.Absent:
			if err := v.Ensure(ctx, l.env); err != nil {
				l.Fatal(err)
			}
		default:
			time.Sleep(100 * time.Millisecond)
		}
	}
	l.Fatal("it did not end")
}

func parsed(text string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		panic(err)
	}
	return u
}

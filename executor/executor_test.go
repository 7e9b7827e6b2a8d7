package executor

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/preflight"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

func TestEveryVerbHasAHandler(t *testing.T) {
	verbs := Verbs()
	all := maps.Clone(reconciler.Itineraries)
	all[spec.RunRollback] = reconciler.RollbackRows()
	for kind, steps := range all {
		for _, s := range steps {
			for _, name := range []string{s.Verb, s.Undo} {
				if v, ok := verbs[name]; name != "" && (!ok || v.Look == nil) {
					t.Errorf("step %s of %s runs asks for the verb %q, which no package has", s.Name, kind, name)
				}
			}
		}
	}
	used := map[string]bool{}
	for _, steps := range all {
		for _, s := range steps {
			used[s.Verb], used[s.Undo] = true, true
		}
	}
	for name := range verbs {
		if !used[name] {
			t.Errorf("no itinerary asks for the verb %q", name)
		}
	}
}

func TestNoTwoPackagesShareAVerb(t *testing.T) {
	sum := 0
	for _, verbs := range packages() {
		sum += len(verbs)
	}
	if all := len(Verbs()); all != sum {
		t.Errorf("%d verbs in the packages, %d in the registry", sum, all)
	}
}

type noSecrets struct{}

func (noSecrets) Read(context.Context, spec.SecretRef, string) ([]byte, error) {
	return nil, errors.New("no secrets here")
}

// server is an API server that knows kube-system and refuses everything else.
func server(t *testing.T, uid string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if !strings.HasSuffix(r.URL.Path, "/namespaces/kube-system") {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"no"}`))
			return
		}
		_, _ = w.Write([]byte(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"` + uid + `"}}`))
	}))
	t.Cleanup(s.Close)
	return s
}

func call(verb, source, target string) reconciler.Call {
	run := &spec.Run{Metadata: spec.Metadata{Name: "shop-migrate-1"}}
	run.Spec.Closure.Source = spec.Cluster{Metadata: spec.Metadata{Name: "old"}, Spec: spec.ClusterSpec{Server: source}}
	run.Spec.Closure.Target = spec.Cluster{Metadata: spec.Metadata{Name: "new"}, Spec: spec.ClusterSpec{Server: target}}
	return reconciler.Call{Run: run, Step: spec.Step{Name: "step", Attempt: 1}, Verb: verb}
}

func testExecutor(verbs map[string]kube.Verb) *Executor {
	x := New(noSecrets{}, func() kube.Settings { return kube.Settings{Namespace: "ours"} }, slog.New(slog.DiscardHandler))
	if verbs != nil {
		x.verbs = verbs
	}
	return x
}

const nowhere = "http://127.0.0.1:1"

func TestUnknownVerbIsAnError(t *testing.T) {
	x := testExecutor(nil)
	if _, err := x.Look(t.Context(), call("kube.levitate", nowhere, nowhere)); err == nil || !strings.Contains(err.Error(), `"kube.levitate"`) {
		t.Errorf("look: %v", err)
	}
	if err := x.Ensure(t.Context(), call("kube.levitate", nowhere, nowhere)); err == nil {
		t.Error("ensure did nothing and said nothing")
	}
}

func TestPreflightSaysWhichClusterCannotBeReached(t *testing.T) {
	o, err := testExecutor(nil).Look(t.Context(), call(preflight.Check, server(t, "a").URL, nowhere))
	if err != nil || o.Seen != reconciler.Broken || o.Reason != kube.ReasonTestConnectFailed || !strings.Contains(o.Message, "cluster new cannot be reached") {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestAVerbNeedsOnlyItsCluster(t *testing.T) {
	var seen *kube.Env
	effects := 0
	x := testExecutor(map[string]kube.Verb{
		"start-source": {
			Needs: []spec.Side{spec.Source},
			Look: func(_ context.Context, e *kube.Env) (reconciler.Observation, error) {
				seen = e
				return reconciler.Observation{Seen: reconciler.Succeeded}, nil
			},
			Ensure: func(context.Context, *kube.Env) error { effects++; return nil },
		},
		"both": {Look: func(context.Context, *kube.Env) (reconciler.Observation, error) { return reconciler.Observation{}, nil }},
	})
	c := call("start-source", server(t, "a").URL, nowhere)
	if _, err := x.Look(t.Context(), c); err != nil || seen.Source == nil || seen.Target != nil {
		t.Fatalf("with a dead target: %v, %+v", err, seen)
	}
	if err := x.Ensure(t.Context(), c); err != nil || effects != 1 {
		t.Fatalf("with a dead target: %v, %d effects", err, effects)
	}
	c.Verb = "both"
	if _, err := x.Look(t.Context(), c); err == nil {
		t.Error("a verb of both clusters ran with one")
	}
	if err := x.Ensure(t.Context(), c); err == nil || !strings.Contains(err.Error(), "only reads") {
		t.Errorf("ensure of a reading verb: %v", err)
	}
}

func TestErrorsNameTheVerb(t *testing.T) {
	x := testExecutor(map[string]kube.Verb{"v": {Look: func(context.Context, *kube.Env) (reconciler.Observation, error) {
		return reconciler.Observation{}, errors.New("cluster old: cannot list pods")
	}}})
	if _, err := x.Look(t.Context(), call("v", server(t, "a").URL, server(t, "b").URL)); err == nil || err.Error() != "v: cluster old: cannot list pods" {
		t.Errorf("got %v", err)
	}
}

func TestSurveySaysWhyAClusterCannotBeUsed(t *testing.T) {
	c := call("", nowhere, nowhere)
	s, err := testExecutor(nil).Survey(t.Context(), &c.Run.Spec.Closure, nil)
	if err != nil || s.Reason != kube.ReasonTestConnectFailed || !strings.Contains(s.Problem, "cluster old") {
		t.Errorf("got %+v, %v", s, err)
	}
}

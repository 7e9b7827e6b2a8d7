package executor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// remembering is an API server that knows kube-system and keeps the ConfigMap of the
// epoch as it came, once it has our namespace.
func remembering(t *testing.T, uid string, bare *atomic.Bool) *httptest.Server {
	t.Helper()
	var mu sync.Mutex
	var kept []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.HasSuffix(r.URL.Path, "/kube-system"):
			_, _ = w.Write([]byte(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"` + uid + `"}}`))
			return
		case r.Method == http.MethodGet && (kept == nil || !strings.Contains(r.URL.Path, "tranship-epoch-")):
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`))
			return
		case r.Method == http.MethodGet:
			body = kept
		case bare.Load():
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`))
			return
		case strings.Contains(string(body), "tranship-epoch-"):
			kept = body
		}
		w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s
}

// TestAnOlderDaemonActsOnNeitherCluster: a daemon has taken over and looked at its
// run, with nothing to do yet. The one before, which may not see Git, finds that
// on both clusters.
func TestAnOlderDaemonActsOnNeitherCluster(t *testing.T) {
	var bare atomic.Bool
	source, target := remembering(t, "a", &bare), remembering(t, "b", &bare)
	effects := map[string]int{}
	verb := func(name string, side spec.Side) kube.Verb {
		return kube.Verb{Needs: []spec.Side{side},
			Look: func(context.Context, *kube.Env) (reconciler.Observation, error) {
				return reconciler.Observation{Seen: reconciler.Working}, nil
			},
			Ensure: func(context.Context, *kube.Env) error { effects[name]++; return nil }}
	}
	verbs := map[string]kube.Verb{"on-source": verb("on-source", spec.Source), "on-target": verb("on-target", spec.Target)}
	of := func(epoch int64) *Executor {
		x := New(noSecrets{}, func() kube.Settings { return kube.Settings{Namespace: "ours", Shard: "s", Epoch: epoch} }, slog.New(slog.DiscardHandler))
		x.verbs = verbs
		return x
	}
	older, newer := of(1), of(2)
	for name := range verbs {
		if err := older.Ensure(t.Context(), call(name, source.URL, target.URL)); err != nil || effects[name] != 1 {
			t.Fatalf("before the take-over: %s %v, %v", name, err, effects)
		}
	}
	if _, err := newer.Look(t.Context(), call("on-source", source.URL, target.URL)); err != nil {
		t.Fatal(err)
	}
	for name := range verbs {
		if err := older.Ensure(t.Context(), call(name, source.URL, target.URL)); !errors.Is(err, reconciler.ErrSuperseded) || effects[name] != 1 {
			t.Errorf("after it: %s: %v, %v", name, err, effects)
		}
	}
	if _, err := of(1).Look(t.Context(), call("on-target", source.URL, target.URL)); !errors.Is(err, reconciler.ErrSuperseded) {
		t.Errorf("an older one that begins now: %v", err)
	}
}

// TestTheEpochStandsWhereOurNamespaceIs: a cluster without it keeps no epoch. A daemon
// that has looked there by then looks again, before the one that it has replaced
// makes the namespace and acts on.
func TestTheEpochStandsWhereOurNamespaceIs(t *testing.T) {
	var bare atomic.Bool
	bare.Store(true)
	source, target := remembering(t, "a", &bare), remembering(t, "b", &bare)
	e := func(epoch int64) (*kube.Env, error) {
		x := New(noSecrets{}, func() kube.Settings { return kube.Settings{Namespace: "ours", Shard: "s", Epoch: epoch} }, slog.New(slog.DiscardHandler))
		env, err := x.env(t.Context(), call("any", source.URL, target.URL), kube.Verb{Needs: bothSides[:]})
		return env, err
	}
	older, err := e(1)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := e(2)
	if err != nil {
		t.Fatal(err)
	}
	var f fences
	for _, without := range []bool{true, false} {
		bare.Store(without)
		if err := f.raise(t.Context(), newer); err != nil {
			t.Fatal(err)
		}
	}
	for _, side := range bothSides {
		if err := older.On(side).Guard(t.Context(), &older.Settings); !errors.Is(err, reconciler.ErrSuperseded) {
			t.Errorf("the older daemon may act on the %s: %v", side, err)
		}
	}
}

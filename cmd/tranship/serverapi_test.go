package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tranship/tranship/reconciler"
)

// The daemon answers probes, metrics and progress, and takes orders that have the
// token: none of them returns anything, and nobody without it is heard
// (CVE-2025-55190). Profiles are there only where --profile asks for them.
func TestServerGivesNothingAway(t *testing.T) {
	source, err := os.ReadFile("server.go")
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, m := range regexp.MustCompile(`mux\.Handle(?:Func)?\("([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		routes = append(routes, m[1])
	}
	reads := []string{"GET /healthz", "GET /readyz", "GET /progress", "POST ", "GET /metrics"}
	orders := []string{"POST /reconcile", "POST /acknowledge", "POST /target-is-dead", "POST /adopt"}
	if !slices.Equal(routes, slices.Concat(reads, orders)) {
		t.Fatalf("the daemon answers %q: say here what the new one gives away", routes)
	}
	const token = "Tr0ub4dor-and-3"
	registry := prometheus.NewRegistry()
	told := newMetrics(registry, slog.New(slog.DiscardHandler))
	loop := reconciler.New(reconciler.Config{Log: slog.New(slog.DiscardHandler), Clock: clock{}})
	s := (&server{loop: loop, interval: time.Second, token: []byte(token), registry: registry, progress: told.board, hooks: newHookServer().webhooks}).handler()
	ask := func(method, path, authorization string) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(""))
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, path := range []string{"/", "/config", "/secrets", "/status", "/runs", "/debug/pprof/heap", "/debug/pprof/", "/reconcile", "/adopt"} {
		if code, body := ask(http.MethodGet, path, "Bearer "+token); code < 400 {
			t.Errorf("GET %s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/progress", "/metrics"} {
		if _, body := ask(http.MethodGet, path, ""); strings.Contains(body, token) || strings.Contains(body, hookSecret) {
			t.Errorf("GET %s shows a secret", path)
		}
	}
	for _, order := range orders {
		path := strings.TrimPrefix(order, "POST ")
		for _, wrong := range []string{"", token, "Bearer ", "Bearer " + token + "x", "Basic " + token} {
			if code, _ := ask(http.MethodPost, path, wrong); code != http.StatusUnauthorized {
				t.Errorf("%s with %q: %d", order, wrong, code)
			}
		}
	}
	if len(loop.Trigger) > 0 {
		t.Error("a poll is wanted by somebody without the token")
	}
	for range 2 { // the second is the same wish
		if code, body := ask(http.MethodPost, "/reconcile", "Bearer "+token); code != http.StatusAccepted || body != "" || len(loop.Trigger) != 1 {
			t.Errorf("POST /reconcile: %d %q, %d polls wanted", code, body, len(loop.Trigger))
		}
	}
	if code, body := ask(http.MethodPost, "/acknowledge", "Bearer "+token); code != http.StatusAccepted || body != "" { // of no commit
		t.Errorf("POST /acknowledge: %d %q", code, body)
	}
}

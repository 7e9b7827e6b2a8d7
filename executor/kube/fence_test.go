package kube

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAnEffectThatWasPausedAsksAgain: between two requests of one effect the process
// stands still, and another daemon takes over. The second request is not sent.
func TestAnEffectThatWasPausedAsksAgain(t *testing.T) {
	epoch, asked, changed := "5", 0, 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/tranship-epoch-s"):
			asked++
			_ = json.NewEncoder(w).Encode(corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, Data: map[string]string{epochKey: epoch}})
		case r.Method == http.MethodGet:
			_ = json.NewEncoder(w).Encode(corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}})
		default:
			changed++
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})
		}
	}))
	t.Cleanup(s.Close)
	doc := &spec.Cluster{Metadata: spec.Metadata{Name: "old"}, Spec: spec.ClusterSpec{Server: s.URL}}
	config, err := Config(t.Context(), doc, mapSecrets{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := open(spec.Source, doc, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := Fenced(t.Context(), Settings{Namespace: "ours", Epoch: 5, Shard: "s"})
	remove := func() error { return c.Kube.CoreV1().Pods("shop").Delete(ctx, "web", metav1.DeleteOptions{}) }
	for range 2 {
		if err := remove(); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 || changed != 2 {
		t.Errorf("asked %d times for the epoch with %d changes", asked, changed)
	}
	epoch = "6"
	fenceOf(ctx).note(c, time.Now().Add(-epochHolds))
	if err := remove(); !errors.Is(err, reconciler.ErrSuperseded) || changed != 2 {
		t.Errorf("after the pause: %v, %d changes", err, changed)
	}
	if _, err := c.Kube.CoreV1().Pods("shop").Get(ctx, "web", metav1.GetOptions{}); err != nil {
		t.Errorf("reading is no effect: %v", err)
	}
}

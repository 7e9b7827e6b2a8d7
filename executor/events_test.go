package executor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func event(minute int, reason, message string) corev1.Event {
	return corev1.Event{Reason: reason, Message: message, LastTimestamp: metav1.Date(2026, 12, 1, 10, minute, 0, 0, time.UTC)}
}

// A wait says what happened to the object in the way: the newest events of exactly
// that object, and not before it is worth a question.
func TestAWaitTellsTheLastEvents(t *testing.T) {
	var asked []string
	answer := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+"?"+r.URL.Query().Get("fieldSelector"))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(answer)
		_ = json.NewEncoder(w).Encode(corev1.EventList{TypeMeta: metav1.TypeMeta{Kind: "EventList", APIVersion: "v1"}, Items: []corev1.Event{
			event(1, "Scheduled", "oldest"), event(4, "Killing", "newest\nof  all"), event(2, "Pulled", "second"), event(3, "Unhealthy", strings.Repeat("x", 300))}})
	}))
	defer s.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	start := metav1.NewMicroTime(time.Now().Add(-time.Minute))
	env := func(run string) *kube.Env {
		return &kube.Env{Call: reconciler.Call{Run: &spec.Run{Metadata: spec.Metadata{Name: run}}, Step: spec.Step{Name: "drained", Started: &start}}, Source: &kube.Cluster{Kube: client}}
	}
	d := &diary{}
	waits := func(run, object string) *reconciler.Observation {
		o := &reconciler.Observation{Seen: reconciler.Working, Object: object}
		d.tell(context.Background(), env(run), o)
		return o
	}
	want := []string{"2026-12-01T10:04:00Z Killing: newest of all", "2026-12-01T10:03:00Z Unhealthy: " + strings.Repeat("x", 300), "2026-12-01T10:02:00Z Pulled: second"}
	for range 3 { // a wait looks again every few seconds
		if got := waits("a", "source Pod shop/web-1").Events; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %q", got)
		}
	}
	waits("a", "source PersistentVolume pvc-1")
	waits("a", "target Pod shop/web-1") // a cluster that this step does without
	waits("a", "")
	if got, want := strings.Join(asked, "\n"), "/api/v1/namespaces/shop/events?involvedObject.kind=Pod,involvedObject.name=web-1,involvedObject.namespace=shop\n"+
		"/api/v1/namespaces/default/events?involvedObject.kind=PersistentVolume,involvedObject.name=pvc-1,involvedObject.namespace="; got != want {
		t.Errorf("asked\n%s", got)
	}
	answer = http.StatusForbidden
	if got := waits("b", "source Pod shop/web-1").Events; got != nil {
		t.Errorf("a refusal is an event: %q", got)
	}
	start = metav1.NewMicroTime(time.Now())
	if waits("c", "source Pod shop/web-1"); len(asked) != 3 {
		t.Errorf("a wait that has just begun asked: %q", asked)
	}
}

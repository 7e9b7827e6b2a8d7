package hook

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// A node that has removed a container says so in place of its output, and not as an
// error: what was kept before is the hook's output.
func TestOutputThatTheNodeHasRemoved(t *testing.T) {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "freeze", UID: "j"}}
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "freeze-1", OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: "freeze", UID: "j", Controller: ptr.To(true)}}}}
	said := "half frozen\n"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/log") {
			_, _ = w.Write([]byte(said))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{pod}})
	}))
	defer s.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	c, k := &kube.Cluster{Kube: client}, &keeper{}
	k.keep(t.Context(), c, job)
	said = "unable to retrieve container logs for containerd://8e49580d0376"
	k.keep(t.Context(), c, job)
	if got := k.read(t.Context(), c, job); !strings.Contains(got, "half frozen") || strings.Contains(got, "unable") {
		t.Errorf("read %q", got)
	}
	if got := (&keeper{}).read(t.Context(), c, job); !strings.Contains(got, "freeze-1") || strings.Contains(got, "containerd") {
		t.Errorf("with nothing kept it says %q", got)
	}
}

package mover

import (
	"testing"

	"github.com/tranship/tranship/executor/kube"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubefake "k8s.io/client-go/kubernetes/fake"
)

// A stopped DaemonSet asks for a label that no node has; what copies its claims
// must not ask for it too.
func TestMoversOfAStoppedDaemonSetFindANode(t *testing.T) {
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "agent"},
		Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{NodeSelector: map[string]string{"disk": "ssd", kube.NoNode: "true"}}}}}
	owners, err := listApps(t.Context(), &kube.Cluster{Kube: kubefake.NewClientset(d)}, "shop")
	if err != nil || len(owners) != 1 {
		t.Fatalf("%v %v", owners, err)
	}
	if s := owners[0].Template.Spec.NodeSelector; len(s) != 1 || s["disk"] != "ssd" {
		t.Errorf("the node selector is %v", s)
	}
}

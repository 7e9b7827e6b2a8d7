package preflight_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/executor/preflight"
	"github.com/tranship/tranship/reconciler"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestBedKEDA: what KEDA scales by may be moved, and what it has made itself is
// in nobody's way.
func TestBedKEDA(t *testing.T) {
	name := fmt.Sprintf("keda-%d", time.Now().UnixNano()%1e8)
	e := bedtest.Env(t, name, name, name)
	for _, c := range []*kube.Cluster{e.Source, e.Target} {
		for resource, kind := range map[string]string{"scaledobjects": "ScaledObject", "triggerauthentications": "TriggerAuthentication"} {
			bedtest.Definition(t, c, schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: resource}, kind)
		}
	}
	bedtest.Namespace(t, e.Source, name, nil)
	bedtest.Put(t, e.Source, name, strings.Join([]string{
		"{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: web}, spec: {scaleTargetRef: {name: web}, triggers: []}}",
		"{apiVersion: keda.sh/v1alpha1, kind: TriggerAuthentication, metadata: {name: queue}, spec: {}}",
	}, "\n---\n"))
	uid := bedtest.Field(t, e.Source, name, "keda.sh/v1alpha1:scaledobjects", "web", "metadata", "uid")
	bedtest.Put(t, e.Source, name, "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: keda-hpa-web, ownerReferences: [{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, name: web, uid: "+uid+", controller: true}]}, spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}")
	if o := bedtest.Drive(t, e, preflight.Verbs(), "preflight", preflight.Check, 1); o.Seen != reconciler.Succeeded {
		t.Errorf("got %s %s", o.Reason, o.Message)
	}
}

package preflight

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// asked is the state of a source that has objects, one in each text, where
// groups of several parts are those of definitions.
func asked(t *testing.T, texts ...string) *state {
	t.Helper()
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: 1}}
	s := &state{Env: &kube.Env{Call: reconciler.Call{Run: run}, Source: &kube.Cluster{Name: "old"}}, custom: map[schema.GroupResource]bool{}}
	for _, text := range texts {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		u.SetNamespace("shop")
		gvr, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		s.listed = append(s.listed, kube.Item{GVR: gvr, Unstructured: u})
		if strings.Contains(gvr.Group, ".") && !strings.HasSuffix(gvr.Group, ".k8s.io") {
			s.custom[gvr.GroupResource()] = true
		}
	}
	s.covered = kube.Select(s.listed)
	return s
}

const (
	keda     = "{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: web}}"
	kedasHPA = "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: keda-hpa-web, ownerReferences: [{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, name: web, uid: a, controller: true}]}}"
	shop     = "{apiVersion: example.com/v1, kind: Shop, metadata: {name: main, uid: shop}}"
	child    = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, uid: db, ownerReferences: [{apiVersion: example.com/v1, kind: Shop, name: main, uid: shop, controller: true}]}}"
)

func config(triggers string) string {
	return "{apiVersion: apps.openshift.io/v1, kind: DeploymentConfig, metadata: {name: web}, spec: {triggers: " + triggers + "}}"
}

// What is refused, by name, and what is let pass.
func TestWorkloads(t *testing.T) {
	for name, c := range map[string]struct {
		objects []string
		says    []string // of the refusal; nil: there is none
	}{
		"KEDA":                        {objects: []string{keda, kedasHPA, "{apiVersion: keda.sh/v1alpha1, kind: TriggerAuthentication, metadata: {name: q}}"}},
		"another kind of KEDA's":      {objects: []string{"{apiVersion: keda.sh/v1alpha1, kind: CloudEventSource, metadata: {name: q}}"}, says: []string{"custom resources: source CloudEventSource shop/q"}},
		"a DeploymentConfig":          {objects: []string{config("[{type: ConfigChange}]")}},
		"one that waits for people":   {objects: []string{config("[]")}, says: []string{"without a trigger", "DeploymentConfig shop/web"}},
		"a ReplicationController":     {objects: []string{config("[{type: ImageChange}]"), "{apiVersion: v1, kind: ReplicationController, metadata: {name: web-1, ownerReferences: [{apiVersion: apps.openshift.io/v1, kind: DeploymentConfig, name: web, uid: a, controller: true}]}}"}},
		"an operator's":               {objects: []string{shop, child}, says: []string{"custom resources: source Shop shop/main", "StatefulSet shop/db (of Shop main)"}},
		"a workload of a ConfigMap":   {objects: []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: release, uid: a, controller: true}]}}"}, says: []string{"Deployment shop/web (of ConfigMap release)"}},
		"a CronJob's Job":             {objects: []string{"{apiVersion: batch/v1, kind: Job, metadata: {name: a, ownerReferences: [{apiVersion: batch/v1, kind: CronJob, name: c, uid: c, controller: true}]}}"}},
		"a Deployment's ReplicaSet":   {objects: []string{"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: c, uid: c, controller: true}]}}"}},
		"a custom resource by itself": {objects: []string{shop}, says: []string{"custom resources: source Shop shop/main"}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := workloads(t.Context(), asked(t, c.objects...))
			if err != nil {
				t.Fatal(err)
			}
			refusal := ""
			for _, f := range found {
				if !f.Warning {
					refusal = f.Message
				}
			}
			if (refusal == "") != (c.says == nil) {
				t.Fatalf("refused: %q", refusal)
			}
			for _, want := range c.says {
				if !strings.Contains(refusal, want) {
					t.Errorf("%q does not say %q", refusal, want)
				}
			}
		})
	}
}

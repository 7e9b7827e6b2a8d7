package preflight

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// asked is the state of a source that has objects, one in each text, where
// groups of several parts are those of definitions. The plan's selector leaves out
// what has the label team: other.
func asked(t *testing.T, texts ...string) *state {
	t.Helper()
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: 1}}
	s := &state{Env: &kube.Env{Call: reconciler.Call{Run: run}, Source: &kube.Cluster{Name: "old"}}, custom: kube.Definitions{{Group: "example.com", Resource: "shops"}: true}}
	for _, text := range texts {
		u := &unstructured.Unstructured{}
		raw, err := yaml.YAMLToJSON([]byte(text))
		if err == nil {
			err = u.UnmarshalJSON(raw) // numbers as the API has them
		}
		if err != nil {
			t.Fatal(err)
		}
		u.SetNamespace("shop")
		gvr, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		i := kube.Item{GVR: gvr, Unstructured: u}
		s.all = append(s.all, i)
		if u.GetLabels()["team"] == "other" {
			continue // left out by the selector
		}
		s.listed = append(s.listed, i)
		if u.GetKind() == "PersistentVolumeClaim" {
			s.volumes.Volumes = append(s.volumes.Volumes, spec.Volume{Namespace: "shop", Claim: u.GetName()})
		}
		if strings.Contains(gvr.Group, ".") && !strings.HasSuffix(gvr.Group, ".k8s.io") {
			s.custom[gvr.GroupResource()] = true
		}
	}
	s.covered = kube.Select(s.listed)
	return s
}

const (
	keda       = "{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: web}}"
	kedasHPA   = "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: keda-hpa-web, ownerReferences: [{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, name: web, uid: a, controller: true}]}}"
	shop       = "{apiVersion: example.com/v1, kind: Shop, metadata: {name: main, uid: shop}}"
	grandchild = "{apiVersion: v1, kind: Pod, metadata: {name: db-0, uid: pod, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: db, controller: true}]}}"
	lonely     = "{apiVersion: v1, kind: Pod, metadata: {name: lonely, uid: l, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: c, uid: c}]}, status: {phase: Running}}"
	lonelys    = "{apiVersion: v1, kind: ConfigMap, metadata: {name: conf, uid: conf, ownerReferences: [{apiVersion: v1, kind: Pod, name: lonely, uid: l, controller: true}]}}"
	child      = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, uid: db, ownerReferences: [{apiVersion: example.com/v1, kind: Shop, name: main, uid: shop, controller: true}]}}"
)

func config(triggers string) string {
	return "{apiVersion: apps.openshift.io/v1, kind: DeploymentConfig, metadata: {name: web}, spec: {triggers: " + triggers + "}}"
}

func claim(name, more string) string {
	return "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: " + name + ", uid: claim-" + name + ", " + more + "}}"
}

// What is refused, by name, and what is let pass.
func TestWorkloads(t *testing.T) {
	for name, c := range map[string]struct {
		objects []string
		hook    *spec.PlanHook
		says    []string // of the refusal; nil: there is none
		warns   []string // of the warnings
	}{
		"KEDA":                        {objects: []string{keda, kedasHPA, "{apiVersion: keda.sh/v1alpha1, kind: TriggerAuthentication, metadata: {name: q}}"}},
		"another kind of KEDA's":      {objects: []string{"{apiVersion: keda.sh/v1alpha1, kind: CloudEventSource, metadata: {name: q}}"}},
		"a DeploymentConfig":          {objects: []string{config("[{type: ConfigChange}]")}},
		"one that waits for people":   {objects: []string{config("[]")}, says: []string{"without a trigger", "DeploymentConfig shop/web"}},
		"a ReplicationController":     {objects: []string{config("[{type: ImageChange}]"), "{apiVersion: v1, kind: ReplicationController, metadata: {name: web-1, ownerReferences: [{apiVersion: apps.openshift.io/v1, kind: DeploymentConfig, name: web, uid: a, controller: true}]}}"}},
		"an operator's":               {objects: []string{shop, child}, says: []string{"no PreBackup hook stops", "StatefulSet shop/db (of Shop main)"}},
		"with a hook and no way back": {objects: []string{shop, child}, hook: &spec.PlanHook{Hook: "stop", Phase: spec.PreBackup}, says: []string{"no PreBackup hook stops"}},
		"with a hook on the target":   {objects: []string{shop, child}, hook: &spec.PlanHook{Hook: "stop", Phase: spec.PreBackup, Undo: "start", Cluster: spec.Target}, says: []string{"no PreBackup hook stops"}},
		"with a hook that stops it":   {objects: []string{shop, child}, hook: &spec.PlanHook{Hook: "stop", Phase: spec.PreBackup, Undo: "start"}, warns: []string{}},
		"further down":                {objects: []string{shop, child, grandchild}, hook: &spec.PlanHook{Hook: "stop", Phase: spec.PreBackup, Undo: "start"}, warns: []string{}},
		"further down, no hook":       {objects: []string{shop, child, grandchild}, says: []string{"Pod shop/db-0 (of StatefulSet db)"}},
		"one whose claims go":         {objects: []string{shop, strings.Replace(child, "metadata:", "spec: {persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}}, metadata:", 1)}, hook: &spec.PlanHook{Hook: "stop", Phase: spec.PreBackup, Undo: "start"}, says: []string{"whose claims go", "StatefulSet shop/db"}},
		"a snapshot":                  {objects: []string{"{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: old}}"}, says: []string{"content of the source's storage", "VolumeSnapshot shop/old"}},
		"a subscription":              {objects: []string{"{apiVersion: operators.coreos.com/v1alpha1, kind: Subscription, metadata: {name: pg}}"}, says: []string{"lifecycle manager", "Subscription shop/pg"}},
		"one that rests":              {objects: []string{shop, strings.Replace(child, "metadata:", "spec: {replicas: 0}, metadata:", 1)}},
		"one that is not covered":     {objects: []string{child}, says: []string{"that the plan does not cover", "StatefulSet shop/db (of Shop main)"}},
		"its password":                {objects: []string{shop, strings.NewReplacer("apps/v1", "v1", "StatefulSet", "Secret").Replace(child)}, warns: []string{"makes these anew", "Secret shop/db (of Shop main)"}},
		"its claim":                   {objects: []string{shop, strings.NewReplacer("apps/v1", "v1", "StatefulSet", "PersistentVolumeClaim").Replace(child)}, warns: []string{"takes what is there", "PersistentVolumeClaim shop/db"}},
		"a claim that it owns and the selector leaves out":  {objects: []string{shop, claim("db", "labels: {team: other}, ownerReferences: [{apiVersion: example.com/v1, kind: Shop, name: main, uid: shop, controller: true}]")}, says: []string{"leaves out", "PersistentVolumeClaim shop/db"}},
		"a claim of a pod further down":                     {objects: []string{shop, child, strings.NewReplacer("metadata: {", "spec: {volumes: [{name: a, persistentVolumeClaim: {claimName: db}}]}, metadata: {labels: {team: other}, ").Replace(grandchild), claim("db", "labels: {team: other}")}, hook: &spec.PlanHook{Hook: "stop", Phase: spec.PreBackup, Undo: "start"}, says: []string{"leaves out", "PersistentVolumeClaim shop/db"}},
		"a claim of a StatefulSet at zero":                  {objects: []string{shop, strings.Replace(child, "metadata: {", "spec: {replicas: 0, volumeClaimTemplates: [{metadata: {name: data}}]}, metadata: {labels: {team: other}, ", 1), claim("data-db-0", "labels: {team: other}"), claim("data-db-x", "labels: {team: other}")}, says: []string{"PersistentVolumeClaim shop/data-db-0"}},
		"a claim that it mounts and the plan has":           {objects: []string{shop, strings.Replace(child, "metadata: {", "spec: {replicas: 0, volumeClaimTemplates: [{metadata: {name: data}}]}, metadata: {labels: {team: other}, ", 1), claim("data-db-0", "")}},
		"others' claims":                                    {objects: []string{shop, claim("data", "labels: {team: other}"), "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {team: other}}, spec: {template: {spec: {volumes: [{name: a, persistentVolumeClaim: {claimName: data}}]}}}}"}},
		"what an operator runs and the selector leaves out": {objects: []string{shop, strings.Replace(child, "metadata: {", "metadata: {labels: {team: other}, ", 1)}, says: []string{"no PreBackup hook stops", "StatefulSet shop/db"}},
		"others' custom resources":                          {objects: []string{strings.Replace(shop, "metadata: {", "metadata: {labels: {team: other}, ", 1), strings.Replace(child, "metadata: {", "metadata: {labels: {team: other}, ", 1)}},
		"a workload of a ConfigMap":                         {objects: []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: release, uid: a, controller: true}]}}"}, says: []string{"Deployment shop/web (of ConfigMap release)"}},
		"a CronJob's Job":                                   {objects: []string{"{apiVersion: batch/v1, kind: Job, metadata: {name: a, ownerReferences: [{apiVersion: batch/v1, kind: CronJob, name: c, uid: c, controller: true}]}}"}},
		"a Deployment's ReplicaSet":                         {objects: []string{"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: c, uid: c, controller: true}]}}"}},
		"a custom resource by itself":                       {objects: []string{shop}},
		"a pod without a controller":                        {objects: []string{lonely}, warns: []string{"the stop deletes pods without a controller", "emptyDir", "Pod shop/lonely"}},
		"what would go with one":                            {objects: []string{lonely, lonelys}, says: []string{"would go for good", "ConfigMap shop/conf"}, warns: []string{"the stop deletes pods without a controller"}},
		"what would go with one that a hook may remove":     {objects: []string{lonely, lonelys}, hook: &spec.PlanHook{Hook: "remove", Phase: spec.PreBackup}, warns: []string{"on neither side"}},
		"one that a hook may remove":                        {objects: []string{lonely}, hook: &spec.PlanHook{Hook: "remove", Phase: spec.PreBackup}, warns: []string{"on neither side", "Pod shop/lonely"}},
		"one that has ended, a node's, and one of a Job":    {objects: []string{strings.Replace(lonely, "Running", "Succeeded", 1), strings.Replace(lonely, "uid: l", "uid: m, annotations: {kubernetes.io/config.mirror: x}", 1), strings.Replace(lonely, "uid: c}", "uid: c, controller: true}", 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := asked(t, c.objects...)
			if c.hook != nil {
				s.Run.Spec.Closure.Plan.Spec.Hooks = []spec.PlanHook{*c.hook}
			}
			found, err := workloads(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			refusal, warnings := "", ""
			for _, f := range found {
				if f.Warning {
					warnings += f.Message
				} else {
					refusal = f.Message
				}
			}
			for _, want := range c.warns {
				if !strings.Contains(warnings, want) {
					t.Errorf("%q does not warn of %q", warnings, want)
				}
			}
			if c.warns == nil && strings.Contains(warnings, "pods without a controller") {
				t.Errorf("it warns: %q", warnings)
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

package kube

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

var moved = Translation{
	Namespaces: map[string]string{"shop": "store"},
	Volumes: []spec.Volume{
		{Namespace: "shop", Claim: "data", TargetClaim: "files", Action: "copy"},
		{Namespace: "shop", Claim: "left", TargetClaim: "behind", Action: "skip"},
		{Namespace: "shop", Claim: "same", TargetClaim: "same", Action: "copy"},
		{Namespace: "other", Claim: "log", TargetClaim: "logs", Action: "copy"},
		{Namespace: "shop", Claim: "db-mysql-0", TargetClaim: "db-mysql-0", Action: "copy", Template: &spec.ClaimTemplate{StatefulSet: "mysql", Name: "db", StorageClassName: "gold", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}}},
		{Namespace: "shop", Claim: "x-mysql-0", TargetClaim: "x-mysql-0", Action: "copy", Template: &spec.ClaimTemplate{StatefulSet: "mysql", Name: "x"}},
	},
}

// TestClaimPatch: every kind with a pod spec mounts claims by their new names,
// and templates get the class and the modes of what was copied.
func TestClaimPatch(t *testing.T) {
	const (
		volumes = `[{name: a, persistentVolumeClaim: {claimName: data, readOnly: true}}, {name: b, persistentVolumeClaim: {claimName: same}}, {name: c, emptyDir: {}}, {name: d, persistentVolumeClaim: {claimName: left}}, {name: e, persistentVolumeClaim: {claimName: log}}]`
		renamed = `[{"name":"a","persistentVolumeClaim":{"claimName":"files","readOnly":true}},{"name":"b","persistentVolumeClaim":{"claimName":"same"}},{"emptyDir":{},"name":"c"},{"name":"d","persistentVolumeClaim":{"claimName":"left"}},{"name":"e","persistentVolumeClaim":{"claimName":"log"}}]`
	)
	template := func(kind string) string {
		return "{apiVersion: " + kind + ", metadata: {name: w, namespace: shop}, spec: {template: {spec: {volumes: " + volumes + "}}}}"
	}
	inTemplate := `{"spec":{"template":{"spec":{"volumes":` + renamed + `}}}}`
	for name, c := range map[string]struct{ source, want string }{
		"Deployment":            {template("apps/v1, kind: Deployment"), inTemplate},
		"StatefulSet":           {template("apps/v1, kind: StatefulSet"), inTemplate},
		"DaemonSet":             {template("apps/v1, kind: DaemonSet"), inTemplate},
		"ReplicaSet":            {template("apps/v1, kind: ReplicaSet"), inTemplate},
		"Job":                   {template("batch/v1, kind: Job"), inTemplate},
		"ReplicationController": {template("v1, kind: ReplicationController"), inTemplate},
		"DeploymentConfig":      {template("apps.openshift.io/v1, kind: DeploymentConfig"), inTemplate},
		"image triggers": {"{apiVersion: apps.openshift.io/v1, kind: DeploymentConfig, metadata: {name: w, namespace: shop}, spec: {triggers: [{type: ConfigChange}, {type: ImageChange, imageChangeParams: {from: {namespace: shop, name: 'w:1'}}}, {type: ImageChange, imageChangeParams: {from: {namespace: openshift, name: 'w:1'}}}]}}",
			`{"spec":{"triggers":[{"type":"ConfigChange"},{"imageChangeParams":{"from":{"name":"w:1","namespace":"store"}},"type":"ImageChange"},{"imageChangeParams":{"from":{"name":"w:1","namespace":"openshift"}},"type":"ImageChange"}]}}`},
		"CronJob":            {"{apiVersion: batch/v1, kind: CronJob, metadata: {name: w, namespace: shop}, spec: {jobTemplate: {spec: {template: {spec: {volumes: " + volumes + "}}}}}}", `{"spec":{"jobTemplate":{"spec":{"template":{"spec":{"volumes":` + renamed + `}}}}}}`},
		"Pod":                {"{apiVersion: v1, kind: Pod, metadata: {name: w, namespace: shop}, spec: {volumes: " + volumes + "}}", `{"spec":{"volumes":` + renamed + `}}`},
		"another namespace":  {"{apiVersion: v1, kind: Pod, metadata: {name: w, namespace: third}, spec: {volumes: " + volumes + "}}", "null"},
		"nothing of a claim": {"{apiVersion: v1, kind: ConfigMap, metadata: {name: w, namespace: shop}, data: {a: b}}", "null"},
		"a template's class and modes": {
			"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: mysql, namespace: shop}, spec: {volumeClaimTemplates: [{metadata: {name: db, annotations: {volume.beta.kubernetes.io/storage-class: fast, a: b}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}, {metadata: {name: x}, spec: {storageClassName: fast}}]}}",
			`{"spec":{"volumeClaimTemplates":[{"metadata":{"annotations":{"a":"b"},"name":"db"},"spec":{"accessModes":["ReadWriteOncePod"],"resources":{"requests":{"storage":"1Gi"}},"storageClassName":"gold"}},{"metadata":{"name":"x"},"spec":{"storageClassName":"fast"}}]}}`,
		},
		"another StatefulSet": {"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: pg, namespace: shop}, spec: {volumeClaimTemplates: [{metadata: {name: db}, spec: {}}]}}", "null"},
	} {
		t.Run(name, func(t *testing.T) {
			source := item(t, c.source)
			before := source.DeepCopy()
			raw, err := json.Marshal(moved.ClaimPatch(source))
			if err != nil || string(raw) != c.want {
				t.Errorf("got  %s\nwant %s", raw, c.want)
			}
			if !reflect.DeepEqual(before.Object, source.Object) {
				t.Error("the source's object was changed")
			}
		})
	}
}

// The restore, through Velero's merge patches, and list-again must make the
// same object, or each would undo the other's work.
func TestWhatIsRestoredIsWhatListAgainWants(t *testing.T) {
	source := item(t, "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: mysql, namespace: shop}, spec: {replicas: 2, template: {spec: {volumes: [{name: a, persistentVolumeClaim: {claimName: data}}]}}, volumeClaimTemplates: [{metadata: {name: db}, spec: {storageClassName: fast}}]}}")
	restored := Item{source.GVR, source.DeepCopy()}
	mergeInto(restored.Object, HoldPatch(source))
	mergeInto(restored.Object, moved.ClaimPatch(source))
	restored.SetNamespace("store")
	if !Same(source, restored, moved) {
		t.Errorf("want %v\nhave %v", Canonical(source, moved), Canonical(restored, Translation{}))
	}
	if Same(source, restored, Translation{Namespaces: moved.Namespaces}) {
		t.Error("the names of claims do not count")
	}
}

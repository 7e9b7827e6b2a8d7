package workload

import (
	"fmt"
	"time"

	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is one row of the table of what can be scaled: where it lives and how
// its health is judged. Replicas, retention and status counts have the same
// paths in every kind; a field that a kind does not have reads as absent.
type kind struct {
	name       string
	apiVersion string
	gvr        schema.GroupVersionResource
	// unhealthy says in a few words what is missing, "" when all is well.
	unhealthy func(i item) string
	// owned says how its pods are owned: directly or through ReplicaSets.
	throughReplicaSets bool
}

var kinds = []*kind{
	{
		name: "Deployment", apiVersion: "apps/v1",
		gvr:       schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
		unhealthy: unhealthyDeployment, throughReplicaSets: true,
	},
	{
		name: "StatefulSet", apiVersion: "apps/v1",
		gvr:       schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"},
		unhealthy: unhealthyStatefulSet,
	},
}

// volumeKind is not scaled, only patched.
var volumeKind = &kind{name: "PersistentVolume", apiVersion: "v1", gvr: schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}}

func kindNamed(name string) *kind {
	for _, k := range kinds {
		if k.name == name {
			return k
		}
	}
	return nil
}

// item is an object as read from a cluster.
type item struct {
	kind *kind
	*unstructured.Unstructured
}

func (i item) object(side spec.Side) spec.Object {
	return spec.Object{
		Side: side, APIVersion: i.kind.apiVersion, Kind: i.kind.name, Resource: i.kind.gvr.Resource,
		Namespace: i.GetNamespace(), Name: i.GetName(), UID: string(i.GetUID()),
	}
}

// replicas is what is asked for; absent means 1, as the API server defaults it.
func (i item) replicas() int32 {
	n, found, err := unstructured.NestedInt64(i.Object, "spec", "replicas")
	if err != nil || !found {
		return 1
	}
	return int32(n)
}

func (i item) paused() bool {
	p, _, _ := unstructured.NestedBool(i.Object, "spec", "paused")
	return p
}

// counts reads a number of the status; the server omits zeros.
func (i item) counts(field string) int32 {
	n, _, _ := unstructured.NestedInt64(i.Object, "status", field)
	return int32(n)
}

// observed says whether the controller has seen the newest spec: before that
// the status still describes an older one.
func (i item) observed() bool {
	n, _, _ := unstructured.NestedInt64(i.Object, "status", "observedGeneration")
	return n >= i.GetGeneration()
}

// retention is a StatefulSet's persistentVolumeClaimRetentionPolicy; nil where
// there is none, which means Retain.
func (i item) retention() *spec.ClaimRetention {
	m, found, err := unstructured.NestedStringMap(i.Object, "spec", "persistentVolumeClaimRetentionPolicy")
	if err != nil || !found {
		return nil
	}
	return &spec.ClaimRetention{WhenScaled: m["whenScaled"], WhenDeleted: m["whenDeleted"]}
}

const retain = "Retain"

// retains says whether scaling or deleting i leaves its claims alone.
func (i item) retains() bool {
	r := i.retention()
	return r == nil || keeps(r.WhenScaled) && keeps(r.WhenDeleted)
}

func keeps(policy string) bool { return policy == "" || policy == retain }

func unhealthyDeployment(i item) string {
	want := i.replicas()
	if missing := unready(i, want); missing != "" {
		return missing
	}
	// A paused Deployment keeps the pods of its newest ReplicaSet and never
	// updates them, so the count of updated pods says nothing about it.
	if n := i.counts("updatedReplicas"); n != want && !i.paused() {
		return fmt.Sprintf("%d of %d pods have the newest template", n, want)
	}
	if status, _ := i.condition("Available"); want > 0 && status != "True" {
		return "it is not Available yet"
	}
	return ""
}

func unhealthyStatefulSet(i item) string {
	want := i.replicas()
	if missing := unready(i, want); missing != "" {
		return missing
	}
	strategy, _, _ := unstructured.NestedString(i.Object, "spec", "updateStrategy", "type")
	partition, _, _ := unstructured.NestedInt64(i.Object, "spec", "updateStrategy", "rollingUpdate", "partition")
	// With OnDelete or a partition the author keeps older pods on purpose.
	if n := i.counts("updatedReplicas"); n != want && strategy != "OnDelete" && partition == 0 {
		return fmt.Sprintf("%d of %d pods have the newest template", n, want)
	}
	return ""
}

// unready is the part of health that all kinds share.
func unready(i item, want int32) string {
	if !i.observed() {
		return "its controller has not seen the newest change yet"
	}
	if n := i.counts("readyReplicas"); n != want {
		return fmt.Sprintf("%d of %d pods are ready", n, want)
	}
	return ""
}

// condition returns status and message of a condition of the status.
func (i item) condition(kind string) (status, message string) {
	list, _, _ := unstructured.NestedSlice(i.Object, "status", "conditions")
	for _, c := range list {
		m, ok := c.(map[string]any)
		if ok && m["type"] == kind {
			status, _ = m["status"].(string)
			message, _ = m["message"].(string)
		}
	}
	return status, message
}

// scaler names who set spec.replicas last according to managedFields, and when.
func (i item) scaler() (manager string, at time.Time) {
	for _, m := range i.GetManagedFields() {
		if m.FieldsV1 == nil || !ownsReplicas(m.FieldsV1.Raw) {
			continue
		}
		t := time.Time{}
		if m.Time != nil {
			t = m.Time.Time
		}
		if manager == "" || t.After(at) {
			manager, at = m.Manager, t
		}
	}
	return manager, at
}

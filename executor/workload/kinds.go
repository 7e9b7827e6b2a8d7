package workload

import (
	"slices"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is one row of the table of what can run: where it lives, what stops it
// and how its health is judged. A field that a kind does not have reads as
// absent.
type kind struct {
	name       string
	apiVersion string
	gvr        schema.GroupVersionResource
	brake      *brake
	pods       counts
	// unhealthy says in a few words what is missing, "" when all is well.
	unhealthy func(i item) string
	// seen says that the controller has acted on the newest spec; nil asks
	// status.observedGeneration.
	seen func(i item) bool
	// over says that an object has ended for good; nil: the kind never does.
	over func(i item) bool
	// through is the kind that owns its pods, "" for itself.
	through string
	// frozen: while it is paused its controller does not scale it, and the one
	// that owns its pods is stopped beside it. The restore holds it paused, so
	// that nothing is rolled out before the start.
	frozen bool
	// child says that one with a controller is scaled by that.
	child bool
	// partOf are the kinds whose objects make ones of this kind, which are stopped
	// with them, and which the target makes anew.
	partOf []string
	// extension: not every cluster serves it.
	extension bool
}

// scales says that objects of the kind have no pods, and change how many others
// have. They are stopped before all others and put back after them.
func (k *kind) scales() bool { return kube.Scales(kube.Item{GVR: k.gvr}) }

// counts are the pods that there should be, those that are ready, and all.
type counts struct {
	want, ready, all func(i item) int32
}

// The order is the one in which workloads are stopped: what starts others
// comes first.
var kinds = []*kind{
	{
		name: "ScaledObject", apiVersion: "keda.sh/v1alpha1", brake: byPausing, extension: true,
		gvr:  schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"},
		pods: counts{none, none, none}, unhealthy: func(item) string { return "" },
		seen: seenPause, child: true,
	},
	{
		name: "ScaledJob", apiVersion: "keda.sh/v1alpha1", brake: byPausingJobs, extension: true,
		gvr:  schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledjobs"},
		pods: counts{none, none, none}, unhealthy: func(item) string { return "" },
		seen: seenPause, child: true,
	},
	{
		name: "CronJob", apiVersion: "batch/v1", brake: bySuspension,
		gvr:  schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"},
		pods: counts{none, none, none}, unhealthy: func(item) string { return "" },
		seen: func(item) bool { return true }, // its status does not tell
	},
	{
		name: "Deployment", apiVersion: "apps/v1", brake: byReplicas,
		gvr:  schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
		pods: scaled, unhealthy: unhealthyDeployment, through: "ReplicaSet",
	},
	{
		name: "DeploymentConfig", apiVersion: "apps.openshift.io/v1", brake: byReplicas, extension: true,
		gvr:  schema.GroupVersionResource{Group: "apps.openshift.io", Version: "v1", Resource: "deploymentconfigs"},
		pods: scaled, unhealthy: unhealthyDeployment, through: "ReplicationController", frozen: true,
	},
	{
		name: "StatefulSet", apiVersion: "apps/v1", brake: byReplicas,
		gvr:  schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"},
		pods: scaled, unhealthy: unhealthyStatefulSet,
	},
	{
		name: "DaemonSet", apiVersion: "apps/v1", brake: byNodeSelector,
		gvr:  schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"},
		pods: counts{scheduled, inStatus("numberReady"), inStatus("currentNumberScheduled")}, unhealthy: unhealthyDaemonSet,
	},
	{
		name: "ReplicaSet", apiVersion: "apps/v1", brake: byReplicas,
		gvr:  schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"},
		pods: scaled, unhealthy: unready, child: true,
	},
	{
		name: "ReplicationController", apiVersion: "v1", brake: byReplicas,
		gvr:  schema.GroupVersionResource{Version: "v1", Resource: "replicationcontrollers"},
		pods: scaled, unhealthy: unready, child: true, partOf: []string{"DeploymentConfig"},
	},
	{
		name: "Job", apiVersion: "batch/v1", brake: bySuspension,
		gvr:  schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"},
		pods: counts{working, readyOfJob, inStatus("active")}, unhealthy: unhealthyJob,
		seen: seenJob, over: overJob, partOf: []string{"CronJob", "ScaledJob"},
	},
}

// scaled are the counts of all kinds with replicas.
var scaled = counts{item.replicas, inStatus("readyReplicas"), inStatus("replicas")}

// volumeKind is not stopped, only patched.
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

// readyPods, allPods and wantedPods count the pods of i.
func (i item) readyPods() int32  { return i.kind.pods.ready(i) }
func (i item) allPods() int32    { return i.kind.pods.all(i) }
func (i item) wantedPods() int32 { return i.kind.pods.want(i) }

// observed says whether the controller has seen the newest spec: before that
// the status still describes an older one.
func (i item) observed() bool {
	if i.kind.seen != nil {
		return i.kind.seen(i)
	}
	n, _, _ := unstructured.NestedInt64(i.Object, "status", "observedGeneration")
	return n >= i.GetGeneration()
}

// over says that i has ended for good: nothing can start it again.
func (i item) over() bool { return i.kind.over != nil && i.kind.over(i) }

// partOf names the object that made i and makes others like it: "CronJob/name".
func (i item) partOf() string {
	c := metav1.GetControllerOf(i)
	if c == nil || !slices.Contains(i.kind.partOf, c.Kind) {
		return ""
	}
	return c.Kind + "/" + c.Name
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

// overJob says that a Job has completed or failed.
func overJob(i item) bool {
	return kube.Finished(kube.Item{GVR: i.kind.gvr, Unstructured: i.Unstructured})
}

// scaler names who set the field of the brake last according to managedFields,
// and when.
func (i item) scaler() (manager string, at time.Time) {
	for _, m := range i.GetManagedFields() {
		if m.FieldsV1 == nil || !ownsField(m.FieldsV1.Raw, i.kind.brake.path) {
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

// among keeps of a list what a plan stops by itself: not what a controller of
// another kind scales, unless that rests. Jobs of a CronJob go with it, whatever
// their labels.
func among(items []item, matches func(item) bool) []item {
	makers, resting := map[string]bool{}, map[string]bool{}
	for _, i := range items {
		if matches(i) {
			makers[string(i.GetUID())] = true
			resting[string(i.GetUID())] = i.kind.frozen && i.paused()
		}
	}
	return slices.DeleteFunc(items, func(i item) bool {
		c := metav1.GetControllerOf(i)
		switch {
		case c != nil && i.kind.child:
			return !resting[string(c.UID)]
		case i.partOf() != "":
			return !makers[string(c.UID)]
		case c != nil:
			return true // an operator's: only a hook of its author stops it
		}
		return !matches(i)
	})
}

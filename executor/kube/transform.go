package kube

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	ownPrefix    = "tranship.dev/"
	veleroPrefix = "velero.io/"
	lastApplied  = "kubectl.kubernetes.io/last-applied-configuration"

	// LabelRestore is Velero's mark on what a Restore created; what we create
	// beside a Restore carries it too, so that one list finds all.
	LabelRestore = "velero.io/restore-name"
	// AnnotationApplied is the digest of the source's content that was last
	// applied to an object of the target.
	AnnotationApplied = "tranship.dev/applied"
)

// Portable is an object as it can be created on another cluster: the target's
// namespace, and nothing that only the source can know.
func Portable(i Item, mapping map[string]string) Item {
	o := i.DeepCopy()
	meta := map[string]any{"name": i.GetName()}
	if ns := i.GetNamespace(); ns != "" {
		meta["namespace"] = mapped(mapping, ns)
	}
	if l := foreign(i.GetLabels()); len(l) > 0 {
		meta["labels"] = l
	}
	if a := foreign(i.GetAnnotations()); len(a) > 0 {
		meta["annotations"] = a
	}
	explicit := explicitNodePorts(i)
	o.Object["metadata"] = meta
	delete(o.Object, "status")
	switch i.groupKind() {
	case schema.GroupKind{Kind: "Service"}:
		portableService(o.Object, explicit)
	case schema.GroupKind{Kind: "ServiceAccount"}:
		// Tokens and registry credentials are the target's own.
		delete(o.Object, "secrets")
		portableAccount(o.Object, i.GetName())
	case schema.GroupKind{Kind: "Secret"}:
		portableSecret(o)
	case schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:
		mapSubjects(o.Object, mapping)
	case schema.GroupKind{Group: "batch", Kind: "Job"}:
		portableJob(o.Object)
	case podKind:
		portablePod(o.Object)
	}
	return Item{i.GVR, o}
}

func mapped(mapping map[string]string, ns string) string {
	if t, ok := mapping[ns]; ok {
		return t
	}
	return ns
}

// foreign drops our own and Velero's labels and annotations.
func foreign(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		if !strings.HasPrefix(k, ownPrefix) && !strings.HasPrefix(k, veleroPrefix) {
			out[k] = v
		}
	}
	return out
}

func portableService(o map[string]any, explicit map[string]bool) {
	if ip, _, _ := unstructured.NestedString(o, "spec", "clusterIP"); ip != "None" {
		unstructured.RemoveNestedField(o, "spec", "clusterIP")
		unstructured.RemoveNestedField(o, "spec", "clusterIPs")
	}
	unstructured.RemoveNestedField(o, "spec", "healthCheckNodePort")
	eachMap(o, func(p map[string]any) {
		if !explicit[portKey(p)] {
			delete(p, "nodePort")
		}
	}, "spec", "ports")
}

// eachMap calls f for each map of a list; the list is changed in place.
func eachMap(o map[string]any, f func(map[string]any), path ...string) {
	list, found, err := unstructured.NestedFieldNoCopy(o, path...)
	if err != nil || !found {
		return
	}
	items, _ := list.([]any)
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			f(m)
		}
	}
}

func portKey(p map[string]any) string {
	protocol, _ := p["protocol"].(string)
	if protocol == "" {
		protocol = "TCP"
	}
	return fmt.Sprintf("%v/%s", p["port"], protocol)
}

// explicitNodePorts are the ports whose node port the author chose, by port
// and protocol: they stand in what was applied, by kubectl or by the server.
func explicitNodePorts(i Item) map[string]bool {
	ports := map[string]bool{}
	if i.groupKind() != (schema.GroupKind{Kind: "Service"}) {
		return ports
	}
	var applied map[string]any
	if json.Unmarshal([]byte(i.GetAnnotations()[lastApplied]), &applied) == nil {
		eachMap(applied, func(p map[string]any) {
			if n, ok := p["nodePort"].(float64); ok && n > 0 {
				ports[portKey(p)] = true
			}
		}, "spec", "ports")
	}
	for _, f := range i.GetManagedFields() {
		var fields map[string]any
		if f.FieldsV1 == nil || json.Unmarshal(f.FieldsV1.Raw, &fields) != nil {
			continue
		}
		owned, _, _ := unstructured.NestedMap(fields, "f:spec", "f:ports")
		for key, v := range owned {
			m, _ := v.(map[string]any)
			var p map[string]any
			if _, ok := m["f:nodePort"]; ok && json.Unmarshal([]byte(strings.TrimPrefix(key, "k:")), &p) == nil {
				ports[portKey(p)] = true
			}
		}
	}
	return ports
}

// portableAccount keeps the pull secrets that people added.
func portableAccount(o map[string]any, name string) {
	list, _, _ := unstructured.NestedSlice(o, "imagePullSecrets")
	var kept []any
	for _, s := range list {
		m, _ := s.(map[string]any)
		ref, _ := m["name"].(string)
		if !strings.HasPrefix(ref, name+"-dockercfg-") {
			kept = append(kept, s)
		}
	}
	delete(o, "imagePullSecrets")
	if len(kept) > 0 {
		o["imagePullSecrets"] = kept
	}
}

func portableSecret(o *unstructured.Unstructured) {
	if kind, _, _ := unstructured.NestedString(o.Object, "type"); kind != "kubernetes.io/service-account-token" {
		return
	}
	for _, k := range []string{"token", "ca.crt", "namespace"} {
		unstructured.RemoveNestedField(o.Object, "data", k)
	}
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "kubernetes.io/service-account.uid")
}

func mapSubjects(o map[string]any, mapping map[string]string) {
	eachMap(o, func(s map[string]any) {
		if ns, ok := s["namespace"].(string); ok {
			s["namespace"] = mapped(mapping, ns)
		}
	}, "subjects")
}

// jobLabels are those by which a Job finds its pods.
var jobLabels = []string{"controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"}

// portableJob leaves it to the target to generate the selector, as the source did.
func portableJob(o map[string]any) {
	if manual, _, _ := unstructured.NestedBool(o, "spec", "manualSelector"); manual {
		return
	}
	unstructured.RemoveNestedField(o, "spec", "selector")
	for _, l := range jobLabels {
		unstructured.RemoveNestedField(o, "metadata", "labels", l)
		unstructured.RemoveNestedField(o, "spec", "template", "metadata", "labels", l)
	}
}

// lbOnly are the fields of a Service that only a type other than ClusterIP may have.
var lbOnly = []string{
	"externalTrafficPolicy", "healthCheckNodePort", "loadBalancerClass", "loadBalancerIP",
	"loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "externalIPs",
}

// Opens says that a Service is reached from outside the cluster.
func Opens(i Item) bool {
	if i.groupKind() != (schema.GroupKind{Kind: "Service"}) {
		return false
	}
	kind, _, _ := unstructured.NestedString(i.Object, "spec", "type")
	ips, _, _ := unstructured.NestedSlice(i.Object, "spec", "externalIPs")
	return kind == "LoadBalancer" || kind == "NodePort" || len(ips) > 0
}

// NoNode is a label that no node has: a DaemonSet that asks for it has no pods.
const NoNode = "tranship.dev/no-node"

// holds says for each kind that runs pods what its spec says while it may not.
// A Deployment that begins paused would never get a ReplicaSet to be scaled, so
// that it is paused again only when it is started. A DeploymentConfig is held
// paused: its triggers would roll it out, with all its hooks.
var holds = map[schema.GroupKind]map[string]any{
	{Group: "apps", Kind: "Deployment"}: {"replicas": int64(0), "paused": nil},
	{Group: "apps", Kind: "StatefulSet"}: {
		"replicas":                             int64(0),
		"persistentVolumeClaimRetentionPolicy": map[string]any{"whenDeleted": "Retain", "whenScaled": "Retain"},
	},
	{Group: "apps", Kind: "ReplicaSet"}:                    {"replicas": int64(0)},
	{Kind: "ReplicationController"}:                        {"replicas": int64(0)},
	{Group: "apps", Kind: "DaemonSet"}:                     {"template": map[string]any{"spec": map[string]any{"nodeSelector": map[string]any{NoNode: "true"}}}},
	{Group: "apps.openshift.io", Kind: "DeploymentConfig"}: {"replicas": int64(0), "paused": true},
	{Group: "batch", Kind: "Job"}:                          {"suspend": true},
	{Group: "batch", Kind: "CronJob"}:                      {"suspend": true},
}

// HoldPatch is the merge patch that keeps an object from having any effect
// before its time: nothing runs, nobody is led to it. Nil means that the
// object has none.
func HoldPatch(i Item) map[string]any {
	if hold := holds[i.groupKind()]; hold != nil {
		return map[string]any{"spec": runtime.DeepCopyJSON(hold)}
	}
	if !Opens(i) {
		return nil
	}
	closed := map[string]any{"type": "ClusterIP"}
	for _, f := range lbOnly {
		closed[f] = nil
	}
	ports, _, _ := unstructured.NestedSlice(i.Object, "spec", "ports")
	for _, p := range ports {
		if m, ok := p.(map[string]any); ok {
			delete(m, "nodePort")
		}
	}
	closed["ports"] = ports
	return map[string]any{"spec": closed}
}

// Held is a portable object as the restore creates it.
func Held(i Item, t Translation) Item {
	claims := t.ClaimPatch(i)
	if i.groupKind() == podKind { // the patch has all volumes of the source's, of which some go
		i = Item{i.GVR, i.DeepCopy()}
		mergeInto(i.Object, claims)
		claims = nil
	}
	p := Portable(i, t.Namespaces)
	mergeInto(p.Object, HoldPatch(p))
	mergeInto(p.Object, claims)
	return p
}

// mergeInto applies a JSON merge patch (RFC 7386) in place.
func mergeInto(o, patch map[string]any) {
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(o, k)
		case map[string]any:
			child, ok := o[k].(map[string]any)
			if !ok {
				child = map[string]any{}
				o[k] = child
			}
			mergeInto(child, v)
		default:
			o[k] = v
		}
	}
}

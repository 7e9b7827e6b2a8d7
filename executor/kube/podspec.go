package kube

import (
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// podState are annotations in which networks and admission note what they gave to a
// pod; the next one gets its own.
var podState = []string{
	"cni.projectcalico.org/containerID", "cni.projectcalico.org/podIP", "cni.projectcalico.org/podIPs",
	"k8s.ovn.org/pod-networks", "k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status", "openshift.io/scc",
}

// portablePod takes out what an API server, a scheduler or a kubelet has put into
// the spec of a pod, as Velero does: the next one puts its own there.
func portablePod(o map[string]any) {
	for _, a := range podState {
		unstructured.RemoveNestedField(o, "metadata", "annotations", a)
	}
	s, _ := o["spec"].(map[string]any)
	if s == nil {
		return
	}
	for _, f := range []string{"nodeName", "priority", "ephemeralContainers"} {
		delete(s, f)
	}
	if s["runtimeClassName"] != nil {
		delete(s, "overhead")
	}
	account, _ := s["serviceAccountName"].(string)
	portableAccount(s, account)
	mounted, tokens := tokenMounts(o), map[string]bool{}
	s["volumes"] = dropMaps(s["volumes"], func(v map[string]any) bool {
		name, _ := v["name"].(string)
		secret, _, _ := unstructured.NestedString(v, "secret", "secretName")
		given := v["projected"] != nil && strings.HasPrefix(name, "kube-api-access-") && s["automountServiceAccountToken"] != false
		tokens[name] = mounted[name] && (given || account != "" && strings.HasPrefix(secret, account+"-token-"))
		return tokens[name]
	})
	if s["volumes"] == nil {
		delete(s, "volumes")
	}
	for _, containers := range []string{"initContainers", "containers"} {
		eachMap(o, func(c map[string]any) {
			c["volumeMounts"] = dropMaps(c["volumeMounts"], func(m map[string]any) bool { name, _ := m["name"].(string); return tokens[name] })
			if c["volumeMounts"] == nil {
				delete(c, "volumeMounts")
			}
		}, "spec", containers)
	}
}

// tokenMounts are the volumes that lie where admission mounts the token of a
// ServiceAccount. One elsewhere is the author's, whatever it is called.
func tokenMounts(o map[string]any) map[string]bool {
	mounted := map[string]bool{}
	for _, containers := range []string{"initContainers", "containers"} {
		eachMap(o, func(c map[string]any) {
			eachMap(c, func(m map[string]any) {
				name, _ := m["name"].(string)
				mounted[name] = mounted[name] || m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
			}, "volumeMounts")
		}, "spec", containers)
	}
	return mounted
}

// dropMaps is a list of maps without some, nil when none is left.
func dropMaps(list any, drop func(map[string]any) bool) any {
	var kept []any
	items, _ := list.([]any)
	for _, i := range items {
		if m, ok := i.(map[string]any); !ok || !drop(m) {
			kept = append(kept, i)
		}
	}
	if kept == nil {
		return nil
	}
	return kept
}

// errNoAccount: a ServiceAccount comes with the restore, and a dry run is before it.
func errNoAccount(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "error looking up service account")
}

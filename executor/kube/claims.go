package kube

import (
	"slices"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Translation is what becomes different in an object on its way to the target.
// The zero value changes nothing.
type Translation struct {
	Namespaces map[string]string // the target's name by the source's
	// Volumes are the plan's: some get another name or another class.
	Volumes []spec.Volume
}

// Translation is the one of the call's plan.
func (e *Env) Translation() Translation {
	return Translation{Namespaces: e.Mapping(), Volumes: e.Run.Facts.Volumes}
}

// podSpecs says where each kind of object names the claims that its pods mount.
var podSpecs = map[schema.GroupKind][]string{
	{Kind: "Pod"}:                                          {"spec"},
	{Group: "batch", Kind: "CronJob"}:                      {"spec", "jobTemplate", "spec", "template", "spec"},
	{Group: "batch", Kind: "Job"}:                          {"spec", "template", "spec"},
	{Group: "apps", Kind: "Deployment"}:                    {"spec", "template", "spec"},
	{Group: "apps", Kind: "StatefulSet"}:                   {"spec", "template", "spec"},
	{Group: "apps", Kind: "DaemonSet"}:                     {"spec", "template", "spec"},
	{Group: "apps", Kind: "ReplicaSet"}:                    {"spec", "template", "spec"},
	{Group: "apps.openshift.io", Kind: "DeploymentConfig"}: {"spec", "template", "spec"},
	{Kind: "ReplicationController"}:                        {"spec", "template", "spec"},
}

// ClaimPatch is the merge patch that makes an object of the source fit the
// target's claims: pods mount them by the names that they get there, and a
// StatefulSet makes new ones in the class and with the modes of those that it
// has; a DeploymentConfig's image triggers name the target's namespaces. Nil means
// that the object says nothing of what changes.
func (t Translation) ClaimPatch(i Item) map[string]any {
	patch := map[string]any{}
	if path := podSpecs[i.groupKind()]; path != nil {
		t.patchList(patch, i, t.rename, append(slices.Clone(path), "volumes")...)
	}
	if i.groupKind() == (schema.GroupKind{Group: "apps", Kind: "StatefulSet"}) {
		t.patchList(patch, i, t.reclass, "spec", "volumeClaimTemplates")
	}
	if i.groupKind() == (schema.GroupKind{Group: "apps.openshift.io", Kind: "DeploymentConfig"}) {
		t.patchList(patch, i, t.retrigger, "spec", "triggers")
	}
	if len(patch) == 0 {
		return nil
	}
	return patch
}

// patchList puts a list into the patch if change changed any of its entries:
// a merge patch can only replace a list as a whole.
func (t Translation) patchList(patch map[string]any, i Item, change func(Item, map[string]any) bool, path ...string) {
	list, _, err := unstructured.NestedSlice(i.Object, path...) // a deep copy
	if err != nil {
		return
	}
	changed := false
	for _, entry := range list {
		if m, ok := entry.(map[string]any); ok && change(i, m) {
			changed = true
		}
	}
	if changed {
		// The patch is made of maps, so that nothing can be in the way.
		_ = unstructured.SetNestedSlice(patch, list, path...)
	}
}

// rename gives a pod's volume the claim's name on the target.
func (t Translation) rename(i Item, volume map[string]any) bool {
	claim, ok := volume["persistentVolumeClaim"].(map[string]any)
	if !ok {
		return false
	}
	for n := range t.Volumes {
		v := &t.Volumes[n]
		if v.Namespace == i.GetNamespace() && v.Claim == claim["claimName"] && v.Action != "skip" && v.TargetClaim != v.Claim {
			claim["claimName"] = v.TargetClaim
			return true
		}
	}
	return false
}

// retrigger names the target's namespace where an image trigger names one of the
// plan's, as CAM does.
func (t Translation) retrigger(_ Item, trigger map[string]any) bool {
	ns, found, _ := unstructured.NestedString(trigger, "imageChangeParams", "from", "namespace")
	if !found || mapped(t.Namespaces, ns) == ns {
		return false
	}
	return unstructured.SetNestedField(trigger, mapped(t.Namespaces, ns), "imageChangeParams", "from", "namespace") == nil
}

// reclass writes the class and the modes of the claims that came from a
// volumeClaimTemplate into it.
func (t Translation) reclass(i Item, template map[string]any) bool {
	name, _, _ := unstructured.NestedString(template, "metadata", "name")
	for n := range t.Volumes {
		c := t.Volumes[n].Template
		if t.Volumes[n].Namespace != i.GetNamespace() || c == nil || c.StatefulSet != i.GetName() || c.Name != name {
			continue
		}
		claim, ok := template["spec"].(map[string]any)
		if !ok {
			return false
		}
		if c.StorageClassName != "" {
			claim["storageClassName"] = c.StorageClassName
			unstructured.RemoveNestedField(template, "metadata", "annotations", corev1.BetaStorageClassAnnotation)
		}
		if len(c.AccessModes) > 0 {
			modes := make([]any, len(c.AccessModes))
			for k, m := range c.AccessModes {
				modes[k] = string(m)
			}
			claim["accessModes"] = modes
		}
		return c.StorageClassName != "" || len(c.AccessModes) > 0
	}
	return false
}

package preflight

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// claimIndex knows the claims of the source that are no volume of the plan, by
// "namespace/name".
type claimIndex map[string]kube.Item

func (s *state) claimIndex() claimIndex {
	x := claimIndex{}
	for _, i := range s.all {
		if i.GetKind() == "PersistentVolumeClaim" {
			x[i.GetNamespace()+"/"+i.GetName()] = i
		}
	}
	maps.DeleteFunc(x, func(key string, _ kube.Item) bool {
		return slices.ContainsFunc(s.volumes.Volumes, func(v spec.Volume) bool { return v.Namespace+"/"+v.Claim == key })
	})
	return x
}

// leftOut names those of the claims that an object is, mounts or has made.
func (x claimIndex) leftOut(i kube.Item) []string {
	var found []string
	for key, c := range x {
		if c.GetNamespace() == i.GetNamespace() && (c.GetUID() == i.GetUID() || mounts(i, c.GetName())) {
			found = append(found, describe(x[key]))
		}
	}
	slices.Sort(found)
	return found
}

// mounts says that a pod, or the pods of a workload, use the claim.
func mounts(i kube.Item, claim string) bool {
	for _, path := range [][]string{{"spec", "volumes"}, {"spec", "template", "spec", "volumes"}, {"spec", "jobTemplate", "spec", "template", "spec", "volumes"}} {
		volumes, _, _ := unstructured.NestedSlice(i.Object, path...)
		for _, v := range volumes {
			m, _ := v.(map[string]any)
			if name, _, _ := unstructured.NestedString(m, "persistentVolumeClaim", "claimName"); name == claim {
				return true
			}
		}
	}
	templates, _, _ := unstructured.NestedSlice(i.Object, "spec", "volumeClaimTemplates")
	for _, t := range templates {
		m, _ := t.(map[string]any)
		name, _, _ := unstructured.NestedString(m, "metadata", "name")
		ordinal, ok := strings.CutPrefix(claim, name+"-"+i.GetName()+"-")
		if _, err := strconv.Atoi(ordinal); ok && err == nil && i.GetKind() == "StatefulSet" {
			return true
		}
	}
	return false
}

// union adds what a list has not yet.
func union(list, more []string) []string {
	for _, name := range more {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

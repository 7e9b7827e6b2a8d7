package velero

import (
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// filterPolicy names, for each source namespace, exactly the objects that
// Velero takes: its own selectors cannot tell a namespace's default ConfigMap
// or a Service's Endpoints from the application's. A namespace without a
// single object still needs an entry, else everything in it would be taken.
func filterPolicy(namespaces []string, items []kube.Item) (string, error) {
	type filter struct {
		Kinds []string `json:"kinds"`
		Names []string `json:"names"`
	}
	type policy struct {
		Namespaces      []string `json:"namespaces"`
		ResourceFilters []filter `json:"resourceFilters"`
	}
	names := map[string]map[string][]string{}
	for _, ns := range namespaces {
		// No object can be called "-"; it only makes the list not empty.
		names[ns] = map[string][]string{"configmaps": {"-"}}
	}
	for _, i := range items {
		if of := names[i.GetNamespace()]; of != nil {
			of[i.GroupResource()] = append(of[i.GroupResource()], quoteGlob(i.GetName()))
		}
	}
	var policies []policy
	for _, ns := range namespaces {
		p := policy{Namespaces: []string{ns}}
		for kind, list := range names[ns] {
			slices.Sort(list)
			p.ResourceFilters = append(p.ResourceFilters, filter{[]string{kind}, list})
		}
		slices.SortFunc(p.ResourceFilters, func(a, b filter) int { return strings.Compare(a.Kinds[0], b.Kinds[0]) })
		policies = append(policies, p)
	}
	raw, err := yaml.Marshal(map[string]any{"version": "v1", "namespacedFilterPolicies": policies})
	return string(raw), err
}

// quoteGlob makes a name match only itself: names of RBAC objects may hold
// characters that mean something in a glob.
func quoteGlob(name string) string {
	var b strings.Builder
	for _, r := range name {
		if strings.ContainsRune(`*?[]{}!\`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// storable are the covered objects that the backup holds. What scales is read
// from the source when the target gets it, and Velero fails a backup that names
// a kind which it has not discovered: it looks for new ones every five minutes.
func storable(e *kube.Env, items []kube.Item) []kube.Item {
	return slices.DeleteFunc(slices.Clone(items), func(i kube.Item) bool { return kube.Scales(i) || kube.Bare(i) || e.Kept(i) })
}

// restorable are the covered objects that the restore creates; what leads
// users to the application or scales it comes after it is healthy.
func restorable(e *kube.Env, items []kube.Item) []kube.Item {
	return slices.DeleteFunc(slices.Clone(items), func(i kube.Item) bool { return kube.Traffic(i) || kube.Scales(i) || kube.Bare(i) || e.Kept(i) })
}

func configMapRef(name string) *corev1.TypedLocalObjectReference {
	return &corev1.TypedLocalObjectReference{Kind: "ConfigMap", Name: name}
}

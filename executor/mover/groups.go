package mover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// group is who mounts a claim: the pods of one ordinal of one workload.
type group struct {
	name    string // "<Kind>/<name>/<ordinal>"
	covered bool   // the plan's selector takes the workload

	// Of a claim: all workloads that mount it, "<Kind>/<name>" in the order of
	// their names, and those of them that the selector does not take.
	owners, outside []string
}

// together is a set of claims that one pod mounts.
type together struct {
	group
	claims []string
}

// groups says for each claim of the namespace which group it belongs to. A
// claim that several groups share goes to the first by name; if only one node
// may use it, those groups become one, because their pods must meet there.
func (n *NamespaceInventory) groups(selector labels.Selector) map[string]group {
	sets := n.sets(selector)
	slices.SortStableFunc(sets, func(a, b together) int { return compareGroups(a.name, b.name) })
	single := map[string]bool{}
	for _, c := range n.Claims {
		single[c.Name] = singleNode(c.Spec.AccessModes)
	}
	leader := unite(sets, single)
	out := map[string]group{}
	for _, s := range sets {
		for _, c := range s.claims {
			g, seen := out[c]
			if !seen {
				g.name = leader[s.name]
			}
			g.covered = g.covered || s.covered
			owner := s.name[:strings.LastIndexByte(s.name, '/')]
			if !slices.Contains(g.owners, owner) {
				g.owners = append(g.owners, owner)
			}
			if !s.covered && !slices.Contains(g.outside, owner) {
				g.outside = append(g.outside, owner)
			}
			out[c] = g
		}
	}
	return out
}

// unite finds for each group the first group with which it shares, over any
// number of steps, a claim of one node.
func unite(sets []together, single map[string]bool) map[string]string {
	leader, holder := map[string]string{}, map[string]string{}
	for _, s := range sets {
		leader[s.name] = s.name
	}
	for changed := true; changed; { // ends: every change puts an earlier name in place of a later one
		changed = false
		for _, s := range sets {
			for _, c := range s.claims {
				if !single[c] {
					continue
				}
				first, seen := holder[c]
				if !seen || compareGroups(leader[s.name], first) < 0 {
					holder[c], changed = leader[s.name], true
				} else if first != leader[s.name] {
					leader[s.name], changed = first, true
				}
			}
		}
	}
	return leader
}

// compareGroups orders by kind and name, then by ordinal as a number.
func compareGroups(a, b string) int {
	i, j := strings.LastIndexByte(a, '/'), strings.LastIndexByte(b, '/')
	return cmp.Or(cmp.Compare(a[:max(i, 0)], b[:max(j, 0)]), cmp.Compare(len(a)-i, len(b)-j), cmp.Compare(a, b))
}

func singleNode(modes []corev1.PersistentVolumeAccessMode) bool {
	return !slices.Contains(modes, corev1.ReadWriteMany) && !slices.Contains(modes, corev1.ReadOnlyMany)
}

// sets lists what templates and pods, running or deleted by the stop, mount together.
func (n *NamespaceInventory) sets(selector labels.Selector) []together {
	var sets []together
	known := map[string]bool{}
	for _, o := range n.Owners {
		name := o.Kind + "/" + o.Name
		if between[o.Kind] && o.Controller != "" {
			if n.owns(o.Controller) {
				continue // its controller has the template that counts
			}
			name = o.Controller // of a kind that is not read, such as a DeploymentConfig
		}
		known[name] = true
		covered := selector.Matches(labels.Set(o.Labels)) || selector.Matches(labels.Set(o.Template.Labels))
		static := claimsOf(&o.Template.Spec)
		if o.Kind == "StatefulSet" {
			sets = append(sets, n.ordinals(o, static, covered)...)
		} else if len(static) > 0 {
			sets = append(sets, together{group{name: name + "/0", covered: covered}, static})
		}
	}
	for _, p := range n.everyPod() {
		if over(p) || p.Labels[LabelComponent] == ComponentHolder {
			continue
		}
		name := "Pod/" + p.Name
		if up := controller(p); up != "" {
			name = n.root(up)
		}
		if claims := claimsOf(&p.Spec); len(claims) > 0 && !known[name] {
			sets = append(sets, together{group{name: name + "/0", covered: selector.Matches(labels.Set(p.Labels))}, claims})
		}
	}
	return sets
}

// owns says that a workload "Kind/name" is among those that were read.
func (n *NamespaceInventory) owns(name string) bool {
	return slices.ContainsFunc(n.Owners, func(o Owner) bool { return o.Kind+"/"+o.Name == name })
}

// ordinals lists the claims of each pod that a StatefulSet has or had: they
// are there by name even when it is scaled to zero.
func (n *NamespaceInventory) ordinals(o Owner, static []string, covered bool) []together {
	byOrdinal := map[int][]string{}
	for _, c := range n.Claims {
		for _, t := range o.ClaimTemplates {
			if i, ok := ordinal(c.Name, t.Name+"-"+o.Name); ok {
				byOrdinal[i] = append(byOrdinal[i], c.Name)
			}
		}
	}
	if len(byOrdinal) == 0 && len(static) > 0 {
		byOrdinal[0] = nil
	}
	var sets []together
	for i, claims := range byOrdinal {
		sets = append(sets, together{group{name: fmt.Sprintf("StatefulSet/%s/%d", o.Name, i), covered: covered}, append(claims, static...)})
	}
	return sets
}

// claimsOf lists the claims that a pod spec names, each once.
func claimsOf(s *corev1.PodSpec) []string {
	var claims []string
	for _, v := range s.Volumes {
		if v.PersistentVolumeClaim != nil && !slices.Contains(claims, v.PersistentVolumeClaim.ClaimName) {
			claims = append(claims, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return claims
}

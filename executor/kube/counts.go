package kube

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// claimKind is the name under which claims are counted.
const claimKind = "PersistentVolumeClaim"

// CountSource counts what a plan moves, by kind.
func CountSource(items []Item, volumes []spec.Volume) []spec.Count {
	n := map[string]int{}
	for _, i := range items {
		if !DefaultAccount(i) {
			n[i.groupKind().String()]++
		}
	}
	for _, v := range volumes {
		if v.Action != "skip" {
			n[claimKind]++
		}
	}
	var counts []spec.Count
	for kind, of := range n {
		counts = append(counts, spec.Count{Kind: kind, Source: of})
	}
	slices.SortFunc(counts, func(a, b spec.Count) int { return strings.Compare(a.Kind, b.Kind) })
	return counts
}

// Names are the objects of a plan's scope, as "Kind.group namespace/name".
func Names(items []Item) []string {
	var names []string
	for _, i := range items {
		if !DefaultAccount(i) && metav1.GetControllerOf(i) == nil {
			names = append(names, fmt.Sprintf("%s %s/%s", i.groupKind(), i.GetNamespace(), i.GetName()))
		}
	}
	return names
}

// WithTarget returns counts with what was found on the target, by kind; kinds
// that found does not name stay as they are.
func WithTarget(counts []spec.Count, found map[string]int) []spec.Count {
	counts = slices.Clone(counts)
	for n := range counts {
		if of, ok := found[counts[n].Kind]; ok {
			counts[n].Target = of
		}
	}
	return counts
}

package spec

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Disjoint says that no object can match both selectors. Nil selects all.
func Disjoint(a, b *metav1.LabelSelector) bool {
	if a == nil || b == nil {
		return false
	}
	byKey := map[string][]metav1.LabelSelectorRequirement{}
	for _, r := range append(requirements(a), requirements(b)...) {
		byKey[r.Key] = append(byKey[r.Key], r)
	}
	for _, all := range byKey {
		if excluded(all) {
			return true
		}
	}
	return false
}

// requirements of a selector, all in the same form.
func requirements(s *metav1.LabelSelector) []metav1.LabelSelectorRequirement {
	all := slices.Clone(s.MatchExpressions)
	for k, v := range s.MatchLabels {
		all = append(all, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}})
	}
	return all
}

// excluded says that neither a value of one label nor its absence meets all
// requirements. There are more values than any NotIn lists.
func excluded(all []metav1.LabelSelectorRequirement) bool {
	absent, present := true, true
	var in []string // the values that every In allows, once there is one
	limited := false
	for _, r := range all {
		switch r.Operator {
		case metav1.LabelSelectorOpDoesNotExist:
			present = false
		case metav1.LabelSelectorOpExists:
			absent = false
		case metav1.LabelSelectorOpIn:
			absent = false
			if !limited {
				in, limited = slices.Clone(r.Values), true
			}
			in = slices.DeleteFunc(in, func(v string) bool { return !slices.Contains(r.Values, v) })
		}
	}
	for _, r := range all {
		if r.Operator == metav1.LabelSelectorOpNotIn {
			in = slices.DeleteFunc(in, func(v string) bool { return slices.Contains(r.Values, v) })
		}
	}
	return !absent && (!present || limited && len(in) == 0)
}

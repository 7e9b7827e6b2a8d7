package mover

import (
	"context"
	"slices"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
)

// beside lists where the moved volumes of a group can be used: a copy that is
// made elsewhere could never be mounted together with them.
func beside(ctx context.Context, e *kube.Env, volumes []spec.Volume, namespace, group string) ([]*corev1.NodeSelector, error) {
	var all []*corev1.NodeSelector
	for i := range volumes {
		v := &volumes[i]
		if !moved(v) || v.Namespace != namespace || v.Group != group {
			continue
		}
		pv, err := getVolume(ctx, e.Source, v.SourcePV)
		if err != nil {
			return nil, err
		}
		if pv != nil && pv.Spec.NodeAffinity != nil && pv.Spec.NodeAffinity.Required != nil {
			all = append(all, pv.Spec.NodeAffinity.Required)
		}
	}
	return all, nil
}

// allOf holds where all of the given selectors do; nil holds everywhere. Terms
// are alternatives, so every combination of them is one.
func allOf(selectors ...*corev1.NodeSelector) *corev1.NodeSelector {
	var out *corev1.NodeSelector
	for _, s := range selectors {
		switch {
		case s == nil:
		case out == nil:
			out = s
		default:
			both := &corev1.NodeSelector{}
			for _, a := range out.NodeSelectorTerms {
				for _, b := range s.NodeSelectorTerms {
					both.NodeSelectorTerms = append(both.NodeSelectorTerms, corev1.NodeSelectorTerm{
						MatchExpressions: slices.Concat(a.MatchExpressions, b.MatchExpressions), MatchFields: slices.Concat(a.MatchFields, b.MatchFields),
					})
				}
			}
			out = both
		}
	}
	return out
}

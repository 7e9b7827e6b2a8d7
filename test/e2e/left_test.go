package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// nothingOfThePlanIsLeft asks both clusters, after Closed, for objects of every
// kind with the plan's label, and for marks of ours on what the application keeps.
// Only a volume that was moved says for ever where it went.
func (l *lab) nothingOfThePlanIsLeft() {
	l.t.Helper()
	l.poll("nothing of the closed plan to be left", time.Second, func() (string, bool) {
		left := slices.Concat(l.leftOn("source", l.bed.Source.Kubeconfig), l.leftOn("target", l.bed.Target.Kubeconfig))
		return strings.Join(left, "\n"), len(left) == 0
	})
}

// leftOn lists what a cluster has of the plan. What cannot be listed counts: other
// tests add and remove kinds of their own meanwhile, and then it is asked again.
func (l *lab) leftOn(name, kubeconfig string) []string {
	var left []string
	ask := func(args ...string) string {
		out, err := l.kubectl(kubeconfig, append([]string{"get", "--ignore-not-found"}, args...)...)
		if err != nil {
			left = append(left, err.Error())
			return ""
		}
		return out
	}
	kinds := func(flags ...string) string {
		out, err := l.kubectl(kubeconfig, append([]string{"api-resources", "--verbs=list", "-o", "name"}, flags...)...)
		if err != nil {
			left = append(left, err.Error())
		}
		return strings.Join(strings.Fields(out), ",")
	}
	for o := range strings.FieldsSeq(ask(kinds(), "-A", "-l", "tranship.dev/plan="+spec.ShortName(l.name), "-o", "name")) {
		left = append(left, name+" "+o)
	}
	left = append(left, marksIn(ask(kinds("--namespaced=true"), "-n", l.name, "-o", "json"), name, l.name)...)
	return append(left, marksIn(ask("persistentvolumes,namespaces", "-o", "json"), name, l.name)...)
}

// marksIn names every label and annotation of ours on the objects of an
// application, except on those that a controller makes and unmakes.
func marksIn(list, cluster, namespace string) []string {
	var of struct {
		Items []struct {
			Kind     string
			Metadata struct {
				Name, Namespace     string
				Labels, Annotations map[string]string
				OwnerReferences     []any
			}
			Spec struct{ ClaimRef struct{ Namespace string } }
		}
	}
	if strings.TrimSpace(list) == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(list), &of); err != nil {
		return []string{err.Error()}
	}
	var left []string
	for _, i := range of.Items {
		m := i.Metadata
		if len(m.OwnerReferences) > 0 || m.Namespace != namespace && m.Name != namespace && i.Spec.ClaimRef.Namespace != namespace {
			continue
		}
		if m.Annotations["tranship.dev/moved-to"] != "" {
			delete(m.Annotations, "tranship.dev/moved-to")
			delete(m.Annotations, "tranship.dev/plan-name")
		}
		for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
			if strings.HasPrefix(k, "tranship.dev/") || strings.HasPrefix(k, "velero.io/") {
				left = append(left, fmt.Sprintf("%s %s %s/%s: label %s=%s", cluster, i.Kind, m.Namespace, m.Name, k, m.Labels[k]))
			}
		}
		for _, k := range slices.Sorted(maps.Keys(m.Annotations)) {
			if strings.HasPrefix(k, "tranship.dev/") {
				left = append(left, fmt.Sprintf("%s %s %s/%s: annotation %s=%s", cluster, i.Kind, m.Namespace, m.Name, k, m.Annotations[k]))
			}
		}
	}
	return left
}

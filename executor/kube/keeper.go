package kube

import (
	"strings"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tracking are the marks by which tools that apply manifests again and again
// know their objects. What stands there names what is to be paused.
var tracking = []struct {
	label, annotation string
	name              func(o metav1.Object, value string) string
}{
	{label: "kustomize.toolkit.fluxcd.io/name", name: flux("Kustomization", "kustomize.toolkit.fluxcd.io/namespace")},
	{label: "helm.toolkit.fluxcd.io/name", name: flux("HelmRelease", "helm.toolkit.fluxcd.io/namespace")},
	{label: "argocd.argoproj.io/instance", name: argo},
	{annotation: "argocd.argoproj.io/tracking-id", name: argo},
}

func flux(kind, namespace string) func(metav1.Object, string) string {
	return func(o metav1.Object, value string) string {
		return "Flux " + kind + " " + o.GetLabels()[namespace] + "/" + value
	}
}

func argo(_ metav1.Object, value string) string {
	application, _, _ := strings.Cut(value, ":")
	return "Argo CD application " + application
}

// managers are the names under which such tools write, for those whose objects
// carry no mark.
var managers = map[string]string{
	"argocd-controller":             "Argo CD",
	"argocd-application-controller": "Argo CD",
	"kustomize-controller":          "Flux",
	"helm-controller":               "Flux",
}

// Keeper names the tool that keeps an object as it is written elsewhere, and
// would start it again after a stop; "" when none is known.
func Keeper(o metav1.Object) string {
	for _, t := range tracking {
		if v := o.GetLabels()[t.label]; t.label != "" && v != "" {
			return t.name(o, v)
		}
		if v := o.GetAnnotations()[t.annotation]; t.annotation != "" && v != "" {
			return t.name(o, v)
		}
	}
	for _, f := range o.GetManagedFields() {
		if tool := managers[f.Manager]; tool != "" {
			return tool + " (" + f.Manager + ")"
		}
	}
	return ""
}

// MayStop says that a hook of a cutover can stop what only its author can: it
// runs on the source, before anything is backed up.
func MayStop(h spec.PlanHook) bool {
	return h.Phase == spec.PreBackup && h.Cluster != spec.Target && h.RunsIn(spec.RunMigrate)
}

// Runs says that the object is of a kind that has pods and is stopped.
func Runs(i Item) bool { return holds[i.groupKind()] != nil }

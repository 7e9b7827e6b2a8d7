package kube

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestKeeper(t *testing.T) {
	for want, text := range map[string]string{
		"":                                "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, labels: {app.kubernetes.io/instance: shop}}}",
		"Argo CD application shop":        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, annotations: {argocd.argoproj.io/tracking-id: 'shop:apps/Deployment:ns/a'}}}",
		"Argo CD application old":         "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, labels: {argocd.argoproj.io/instance: old}}}",
		"Flux Kustomization flux/apps":    "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, labels: {kustomize.toolkit.fluxcd.io/name: apps, kustomize.toolkit.fluxcd.io/namespace: flux}}}",
		"Flux HelmRelease shop/wordpress": "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, labels: {helm.toolkit.fluxcd.io/name: wordpress, helm.toolkit.fluxcd.io/namespace: shop}}}",
	} {
		if got := Keeper(item(t, text)); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	i := item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}")
	i.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "kubectl"}, {Manager: "argocd-controller"}})
	if got := Keeper(i); got != "Argo CD (argocd-controller)" {
		t.Errorf("got %q", got)
	}
}

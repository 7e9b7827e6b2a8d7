package kube

import (
	"strings"
	"testing"
)

// What a controller or the cluster makes comes and goes, and is no part of a scope.
func TestNames(t *testing.T) {
	items := []Item{
		item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}}"),
		item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop}}"),
		item(t, "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: web-1, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: u, controller: true}]}}"),
	}
	if got := strings.Join(Names(items), "|"); got != "Deployment.apps shop/web|ConfigMap shop/settings" {
		t.Errorf("got %s", got)
	}
}

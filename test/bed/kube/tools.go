//go:build tools

// Package tools pins the CSI sidecars, and the CRDs that belong to them, to the
// versions that compile beside this Kubernetes.
package tools

import (
	_ "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter"
	_ "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller"
)

// Package velero drives Velero on both clusters: locations, the backup of the
// objects, their restore held at zero, and what takes all of that back.
package velero

import "github.com/tranship/tranship/executor/kube"

// Verbs is this package's part of the registry.
func Verbs() map[string]kube.Verb {
	return map[string]kube.Verb{}
}

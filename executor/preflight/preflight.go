// Package preflight finds out, without changing anything, whether a plan can
// be carried out.
package preflight

import "github.com/tranship/tranship/executor/kube"

// Check is the verb's name.
const Check = "preflight.check"

// Verbs is this package's part of the registry.
func Verbs() map[string]kube.Verb {
	return map[string]kube.Verb{}
}

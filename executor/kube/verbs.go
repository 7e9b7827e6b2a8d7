package kube

// Verbs is this package's part of the registry.
func Verbs() map[string]Verb {
	return map[string]Verb{}
}

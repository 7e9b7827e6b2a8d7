package reconciler

import (
	"testing"

	"github.com/tranship/tranship/spec"
)

// What a wait shows people to type is made of names on the clusters, and of no
// more than a word each.
func TestLookAt(t *testing.T) {
	run := &spec.Run{}
	run.Spec.Closure.Source.Metadata.Name, run.Spec.Closure.Target.Metadata.Name = "old", "new"
	for object, want := range map[string]string{
		"source Pod shop/web-1":         "on cluster old: kubectl -n shop describe pod web-1",
		"target PersistentVolume pvc-1": "on cluster new: kubectl describe persistentvolume pvc-1",
		"somewhere Pod shop/web-1":      "",
		"":                              "",
	} {
		if got := lookAt(object, run); got != want {
			t.Errorf("%q: %q, want %q", object, got, want)
		}
	}
	if got := lookAt("source Pod shop/web-1", nil); got != "" {
		t.Errorf("without a run the clusters are not known: %q", got)
	}
}

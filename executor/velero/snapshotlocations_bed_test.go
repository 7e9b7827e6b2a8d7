package velero_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/executor/preflight"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestBedTwoSnapshotLocations: a Backup is made where Velero has two locations of one
// provider and no default. It needs the bed for itself: whatever Backup names no
// location fails meanwhile.
func TestBedTwoSnapshotLocations(t *testing.T) {
	if os.Getenv("TRANSHIP_LONG") == "" {
		t.Skip("it disturbs everybody else's Backups on the bed; set TRANSHIP_LONG with the bed for yourself")
	}
	id := fmt.Sprint(time.Now().UnixNano() % 1e8)
	e := bedtest.Env(t, "places-"+id, "places-"+id, "places-"+id)
	bedtest.Namespace(t, e.Source, "places-"+id, nil)
	bedtest.Put(t, e.Source, "places-"+id, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}")
	succeeds(t, e, "preflight", preflight.Check)
	succeeds(t, e, "locations", "velero.locations")
	for _, name := range []string{"one-" + id, "two-" + id} {
		bedtest.Put(t, e.Source, e.Source.VeleroNamespace, strings.NewReplacer("NAME", name, "ID", id).Replace(
			"{apiVersion: velero.io/v1, kind: VolumeSnapshotLocation, metadata: {name: NAME}, spec: {provider: example.com/pIDp}}"))
		t.Cleanup(func() {
			gvr := schema.GroupVersionResource{Group: "velero.io", Version: "v1", Resource: "volumesnapshotlocations"}
			if err := e.Source.Dynamic.Resource(gvr).Namespace(e.Source.VeleroNamespace).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
				t.Errorf("location %s is left on the bed: %v", name, err)
			}
		})
	}
	succeeds(t, e, "backup", "velero.backup")
	succeeds(t, e, "purge", "velero.purge")
	nothingLeft(t, e)
}

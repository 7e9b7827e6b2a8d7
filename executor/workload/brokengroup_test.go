package workload

import (
	"testing"

	"github.com/tranship/tranship/reconciler"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// OpenShift's kinds come from an API server of their own. While it does not
// answer, a source that the run has stopped nothing of there is started all the
// same, and what runs on the target is stopped; one with a DeploymentConfig waits.
func TestABrokenGroupKeepsNoSourceDown(t *testing.T) {
	for kind, waits := range map[string]bool{"Deployment": false, "DeploymentConfig": true} {
		e, client := fakeEnv([]runtime.Object{made(kind, "web", 2, nil).Unstructured})
		pendFake(e, "workload.stop")
		if o := turns(t, e, "workload.stop", nil); o.Seen != reconciler.Succeeded {
			t.Fatalf("%s: %+v", kind, o)
		}
		client.PrependReactor("list", "deploymentconfigs", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.NewServiceUnavailable("the server is currently unable to handle the request")
		})
		for _, verb := range []string{"workload.start-source", "workload.stop-target"} {
			if _, err := Verbs()[verb].Look(t.Context(), e); (err != nil) != waits {
				t.Errorf("%s, %s: %v", verb, kind, err)
			}
		}
		if waits {
			continue
		}
		if o := turns(t, e, "workload.start-source", nil); o.Seen != reconciler.Succeeded || fetch(client, "web").replicas() != 2 {
			t.Errorf("%+v, %d replicas", o, fetch(client, "web").replicas())
		}
		if _, err := Verbs()["workload.stop"].Look(t.Context(), e); err == nil {
			t.Error("a stop did without what it could not list")
		}
	}
}

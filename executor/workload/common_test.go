package workload

import (
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// testEnv is a migrate run of plan "shop" over namespaces, whose itinerary
// retains and stops.
func testEnv(namespaces ...string) *kube.Env {
	run := &spec.Run{Metadata: spec.Metadata{Name: "shop-migrate-3"}}
	run.Spec.Plan, run.Spec.Kind, run.Spec.Number = "shop", spec.RunMigrate, 3
	for _, n := range namespaces {
		run.Spec.Closure.Plan.Spec.Namespaces = append(run.Spec.Closure.Plan.Spec.Namespaces, spec.NamespaceMapping{Name: n})
	}
	run.Steps = []spec.Step{{Name: "retain", Verb: "workload.retain"}, {Name: "stop", Verb: "workload.stop"}}
	return &kube.Env{Call: reconciler.Call{Run: run}, Settings: kube.Settings{Epoch: 7, Namespace: "tranship-system"}}
}

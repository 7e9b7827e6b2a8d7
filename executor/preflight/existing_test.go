package preflight

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
)

// A custom resource that is on the target already is refused before anything is
// stopped, whatever the plan says of other objects; only Skip leaves a foreign one.
func TestCustomResourcesOnTheTarget(t *testing.T) {
	refuses := map[string]map[spec.ExistingPolicy]bool{
		"somebody's":                     {spec.ExistingFail: true, spec.ExistingUpdate: true, spec.ExistingSkip: false},
		"left by an earlier run of ours": {spec.ExistingFail: true, spec.ExistingUpdate: true, spec.ExistingSkip: true},
		"of this run":                    {spec.ExistingFail: false, spec.ExistingUpdate: false, spec.ExistingSkip: false},
	}
	for whose, policies := range refuses {
		for policy, want := range policies {
			s := asked(t, shop)
			s.Target = &kube.Cluster{Name: "new"}
			s.Run.Spec.Closure.Plan.Spec.Existing = policy
			s.Run.Spec.Closure.Plan.Spec.Namespaces = []spec.NamespaceMapping{{Name: "shop"}}
			there := kube.Item{GVR: s.covered[0].GVR, Unstructured: s.covered[0].DeepCopy()}
			run := map[string]string{"somebody's": "", "of this run": s.Origin(), "left by an earlier run of ours": "shop-migrate-0"}[whose]
			if run != "" {
				there.SetAnnotations(map[string]string{kube.AnnotationPlan: "shop", kube.AnnotationRun: run})
			}
			s.target = []kube.Item{there}
			found, err := existingObjects(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			refused := false
			for _, f := range found {
				refused = refused || !f.Warning
				if !strings.Contains(f.Message, "target Shop shop/main") {
					t.Errorf("%s, %s: %q does not name it", whose, policy, f.Message)
				}
			}
			if refused != want {
				t.Errorf("%s, %s: refused: %t, %+v", whose, policy, refused, found)
			}
		}
	}
}

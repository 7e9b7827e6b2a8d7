package reconciler

import (
	"slices"
	"testing"

	"github.com/tranship/tranship/spec"
)

// TestExistingObjectsAreUpdatedBeforeTheStop: only where the plan says so, after
// the restore that leaves them out, and put back after the source has restarted.
func TestExistingObjectsAreUpdatedBeforeTheStop(t *testing.T) {
	for name, c := range map[string]struct {
		existing spec.ExistingPolicy
		hooks    []spec.PlanHook
		want     []string
	}{
		"Fail":                  {"", nil, []string{"restore", "stop"}},
		"Skip":                  {spec.ExistingSkip, nil, []string{"restore", "stop"}},
		"Update":                {spec.ExistingUpdate, nil, []string{"restore", "update", "stop"}},
		"with PreRestore hooks": {spec.ExistingUpdate, []spec.PlanHook{{Hook: "h", Phase: spec.PreRestore}}, []string{"stop", "late-restore", "late-update"}},
	} {
		o := Order{Kind: spec.RunMigrate, Plan: "shop", Closure: &spec.Closure{}}
		o.Closure.Plan.Spec.Existing, o.Closure.Plan.Spec.Hooks = c.existing, c.hooks
		facts := freezeFacts(o, &spec.PlanStatus{})
		var got []string
		for _, d := range migrateSteps {
			of := slices.Contains([]string{"restore", "update", "stop", "late-restore", "late-update"}, d.Name)
			if of && (d.When == nil || d.When(facts)) {
				got = append(got, d.Name)
			}
			if d.Verb == "kube.update" && (d.UndoBefore || !d.UndoTarget || !d.Intent) {
				t.Errorf("%s: %+v", d.Name, d)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

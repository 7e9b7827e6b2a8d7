package reconciler

import (
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A copy that differs is a condition of the plan until a later run proves it
// equal, and a warning of the run that found it, not of later ones.
func TestVerifyErrorsAreTold(t *testing.T) {
	end := metav1.NewMicroTime(time.Unix(1000, 0))
	run := &spec.Run{Metadata: spec.Metadata{Name: "shop-stage-1"}}
	run.Status.Phase, run.Status.Ended = spec.RunSucceeded, &end
	run.Facts.Volumes = []spec.Volume{{Namespace: "shop", Claim: "data", Verified: &spec.Verified{
		Run: "shop-stage-1", Snapshot: "s1", Errors: 2, First: []string{`"a" differs`, `"b" is missing`}}}}
	st := Ended(&spec.PlanStatus{}, run, "runs/x.yaml")
	c := find(st, "VerifyErrors")
	if c == nil || c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, "shop/data") || !strings.Contains(c.Message, `"a" differs`) || !c.LastTransitionTime.Time.Equal(end.Time) {
		t.Fatalf("condition %+v", c)
	}
	if _, w := firstFailure(nil, run); len(w) != 1 || !strings.Contains(w[0], "2 entries") {
		t.Fatalf("warnings %q", w)
	}
	run.Metadata.Name = "shop-stage-2"
	if _, w := firstFailure(nil, run); len(w) != 0 {
		t.Fatalf("a later run warns of what it did not find: %q", w)
	}
	run.Facts.Volumes[0].Verified = &spec.Verified{Run: "shop-stage-2", Snapshot: "s2", Complete: true}
	if c := find(Ended(st, run, "runs/x.yaml"), "VerifyErrors"); c != nil {
		t.Fatalf("condition %+v although the copy is equal", c)
	}
}

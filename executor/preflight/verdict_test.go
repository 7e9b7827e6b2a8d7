package preflight

import (
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What passes by itself is waited for, and not for ever; what does not, ends
// the run at once, whatever else may pass.
func TestVerdictWaitsForWhatPasses(t *testing.T) {
	velero := Finding{Reason: "VeleroNotReady", Message: "no pod is available", Passing: true}
	bucket := Finding{Reason: "BucketMissing", Message: "there is no bucket"}
	warning := Finding{Reason: "ClockSkew", Message: "a clock is off", Warning: true}
	for name, c := range map[string]struct {
		found  []Finding
		waited time.Duration
		seen   reconciler.Seen
		reason string
	}{
		"nothing":                     {nil, 0, reconciler.Succeeded, ""},
		"a warning":                   {[]Finding{warning}, 0, reconciler.Succeeded, ""},
		"what passes":                 {[]Finding{warning, velero}, time.Second, reconciler.Working, "VeleroNotReady"},
		"what has not passed":         {[]Finding{velero}, passingPatience, reconciler.Broken, "VeleroNotReady"},
		"what stays":                  {[]Finding{bucket}, 0, reconciler.Broken, "BucketMissing"},
		"what stays and what passes":  {[]Finding{velero, bucket}, 0, reconciler.Broken, "VeleroNotReady"},
		"a question outside of a run": {[]Finding{velero}, -1, reconciler.Broken, "VeleroNotReady"},
	} {
		e := &kube.Env{Source: &kube.Cluster{}, Target: &kube.Cluster{}}
		if c.waited >= 0 {
			began := metav1.NewMicroTime(time.Now().Add(-c.waited))
			e.Step = spec.Step{Started: &began}
		}
		o := verdict(e, c.found)
		if o.Seen != c.seen || o.Reason != c.reason || o.Final != (c.seen == reconciler.Broken) {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

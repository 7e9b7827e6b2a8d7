package executor

import (
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/spec"
)

func TestSameCluster(t *testing.T) {
	run := &spec.Run{Facts: spec.Facts{SourceUID: "a", TargetUID: "b"}}
	for _, c := range []struct {
		side spec.Side
		uid  string
		ok   bool
	}{{spec.Source, "a", true}, {spec.Target, "b", true}, {spec.Source, "b", false}, {spec.Target, "x", false}} {
		err := sameCluster(run, c.side, &kube.Cluster{Name: "old", UID: c.uid})
		if (err == nil) != c.ok || (err != nil && !strings.Contains(err.Error(), "is not the one")) {
			t.Errorf("%s with UID %s: %v", c.side, c.uid, err)
		}
	}
	if err := sameCluster(&spec.Run{}, spec.Source, &kube.Cluster{UID: "a"}); err != nil {
		t.Errorf("a run that has not looked yet: %v", err)
	}
}

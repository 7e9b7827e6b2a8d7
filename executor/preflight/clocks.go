package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/tranship/tranship/executor/kube"
)

// clockTolerance is what goes unsaid. Certificates, tokens and the signatures
// of object stores begin to fail at minutes (S3: fifteen).
const clockTolerance = 30 * time.Second

func clocks(_ context.Context, s *state) ([]Finding, error) {
	var found []Finding
	for _, c := range []*kube.Cluster{s.Source, s.Target} {
		found = append(found, clock(c.Name, c.Ahead())...)
	}
	return found, nil
}

// clock judges one cluster's clock: nothing that the run does goes by it, but
// what proves who somebody is does.
func clock(cluster string, ahead time.Duration) []Finding {
	if ahead.Abs() <= clockTolerance {
		return nil
	}
	side := "ahead of"
	if ahead < 0 {
		side = "behind"
	}
	return []Finding{{Reason: "ClockSkew", Warning: true, Object: "Cluster " + cluster,
		Message: fmt.Sprintf("the clock of cluster %s is %s %s this machine's: certificates, tokens and the object store's signatures may be refused; let the same time server set both",
			cluster, ahead.Abs().Round(time.Second), side)}}
}

package kube_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/kube/bedtest"
	"github.com/tranship/tranship/reconciler"
)

// TestBedTrafficConflicts has somebody else on the target hold the node port
// and the host of the source: the dry run names both, and nothing is made.
func TestBedTrafficConflicts(t *testing.T) {
	id := time.Now().UnixNano() % 1e6
	from, to, other := fmt.Sprintf("doors-%d", id), fmt.Sprintf("moved-%d", id), fmt.Sprintf("other-%d", id)
	e := bedtest.Env(t, from, from, to)
	bedtest.Namespace(t, e.Source, from, nil)
	bedtest.Namespace(t, e.Target, to, nil)
	bedtest.Namespace(t, e.Target, other, nil)
	port := bedtest.FreeNodePort(t, e.Source, e.Target)
	door := "{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {type: NodePort, selector: {a: b}, ports: [{port: 80, nodePort: %d}]}}"
	gate := "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: %s}, spec: {rules: [{host: %s.example.com, http: {paths: [{path: %s, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}]}}]}}"
	bedtest.Put(t, e.Source, from, fmt.Sprintf(door, "door", port)+"\n---\n"+fmt.Sprintf(gate, "gate", from, "/"))
	bedtest.Put(t, e.Target, other, fmt.Sprintf(gate, "apart", from, "/else"))
	if o := bedtest.Drive(t, e, kube.Verbs(), "dry-run", "kube.dry-run", 1); o.Seen != reconciler.Succeeded {
		t.Fatalf("nothing is in the way yet: %s", o.Message)
	}
	bedtest.Put(t, e.Target, other, fmt.Sprintf(door, "squatter", port)+"\n---\n"+fmt.Sprintf(gate, "rival", from, "/"))
	o := bedtest.Drive(t, e, kube.Verbs(), "dry-run", "kube.dry-run", 1)
	if o.Seen != reconciler.Broken || o.Reason != "DryRunFailed" {
		t.Fatalf("%s: %s", o.Reason, o.Message)
	}
	for _, say := range []string{
		fmt.Sprintf("source Service %s/door: node port %d is taken by target Service %s/squatter", from, port, other),
		fmt.Sprintf("source Ingress %s/gate: %s.example.com/ is claimed by target Ingress %s/rival", from, from, other),
	} {
		if !strings.Contains(o.Message, say) {
			t.Errorf("it does not say %q:\n%s", say, o.Message)
		}
	}
	if got := len(bedtest.List(t, e.Target, to, "v1:services", "")); got != 0 {
		t.Errorf("the dry run left %d Services", got)
	}
}

package kube

import (
	"testing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// TestATakenNameKeepsNothingElseClosed: a copy back that failed makes anew on the
// target whatever has its name free, and ends with what has not; a cutover makes
// nothing more when it finds a name taken.
func TestATakenNameKeepsNothingElseClosed(t *testing.T) {
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunRollback, Number: 1}}
	object := func(name string) Item {
		return item(t, "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: "+name+", namespace: shop}}")
	}
	theirs := object("taken")
	for _, undo := range []bool{false, true} {
		e := &Env{Call: reconciler.Call{Run: run, Undo: undo}, Target: &Cluster{Name: "new"}}
		for _, open := range []bool{false, true} {
			closed, mine := object("free"), e.Marked(object("free"))
			way, scaler := lead{source: closed, entry: spec.Traffic{Object: closed.Record(spec.Target)}}, autoscaler{source: closed, want: closed}
			if open {
				way.target, way.open, scaler.target = &mine, true, &mine
			}
			leads := []lead{{source: object("taken"), target: &theirs, foreign: true, entry: spec.Traffic{Object: theirs.Record(spec.Target)}}, way}
			scalers := []autoscaler{{source: object("taken"), want: object("taken"), target: &theirs}, scaler}
			for what, o := range map[string]reconciler.Observation{"traffic": seenOf(e, leads), "autoscalers": scaledBy(e, scalers)} {
				if acts := undo && !open; acts != (o.Seen == reconciler.Absent) || !acts && (o.Seen != reconciler.Broken || !o.Final || o.Reason != "ExistingObject") {
					t.Errorf("%s, undo %t, the other is open %t: %+v", what, undo, open, o)
				}
			}
		}
	}
}

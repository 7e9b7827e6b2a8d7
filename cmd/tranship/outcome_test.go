package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
)

func TestTellOutcome(t *testing.T) {
	object := func(kind, name string) spec.Object {
		return spec.Object{Side: spec.Target, Kind: kind, Namespace: "store", Name: name}
	}
	run := &spec.Run{Spec: spec.RunSpec{Kind: spec.RunMigrate}}
	f := &run.Facts
	f.Traffic = []spec.Traffic{{Object: object("Ingress", "web"), OldAddress: "a.example.com", NewAddress: "b.example.com"}, {Object: object("Service", "door"), OldAddress: "node port 30080"}}
	f.Counts = []spec.Count{{Kind: "ConfigMap", Source: 3, Target: 2}, {Kind: "Deployment.apps", Source: 1, Target: 1}}
	f.Skipped = []spec.Object{object("ConfigMap", "settings")}
	f.Updated = []spec.Object{object("Secret", "password")}
	f.Changes = []spec.Change{{Field: "spec.replicas", From: "2", To: "0", Held: true, Objects: []string{"Deployment shop/web"}, More: 4}}
	for n := range 25 {
		f.Changes = append(f.Changes, spec.Change{Field: fmt.Sprintf("data.f%02d", n), Objects: []string{"Secret shop/s"}})
	}
	var out bytes.Buffer
	if err := tellOutcome(&out, run); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"traffic   Ingress store/web   a.example.com -> b.example.com\n", "traffic   Service store/door  node port 30080 -> -\n",
		"objects   4 on the source, 3 of them on the target; ConfigMap 3 -> 2\n",
		"skipped   ConfigMap store/settings was on the target before and is left as it is\n",
		"updated   Secret store/password was on the target before and is made what the source has; a rollback puts it back\n",
		"2 -> 0 (held at first)  Deployment shop/web and 4 more\n", "changed   and 6 more, see the run's record (-o json)\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not tell %q:\n%s", want, out.String())
		}
	}
	run.Spec.Kind = spec.RunRollback
	out.Reset()
	if err := tellOutcome(&out, run); err != nil || out.Len() > 0 {
		t.Errorf("a rollback tells %v %s", err, out.String())
	}
}

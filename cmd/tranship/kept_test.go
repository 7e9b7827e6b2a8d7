package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tranship/tranship/spec"
)

func TestWhatIsKeptIsNamed(t *testing.T) {
	st := &spec.PlanStatus{Metadata: spec.Metadata{Name: "shop"}, Volumes: []spec.Volume{
		{Namespace: "shop", Claim: "data", Back: &spec.CopiedBack{Kept: []string{"k0", "k1"}}}, {Namespace: "shop", Claim: "logs"}}}
	var out bytes.Buffer
	if err := listKept(&out, st); err != nil || out.String() != "shop/data  k0\nshop/data  k1\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	for _, c := range []struct{ claim, snapshot, want, refused string }{
		{"shop/data", "", "k1", ""},
		{"shop/data", "k0", "k0", ""},
		{"shop/data", "k2", "", "k0, k1"},
		{"shop/logs", "", "", "nothing is kept"},
		{"data", "", "", "tranship kept shop"},
	} {
		got, err := keptOf(st, c.claim, c.snapshot)
		if got != c.want || (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s %s: %q, %v", c.claim, c.snapshot, got, err)
		}
	}
	st.Recorded.State = spec.Closed
	if _, err := keptOf(st, "shop/data", ""); err == nil {
		t.Error("a closed plan keeps nothing")
	}
}

func TestKeptReadsTheLedger(t *testing.T) {
	a := newAudited(t)
	from := []string{"--config", a.config, "--secrets-dir", a.secrets}
	if out, code := a.run(keptCommand(), append(from, "shop")...); code != 0 || !strings.Contains(out, "nothing is kept") {
		t.Errorf("%d: %s", code, out)
	}
	for want, args := range map[string][]string{
		"no plan web":     {"web"},
		"name a claim":    {"shop", "shop/data"},
		"nothing is kept": {"shop", "shop/data", "--into", t.TempDir()},
	} {
		if out, code := a.run(keptCommand(), append(from, args...)...); code == 0 || !strings.Contains(out, want) {
			t.Errorf("%v: %d %s", args, code, out)
		}
	}
}

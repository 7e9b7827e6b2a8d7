package mover

import (
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/executor/mover/engine"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	batchv1 "k8s.io/api/batch/v1"
)

// verifiedWorld has one claim that holds s1 where s2 is wanted, verified.
func verifiedWorld(t *testing.T, mark string) (*world, *kube.Env, *[]engine.VolumeRequest) {
	t.Helper()
	_, target, e := copiedWorld(t)
	e.Step.Attempt = 2
	e.Run.Spec.Kind = spec.RunMigrate
	e.Run.Metadata.Name = "shop-migrate-7"
	e.Run.Spec.Closure.Plan.Spec.Volumes.Defaults.Verify = true
	e.Run.Facts.Volumes = e.Run.Facts.Volumes[:1]
	e.Run.Facts.Volumes[0].Snapshot = "s2"
	claim := target.claim(ourNamespace, e.Run.Facts.Volumes[0].StagingClaim)
	claim.Annotations[kube.AnnotationMark] = mark
	target.put(claim)
	orders := &[]engine.VolumeRequest{}
	target.job = func(w *world, j *batchv1.Job, r engine.Request) engine.Result {
		*orders = append(*orders, r.Volumes...)
		return writesAll(w, j, r)
	}
	return target, e, orders
}

// What is read back, by the kind of the run and what it has read back before.
func TestVerificationOrders(t *testing.T) {
	proof := func(change func(*spec.Verified)) *spec.Verified {
		p := &spec.Verified{Run: "shop-migrate-7", Snapshot: "s1", Complete: true, Files: 9}
		change(p)
		return p
	}
	none := func(*spec.Verified) {}
	cases := map[string]struct {
		kind     spec.RunKind
		mark     string
		verified *spec.Verified
		want     engine.Verify
		content  bool
		nothing  bool
		before   int64 // files that this run had read back before
	}{
		"a stage run reads what it wrote":            {kind: spec.RunStage, mark: "clean s1", want: engine.VerifyChanged},
		"a stage run that has nothing to write":      {kind: spec.RunStage, mark: "clean s2", nothing: true},
		"a cutover reads everything":                 {mark: "clean s1", want: engine.VerifyAll},
		"also if there is nothing to write":          {mark: "clean s2", want: engine.VerifyAll},
		"but not a second time":                      {mark: "clean s1", verified: proof(none), want: engine.VerifyChanged, before: 9},
		"and nothing if nothing is new":              {mark: "clean s2", verified: proof(func(p *spec.Verified) { p.Snapshot = "s2" }), nothing: true},
		"another run's proof does not count":         {mark: "clean s1", verified: proof(func(p *spec.Verified) { p.Run = "shop-stage-6" }), want: engine.VerifyAll},
		"nor that of another snapshot":               {mark: "clean s1", verified: proof(func(p *spec.Verified) { p.Snapshot = "s0" }), want: engine.VerifyAll},
		"nor a part of one":                          {mark: "clean s1", verified: proof(func(p *spec.Verified) { p.Complete = false }), want: engine.VerifyAll},
		"nor one of a claim that was written since":  {mark: "writing s1→s2", verified: proof(none), want: engine.VerifyAll, content: true},
		"what was found to differ is compared again": {mark: "clean s1", verified: proof(func(p *spec.Verified) { p.Errors = 1 }), want: engine.VerifyAll, content: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, e, orders := verifiedWorld(t, c.mark)
			if c.kind != "" {
				e.Run.Spec.Kind = c.kind
			}
			e.Run.Facts.Volumes[0].Verified = c.verified
			want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
			want(t, drive(t, e), reconciler.Succeeded)
			if c.nothing {
				if len(*orders) > 0 {
					t.Fatalf("ordered %+v", *orders)
				}
				return
			}
			if len(*orders) != 1 || (*orders)[0].Verify != c.want || (*orders)[0].Content != c.content {
				t.Fatalf("ordered %+v, want to verify %q", *orders, c.want)
			}
			p := e.Run.Facts.Volumes[0].Verified
			if p == nil || p.Run != e.Run.Metadata.Name || p.Snapshot != "s2" || p.Complete == (c.kind == spec.RunStage) || p.Files != 3+c.before {
				t.Fatalf("the ledger says %+v", p)
			}
		})
	}
}

// differing is a Job whose copy differs.
func differing(w *world, j *batchv1.Job, r engine.Request) engine.Result {
	res := writesAll(w, j, r)
	for i := range res.Volumes {
		res.Volumes[i].Verified.Errors, res.Volumes[i].Verified.First = 2, []string{`"a/b" differs`, `"c" is missing`}
	}
	return res
}

// With Fail the claim is not marked clean, the step says which files, and the
// next attempt compares everything.
func TestVerifyErrorsFail(t *testing.T) {
	target, e, orders := verifiedWorld(t, "clean s1")
	good := target.job
	target.job = differing
	o := drive(t, at(e, "restore-volumes", "mover.restore"))
	if o.Seen != reconciler.Broken || o.Final || o.Reason != "VerifyErrors" || !strings.Contains(o.Message, `"a/b" differs`) {
		t.Fatalf("%+v", o)
	}
	e.Run.Facts.Volumes = o.Facts.Volumes // as the core does with a failure, too
	v := &e.Run.Facts.Volumes[0]
	if m, _ := markOf(target.claim(ourNamespace, v.StagingClaim)); m.String() != "writing s1→s2" {
		t.Fatalf("marked %q", m)
	}
	if v.Verified == nil || v.Verified.Errors != 2 || !slices.Equal(v.Verified.First, []string{`"a/b" differs`, `"c" is missing`}) {
		t.Fatalf("the ledger says %+v", v.Verified)
	}
	target.job, e.Step.Attempt = good, 3
	want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
	if len(*orders) != 1 || !(*orders)[0].Content || (*orders)[0].Verify != engine.VerifyAll || e.Run.Facts.Volumes[0].Verified.Errors != 0 {
		t.Fatalf("ordered %+v, the ledger says %+v", *orders, e.Run.Facts.Volumes[0].Verified)
	}
}

// With Warn the run goes on, and the ledger tells.
func TestVerifyErrorsWarn(t *testing.T) {
	target, e, orders := verifiedWorld(t, "clean s1")
	e.Run.Spec.Closure.Plan.Spec.Volumes.Overrides = []spec.VolumeOverride{{Namespace: "shop", Claim: e.Run.Facts.Volumes[0].Claim, OnVerifyError: "Warn"}}
	good := target.job
	target.job = differing
	want(t, drive(t, at(e, "restore-volumes", "mover.restore")), reconciler.Succeeded)
	v := &e.Run.Facts.Volumes[0]
	if m, _ := markOf(target.claim(ourNamespace, v.StagingClaim)); m.String() != "clean s2" || v.Verified.Errors != 2 {
		t.Fatalf("marked %q, the ledger says %+v", m, v.Verified)
	}
	target.job = good
	want(t, drive(t, at(e, stepLastRestore, "mover.restore")), reconciler.Succeeded)
	if len(*orders) != 1 || !(*orders)[0].Content || (*orders)[0].Verify != engine.VerifyAll {
		t.Fatalf("the last restore ordered %+v", *orders)
	}
}

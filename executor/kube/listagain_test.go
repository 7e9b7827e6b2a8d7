package kube

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	dynamicfake "k8s.io/client-go/dynamic/fake"
)

// TestDiff: each object of the source with what the target has, and what
// list-again makes of it.
func TestDiff(t *testing.T) {
	since := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: 1}}
	run.Spec.Closure.Plan.Spec.Namespaces = []spec.NamespaceMapping{{Name: "shop", TargetName: "store"}}
	run.Facts = spec.Facts{Restore: "r", Created: []spec.Object{{Side: spec.Target, APIVersion: "v1", Kind: "ConfigMap", Namespace: "store", Name: "a", UID: "u"}}}
	e := &Env{Call: reconciler.Call{Run: run}}
	ours := func(i Item) *Item { m := e.Marked(i); return &m }
	cm := func(ns, value string) Item {
		return item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: "+ns+"}, data: {k: "+value+"}}")
	}
	old := func(i Item) Item {
		at := metav1.NewTime(since.Add(-time.Hour))
		i.SetManagedFields([]metav1.ManagedFieldsEntry{{Time: &at}})
		return i
	}
	applied := ours(cm("store", "mutated"))
	applied.SetAnnotations(map[string]string{AnnotationPlan: "shop", AnnotationApplied: Digest(cm("shop", "w"), e.Translation())})
	foreign := cm("store", "theirs")
	deployment := item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: new, namespace: shop}, spec: {replicas: 1}}")
	ingress := item(t, "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: new, namespace: shop}}")
	never := errors.New("the target was asked")

	for name, c := range map[string]struct {
		source                       Item
		target                       *Item
		err                          error
		apply, late, foreigns, found int
	}{
		"untouched since the backup": {source: old(cm("shop", "v")), err: never},
		"touched, and equal":         {source: cm("shop", "v"), target: ours(cm("store", "v")), found: 1},
		"changed":                    {source: cm("shop", "w"), target: ours(cm("store", "v")), apply: 1},
		"new":                        {source: cm("shop", "w"), apply: 1},
		"applied, then mutated":      {source: cm("shop", "w"), target: applied, found: 1},
		"somebody else's":            {source: cm("shop", "w"), target: &foreign, foreigns: 1},
		"a new workload":             {source: deployment, late: 1},
		"traffic comes later":        {source: ingress, err: never},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := diff(e, []Item{c.source}, since, func(Item) (*Item, error) { return c.target, c.err })
			if err != nil {
				t.Fatal(err)
			}
			if len(d.apply) != c.apply || len(d.late) != c.late || len(d.foreign) != c.foreigns || len(d.found) != c.found {
				t.Errorf("apply %d, late %d, foreign %d, found %d", len(d.apply), len(d.late), len(d.foreign), len(d.found))
			}
		})
	}
}

func TestOrigin(t *testing.T) {
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: 7}}
	e := &Env{Call: reconciler.Call{Run: run}}
	cutover := e.RunLabel()
	if e.Origin() != cutover {
		t.Errorf("a run's own effects: %s", e.Origin())
	}
	run.Spec.Kind, run.Spec.Number, run.Spec.Undoes = spec.RunRollback, 3, "shop-migrate-7"
	if e.Origin() != cutover {
		t.Errorf("a rollback's: %s, want %s", e.Origin(), cutover)
	}
}

// TestForeignObjectsAreSkipped: under existing: Skip what is not ours stays,
// and is named in the record; under Update it is changed, unless it runs pods.
func TestForeignObjectsAreSkipped(t *testing.T) {
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunMigrate, Number: 1}}
	run.Spec.Closure.Plan.Spec.Namespaces = []spec.NamespaceMapping{{Name: "shop", TargetName: "store"}}
	e := &Env{Call: reconciler.Call{Run: run}}
	cm := func(ns, name string) Item {
		return item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: "+name+", namespace: "+ns+"}}")
	}
	mine, account := e.Marked(cm("store", "mine")), item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop}}")
	covered := []Item{cm("shop", "theirs"), cm("shop", "mine"), cm("shop", "new"), account}
	target := []Item{cm("store", "theirs"), mine, cm("shop", "new"), item(t, "{apiVersion: v1, kind: Secret, metadata: {name: new, namespace: store}}"),
		item(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: store}}")}
	source, there := Foreign(e, covered, target)
	if len(source) != 1 || source[0].GetName() != "theirs" || len(there) != 1 || there[0].GetNamespace() != "store" {
		t.Errorf("foreign: %d, %d", len(source), len(there))
	}
	find := func(Item) (*Item, error) { return &target[0], nil }
	for policy, want := range map[spec.ExistingPolicy][3]int{spec.ExistingFail: {1, 0, 0}, spec.ExistingSkip: {0, 1, 0}, spec.ExistingUpdate: {0, 0, 1}} {
		run.Spec.Closure.Plan.Spec.Existing = policy
		d, err := diff(e, covered[:1], time.Now(), find)
		if err != nil || len(d.foreign) != want[0] || len(d.skipped) != want[1] || len(d.apply) != want[2] {
			t.Errorf("%s: %v, foreign %d, skipped %d, apply %d", policy, err, len(d.foreign), len(d.skipped), len(d.apply))
		}
	}
	run.Spec.Closure.Plan.Spec.Existing = spec.ExistingUpdate
	deployment := item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: late, namespace: store}}")
	d, err := diff(e, []Item{deployment}, time.Now(), func(Item) (*Item, error) { return &deployment, nil })
	if err != nil || len(d.foreign) != 1 || len(d.apply) != 0 {
		t.Errorf("a workload that appears after the update: %v, foreign %d, apply %d", err, len(d.foreign), len(d.apply))
	}
	before := cm("store", "theirs")
	before.SetAnnotations(map[string]string{AnnotationPlan: "shop", AnnotationFormer: formerName(e, ""), AnnotationApplied: Digest(covered[0], e.Translation())})
	d, err = diff(e, covered[:1], time.Now(), func(Item) (*Item, error) { return &before, nil })
	if err != nil || len(d.updated) != 1 || len(d.found) != 0 {
		t.Errorf("what was there before counts as made by the run: %v, updated %d, found %d", err, len(d.updated), len(d.found))
	}
	fixed := item(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs, namespace: shop}, immutable: true}")
	d, err = diff(e, []Item{fixed}, time.Now(), func(Item) (*Item, error) { return &before, nil })
	if err != nil || len(d.foreign) != 1 || len(d.apply) != 0 {
		t.Errorf("what was there before becomes immutable and cannot be put back: %v, foreign %d, apply %d", err, len(d.foreign), len(d.apply))
	}
}

// Of what differs after the stop only its own definition is read, to tell a custom
// resource, which is too late.
func TestLateCustomResources(t *testing.T) {
	e := oneDatabase(t)
	fake := e.Source.Dynamic.(*dynamicfake.FakeDynamicClient)
	fake.ClearActions()
	role := "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: a, namespace: shop}}"
	d := &difference{apply: []Item{item(t, role), item(t, database), item(t, strings.ReplaceAll(database, "name: db", "name: more"))}}
	if err := d.without(t.Context(), e); err != nil || len(d.late) != 2 || len(d.apply) != 1 || d.apply[0].GetKind() != "Role" {
		t.Errorf("%v: late %v, apply %v", err, d.late, d.apply)
	}
	for _, a := range fake.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("%s of %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

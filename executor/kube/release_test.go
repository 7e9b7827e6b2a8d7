package kube

import (
	"maps"
	"slices"
	"testing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// TestRelease: which labels and annotations go when plan shop is closed, and that
// nothing else does. A second patch has nothing to take off, so that a killed
// daemon's successor goes on with what is left.
func TestRelease(t *testing.T) {
	run := &spec.Run{Spec: spec.RunSpec{Plan: "shop", Kind: spec.RunClose, Number: 1}, Facts: spec.Facts{Restore: "r", Backup: "b"}}
	e := &Env{Call: reconciler.Call{Run: run}}
	short := Short("shop")
	stamps := "tranship.dev/plan-name: shop, tranship.dev/changed-by: " + short + "-migrate-1, tranship.dev/epoch: '3'"
	for name, c := range map[string]struct {
		object string
		gone   []string // of both kinds, sorted
	}{
		"restored": {"{metadata: {labels: {app: web, velero.io/restore-name: r, velero.io/backup-name: b}, annotations: {note: a, " + stamps + "}}}",
			[]string{"tranship.dev/changed-by", "tranship.dev/epoch", "tranship.dev/plan-name", "velero.io/backup-name", "velero.io/restore-name"}},
		"restored once by others": {"{metadata: {labels: {velero.io/restore-name: other}, annotations: {" + stamps + "}}}",
			[]string{"tranship.dev/changed-by", "tranship.dev/epoch", "tranship.dev/plan-name"}},
		"a live claim": {"{metadata: {labels: {team: shop, tranship.dev/plan: " + short + ", tranship.dev/run: x}, annotations: {tranship.dev/mark: live since 1, " + stamps + "}}}",
			[]string{"tranship.dev/changed-by", "tranship.dev/epoch", "tranship.dev/mark", "tranship.dev/plan", "tranship.dev/plan-name", "tranship.dev/run"}},
		"stopped on the source": {"{metadata: {annotations: {tranship.dev/changed-by: " + short + "-migrate-2, tranship.dev/previous: '{}', tranship.dev/stopped-at: x}}}",
			[]string{"tranship.dev/changed-by", "tranship.dev/previous", "tranship.dev/stopped-at"}},
		"only the label is left": {"{metadata: {labels: {tranship.dev/plan: " + short + "}}}", []string{"tranship.dev/plan"}},
		"only the name is left":  {"{metadata: {annotations: {tranship.dev/plan-name: shop}}}", []string{"tranship.dev/plan-name"}},
		"a moved volume says where": {"{metadata: {annotations: {tranship.dev/moved-to: new/pv, tranship.dev/previous: x, " + stamps + "}}}",
			[]string{"tranship.dev/changed-by", "tranship.dev/epoch", "tranship.dev/previous"}},
		"nobody's":                {"{metadata: {labels: {app: web}, annotations: {note: a, tranship.dev/access-modes: ReadWriteOnce}}}", nil},
		"another plan's":          {"{metadata: {labels: {tranship.dev/plan: other}, annotations: {tranship.dev/plan-name: other, tranship.dev/changed-by: other-migrate-1}}}", nil},
		"in another plan's hands": {"{metadata: {labels: {tranship.dev/plan: " + short + "}, annotations: {tranship.dev/plan-name: shop, tranship.dev/previous: x, tranship.dev/changed-by: other-migrate-1}}}", nil},
		"put there by another plan, stopped by this": {"{metadata: {labels: {tranship.dev/plan: other, tranship.dev/run: x, velero.io/restore-name: theirs}, annotations: {tranship.dev/plan-name: other, tranship.dev/mark: live since 1, tranship.dev/started-at: x, tranship.dev/stopped-at: x, tranship.dev/previous: '{}', tranship.dev/epoch: '3', tranship.dev/changed-by: " + short + "-migrate-1}}}",
			[]string{"tranship.dev/changed-by", "tranship.dev/epoch", "tranship.dev/previous", "tranship.dev/stopped-at"}},
		"a plan with a similar name":   {"{metadata: {annotations: {tranship.dev/changed-by: " + short + "-b-migrate-1}}}", nil},
		"a restore of nobody recorded": {"{metadata: {labels: {velero.io/restore-name: ''}, annotations: {tranship.dev/plan-name: shop}}}", []string{"tranship.dev/plan-name"}},
	} {
		t.Run(name, func(t *testing.T) {
			i := item(t, "{apiVersion: v1, kind: ConfigMap, data: {k: v}, "+c.object[1:])
			before := Item{i.GVR, i.DeepCopy()}
			labels, annotations := marks(e, i)
			if gone := slices.Sorted(slices.Values(slices.Concat(labels, annotations))); !slices.Equal(gone, c.gone) {
				t.Fatalf("taken off: %v, want %v", gone, c.gone)
			}
			patch := without(e, i)
			delete(patch, "uid")
			delete(patch, "resourceVersion")
			mergeInto(i.Object, map[string]any{"metadata": patch})
			if l, a := marks(e, i); len(l)+len(a) > 0 {
				t.Errorf("still there: %v %v", l, a)
			}
			for _, f := range []func(Item) map[string]string{Item.GetLabels, Item.GetAnnotations} {
				want := maps.Clone(f(before))
				maps.DeleteFunc(want, func(k, _ string) bool { return slices.Contains(c.gone, k) })
				if !maps.Equal(f(i), want) {
					t.Errorf("%v became %v", f(before), f(i))
				}
			}
		})
	}
}

// TestOwnersFirst: what a controller copies to is left until it has nothing to copy.
func TestOwnersFirst(t *testing.T) {
	web := item(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, uid: a}}")
	of := func(uid string) Item {
		return item(t, "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: "+uid+", uid: r"+uid+", ownerReferences: [{kind: Deployment, name: web, uid: "+uid+"}]}}")
	}
	var names []string
	for _, i := range ownersFirst([]Item{web, of("a"), of("gone")}) {
		names = append(names, i.GetName())
	}
	if !slices.Equal(names, []string{"web", "gone"}) {
		t.Errorf("first go %v", names)
	}
}

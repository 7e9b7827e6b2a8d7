package spec

import (
	"reflect"
	"strings"
	"testing"
)

// An approval names this digest, and records keep it. If this test fails after
// a change, every approval that is under way would lapse: change digestVersion
// and say so in the release notes.
func TestDigestIsKeptForEver(t *testing.T) {
	closures, problems, _, _ := Assemble(decodeFiles(goldenDocuments(t)))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got := ""
	for _, name := range []string{"full", "small"} {
		got += name + " " + closures[name].Digest() + "\n"
	}
	golden(t, "v1alpha1/digests.golden", got)
}

func TestDigestIgnoresWhatNeedsNoApproval(t *testing.T) {
	want := closureOf(t, planYAML).Digest()
	if !strings.HasPrefix(want, "sha256:") || len(want) != 7+64 {
		t.Fatal(want)
	}
	for _, sets := range [][]string{
		{"spec.state", "Migrated"}, {"spec.state", "RolledBack"}, {"spec.cutover", "{attempt: 4}"}, {"spec.suspend", "{reason: wait}"},
		{"spec.stage", "{schedule: '0 1 * * *', timeZone: Europe/Berlin}"}, {"spec.stage", "{requestedAt: '2026-12-01T10:00:00Z'}"},
		{"spec.cutover", "{}"}, {"spec.volumes", "{defaults: {}}"}, {"spec.labelSelector", "{}"}, {"spec.hooks", "[]"},
	} {
		if got := closureOf(t, with(t, planYAML, sets...)).Digest(); got != want {
			t.Errorf("%v changes the digest", sets)
		}
	}
	if got := closureOf(t, "# a comment\n"+strings.Replace(planYAML, "state: Staged,", "state: !!str Staged   ,", 1)).Digest(); got != want {
		t.Error("layout changes the digest")
	}
}

func TestDigestCoversEverythingElse(t *testing.T) {
	seen := map[string]string{closureOf(t, planYAML).Digest(): "the plan itself"}
	note := func(name, digest string) {
		if other := seen[digest]; other != "" {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[digest] = name
	}
	for _, sets := range [][]string{
		{"metadata.name", "shop2"}, {"metadata", "{name: shop, labels: {region: east}}"}, {"spec.namespaces", "[{name: shop}]"}, {"spec.namespaces", "[{name: shop-db, targetName: shop-data}, {name: shop}]"},
		{"spec.labelSelector", "{matchLabels: {a: b}}"}, {"spec.volumes", "{defaults: {action: skip}}"},
		{"spec.volumes", "{overrides: [{namespace: shop, claim: a, verify: false}]}"}, {"spec.volumes", "{overrides: [{namespace: shop, claim: a}]}"},
		{"spec.hooks", "[{hook: freeze-db, phase: PreBackup, namespace: ns}]"}, {"spec.hooks", "[{hook: freeze-db, phase: PostBackup, namespace: ns}]"},
		{"spec.cutover", "{quiesce: true}"}, {"spec.cutover", "{quiesce: false}"}, {"spec.cutover", "{timeout: 1h}"}, {"spec.cutover", "{notAfter: '2026-12-01T10:00:00Z'}"},
		{"spec.rollback", "{keepVolumes: false}"}, {"spec.rollback", "{targetWrites: Discard}"}, {"spec.existing", "Skip"}, {"spec.sourceCluster", "new", "spec.targetCluster", "old"},
		{"spec.windows", "[{kind: Allow, schedule: '0 1 * * *', duration: 1h}]"},
	} {
		note(strings.Join(sets, "="), closureOf(t, with(t, planYAML, sets...)).Digest())
	}
	plan := with(t, planYAML, "spec.hooks", "[{hook: freeze-db, phase: PreBackup, namespace: ns}]")
	for _, change := range [][2]string{{"api.old", "api2.old"}, {"from: old-token", "from: other"}, {"bucket: migrations", "bucket: elsewhere"}, {"[/freeze]", "[/freeze, now]"}} {
		closures, problems, _ := assemble(t, strings.Replace(parts(t), change[0], change[1], 1), plan)
		if len(closures) != 1 {
			t.Fatal(problems)
		}
		note(change[1], closures["shop"].Digest())
	}
	thaw, undone := strings.Replace(hookYAML, "freeze-db", "thaw-db", 1), with(t, plan, "spec.hooks[0].undo", "thaw-db")
	for _, text := range []string{thaw, strings.Replace(thaw, "/freeze", "/thaw", 1)} {
		closures, problems, _ := assemble(t, parts(t), text, undone)
		if len(closures) != 1 {
			t.Fatal(problems)
		}
		note(text, closures["shop"].Digest())
	}
}

// Every field of a closure is either part of the digest or known to be left
// out: whoever adds one decides.
func TestDigestKnowsEveryField(t *testing.T) {
	left := map[string]bool{"spec.state": true, "spec.suspend.reason": true, "spec.suspend.until": true, "spec.cutover.attempt": true,
		"spec.stage.schedule": true, "spec.stage.timeZone": true, "spec.stage.startingDeadline": true, "spec.stage.requestedAt": true}
	for _, kind := range []string{KindMigrationPlan, KindCluster, KindReplicationRepository, KindHook} {
		object := newObject[kind]()
		fill(reflect.ValueOf(object).Elem(), 1)
		base := digestWith(object)
		for _, pattern := range patterns(reflect.TypeOf(object).Elem()) {
			changed := newObject[kind]()
			fill(reflect.ValueOf(changed).Elem(), 1)
			walk(changed, func(l leaf) {
				if l.Pattern == pattern {
					l.Value.SetZero()
					if l.Value.Kind() == reflect.String {
						l.Value.SetString("changed")
					}
				}
			})
			differs, want := digestWith(changed) != base, !(kind == KindMigrationPlan && left[pattern]) && pattern != "apiVersion" && pattern != "kind"
			if differs != want {
				t.Errorf("%s %s: in the digest %v, want %v", kind, pattern, differs, want)
			}
		}
	}
}

func digestWith(object any) string {
	c := &Closure{Hooks: []Hook{{}}}
	switch o := object.(type) {
	case *MigrationPlan:
		c.Plan = *o
	case *Cluster:
		c.Source = *o
	case *ReplicationRepository:
		c.Repository = *o
	case *Hook:
		c.Hooks[0] = *o
	}
	return c.Digest()
}

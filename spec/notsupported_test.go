package spec

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Every field that people can write is in the tables, and the tables name no
// field that is gone. A new field fails here until somebody decides.
func TestEveryFieldIsSupportedOrNot(t *testing.T) {
	for kind, object := range newObject {
		fields := patterns(reflect.TypeOf(object()).Elem())
		for _, f := range fields {
			if _, ok := supports[kind][f]; !ok {
				t.Errorf("%s %s: add it to supports", kind, f)
			}
		}
		for f := range supports[kind] {
			if !slices.Contains(fields, f) {
				t.Errorf("%s %s is no field", kind, f)
			}
		}
		if len(fields) < 8 {
			t.Errorf("%s has only fields %v: is the walk broken?", kind, fields)
		}
	}
}

// Rules are about fields that exist, too.
func TestEveryRuleIsAboutAField(t *testing.T) {
	for kind, table := range rules {
		object := any(&DaemonConfig{})
		if f := newObject[kind]; f != nil {
			object = f()
		}
		leaves := patterns(reflect.TypeOf(object).Elem())
		for pattern := range table {
			ok := slices.ContainsFunc(leaves, func(l string) bool { return within(l, pattern) })
			if !ok {
				t.Errorf("%s %s is no field", kind, pattern)
			}
		}
	}
}

func TestNotSupported(t *testing.T) {
	const override = "spec.volumes.overrides[0]"
	for _, tc := range []struct{ path, value, at, say string }{
		{"spec.cutover", "{onFailure: Stop}", "spec.cutover.onFailure", "goes back to the source"},
	} {
		closures, problems, _ := assemble(t, parts(t), with(t, planYAML, tc.path, tc.value), with(t, planYAML, "metadata.name", "shop2"))
		c := closures["shop"]
		if c == nil {
			t.Fatalf("%s: %v", tc.value, problems)
		}
		ps := NotSupported(c)
		if len(ps) != 1 || ps[0].Path != tc.at || !strings.Contains(ps[0].Message, tc.say) || ps[0].File != "b.yaml" || ps[0].Line < 5 || ps[0].Document != "MigrationPlan/shop" {
			t.Errorf("%s: %s\n%s", tc.path, tc.value, lines(ps))
		}
	}
}

// What says the same as leaving the field out is supported, and so is what works.
func TestDefaultsWrittenOutAreSupported(t *testing.T) {
	c := closureOf(t, with(t, planYAML,
		"spec.volumes", "{defaults: {action: copy, method: filesystem, verify: false, onVerifyError: Fail, transfer: Repository}, overrides: [{namespace: shop, claim: c, method: snapshot}, {namespace: shop, claim: a, targetClaim: b, storageClassName: x, accessMode: ReadWriteMany, verify: false}]}",
		"spec.cutover", "{quiesce: false, onFailure: RollBack, onWindowClose: Cancel}", "spec.existing", "Fail",
		"spec.rollback", "{targetWrites: Discard, keepVolumes: true}", "spec.windows", "[{kind: Allow, schedule: '0 1 * * *', duration: 1h}]", "spec.dependsOn", "[]"))
	if ps := NotSupported(c); len(ps) > 0 {
		t.Error(lines(ps))
	}
	for _, policy := range []string{"Skip", "Update"} {
		if ps := NotSupported(closureOf(t, with(t, planYAML, "spec.existing", policy))); len(ps) > 0 {
			t.Error(lines(ps))
		}
	}
}

func TestNotSupportedOfTheOtherDocuments(t *testing.T) {
	c := &Closure{}
	c.Plan.Metadata.Name, c.Source.Metadata.Name, c.Target.Metadata.Name = "shop", "old", "new"
	c.Source.Spec.Registry, c.Source.Spec.AzureResourceGroup = "registry.example.com", "rg"
	c.Repository.Metadata.Name, c.Repository.Spec.Provider, c.Repository.Spec.AzureStorageAccount = "main", ProviderAzure, "acc"
	c.Hooks = []Hook{{Metadata: Metadata{Name: "h"}, Spec: HookSpec{Playbook: "x.yml"}}}
	var got []string
	for _, p := range NotSupported(c) {
		got = append(got, p.Document+" "+p.Path)
	}
	want := []string{"Cluster/old spec.registry", "Cluster/old spec.azureResourceGroup", "ReplicationRepository/main spec.provider", "ReplicationRepository/main spec.azureStorageAccount", "Hook/h spec.playbook"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

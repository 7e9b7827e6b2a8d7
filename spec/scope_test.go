package spec

import (
	"fmt"
	"strings"
	"testing"
)

func TestScope(t *testing.T) {
	data := Volume{Namespace: "shop", Claim: "data", ClaimUID: "u1", TargetNamespace: "store", TargetClaim: "data", Action: "copy", Method: "filesystem", Capacity: "1Gi"}
	old := NewScope([]Volume{data}, []string{"Deployment.apps shop/web", "ConfigMap shop/settings"})
	if want := "ConfigMap shop/settings|Deployment.apps shop/web|PersistentVolumeClaim shop/data (u1): copy filesystem to store/data"; strings.Join(old.Entries, "|") != want {
		t.Errorf("entries %q", old.Entries)
	}
	if !digestForm.MatchString(old.Digest) {
		t.Errorf("digest %s", old.Digest)
	}
	grown := data
	grown.Capacity, grown.Bytes, grown.Snapshot = "2Gi", 5, "s1"
	if s := NewScope([]Volume{grown}, []string{"ConfigMap shop/settings", "Deployment.apps shop/web"}); s.Digest != old.Digest {
		t.Error("a stage run or the order of a listing has changed the scope")
	}
	again := data
	again.ClaimUID = "u2"
	for name, s := range map[string]*Scope{
		"another claim of the name": NewScope([]Volume{again}, []string{"ConfigMap shop/settings", "Deployment.apps shop/web"}),
		"an object more":            NewScope([]Volume{data}, []string{"ConfigMap shop/settings", "Deployment.apps shop/web", "Secret shop/password"}),
		"an object less":            NewScope([]Volume{data}, []string{"ConfigMap shop/settings"}),
		"nothing":                   NewScope(nil, nil),
	} {
		if s.Digest == old.Digest {
			t.Errorf("%s does not change the digest", name)
		}
	}
	come, gone := NewScope([]Volume{again}, []string{"ConfigMap shop/settings", "Secret shop/password"}).Since(old)
	if got := strings.Join(come, "|") + " > " + strings.Join(gone, "|"); got != "PersistentVolumeClaim shop/data (u2): copy filesystem to store/data|Secret shop/password > Deployment.apps shop/web|PersistentVolumeClaim shop/data (u1): copy filesystem to store/data" {
		t.Errorf("since: %s", got)
	}
}

func TestScopeIsBounded(t *testing.T) {
	var objects []string
	for i := range maxEntries + 5 {
		objects = append(objects, fmt.Sprintf("ConfigMap shop/c%05d", i))
	}
	s := NewScope(nil, objects)
	if len(s.Entries) != maxEntries || s.More != 5 {
		t.Errorf("%d entries and %d more", len(s.Entries), s.More)
	}
	if NewScope(nil, objects[:len(objects)-1]).Digest == s.Digest {
		t.Error("the digest is not of all entries")
	}
}

func TestScopeOfAPlanIsADigest(t *testing.T) {
	const plan = "apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: {name: shop}\nspec: {state: Staged, sourceCluster: old, targetCluster: new, replicationRepository: main, namespaces: [{name: shop}], cutover: {scope: '%s'}}\n"
	for scope, wrong := range map[string]bool{NewScope(nil, nil).Digest: false, "sha256:abc": true, "newest": true} {
		_, problems := Decode(File{Path: "shop.yaml", Data: fmt.Appendf(nil, plan, scope)})
		if wrong != (len(problems) == 1 && problems[0].Path == "spec.cutover.scope") {
			t.Errorf("%s: %v", scope, problems)
		}
	}
}

package spec

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write golden files anew")

// golden compares with a file of testdata. Files of a released format are
// never written anew: a difference there is a broken promise.
func golden(t *testing.T, path, got string) {
	t.Helper()
	path = filepath.Join("testdata", path)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew)\n--- want\n%s\n--- got\n%s", path, want, got)
	}
}

const (
	clusterYAML = `apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: old}
spec: {server: "https://api.old.example.com:6443", token: {from: old-token}}
`
	repositoryYAML = `apiVersion: tranship.dev/v1alpha1
kind: ReplicationRepository
metadata: {name: main}
spec: {provider: aws, bucket: migrations, region: eu-central-1, credentials: {from: s3}, encryption: {from: s3, key: password}}
`
	hookYAML = `apiVersion: tranship.dev/v1alpha1
kind: Hook
metadata: {name: freeze-db}
spec: {image: "quay.io/team/hook:1", command: [/freeze]}
`
	planYAML = `apiVersion: tranship.dev/v1alpha1
kind: MigrationPlan
metadata: {name: shop}
spec: {state: Staged, sourceCluster: old, targetCluster: new, replicationRepository: main, namespaces: [{name: shop}, {name: shop-db, targetName: shop-data}]}
`
	configYAML = `apiVersion: tranship.dev/v1alpha1
kind: DaemonConfig
metadata: {name: main}
spec: {source: {url: "https://git.example.com/plans.git"}, mover: {image: "tranship:1"}}
`
)

var baseYAML = map[string]string{
	KindCluster: clusterYAML, KindReplicationRepository: repositoryYAML, KindHook: hookYAML, KindMigrationPlan: planYAML, KindDaemonConfig: configYAML,
}

// with sets fields of a document, "path" = value in YAML; "-" removes one.
func with(t testing.TB, doc string, sets ...string) string {
	t.Helper()
	var tree map[string]any
	if err := yaml.Unmarshal([]byte(doc), &tree); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(sets); i += 2 {
		var v any
		if err := yaml.Unmarshal([]byte(sets[i+1]), &v); err != nil {
			t.Fatalf("%s: %v", sets[i+1], err)
		}
		setAt(tree, segments(sets[i]), v, sets[i+1] == "-")
	}
	out, err := yaml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func setAt(node any, path []string, v any, remove bool) {
	for i, seg := range path {
		last := i == len(path)-1
		if index, ok := strings.CutPrefix(seg, "["); ok {
			n, _ := strconv.Atoi(index)
			list := node.([]any)
			if last {
				list[n] = v
			}
			node = list[n]
			continue
		}
		m := node.(map[string]any)
		switch {
		case last && remove:
			delete(m, seg)
		case last:
			m[seg] = v
		case m[seg] == nil:
			m[seg] = map[string]any{}
		}
		node = m[seg]
	}
}

// problemsOf decodes one document, of the configuration too.
func problemsOf(text string) []Problem {
	if strings.Contains(text, "kind: "+KindDaemonConfig) {
		_, ps := DecodeConfig("test.yaml", []byte(text))
		return ps
	}
	_, ps := Decode(File{Path: "test.yaml", Data: []byte(text)})
	return ps
}

func lines(ps []Problem) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// parts gives the documents that plans refer to.
func parts(t testing.TB) string {
	return strings.Join([]string{clusterYAML, with(t, clusterYAML, "metadata.name", "new"), repositoryYAML, hookYAML}, "---\n")
}

func assemble(t testing.TB, texts ...string) (map[string]*Closure, map[string][]Problem, []Problem) {
	t.Helper()
	var docs []Document
	for i, text := range texts {
		d, _ := Decode(File{Path: fmt.Sprintf("%c.yaml", 'a'+i), Data: []byte(text)})
		docs = append(docs, d...)
	}
	closures, problems, other, _ := Assemble(docs)
	return closures, problems, other
}

// closureOf builds the closure of a plan, which must be whole.
func closureOf(t testing.TB, plan string) *Closure {
	t.Helper()
	closures, problems, other := assemble(t, parts(t), plan)
	if len(closures) != 1 || len(other) > 0 {
		t.Fatalf("no closure: %v %v", problems, other)
	}
	for _, c := range closures {
		return c
	}
	return nil
}

package spec

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAssembleBuildsAClosure(t *testing.T) {
	other := strings.Replace(hookYAML, "freeze-db", "warm-up", 1) + "---\n" + strings.Replace(hookYAML, "freeze-db", "thaw-db", 1)
	plan := with(t, planYAML, "spec.hooks", "[{hook: warm-up, phase: PostRestore, namespace: shop}, {hook: freeze-db, undo: thaw-db, phase: PreBackup, namespace: shop}, {hook: freeze-db, phase: PreBackup, namespace: shop, runs: [Stage]}]")
	closures, problems, rest := assemble(t, plan, other, parts(t))
	c := closures["shop"]
	if c == nil || len(problems) > 0 || len(rest) > 0 {
		t.Fatal(problems, rest)
	}
	if c.Source.Metadata.Name != "old" || c.Target.Metadata.Name != "new" || c.Repository.Metadata.Name != "main" ||
		len(c.Hooks) != 3 || c.Hooks[0].Metadata.Name != "freeze-db" || c.Hooks[1].Metadata.Name != "thaw-db" || c.Hooks[2].Metadata.Name != "warm-up" {
		t.Errorf("%+v", c)
	}
	if ps := NotSupported(c); len(ps) != 0 {
		t.Error(ps)
	}
}

// Each row changes a good repository. The plan "shop" is held with sentences
// that name every file concerned; "web", which uses less, is held only when web
// is true.
func TestAProblemHoldsThePlansThatItConcerns(t *testing.T) {
	shop := with(t, planYAML, "spec.hooks", "[{hook: freeze-db, phase: PreBackup, namespace: shop}]")
	web := with(t, planYAML, "metadata.name", "web", "spec.namespaces", "[{name: web}]")
	for name, tc := range map[string]struct {
		texts []string
		says  []string
		web   bool
	}{
		"unknown cluster": {[]string{parts(t), with(t, shop, "spec.sourceCluster", "odl"), web}, []string{`b.yaml:15: spec.sourceCluster: there is no Cluster "odl"; did you mean "old"?`}, false},
		"unknown hook":    {[]string{parts(t), with(t, shop, "spec.hooks[0].hook", "backup"), web}, []string{`there is no Hook "backup": write freeze-db`}, false},
		"unknown undo":    {[]string{parts(t), with(t, shop, "spec.hooks[0].undo", "thaw-db"), web}, []string{`b.yaml:10: spec.hooks[0].undo: there is no Hook "thaw-db": write freeze-db`}, false},
		"unknown plan":    {[]string{parts(t), with(t, shop, "spec.dependsOn", "[wbe]"), web}, []string{`spec.dependsOn[0]: there is no MigrationPlan "wbe"; did you mean "web"?`}, false},
		"a cycle": {[]string{parts(t), with(t, shop, "spec.dependsOn", "[web]"), with(t, web, "spec.dependsOn", "[blog]"), with(t, web, "metadata.name", "blog", "spec.dependsOn", "[shop]")},
			[]string{`b.yaml:7: spec.dependsOn[0]: plans that wait for each other never start: shop depends on web depends on blog depends on shop; remove one`}, true},
		"no repository":      {[]string{clusterYAML + "---\n" + hookYAML, shop, web, with(t, clusterYAML, "metadata.name", "new")}, []string{`there is no ReplicationRepository "main": add a document`}, true},
		"duplicate plan":     {[]string{parts(t), shop, web, shop}, []string{`b.yaml:4: metadata.name: MigrationPlan "shop" is also in d.yaml:1`, `d.yaml:4: metadata.name: MigrationPlan "shop" is also in b.yaml:1`}, false},
		"duplicate cluster":  {[]string{parts(t), shop, web, clusterYAML}, []string{`Cluster "old" is also in a.yaml:1`, `Cluster "old" is also in d.yaml:1`}, true},
		"duplicate hook":     {[]string{parts(t), shop, web, hookYAML}, []string{`Hook "freeze-db" is also in d.yaml:1`}, false},
		"broken repository":  {[]string{strings.Replace(parts(t), "bucket: migrations, ", "", 1), shop, web}, []string{"bucket is missing"}, true},
		"broken hook":        {[]string{strings.Replace(parts(t), "command: [/freeze]", "command: {}", 1), shop, web}, []string{"command must be a list"}, false},
		"illegible hook":     {[]string{strings.Replace(parts(t), "command: [/freeze]", "command: [", 1), shop, web}, []string{"not valid YAML"}, false},
		"broken plan":        {[]string{parts(t), with(t, shop, "spec.state", "Stage", "spec.targetCluster", "nwe"), web}, []string{`did you mean "Staged"?`, `did you mean "new"?`}, false},
		"illegible plan":     {[]string{parts(t), strings.Replace(shop, "spec:", "spec: {", 1), web}, []string{"not valid YAML"}, false},
		"future plan":        {[]string{parts(t), strings.Replace(shop, "v1alpha1", "v1", 1), web}, []string{"is newer than"}, false},
		"too many":           {[]string{parts(t), with(t, shop, "spec.namespaces", manyNamespaces(11)), web}, []string{"Namespace limit exceeded: the plan has 11 namespaces, the limit is 10"}, false},
		"broken on one side": {[]string{parts(t), shop, web, strings.Replace(clusterYAML, "https", "http", 1)}, []string{"must start with https://", "is also in"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			closures, problems, _ := assemble(t, tc.texts...)
			if closures["shop"] != nil || len(problems["shop"]) < len(tc.says) {
				t.Fatalf("not held: %v", problems["shop"])
			}
			for _, say := range tc.says {
				if !strings.Contains(lines(problems["shop"]), say) {
					t.Errorf("does not say %s:\n%s", say, lines(problems["shop"]))
				}
			}
			if held := closures["web"] == nil; held != tc.web || held != (len(problems["web"]) > 0) {
				t.Errorf("web held %v: %v", held, problems["web"])
			}
		})
	}
}

func manyNamespaces(n int) string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("{name: n%d}", i))
	}
	return "[" + strings.Join(names, ", ") + "]"
}

func TestLimitsAreConfigurable(t *testing.T) {
	docs, _ := Decode(File{Data: []byte(parts(t) + "---\n" + with(t, planYAML, "spec.namespaces", manyNamespaces(11)))})
	if closures, problems, _, _ := AssembleWithin(Limits{Namespaces: 11}, docs); len(closures) != 1 {
		t.Error(problems)
	}
}

func TestProblemsOfNoPlanAreTheOthers(t *testing.T) {
	unused := strings.Replace(strings.Replace(clusterYAML, "name: old", "name: third", 1), "https", "http", 1)
	twin := strings.Replace(hookYAML, "freeze-db", "unused", 1)
	closures, problems, other := assemble(t, parts(t)+"---\n"+planYAML, unused, twin, twin, "just text")
	if len(closures) != 1 || len(problems) != 0 || len(other) != 4 {
		t.Fatalf("%v %v\n%s", closures, problems, lines(other))
	}
	for i, want := range []string{"b.yaml:4: spec.server: ", `Hook "unused" is also in d.yaml:1`, `Hook "unused" is also in c.yaml:1`, "e.yaml:1: a document starts with"} {
		if !strings.Contains(other[i].String(), want) {
			t.Errorf("%s, want %s", other[i], want)
		}
	}
	if !Hides(other, "web") || Hides(other[:3], "web") {
		t.Error("only the last one may hide a plan")
	}
}

// A folder that was copied by mistake is said in short sentences, quickly.
func TestAThousandTwins(t *testing.T) {
	docs, _ := Decode(File{Path: "a.yaml", Data: []byte(strings.Repeat(planYAML+"---\n", MaxDocuments-1))})
	_, problems, _, _ := Assemble(docs)
	for _, p := range problems["shop"] {
		if len(p.Message) > 500 {
			t.Fatal(p)
		}
	}
	if len(problems["shop"]) < MaxDocuments-1 {
		t.Error(len(problems["shop"]))
	}
}

func TestCounts(t *testing.T) {
	docs, _ := Decode(File{Data: []byte(parts(t) + "---\n" + planYAML + "---\n" + strings.Replace(planYAML, "Staged", "x", 1) + "---\ntext\n")})
	_, _, _, counts := Assemble(docs)
	if fmt.Sprint(counts) != "map[Cluster:2 Hook:1 MigrationPlan:2 ReplicationRepository:1]" {
		t.Error(counts)
	}
}

// Whatever documents come together: a plan has a closure or problems, never
// both and never none, no problem gets lost, and the order of files does not
// matter to who is held.
func TestAssembleLosesNothing(t *testing.T) {
	pool := []string{
		clusterYAML, with(t, clusterYAML, "metadata.name", "new"), repositoryYAML, hookYAML, planYAML,
		with(t, planYAML, "metadata.name", "web"), with(t, planYAML, "metadata.name", "bad", "spec.state", "x"),
		with(t, planYAML, "metadata.name", "far", "spec.targetCluster", "third"), strings.Replace(clusterYAML, "https", "http", 1),
		with(t, hookYAML, "metadata.name", "other"), strings.Replace(planYAML, "{name: shop}", "{name: [}", 1), "text",
		with(t, planYAML, "metadata.name", "hooked", "spec.hooks", "[{hook: other, phase: PreBackup, namespace: ns}]"),
	}
	rapid.Check(t, func(t *rapid.T) {
		picked := rapid.SliceOfN(rapid.SampledFrom(pool), 0, 14).Draw(t, "documents")
		var docs []Document
		for i, text := range picked {
			d, _ := Decode(File{Path: fmt.Sprintf("%d.yaml", i), Data: []byte(text)})
			docs = append(docs, d...)
		}
		closures, problems, other, _ := Assemble(docs)
		said := map[Problem]bool{}
		for _, p := range other {
			said[p] = true
		}
		for plan, ps := range problems {
			if closures[plan] != nil || len(ps) == 0 {
				t.Fatalf("plan %s has a closure, or no problem: %v", plan, ps)
			}
			for _, p := range ps {
				said[p] = true
			}
		}
		for _, d := range docs {
			for _, p := range d.Problems {
				if !said[p] {
					t.Fatalf("lost: %v", p)
				}
			}
			if d.Kind == KindMigrationPlan && closures[d.Name] == nil && problems[d.Name] == nil {
				t.Fatalf("plan %s is gone", d.Name)
			}
		}
		checkOrder(t, docs, closures, problems)
	})
}

func checkOrder(t *rapid.T, docs []Document, closures map[string]*Closure, problems map[string][]Problem) {
	again, held, _, _ := Assemble(rapid.Permutation(docs).Draw(t, "other order"))
	if len(again) != len(closures) || len(held) != len(problems) {
		t.Fatalf("another order holds other plans: %v, %v", problems, held)
	}
	for plan, c := range closures {
		if again[plan] == nil || again[plan].Digest() != c.Digest() {
			t.Fatalf("another order changes plan %s", plan)
		}
	}
}

// Whatever refers to whatever: exactly the plans that can come back to
// themselves are held, and nothing is said twice.
func TestCyclesAreFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(t, "plans")
		to, docs := map[string][]string{}, []Document{}
		for i := range n {
			name := fmt.Sprint("p", i)
			for j := range n {
				if i != j && rapid.IntRange(0, 3).Draw(t, "edge") == 0 {
					to[name] = append(to[name], fmt.Sprint("p", j))
				}
			}
			p := &MigrationPlan{Metadata: PlanMetadata{Name: name}, Spec: PlanSpec{DependsOn: to[name]}}
			docs = append(docs, Document{Kind: KindMigrationPlan, Name: name, File: name, partial: p, Problems: []Problem{{Message: "not whole"}}})
		}
		_, problems, _, _ := Assemble(docs)
		var reach func(from, goal string, seen map[string]bool) bool
		reach = func(from, goal string, seen map[string]bool) bool {
			for _, next := range to[from] {
				if next == goal || !seen[next] {
					if seen[next] = true; next == goal || reach(next, goal, seen) {
						return true
					}
				}
			}
			return false
		}
		for name := range to {
			said := 0
			for _, p := range problems[name] {
				if strings.Contains(p.Message, "wait for each other") {
					said++
				}
			}
			closing := 0
			for _, next := range to[name] {
				if reach(next, name, map[string]bool{}) {
					closing++
				}
			}
			if said != closing {
				t.Fatalf("%s of %v: %d references close a cycle, %d are refused: %v", name, to, closing, said, problems[name])
			}
		}
	})
}

package spec

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"
)

func TestShardsThatMeet(t *testing.T) {
	config := func(name, shard, paths, more string) *DaemonConfig {
		if shard == "" {
			return shardConfig(t, name, "", more)
		}
		return shardConfig(t, name, "{name: "+shard+", paths: ["+paths+"]}", more)
	}
	labelled := func(name, selector, more string) *DaemonConfig {
		return shardConfig(t, name, "{name: "+name+", "+selector+"}", more)
	}
	for name, c := range map[string]struct {
		a, b *DaemonConfig
		says []string
	}{
		"apart":             {config("a", "east", "east, common/east", ""), config("b", "west", "west, common/west, eastern", ""), nil},
		"one in the other":  {config("a", "east", "plans", ""), config("b", "west", "x, plans/west", ""), []string{`"a" and "b" both run the plans below "plans/west"`}},
		"the same":          {config("a", "east", "plans", ""), config("b", "west", "plans", ""), []string{`below "plans"`}},
		"all and a part":    {config("a", "", "", ""), config("b", "west", "west", ""), []string{`below "west"`}},
		"a path and a part": {config("a", "", "", ", path: west/old"), config("b", "west", "west", ""), []string{`below "west/old"`}},
		"all and all":       {config("a", "", "", ""), config("b", "", "", ""), []string{"the same ledger", `below "."`}},
		"one name":          {config("a", "east", "a", ""), config("b", "east", "b", ""), []string{"the same ledger", `both shard "east"`}},
		"another branch":    {config("a", "east", "a", ""), config("b", "west", "a", ", branch: x"), []string{`below "a"`}},
		"other labels":      {labelled("a", "selector: {matchLabels: {region: east}}", ""), labelled("b", "selector: {matchLabels: {region: west}}", ""), nil},
		"the rest":          {labelled("a", "selector: {matchLabels: {region: east}}", ""), labelled("b", "selector: {matchExpressions: [{key: region, operator: NotIn, values: [east]}]}", ""), nil},
		"labels that meet":  {labelled("a", "selector: {matchLabels: {region: east}}", ""), labelled("b", "selector: {matchLabels: {team: x}}", ""), []string{`both run plans below ".": some labels match both selectors`}},
		"labels and all":    {labelled("a", "selector: {matchLabels: {region: east}}", ""), config("b", "", "", ""), []string{`both run plans below ".": configuration "b" has no selector, so give it one that leaves the other's labels out, or folders of its own`}},
		"labels elsewhere":  {labelled("a", "paths: [x], selector: {matchLabels: {region: east}}", ""), labelled("b", "paths: [y], selector: {matchLabels: {region: east}}", ""), nil},
		"other trust": {labelled("a", "selector: {matchLabels: {region: east}}", ""), labelled("b", "selector: {matchLabels: {region: west}}", "}\n  trust: {keys: [{name: ann, owner: Ann, ssh: ssh-ed25519 AAAA}]"),
			[]string{`share the folder "." and differ in spec.trust`}},
	} {
		problems := ShardProblems([]*DaemonConfig{c.a, c.b})
		for i, p := range problems {
			if i >= len(c.says) || !strings.Contains(p.Message, c.says[i]) {
				t.Errorf("%s: %s", name, p.Message)
			}
		}
		if len(problems) != len(c.says) {
			t.Errorf("%s: %d problems", name, len(problems))
		}
	}
	elsewhere := config("b", "west", "a", "")
	elsewhere.Spec.Source.URL, elsewhere.Spec.Ledger.URL = "https://git.example.com/others", "https://git.example.com/others"
	if problems := ShardProblems([]*DaemonConfig{config("a", "east", "a", ""), elsewhere}); len(problems) > 0 {
		t.Errorf("another repository: %v", problems)
	}
}

func shardConfig(t *testing.T, name, shard, more string) *DaemonConfig {
	t.Helper()
	if shard != "" {
		shard = "\n  shard: " + shard
	}
	c, problems := DecodeConfig("x", []byte("apiVersion: tranship.dev/v1alpha1\nkind: DaemonConfig\nmetadata: {name: "+name+"}\nspec:\n  source: {url: 'https://git.example.com/plans.git'"+more+"}\n  mover: {image: x}"+shard+"\n"))
	if c == nil {
		t.Fatal(problems)
	}
	return c
}

// Whose a plan is: told by folder, by labels, by both, and by neither where the
// labels cannot be read.
func TestPlansAreDivided(t *testing.T) {
	const east = "{name: east, selector: {matchLabels: {region: east}}}"
	const rest = "{name: rest, selector: {matchExpressions: [{key: region, operator: NotIn, values: [east, west]}]}}"
	const both = "{name: both, paths: [plans], selector: {matchExpressions: [{key: region, operator: Exists}]}}"
	plan := func(metadata string) string {
		return strings.Replace(planYAML, "metadata: {name: shop}", "metadata: "+metadata, 1)
	}
	for _, c := range []struct{ shard, file, text, want string }{
		{east, "a.yaml", plan("{name: shop, labels: {region: east, team: x}}"), "ours"},
		{east, "a.yaml", plan("{name: shop, labels: {region: west}}"), "elsewhere"},
		{east, "a.yaml", plan("{name: shop}"), "elsewhere"},
		{rest, "a.yaml", plan("{name: shop}"), "ours"},
		{rest, "a.yaml", plan("{name: shop, labels: {region: west}}"), "elsewhere"},
		{both, "plans/a.yaml", plan("{name: shop, labels: {region: east}}"), "ours"},
		{both, "plans/a.yaml", plan("{name: shop}"), "elsewhere"},
		{both, "other/a.yaml", plan("{name: shop, labels: {region: east}}"), "elsewhere"},
		{both, "other/a.yaml", plan("{name: shop, labels: [region]}"), "elsewhere"},
		{"", "a.yaml", plan("{name: shop, labels: [region]}"), "ours"},
		// A plan with another problem is still whose its labels say.
		{east, "a.yaml", strings.Replace(plan("{name: shop, labels: {region: west}}"), "state: Staged", "stat: Staged", 1), "elsewhere"},
		{east, "a.yaml", strings.Replace(plan("{name: shop, labels: {region: east}}"), "state: Staged", "stat: Staged", 1), "ours"},
		{east, "a.yaml", plan("{name: shop, labels: [region]}"), "unknown"},
		{east, "a.yaml", plan("{name: shop, labels: {region: 'e t'}}"), "unknown"},
		{east, "a.yaml", plan("{name: shop, labels: {region: east, region: west}}"), "unknown"},
		// Labels may be there under a field that nobody knows, or behind where reading ended.
		{east, "a.yaml", plan("{name: shop, label: {region: west}}"), "unknown"},
		{east, "a.yaml", plan("{name: shop}\nlabels: {region: west}"), "unknown"},
		{east, "a.yaml", "apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nspec: {namespaces: [" + strings.Repeat("{name: a}, ", maxValues) + "]}\nmetadata: {name: shop, labels: {region: west}}\n", "unknown"},
		{east, "a.yaml", plan("{name: Shop, labels: {region: west}}"), "elsewhere"},
		{east, "a.yaml", strings.Replace(planYAML, "metadata: {name: shop}", "metadata:\n  name: shop\n  labels: {region: east}\nx: {{{", 1), "unknown"},
		{east, "a.yaml", strings.Replace(plan("{name: shop, labels: {region: east}}"), "v1alpha1", "v9", 1), "unknown"},
	} {
		var shard *Shard
		if c.shard != "" {
			shard = shardConfig(t, "x", c.shard, "").Spec.Shard
		}
		docs, problems := Decode(File{Path: c.file, Data: []byte(c.text)})
		shard.Divide(docs)
		if len(docs) != 1 {
			t.Fatalf("%s: %d documents", c.text, len(docs))
		}
		d, got := docs[0], "ours"
		switch {
		case d.Elsewhere && len(d.Problems) == 0 && strings.EqualFold(d.Name, "shop"):
			got = "elsewhere"
		case d.Kind == "" && Hides(d.Problems, "shop") && !Hides(d.Problems, "web") && d.Object == nil && strings.Contains(d.Problems[0].Message, `labels of MigrationPlan "shop" cannot be read, and they say which shard runs it: `):
			got = "unknown"
		case d.Kind != KindMigrationPlan || len(d.Problems) != len(problems):
			got = "neither"
		}
		if got != c.want {
			t.Errorf("%s, %s\n%s\ngot %s (%+v), want %s", c.shard, c.file, c.text, got, d.Problems, c.want)
		}
	}
}

// A plan of which nobody can say whose it is holds neither plans that wait for it nor
// others, but no second one of its name goes on.
func TestAPlanThatMayBeAnyShards(t *testing.T) {
	plan := func(name, labels, on string) string {
		return strings.NewReplacer("metadata: {name: shop}", "metadata: {name: "+name+", labels: "+labels+"}", "spec: {", "spec: {dependsOn: ["+on+"], ").Replace(planYAML)
	}
	docs, _ := Decode(File{Path: "a.yaml", Data: []byte(parts(t) + "---\n" + plan("shop", "{region: east}", "web") + "---\n" + plan("web", "[region]", "") + "---\n" + plan("blog", "{region: east}", "") + "---\n" + plan("blog", "[region]", ""))})
	shardConfig(t, "x", "{name: east, selector: {matchLabels: {region: east}}}", "").Spec.Shard.Divide(docs)
	closures, problems, other, _ := Assemble(docs)
	if len(closures) != 1 || closures["shop"] == nil || len(other) != 2 {
		t.Errorf("%v %v\n%s", closures, problems, lines(other))
	}
	if say := lines(problems["blog"]); len(problems) != 1 || !strings.Contains(say, "which cannot be read: names are unique") {
		t.Errorf("%v", problems)
	}
}

// Selectors are disjoint where no labels match both, as trying says.
func TestDisjointSelectors(t *testing.T) {
	keys, values := []string{"a", "b"}, []string{"x", "y"}
	var everything []labels.Set
	for _, a := range []string{"", "x", "y", "z"} {
		for _, b := range []string{"", "x", "y", "z"} {
			set := labels.Set{}
			for k, v := range map[string]string{"a": a, "b": b} {
				if v != "" {
					set[k] = v
				}
			}
			everything = append(everything, set)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) *metav1.LabelSelector {
			s := &metav1.LabelSelector{}
			for range rapid.IntRange(0, 3).Draw(rt, name) {
				r := metav1.LabelSelectorRequirement{Key: rapid.SampledFrom(keys).Draw(rt, "key"), Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}).Draw(rt, "operator")}
				if strings.HasSuffix(string(r.Operator), "In") {
					r.Values = rapid.SliceOfNDistinct(rapid.SampledFrom(values), 1, 2, rapid.ID).Draw(rt, "values")
				}
				s.MatchExpressions = append(s.MatchExpressions, r)
			}
			if rapid.Bool().Draw(rt, "plain") {
				s.MatchLabels = map[string]string{rapid.SampledFrom(keys).Draw(rt, "key"): rapid.SampledFrom(values).Draw(rt, "value")}
			}
			return s
		}
		a, b := draw("a"), draw("b")
		x, err := metav1.LabelSelectorAsSelector(a)
		y, err2 := metav1.LabelSelectorAsSelector(b)
		if err != nil || err2 != nil {
			rt.Fatal(err, err2)
		}
		met := slices.ContainsFunc(everything, func(l labels.Set) bool { return x.Matches(l) && y.Matches(l) })
		if Disjoint(a, b) == met {
			rt.Fatalf("%s and %s: disjoint %v", x, y, !met)
		}
	})
	if Disjoint(nil, &metav1.LabelSelector{MatchLabels: map[string]string{"a": "x"}}) {
		t.Error("no selector selects all")
	}
}

func TestUnclaimed(t *testing.T) {
	configs := []*DaemonConfig{shardConfig(t, "a", "{name: a, paths: [east]}", ""), shardConfig(t, "b", "{name: b, selector: {matchLabels: {region: west}}}", ", path: plans")}
	for _, c := range []struct {
		file, labels string
		unclaimed    bool
	}{
		{"east/a.yaml", "{}", false}, {"plans/a.yaml", "{region: west}", false}, {"plans/a.yaml", "{region: east}", true},
		{"west/a.yaml", "{region: west}", true}, {"plans/a.yaml", "[x]", false},
	} {
		docs, _ := Decode(File{Path: "/clone/" + c.file, Data: []byte(strings.Replace(planYAML, "metadata: {name: shop}", "metadata: {name: shop, labels: "+c.labels+"}", 1))})
		problems := Unclaimed(configs, docs, func(file string) string { return strings.TrimPrefix(file, "/clone/") })
		if (len(problems) == 1) != c.unclaimed || c.unclaimed && (problems[0].File != "/clone/"+c.file || !strings.Contains(problems[0].Message, "belongs to no shard")) {
			t.Errorf("%s %s: %v", c.file, c.labels, problems)
		}
		if problems := Unclaimed(configs[:1], docs, func(string) string { return "west/a.yaml" }); len(problems) > 0 {
			t.Errorf("one configuration says nothing of others: %v", problems)
		}
		other := shardConfig(t, "c", "", "")
		other.Spec.Source.URL = "https://git.example.com/other.git"
		if problems := Unclaimed(append(configs[:2:2], other), docs, func(file string) string { return strings.TrimPrefix(file, "/clone/") }); (len(problems) == 1) != c.unclaimed {
			t.Errorf("%s %s: a daemon of another repository runs it: %v", c.file, c.labels, problems)
		}
	}
}

// What the daemon of a shard will refuse is said of files, too.
func TestWaitingAcrossShards(t *testing.T) {
	east := shardConfig(t, "a", "{name: east, selector: {matchLabels: {region: east}}}", "")
	rest := shardConfig(t, "b", "{name: rest, selector: {matchExpressions: [{key: region, operator: NotIn, values: [east]}]}}", "")
	for _, c := range []struct {
		configs []*DaemonConfig
		labels  string // of the other plan
		refused bool
	}{
		{nil, "{}", false}, {[]*DaemonConfig{shardConfig(t, "all", "", "")}, "{}", false},
		{[]*DaemonConfig{east}, "{region: east}", false}, {[]*DaemonConfig{east}, "{}", true}, {[]*DaemonConfig{rest}, "{}", false},
		{[]*DaemonConfig{east, rest}, "{region: west}", true}, {[]*DaemonConfig{rest, east}, "{region: east}", false}, {[]*DaemonConfig{east, rest}, "[x]", false},
	} {
		docs, _ := Decode(File{Path: "/clone/a.yaml", Data: []byte(strings.NewReplacer("{name: shop}", "{name: shop, labels: {region: east}}", "spec: {state", "spec: {dependsOn: [web, none], state").Replace(planYAML) +
			"---\n" + strings.Replace(planYAML, "metadata: {name: shop}", "metadata: {name: web, labels: "+c.labels+"}", 1))})
		problems := WaitAcross(c.configs, docs, func(file string) string { return strings.TrimPrefix(file, "/clone/") })
		if (len(problems) == 1) != c.refused || c.refused && (problems[0].Path != "spec.dependsOn[0]" || problems[0].Line != 4 || !strings.Contains(problems[0].Message, "belongs to another shard")) {
			t.Errorf("%d configurations, %s: %v", len(c.configs), c.labels, problems)
		}
	}
}

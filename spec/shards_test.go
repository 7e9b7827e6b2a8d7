package spec

import (
	"strings"
	"testing"
)

func TestShardsThatMeet(t *testing.T) {
	config := func(name, shard, paths, more string) *DaemonConfig {
		if shard != "" {
			shard = "\n  shard: {name: " + shard + ", paths: [" + paths + "]}"
		}
		c, problems := DecodeConfig("x", []byte("apiVersion: tranship.dev/v1alpha1\nkind: DaemonConfig\nmetadata: {name: "+name+"}\nspec:\n  source: {url: 'https://git.example.com/plans.git'"+more+"}\n  mover: {image: x}"+shard+"\n"))
		if c == nil {
			t.Fatal(problems)
		}
		return c
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

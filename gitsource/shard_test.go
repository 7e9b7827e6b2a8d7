package gitsource

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// sharded is the configuration of a shard with one folder.
func sharded(t *testing.T, c Config, name string) Config {
	t.Helper()
	c.Spec.Shard = &spec.Shard{Name: name, Paths: []string{name}}
	c.Spec.Ledger.Branch = "tranship/ledger-" + name
	c.DataDir = t.TempDir()
	return c
}

// Two daemons share a repository: each sees its own plans and what is no plan,
// and nothing that people do to the other's is a change, a removal or a problem
// to it. Reading on and reading anew say the same.
func TestTwoShardsOfOneRepository(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	w := r.Clone()
	w.Write("common.yaml", commonYAML).Write("east/shop.yaml", planYAML("shop", spec.Staged))
	for _, name := range []string{"web", "blog", "wiki"} {
		w.Write("west/"+name+".yaml", planYAML(name, spec.Staged))
	}
	w.Push("first")
	c := sharded(t, testConfig(t, s, r), "east")
	east := openSource(t, c)
	d := read(t, east, "")
	if len(d.Closures) != 1 || d.Closures["shop"] == nil || len(d.Problems)+len(d.Other) > 0 || d.Documents[spec.KindMigrationPlan] != 1 || d.Documents[spec.KindCluster] != 2 {
		t.Fatalf("%+v", d)
	}
	shop := func(text string) { w.Write("east/shop.yaml", text) }
	on := func(plan string) string {
		return strings.Replace(planYAML("shop", spec.Staged), "spec: {", "spec: {dependsOn: ["+plan+"], ", 1)
	}
	for _, step := range []struct {
		name string
		edit func()
		says string // of the problem of shop
	}{
		{"theirs are flipped", func() { w.Write("west/web.yaml", planYAML("web", spec.Migrated)) }, ""},
		{"theirs are broken", func() {
			w.Write("west/web.yaml", "apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: {name: web}\nspec: {stat: x}\n")
		}, ""},
		{"most of theirs are gone", func() { w.Git("rm", "-q", "west/web.yaml", "west/blog.yaml") }, ""},
		{"ours waits for one of theirs", func() { shop(on("wiki")) }, "belongs to another shard"},
		{"ours is whole again", func() { shop(planYAML("shop", spec.Staged)) }, ""},
		{"theirs has the name of ours", func() { w.Write("west/more.yaml", planYAML("shop", spec.Staged)) }, "is also in west/more.yaml:1, of another shard"},
		{"it has another name", func() { w.Write("west/more.yaml", planYAML("more", spec.Staged)) }, ""},
	} {
		step.edit()
		w.Push(step.name)
		d = read(t, east, d.Commit)
		for _, commit := range d.Commits {
			if len(commit.Plans)+len(commit.Removed) > 0 {
				t.Errorf("%s: it counts as %+v of ours", step.name, commit)
			}
		}
		said := ""
		for _, p := range d.Problems["shop"] {
			said += p.Message
		}
		if (step.says == "") != (d.Closures["shop"] != nil) || !strings.Contains(said, step.says) || len(d.Other) > 0 {
			t.Errorf("%s: problems %v, others %v", step.name, d.Problems, d.Other)
		}
		again := sharded(t, c, "east")
		if got, want := content(t, d), content(t, read(t, openSource(t, again), "")); got != want {
			t.Errorf("%s: read on\n%s\nread anew\n%s", step.name, got, want)
		}
	}
	w.Git("mv", "east/shop.yaml", "west/shop.yaml")
	w.Push("moved")
	if d = read(t, east, d.Commit); !slices.Equal(d.Commits[0].Removed, []string{"shop"}) {
		t.Errorf("a plan that goes to another shard is removed from this one: %+v", d.Commits)
	}
}

// The same by labels: a plan goes from shard to shard by its label, also together
// with other edits, and one whose labels cannot be read stays recorded where it is.
func TestTwoShardsByLabels(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	w := r.Clone()
	plan := func(name, labels string, state spec.State) string {
		return strings.Replace(planYAML(name, state), "metadata: {name: "+name+"}", "metadata: {name: "+name+", labels: "+labels+"}", 1)
	}
	w.Write("common.yaml", commonYAML).Write("shop.yaml", plan("shop", "{region: east}", spec.Staged))
	for _, name := range []string{"web", "blog", "wiki"} {
		w.Write(name+".yaml", plan(name, "{region: west}", spec.Staged))
	}
	w.Push("first")
	c := sharded(t, testConfig(t, s, r), "east")
	c.Spec.Shard = &spec.Shard{Name: "east", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"region": "east"}}}
	east := openSource(t, c)
	d := read(t, east, "")
	if len(d.Closures) != 1 || d.Closures["shop"] == nil || len(d.Problems)+len(d.Other) > 0 {
		t.Fatalf("%+v", d)
	}
	for _, step := range []struct {
		name    string
		edit    func()
		ours    string // plans, and those that this commit removed, after a minus
		problem string
	}{
		{"theirs is flipped", func() { w.Write("web.yaml", plan("web", "{region: west}", spec.Migrated)) }, "shop", ""},
		{"theirs is broken", func() {
			w.Write("web.yaml", strings.Replace(plan("web", "{region: west}", spec.Staged), "state", "stat", 1))
		}, "shop", ""},
		{"theirs becomes ours", func() { w.Write("blog.yaml", plan("blog", "{region: east}", spec.Staged)) }, "blog=Staged+ shop", ""},
		{"ours becomes theirs", func() { w.Write("blog.yaml", plan("blog", "{region: west, team: x}", spec.Staged)) }, "shop -blog", ""},
		{"labels that cannot be read", func() { w.Write("wiki.yaml", plan("wiki", "[region]", spec.Staged)) }, "shop", `the labels of MigrationPlan "wiki" cannot be read`},
		{"ours goes meanwhile", func() { w.Write("shop.yaml", plan("shop", "{}", spec.Staged)) }, "-shop", `"wiki" cannot be read`},
		{"ours comes back, and cannot be read", func() { w.Write("shop.yaml", plan("shop", "{region: east}", spec.Staged)+"x: {{{") }, "", `"shop" cannot be read`},
		{"all is well", func() {
			w.Write("wiki.yaml", plan("wiki", "{region: east}", spec.Staged)).Write("shop.yaml", plan("shop", "{region: east}", spec.Migrated))
		}, "shop=Migrated+ wiki=Staged+", ""},
		{"ours cannot be read", func() { w.Write("shop.yaml", plan("shop", "{lable: east}", spec.Migrated)+"x: {{{") }, "wiki", `"shop" cannot be read`},
		{"anything may be hidden", func() { w.Write("more.yaml", "{{{") }, "wiki", "is not valid YAML"},
		{"ours is read again", func() { w.Write("shop.yaml", plan("shop", "{region: east}", spec.RolledBack)) }, "shop=RolledBack wiki", "is not valid YAML"},
		{"ours is theirs, whatever is hidden", func() { w.Write("shop.yaml", plan("shop", "{region: west}", spec.RolledBack)) }, "wiki -shop", "is not valid YAML"},
		{"it comes back with another state", func() { w.Write("shop.yaml", plan("shop", "{region: east}", spec.Migrated)) }, "shop=Migrated+ wiki", "is not valid YAML"},
	} {
		step.edit()
		w.Push(step.name)
		d = read(t, east, d.Commit)
		got := slices.Sorted(maps.Keys(d.Closures))
		for _, commit := range d.Commits {
			for i, plan := range got {
				if f, flipped := commit.Plans[plan]; flipped {
					got[i] += "=" + string(f.State)
					if f.Appeared {
						got[i] += "+"
					}
				}
			}
			for _, plan := range commit.Removed {
				got = append(got, "-"+plan)
			}
		}
		said := ""
		for _, p := range d.Other {
			said += p.Message
		}
		if strings.Join(got, " ") != step.ours || (said == "") != (step.problem == "") || !strings.Contains(said, step.problem) {
			t.Errorf("%s: %q, others %v", step.name, got, d.Other)
		}
		again := c
		again.DataDir = t.TempDir()
		if got, want := content(t, d), content(t, read(t, openSource(t, again), "")); got != want {
			t.Errorf("%s: read on\n%s\nread anew\n%s", step.name, got, want)
		}
	}
}

// A plan that changes hands under an approval policy: it goes without an approval,
// as whatever stops, and comes with nothing but what was signed here.
func TestAPlanThatChangesShardsUnderAPolicy(t *testing.T) {
	text := func(region, targetNamespace string, state spec.State) string {
		return strings.NewReplacer("metadata: {name: shop}", "metadata: {name: shop, labels: {region: "+region+"}}", "namespaces: [{name: shop}]", "namespaces: [{name: shop, targetName: "+targetNamespace+"}]").Replace(planYAML("shop", state))
	}
	east := &spec.Shard{Name: "east", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"region": "east"}}}
	const file = "plans/shop.yaml"
	for _, c := range []struct {
		name string
		do   func(e *estate) reconciler.PlanDecision
		want string // reason, or what starts
	}{
		{"it goes, by nobody", func(e *estate) reconciler.PlanDecision {
			return e.put(file, text("west", "x", spec.Staged)).by(nil).step()
		}, "Removed"},
		{"it goes in mid-cutover", func(e *estate) reconciler.PlanDecision {
			dec := e.put(file, text("east", "x", spec.Migrated)).by(e.ada).step()
			run := reconciler.Freeze(e.now, *dec.Start, dec.Status)
			e.rec.Open[run.Metadata.Name] = run
			e.rec.Plans["shop"] = reconciler.Started(dec.Status, run)
			return e.put(file, text("west", "x", spec.Migrated)).by(nil).step()
		}, "cancel Removed"},
		{"it comes back as it was", func(e *estate) reconciler.PlanDecision {
			e.put(file, text("west", "x", spec.Staged)).by(nil).step()
			return e.put(file, text("east", "x", spec.Staged)).by(nil).step()
		}, "Staged"},
		{"it comes back with what nobody has signed", func(e *estate) reconciler.PlanDecision {
			e.put(file, text("west", "evil", spec.Staged)).by(nil).step()
			return e.put(file, text("east", "evil", spec.Staged)).by(e.ada).step()
		}, "Unapproved"},
		{"it comes back with another word", func(e *estate) reconciler.PlanDecision {
			e.put(file, text("west", "x", spec.Staged)).by(nil).step()
			return e.put(file, text("east", "x", spec.Migrated)).by(e.ada).step()
		}, "Unrecorded"},
		{"it goes and comes in one poll", func(e *estate) reconciler.PlanDecision {
			e.put(file, text("west", "x", spec.Staged)).by(nil)
			return e.put(file, text("east", "x", spec.Migrated)).by(e.ada).step()
		}, "Unrecorded"},
		{"it comes by a signed branch, and is flipped by another", func(e *estate) reconciler.PlanDecision {
			e.put(file, text("west", "x", spec.Staged)).by(nil).step()
			e.put(file, text("east", "x", spec.Staged)).branch(e.ada, nil, nil).step()
			return e.put(file, text("east", "x", spec.Migrated)).branch(e.grace, nil, nil).step()
		}, "start migrate"},
		{"a merge changes its label", func(e *estate) reconciler.PlanDecision {
			e.put(file, text("west", "x", spec.Staged)).by(nil).step()
			return e.put(file, text("west", "y", spec.Staged)).branch(e.ada, nil, func() { e.put(file, text("east", "y", spec.Staged)) }).step()
		}, "Unapproved"},
		{"another one comes, by nobody", func(e *estate) reconciler.PlanDecision {
			return e.put(file, text("east", "x", spec.Staged)).by(nil).step()
		}, "new Unapproved"},
		{"another one comes, signed", func(e *estate) reconciler.PlanDecision {
			return e.put(file, text("east", "x", spec.Staged)).by(e.ada).step()
		}, "new Staged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := found(t, meet(t), spec.ApprovalPolicy{Ways: []spec.Way{spec.SignedCommits, spec.MergeCommits}, CountAuthor: true})
			e.src.shard = east
			want, isNew := strings.CutPrefix(c.want, "new ")
			if !isNew {
				e.put(file, text("east", "x", spec.Staged)).by(e.ada).step()
			} else {
				e.put(file, text("west", "x", spec.Staged)).by(nil).step()
				delete(e.rec.Plans, "shop")
				e.rec.Plans["shop"] = &spec.PlanStatus{Metadata: spec.Metadata{Name: "shop"}}
			}
			dec := c.do(e)
			got, message := e.reason()
			switch {
			case dec.Cancel != "":
				got = "cancel " + got
			case dec.Start != nil:
				got = "start " + string(dec.Start.Kind)
			}
			if got != want {
				t.Errorf("got %s (%s), want %s", got, message, want)
			}
		})
	}
}

// Each shard has a ledger of its own: a daemon of another shard does not take
// it, whatever it may take over, and one that had all plans may become a shard.
func TestALedgerBelongsToOneShard(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	must(t, acquired(t, c, "a").Close())
	narrowed := sharded(t, c, "east")
	narrowed.DataDir, narrowed.Spec.Ledger.Branch = c.DataDir, ""
	must(t, acquired(t, narrowed, "a").Close())
	west := sharded(t, c, "west")
	west.Spec.Ledger.Branch = ""
	l := openLedger(t, west)
	if _, err := l.Acquire(testContext(t), "b", true); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), `shard "east"`) {
		t.Errorf("%v", err)
	}
	own := acquired(t, sharded(t, c, "west"), "b")
	must(t, own.Record(testContext(t), planChange("web", "x")))
	must(t, own.Push(testContext(t)))
	if text := r.Git("show", "refs/heads/tranship/ledger-west:"+daemonFile); !strings.Contains(text, "shard: west") {
		t.Errorf("it does not say whose it is:\n%s", text)
	}
	r.Fsck()
}

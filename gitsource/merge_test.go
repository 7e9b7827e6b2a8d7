package gitsource

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// cloned is a repository with two staged plans, and a clone of it on a branch
// of its own.
func cloned(t *testing.T) *gittest.Work {
	t.Helper()
	w := gittest.New(t).Repo("plans.git").Clone()
	w.Write("common.yaml", commonYAML).Write("plans/shop.yaml", planYAML("shop", spec.Staged)).Write("plans/web.yml", planYAML("web", spec.Staged))
	w.Write(".gitignore", "/build\n*.tmp.yaml\n").Push("first")
	w.Git("checkout", "-q", "-b", "change")
	return w
}

func merge(t *testing.T, dir string, c Change) *Merge {
	t.Helper()
	l, err := OpenLocal(dir)
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	c.Now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	m, err := l.Merge(testContext(t), c)
	must(t, err)
	return m
}

// states says which plans a merge shows, before and after.
func states(m *Merge) string {
	var out []string
	for _, d := range []map[string]*spec.Closure{m.Before.Closures, m.After.Closures} {
		var one []string
		for _, name := range slices.Sorted(maps.Keys(d)) {
			one = append(one, name+"="+string(d[name].Plan.Spec.State))
		}
		out = append(out, strings.Join(one, " "))
	}
	return strings.Join(out, " > ")
}

func TestMergeOfTheWorkingTree(t *testing.T) {
	w := cloned(t)
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Write("plans/new.yaml", planYAML("new", spec.Staged)).Write("plans/web.yml", "")
	w.Write("plans/x.tmp.yaml", planYAML("ignored", spec.Staged)).Write("build/y.yaml", planYAML("built", spec.Staged))
	m := merge(t, w.Dir, Change{Into: "origin/main"})
	if got, want := states(m), "shop=Staged web=Staged > new=Staged shop=Migrated"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := told(m.After), mergedAs+": new=Staged/1+ shop=Migrated/1 -web"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(m.Notes) != 0 {
		t.Errorf("notes: %q", m.Notes)
	}
	if out := w.Git("status", "--porcelain", "-uall"); strings.Contains(out, "new file") {
		t.Errorf("the clone was changed: %s", out)
	}
	if out := w.Git("count-objects"); out != strings.TrimSpace(w.Git("count-objects")) || strings.Contains(w.Git("fsck", "--unreachable"), "unreachable") {
		t.Errorf("objects were written into the clone: %s", out)
	}
}

func TestMergeOnTopOfWhatTheBranchSaysNow(t *testing.T) {
	w := cloned(t)
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated))
	head := w.Commit("flip shop")
	w.Git("checkout", "-q", "main")
	w.Write("plans/web.yml", planYAML("web", spec.Closed)).Push("somebody else")
	w.Git("checkout", "-q", "change")
	for _, c := range []Change{{Into: "origin/main"}, {Into: "refs/heads/main", Head: head}, {Into: w.Git("rev-parse", "main"), Head: "change", Path: "./"}} {
		if got, want := states(merge(t, filepath.Join(w.Dir, "plans"), c)), "shop=Staged web=Closed > shop=Migrated web=Closed"; got != want {
			t.Errorf("%+v: got  %s\nwant %s", c, got, want)
		}
	}
}

func TestMergeOfAFileThatBothEdited(t *testing.T) {
	w := cloned(t)
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Commit("flip shop")
	w.Git("checkout", "-q", "main")
	w.Write("plans/shop.yaml", planYAML("shop", spec.Closed)).Push("somebody else")
	w.Git("checkout", "-q", "change")
	m := merge(t, w.Dir, Change{Into: "main"})
	if got, want := states(m), "shop=Closed web=Staged > shop=Migrated web=Staged"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "plans/shop.yaml was edited on the branch too") {
		t.Errorf("notes: %q", m.Notes)
	}
}

func TestMergeBelowAPath(t *testing.T) {
	w := cloned(t)
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Write("docs/example.yaml", planYAML("example", spec.Migrated))
	m := merge(t, w.Dir, Change{Into: "main", Path: "plans"})
	if len(m.After.Closures) != 0 || len(m.After.Problems) != 2 { // common.yaml is outside
		t.Errorf("closures %v, problems %v", m.After.Closures, m.After.Problems)
	}
}

// A second working tree has its own HEAD and shares everything else.
// A shard's daemon sees a plan go and come by its labels, and nothing of others.
func TestMergeForAShard(t *testing.T) {
	w := cloned(t)
	plan := func(name, region string, state spec.State) string {
		return strings.Replace(planYAML(name, state), "{name: "+name+"}", "{name: "+name+", labels: {region: "+region+"}}", 1)
	}
	w.Git("checkout", "-q", "main")
	w.Write("plans/shop.yaml", plan("shop", "east", spec.Staged)).Write("plans/web.yml", plan("web", "west", spec.Staged)).Write("plans/blog.yaml", plan("blog", "west", spec.Staged)).Push("labels")
	w.Write("plans/shop.yaml", plan("shop", "west", spec.Staged)).Write("plans/web.yml", plan("web", "east", spec.Migrated)).Write("plans/blog.yaml", plan("blog", "west", spec.Migrated))
	east := &spec.Shard{Name: "east", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"region": "east"}}}
	m := merge(t, w.Dir, Change{Into: "origin/main", Shard: east})
	if got, want := told(m.After), mergedAs+": web=Migrated/1+ -shop"; got != want || m.After.Partial {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if m := merge(t, w.Dir, Change{Into: "origin/main", Shard: east, Path: "plans"}); !m.Before.Partial || !m.After.Partial {
		t.Error("it does not say that only a part was looked at")
	}
}

func TestMergeInASecondWorkingTree(t *testing.T) {
	w := cloned(t)
	second := filepath.Join(t.TempDir(), "second")
	w.Git("worktree", "add", "-q", "-b", "other", second, "main")
	must(t, os.WriteFile(filepath.Join(second, "plans", "shop.yaml"), []byte(planYAML("shop", spec.Migrated)), 0o600))
	if got, want := states(merge(t, second, Change{Into: "main"})), "shop=Staged web=Staged > shop=Migrated web=Staged"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A CI job often fetches one commit only.
func TestMergeWithoutHistory(t *testing.T) {
	w := cloned(t)
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated))
	w.Commit("flip shop")
	w.Git("push", "-q", "origin", "change")
	shallow := filepath.Join(t.TempDir(), "shallow")
	w.Git("clone", "-q", "--depth=1", "--branch", "change", "file://"+w.Repo.Dir, shallow)
	l, err := OpenLocal(shallow)
	must(t, err)
	defer l.Close()
	if _, err := l.Merge(testContext(t), Change{Into: "origin/main"}); err == nil || !strings.Contains(err.Error(), "let it fetch all history") {
		t.Errorf("a branch that was not fetched: %v", err)
	}
	w.Git("checkout", "-q", "main")
	w.Write("README.md", "more").Push("somebody else")
	w.Git("-C", shallow, "fetch", "-q", "--depth=1", "origin", "main:refs/remotes/origin/main")
	m := merge(t, shallow, Change{Into: "origin/main"})
	if got, want := states(m), "shop=Staged web=Staged > shop=Migrated web=Staged"; got != want || len(m.Notes) != 1 {
		t.Errorf("got  %s\nwant %s\nnotes %q", got, want, m.Notes)
	}
}

func TestOpenLocalOutsideOfAClone(t *testing.T) {
	if _, err := OpenLocal(t.TempDir()); err == nil || !strings.Contains(err.Error(), "cannot find a clone") {
		t.Errorf("got %v", err)
	}
}

// A link and a file that is too large are refused in a working tree as in a commit.
func TestWorkingTreeRefusesWhatCommitsRefuse(t *testing.T) {
	w := cloned(t)
	must(t, os.Symlink("/etc/passwd", filepath.Join(w.Dir, "plans", "link.yaml")))
	must(t, os.WriteFile(filepath.Join(w.Dir, "plans", "big.yaml"), make([]byte, maxFile+1), 0o600))
	m := merge(t, w.Dir, Change{Into: "main"})
	if len(m.After.Other) != 2 {
		t.Errorf("problems: %v", m.After.Other)
	}
}

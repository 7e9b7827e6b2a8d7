package gitsource

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// Git itself is asked what patterns mean.
func TestIgnoreFilesMeanWhatGitSays(t *testing.T) {
	w := gittest.New(t).Repo("plans.git").Clone()
	var files []string
	for _, dir := range []string{"", "a/", "a/b/", "a/b/a/", "b/", "b/a/"} {
		for _, name := range []string{"a.yaml", "b.yaml", "a", "b.yml", "[x]", "#c"} {
			if _, err := os.Stat(filepath.Join(w.Dir, dir+name)); err != nil && !(name == "a" && slices.Contains([]string{"", "a/b/", "b/"}, dir)) {
				w.Write(dir+name, "x")
				files = append(files, dir+name)
			}
		}
	}
	lines := []string{"a", "a/", "/a", "/a/", "*.yaml", "!*.yaml", "b/*.yaml", "!b/a.yaml", "/*", "!/a/", "!/b", "**/a", "**/b/", "a/**", "!a/b/", "!a/b/**",
		"a/**/a", "[!a].yaml", "[ab].yaml", `\[x]`, `\#c`, "# comment", "", "*", "!*/", "?.yml", "/a/b/", "!a", "b/a", "*.yaml ", "a.*", "**/b/a.yaml", "!**/b/a.yaml", "b"}
	rnd := rand.New(rand.NewPCG(7, 9))
	for range 60 {
		rules := map[string][]byte{}
		for _, dir := range []string{"", "a/", "a/b/", "b/"} {
			if rnd.IntN(2) == 0 {
				continue
			}
			var text string
			for range 1 + rnd.IntN(4) {
				text += lines[rnd.IntN(len(lines))] + "\n"
			}
			rules[dir+spec.IgnoreFile] = []byte(text)
		}
		for _, dir := range []string{"", "a/", "a/b/", "b/"} {
			_ = os.Remove(filepath.Join(w.Dir, dir, spec.IgnoreFile)) // where the last round had one
			if text, ok := rules[dir+spec.IgnoreFile]; ok {
				must(t, os.WriteFile(filepath.Join(w.Dir, dir, spec.IgnoreFile), text, 0o600))
			}
		}
		want := strings.Split(w.Git("-c", "core.quotepath=off", "ls-files", "-o", "-i", "--exclude-per-directory="+spec.IgnoreFile), "\n")
		g := newIgnoring(rules, nil)
		for _, file := range files {
			if got := g.ignores(file); got != slices.Contains(want, file) {
				t.Errorf("%s: %v, git says otherwise\n%s", file, got, show(rules))
			}
		}
		if len(g.problems) > 0 {
			t.Errorf("problems: %v", g.problems)
		}
	}
}

func show(rules map[string][]byte) string {
	var b strings.Builder
	for _, file := range slices.Sorted(maps.Keys(rules)) {
		fmt.Fprintf(&b, "--- %s\n%s", file, rules[file])
	}
	return b.String()
}

// Whoever ignores a plan's document has deleted it, and whoever reads on, anew
// or in one poll is told the same.
func TestAnIgnoredPlanIsARemovedOne(t *testing.T) {
	w, src, c, first := planned(t)
	since := first
	var all []string
	for _, step := range []struct {
		name string
		edit func()
		want string
	}{
		{"ignore", func() { w.Write(".transhipignore", "# not yet\n/plans/shop.yaml\n") }, "ignore: -shop"},
		{"flip unseen", func() { w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)) }, "flip unseen: "},
		{"break unseen", func() { w.Write("plans/shop.yaml", "{{{") }, "break unseen: "},
		{"nest", func() {
			w.Write("plans/.transhipignore", "!shop.yaml\nweb.*\n").Write("plans/shop.yaml", planYAML("shop", spec.Migrated))
		}, "nest: shop=Migrated/1+ -web"},
		{"ignore the folder", func() { w.Write(".transhipignore", "plans/\n") }, "ignore the folder: -shop"},
		{"read all", func() { w.Git("rm", "-q", ".transhipignore", "plans/.transhipignore") }, "read all: shop=Migrated/1+ web=Staged/1+"},
	} {
		step.edit()
		w.Push(step.name)
		d := read(t, src, since)
		expect(t, d, step.want)
		if len(d.Problems)+len(d.Other) > 0 {
			t.Errorf("%s: %v %v", step.name, d.Problems, d.Other)
		}
		since = d.Commit
		all = append(all, step.want)
		again := c
		again.DataDir = t.TempDir()
		fresh := openSource(t, again)
		if got, want := content(t, read(t, fresh, "")), content(t, d); got != want {
			t.Errorf("%s: a new source says\n%s\nwant\n%s", step.name, got, want)
		}
		must(t, fresh.Close())
	}
	c.DataDir = t.TempDir()
	expect(t, read(t, openSource(t, c), first), strings.Join(all, "; "))
}

// What the configuration ignores no file of the repository brings back, and what
// it wants to be read no file of the repository hides.
func TestTheConfigurationIgnoresLast(t *testing.T) {
	w, _, c, _ := planned(t)
	w.Write("drafts/a.yaml", planYAML("draft", spec.Migrated)).Write(".transhipignore", "!*\n!/drafts/**\nweb.yml\n/README.md\n").Push("drafts")
	c.DataDir, c.Spec.Source.Ignore = t.TempDir(), []string{"/drafts/", "!web.yml"}
	d := read(t, openSource(t, c), "")
	if len(d.Closures) != 2 || d.Closures["web"] == nil || d.Closures["draft"] != nil {
		t.Errorf("%v", slices.Sorted(maps.Keys(d.Closures)))
	}
}

// An ignore file counts below the folder that is read only.
func TestIgnoreFilesOfThePathAndBelow(t *testing.T) {
	w, _, c, _ := planned(t)
	w.Write(".transhipignore", "*.yaml\n").Write("team/.transhipignore", "/b.yaml\n")
	w.Write("team/a.yaml", commonYAML+"---\n"+planYAML("scoped", spec.Staged)).Write("team/b.yaml", planYAML("hidden", spec.Staged)).Push("team")
	c.DataDir, c.Spec.Source.Path = t.TempDir(), "team"
	d := read(t, openSource(t, c), "")
	if len(d.Closures) != 1 || d.Closures["scoped"] == nil || len(d.Other) != 0 {
		t.Errorf("%+v", d)
	}
}

// A line that says nothing is a problem, and while there is one no plan that is
// missing counts as removed.
func TestIgnoreFilesThatAreRefused(t *testing.T) {
	for name, step := range map[string]struct {
		edit func(w *gittest.Work)
		says string
	}{
		"a bracket": {func(w *gittest.Work) { w.Write(".transhipignore", "\n/plans/shop.yaml\nweb[.yml\n") }, ".transhipignore:3: \"web[.yml\" cannot be matched"},
		"too long": {func(w *gittest.Work) {
			w.Write(".transhipignore", strings.Repeat("# x\n", maxIgnoreFile/4+1)+"shop.yaml\n")
		}, ".transhipignore:1: the file has 65"},
		"too large": {func(w *gittest.Work) { w.Write(".transhipignore", strings.Repeat("# x\n", maxFile/4+1)+"shop.yaml\n") }, ".transhipignore:1: the file has"},
		"too many":  {func(w *gittest.Work) { w.Write(".transhipignore", strings.Repeat("x\n", maxPatterns)+"shop.yaml\n") }, ".transhipignore:1001: this is the pattern after the first 1000"},
		"a link": {func(w *gittest.Work) {
			must(t, os.Symlink("README.md", filepath.Join(w.Dir, ".transhipignore")))
		}, ".transhipignore:1: this is a link"},
	} {
		t.Run(name, func(t *testing.T) {
			w, src, _, tip := planned(t)
			step.edit(w)
			w.Push("ignore")
			d := read(t, src, tip)
			expect(t, d, "ignore: ")
			if len(d.Other) != 1 || !strings.Contains(d.Other[0].String(), step.says) {
				t.Errorf("problems: %v", d.Other)
			}
		})
	}
}

// The merge of a pull request and a folder on disk are read by the same rules.
func TestAllReadersIgnoreTheSame(t *testing.T) {
	w := cloned(t)
	w.Write(".transhipignore", "/plans/web.yml\n").Write("drafts/x.yaml", planYAML("draft", spec.Staged)).Write("team/.transhipignore", "y.*\n").Write("team/y.yaml", planYAML("y", spec.Staged))
	source := spec.Repository{Ignore: []string{"drafts/"}}
	m := merge(t, w.Dir, Change{Into: "main", Source: source})
	if got, want := told(m.After), mergedAs+": -web"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if m = merge(t, w.Dir, Change{Into: "main", Path: "plans", Source: source}); told(m.After) != mergedAs+": -web" {
		t.Errorf("below a path: %s", told(m.After))
	}
	for below, want := range map[string]string{"": "common.yaml plans/shop.yaml, 3 ignored", "plans": "shop.yaml, 1 ignored", "plans/web.yml": ", 1 ignored"} {
		found, err := Folder{Path: filepath.Join(w.Dir, below), Ignore: source.Ignore}.Read()
		must(t, err)
		var names []string
		for _, f := range found.Files {
			names = append(names, strings.TrimPrefix(f.Path, filepath.Join(w.Dir, below)+"/"))
		}
		if got := fmt.Sprintf("%s, %d ignored", strings.Join(names, " "), found.Ignored); got != want || len(found.Refused) > 0 {
			t.Errorf("%q: got %q, want %q", below, got, want)
		}
	}
	found, err := Folder{Path: filepath.Join(w.Dir, "plans"), Scope: filepath.Join(w.Dir, "plans")}.Read()
	must(t, err)
	if len(found.Files) != 2 {
		t.Errorf("an ignore file above the scope counts: %v", found.Files)
	}
}

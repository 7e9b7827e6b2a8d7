package gitsource

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

const commonYAML = `apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: old}
spec: {server: "https://api.old.example.com:6443", token: {from: old-token}}
---
apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: new}
spec: {server: "https://api.new.example.com:6443", token: {from: new-token}}
---
apiVersion: tranship.dev/v1alpha1
kind: ReplicationRepository
metadata: {name: main}
spec: {provider: aws, bucket: migrations, region: eu-central-1, credentials: {from: s3}, encryption: {from: s3, key: password}}
`

func planYAML(name string, state spec.State) string {
	return fmt.Sprintf(`apiVersion: tranship.dev/v1alpha1
kind: MigrationPlan
metadata: {name: %s}
spec: {state: %s, sourceCluster: old, targetCluster: new, replicationRepository: main, namespaces: [{name: %s}]}
`, name, state, name)
}

// planned is a repository with two staged plans, a person's clone of it and
// a source that has read it once.
func planned(t *testing.T) (*gittest.Work, *Source, Config, string) {
	t.Helper()
	s := gittest.New(t)
	r := s.Repo("plans.git")
	w := r.Clone()
	w.Write("common.yaml", commonYAML).Write("plans/shop.yaml", planYAML("shop", spec.Staged)).Write("plans/web.yml", planYAML("web", spec.Staged))
	w.Write("README.md", "kind: nothing to read").Push("first")
	c := testConfig(t, s, r)
	src := openSource(t, c)
	d := read(t, src, "")
	if len(d.Closures) != 2 || len(d.Commits) != 0 || d.Unchanged || d.Rewritten || d.Documents[spec.KindCluster] != 2 {
		t.Fatalf("first read: %+v", d)
	}
	return w, src, c, d.Commit
}

func openSource(t *testing.T, c Config) *Source {
	t.Helper()
	src, err := OpenSource(c)
	must(t, err)
	t.Cleanup(func() { _ = src.Close() }) // tests close and open again to restart
	return src
}

func read(t *testing.T, src *Source, since string) *reconciler.Desired {
	t.Helper()
	d, err := src.Read(testContext(t), since)
	must(t, err)
	return d
}

// told is what a read says of the commits, for comparison.
func told(d *reconciler.Desired) string {
	var out []string
	for _, c := range d.Commits {
		var flips []string
		for name, f := range c.Plans {
			s := fmt.Sprintf("%s=%s/%d", name, f.State, f.Attempt)
			if f.Appeared {
				s += "+"
			}
			if f.Digest == "" {
				s += "?"
			}
			flips = append(flips, s)
		}
		slices.Sort(flips)
		for _, r := range c.Removed {
			flips = append(flips, "-"+r)
		}
		out = append(out, c.Approval.Subject+": "+strings.Join(flips, " "))
	}
	if d.Rewritten {
		out = append(out, "rewritten")
	}
	return strings.Join(out, "; ")
}

func expect(t *testing.T, d *reconciler.Desired, want string) {
	t.Helper()
	if got := told(d); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUnchanged(t *testing.T) {
	_, src, _, tip := planned(t)
	for _, since := range []string{"", tip, tip} {
		d := read(t, src, since)
		if !d.Unchanged || len(d.Closures) != 2 || d.Commit != tip {
			t.Errorf("%+v", d)
		}
	}
}

func TestMergeThatFlipsTwoPlans(t *testing.T) {
	w, src, _, tip := planned(t)
	w.Git("checkout", "-q", "-b", "pr")
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Commit("flip shop")
	w.Write("plans/web.yml", planYAML("web", spec.Migrated)).Commit("flip web")
	w.Git("checkout", "-q", "main")
	w.Git("-c", "user.name=Boss", "-c", "user.email=boss@example.com", "merge", "-q", "--no-ff", "-m", "Merge the PR\n\nbody", "pr")
	merge := w.Push("and an empty commit")
	d := read(t, src, tip)
	expect(t, d, "Merge the PR: shop=Migrated/1 web=Migrated/1; and an empty commit: ")
	a := d.Commits[0].Approval
	if a.Commit != w.Git("rev-parse", "HEAD~1") || a.Committer != "Grace <grace@example.com>" || a.Author != "Ada <ada@example.com>" || a.Time.IsZero() {
		t.Errorf("%+v", a)
	}
	if d.Approval.Commit != merge || d.Commits[0].Plans["shop"].Digest != d.Closures["shop"].Digest() {
		t.Errorf("%+v", d.Approval)
	}
}

func TestFlipAndFlipBackBetweenTwoPolls(t *testing.T) {
	w, src, _, tip := planned(t)
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Commit("flip")
	w.Write("plans/shop.yaml", planYAML("shop", spec.Staged)).Commit("back")
	w.Write("plans/shop.yaml", strings.Replace(planYAML("shop", spec.Staged), "spec: {", "spec: {cutover: {attempt: 2}, ", 1)).Push("attempt")
	d := read(t, src, tip)
	expect(t, d, "flip: shop=Migrated/1; back: shop=Staged/1; attempt: shop=Staged/2")
	expect(t, read(t, src, d.Commit), "")
}

func TestAppearedMovedAndRemoved(t *testing.T) {
	w, src, _, tip := planned(t)
	w.Write("plans/new.yaml", planYAML("blog", spec.Migrated)).Commit("add")
	w.Git("mv", "plans/shop.yaml", "plans/moved.yaml")
	w.Commit("move")
	w.Write("plans/web.yml", "").Push("remove")
	expect(t, read(t, src, tip), "add: blog=Migrated/1+; move: ; remove: -web")
}

func TestEditThatIsNoFlip(t *testing.T) {
	w, src, _, tip := planned(t)
	w.Write("common.yaml", strings.ReplaceAll(commonYAML, "api.new", "api.newer")).Push("server")
	d := read(t, src, tip)
	expect(t, d, "server: ")
	if !strings.Contains(d.Closures["shop"].Target.Spec.Server, "newer") {
		t.Error("the closure is the old one")
	}
}

func TestParseErrorIsNoRemoval(t *testing.T) {
	w, src, c, tip := planned(t)
	broken := w.Write("plans/shop.yaml", "apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata:\n  name: shop\nspec: {state: [\n").Push("break")
	d := read(t, src, tip)
	expect(t, d, "break: ")
	if len(d.Problems["shop"]) == 0 || d.Closures["shop"] != nil {
		t.Errorf("problems: %+v", d.Problems)
	}
	// Nothing of it can be read: no plan of that name is there, and none is removed.
	w.Write("plans/shop.yaml", "{{{ not even YAML").Push("worse")
	d = read(t, src, broken)
	expect(t, d, "worse: ")
	if len(d.Other) == 0 || d.Other[0].File != "plans/shop.yaml" {
		t.Errorf("other: %+v", d.Other)
	}
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Push("mend")
	expect(t, read(t, src, d.Commit), "mend: shop=Migrated/1")

	must(t, src.Close())
	src = openSource(t, c)
	expect(t, read(t, src, tip), "break: ; worse: ; mend: shop=Migrated/1")
}

func TestRemovalUnderAParseErrorComesLater(t *testing.T) {
	w, src, _, tip := planned(t)
	w.Write("plans/other.yaml", "{{{").Write("plans/shop.yaml", "").Push("remove and break")
	d := read(t, src, tip)
	expect(t, d, "remove and break: ")
	expect(t, read(t, src, d.Commit), "") // accepted, and still nothing is known
	w.Write("plans/other.yaml", "").Push("mend")
	expect(t, read(t, src, d.Commit), "mend: -shop")
}

func TestDuplicateNames(t *testing.T) {
	w, src, _, tip := planned(t)
	w.Write("plans/twin.yaml", planYAML("shop", spec.Migrated)).Push("twin")
	d := read(t, src, tip)
	expect(t, d, "twin: ")
	if len(d.Problems["shop"]) == 0 || d.Closures["shop"] != nil || d.Closures["web"] == nil {
		t.Errorf("%+v", d.Problems)
	}
}

func TestIncompleteClosureHasNoDigest(t *testing.T) {
	w, src, _, tip := planned(t)
	w.Write("plans/shop.yaml", strings.ReplaceAll(planYAML("shop", spec.Migrated), "targetCluster: new", "targetCluster: nowhere")).Push("typo")
	expect(t, read(t, src, tip), "typo: shop=Migrated/1?")
}

func TestWhatIsRefused(t *testing.T) {
	w, src, _, tip := planned(t)
	must(t, os.Symlink("shop.yaml", filepath.Join(w.Dir, "plans", "link.yaml")))
	w.Write("plans/big.yaml", "# "+strings.Repeat("x", maxFile))
	w.Git("update-index", "--add", "--cacheinfo", "160000,"+tip+",vendored")
	d := read(t, src, pushIndex(w))
	var said []string
	for _, p := range d.Other {
		said = append(said, p.File+": "+p.Message)
	}
	all := strings.Join(said, "\n")
	for _, want := range []string{"plans/link.yaml: this is a symbolic link", "plans/big.yaml: the file has", "vendored: this is a submodule"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
	if len(d.Closures) != 2 {
		t.Error("the other documents are read all the same")
	}
}

// pushIndex commits without looking at the working copy, which has no submodule.
func pushIndex(w *gittest.Work) string {
	w.Git("add", "plans")
	w.Git("commit", "-q", "-m", "odd")
	w.Git("push", "-q", "origin", "HEAD")
	return w.Git("rev-parse", "HEAD")
}

func TestPathScope(t *testing.T) {
	w, _, c, _ := planned(t)
	w.Write("team/a.yaml", commonYAML+"---\n"+planYAML("scoped", spec.Staged)).Push("team")
	c.DataDir, c.Spec.Source.Path = t.TempDir(), "/team/"
	d := read(t, openSource(t, c), "")
	if len(d.Closures) != 1 || d.Closures["scoped"] == nil || len(d.Other) != 0 {
		t.Errorf("%+v", d)
	}
	for _, bad := range []string{"nowhere", "../x"} {
		c.DataDir, c.Spec.Source.Path = t.TempDir(), bad
		src, err := OpenSource(c)
		if err == nil {
			_, err = src.Read(testContext(t), "")
		}
		if !errors.Is(err, ErrMisconfigured) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestHistoryRewrite(t *testing.T) {
	w, src, c, first := planned(t)
	second := w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Push("flip")
	read(t, src, first)
	w.Git("reset", "-q", "--hard", first)
	w.Write("plans/web.yml", planYAML("web", spec.Migrated)).Push("another history")
	d := read(t, src, second)
	expect(t, d, "rewritten")
	if len(d.Closures) != 2 || d.Closures["web"].Plan.Spec.State != spec.Migrated {
		t.Error("the new tip is read all the same")
	}
	w.Git("reset", "-q", "--hard", first)
	w.Git("push", "-q", "-f", "origin", "HEAD")
	expect(t, read(t, src, second), "rewritten")
	w.Git("checkout", "-q", "--orphan", "fresh")
	w.Commit("unrelated")
	w.Git("push", "-q", "-f", "origin", "HEAD:main")
	expect(t, read(t, src, second), "rewritten")
	must(t, src.Close())
	c.DataDir = t.TempDir() // a new disk knows nothing of the old history
	expect(t, read(t, openSource(t, c), second), "rewritten")
}

// A new disk and many commits since the accepted one: the history is fetched
// as deep as needed.
func TestColdStartFindsTheAcceptedCommit(t *testing.T) {
	w, src, c, first := planned(t)
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Commit("flip")
	for i := range 130 {
		w.Git("commit", "-q", "--allow-empty", "-m", fmt.Sprint(i))
	}
	w.Push("last")
	must(t, src.Close())
	c.DataDir = t.TempDir()
	d := read(t, openSource(t, c), first)
	if len(d.Commits) != 132 || d.Rewritten || len(d.Commits[0].Plans) != 1 || d.Commits[0].Approval.Subject != "flip" {
		t.Errorf("%d commits: %.200s", len(d.Commits), told(d))
	}
}

// A server with bitmaps believes that whoever has a commit has all behind it.
// A revert to an old blob must arrive all the same.
func TestRevertBehindTheBoundary(t *testing.T) {
	w, src, c, _ := planned(t)
	tip := w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Push("flip")
	w.Repo.Git("repack", "-q", "-a", "-d", "-b")
	must(t, src.Close())
	c.DataDir = t.TempDir()
	src = openSource(t, c)
	read(t, src, tip)
	w.Git("revert", "--no-edit", "HEAD")
	w.Git("push", "-q", "origin", "HEAD")
	w.Repo.Git("repack", "-q", "-a", "-d", "-b")
	d := read(t, src, tip)
	if len(d.Commits) != 1 || d.Closures["shop"].Plan.Spec.State != spec.Staged {
		t.Errorf("%s", told(d))
	}
}

// Somebody merges main into his branch and pushes the result as main: what
// main had accepted is not approved a second time by that merge.
func TestMergeTheWrongWayRound(t *testing.T) {
	w, src, _, first := planned(t)
	accepted := w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Push("flip shop")
	read(t, src, first)
	w.Git("checkout", "-q", "-b", "mine", first)
	w.Write("plans/web.yml", planYAML("web", spec.Migrated)).Commit("flip web")
	w.Git("merge", "-q", "-m", "wrong way", "main")
	w.Git("push", "-q", "origin", "HEAD:main")
	expect(t, read(t, src, accepted), "wrong way: web=Migrated/1")
}

// Every commit is found however many fetches there were; the cache is thrown
// away in between.
func TestManyFetches(t *testing.T) {
	w, src, _, tip := planned(t)
	for i := range 8 {
		src.store.packs = maxPacks * (i % 2) * 2
		state := []spec.State{spec.Migrated, spec.Staged}[i%2]
		w.Write("plans/shop.yaml", planYAML("shop", state)).Push(fmt.Sprint(i))
		d := read(t, src, tip)
		expect(t, d, fmt.Sprintf("%d: shop=%s/1", i, state))
		tip = d.Commit
	}
}

func TestOnlyChangedBlobsAreParsed(t *testing.T) {
	w, src, _, tip := planned(t)
	before := src.last.snap.files.get("plans/web.yml")
	w.Write("plans/shop.yaml", planYAML("shop", spec.Migrated)).Push("flip")
	read(t, src, tip)
	if src.last.snap.files.get("plans/web.yml") != before {
		t.Error("an unchanged file was parsed again")
	}
}

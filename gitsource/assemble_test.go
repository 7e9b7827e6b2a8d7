package gitsource

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// What a source says after following many edits is what a new one says of the
// tip, and what it says of each commit does not depend on how often it polled.
func TestFollowingEqualsReadingAnew(t *testing.T) {
	w, often, c, since := planned(t)
	seldomConfig := c
	seldomConfig.DataDir = t.TempDir()
	seldom := openSource(t, seldomConfig)
	read(t, seldom, "")
	first, fast := since, 0
	var stories []string
	rnd := rand.New(rand.NewPCG(1, 2))
	states := []spec.State{spec.Staged, spec.Migrated, spec.RolledBack}
	plan := func(name string) string { return planYAML(name, states[rnd.IntN(len(states))]) }
	edits := []func(){
		func() { w.Write("plans/shop.yaml", plan("shop")) },
		func() { w.Write("plans/web.yml", plan("web")) },
		func() {
			w.Write("plans/web.yml", strings.Replace(plan("web"), "spec: {", "spec: {dependsOn: [shop], ", 1))
		},
		func() {
			w.Write("plans/web.yml", strings.Replace(plan("web"), "spec: {", "spec: {dependsOn: [nobody], ", 1))
		},
		func() {
			w.Write("plans/shop.yaml", strings.Replace(plan("shop"), "spec: {", "spec: {dependsOn: [web], ", 1))
			w.Write("plans/web.yml", strings.Replace(plan("web"), "spec: {", "spec: {dependsOn: [shop], ", 1))
		},
		func() {
			w.Write("plans/web.yml", strings.Replace(plan("web"), "targetCluster: new", "targetCluster: lost", 1))
		},
		func() { w.Write("plans/more.yaml", plan("blog")+"---\n"+plan("wiki")) },
		func() { w.Write("plans/more.yaml", plan("blog")+"---\n"+plan("shop")) },
		func() { w.Write("plans/more.yaml", "{{{") },
		func() {
			w.Write("common.yaml", strings.Replace(commonYAML, "api.new", fmt.Sprintf("api%d", rnd.IntN(9)), 1))
		},
		func() { w.Write("README.md", fmt.Sprint("not read ", rnd.IntN(1000))) },
	}
	for i := range 40 {
		switch i % 4 {
		case 0:
			edits[rnd.IntN(len(edits))]()
		case 1: // everything whole again
			edits[0]()
			edits[1]()
			edits[6]()
		default:
			edits[rnd.IntN(3)]()
			edits[10]()
		}
		w.Push(fmt.Sprint(i))
		d := read(t, often, since)
		since = d.Commit
		stories = append(stories, told(d))
		if often.last.snap.only {
			fast++
		}
		if i%8 == 0 {
			freshConfig := c
			freshConfig.DataDir = t.TempDir()
			fresh := openSource(t, freshConfig)
			if got, want := content(t, d), content(t, read(t, fresh, "")); got != want {
				t.Fatalf("after %d edits:\n%s\na new source says\n%s", i+1, got, want)
			}
			must(t, fresh.Close())
		}
	}
	if got, want := told(read(t, seldom, first)), strings.Join(stories, "; "); got != want {
		t.Errorf("one poll says\n%s\nmany say\n%s", got, want)
	}
	if fast < 5 {
		t.Errorf("only %d commits were followed the short way", fast)
	}
}

// A plan that waits for another is followed the short way, whatever else lies in the
// other's file.
func TestFollowingAPlanThatWaits(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	w := r.Clone()
	web := func(state spec.State) string {
		return strings.Replace(planYAML("web", state), "spec: {", "spec: {dependsOn: [shop], ", 1)
	}
	w.Write("common.yaml", commonYAML+"---\n"+planYAML("shop", spec.Staged)).Write("web.yaml", web(spec.Staged)).Push("first")
	c := testConfig(t, s, r)
	src := openSource(t, c)
	since := read(t, src, "").Commit
	w.Write("web.yaml", web(spec.Migrated)).Push("flip")
	d := read(t, src, since)
	expect(t, d, "flip: web=Migrated/1")
	c.DataDir = t.TempDir()
	if got, want := content(t, d), content(t, read(t, openSource(t, c), "")); got != want || !src.last.snap.only {
		t.Errorf("read on, the short way %v:\n%s\nread anew\n%s", src.last.snap.only, got, want)
	}
}

func content(t *testing.T, d *reconciler.Desired) string {
	t.Helper()
	b, err := json.MarshalIndent([]any{d.Closures, d.Problems, d.Other, d.Documents, d.Approval}, "", " ")
	must(t, err)
	return string(b)
}

package gitsource

import (
	"errors"
	"testing"
	"time"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// However all plans go away at once, everything is held, and goes on as it was
// when they are back.
func TestAllPlansGoneHoldEverything(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		remove func(w *gittest.Work)
	}{
		"an empty tree":         {"", func(w *gittest.Work) { w.Git("rm", "-q", "-r", ".") }},
		"no folder of plans":    {"", func(w *gittest.Work) { w.Git("rm", "-q", "-r", "plans") }},
		"the path is gone":      {"plans", func(w *gittest.Work) { w.Git("rm", "-q", "-r", "plans") }},
		"the path is elsewhere": {"plans", func(w *gittest.Work) { w.Git("mv", "plans", "moved") }},
		"the path is a file":    {"plans", func(w *gittest.Work) { w.Git("rm", "-q", "-r", "plans"); w.Write("plans", "x") }},
		"in several commits": {"plans", func(w *gittest.Work) {
			w.Git("rm", "-q", "plans/a.yaml")
			w.Commit("one")
			w.Git("rm", "-q", "-r", "plans")
		}},
		"ignored":            {"plans", func(w *gittest.Work) { w.Write("plans/.transhipignore", "*") }},
		"ignored from above": {"", func(w *gittest.Work) { w.Write(".transhipignore", "/plans/") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := gittest.New(t)
			w := s.Repo("plans.git").Clone()
			w.Write("plans/common.yaml", commonYAML)
			for _, plan := range []string{"a", "b", "c"} {
				w.Write("plans/"+plan+".yaml", planYAML(plan, spec.Staged))
			}
			first := w.Push("first")
			config := testConfig(t, s, w.Repo)
			config.Spec.Source.Path = c.path
			src := openSource(t, config)
			rec := reconciler.Presume(time.Now(), read(t, src, ""))
			c.remove(w)
			w.Push("remove")
			again := config
			again.DataDir = t.TempDir()
			for _, reader := range []*Source{src, openSource(t, again)} {
				plans, d := reconciler.AcceptAll(time.Now(), rec, read(t, reader, first))
				if len(plans) > 0 || d.Hold == nil || d.Hold.Reason != "ManyPlansRemoved" || d.Accepted != first {
					t.Errorf("plans %v, hold %+v", plans, d.Hold)
				}
			}
			w.Git("checkout", "-q", first, "--", "plans")
			w.Git("rm", "-q", "-f", "--ignore-unmatch", ".transhipignore", "plans/.transhipignore")
			w.Push("back")
			if _, d := reconciler.AcceptAll(time.Now(), rec, read(t, src, first)); d.Hold != nil {
				t.Errorf("hold %+v", d.Hold)
			}
		})
	}
}

// A branch that is deleted says nothing about plans, and one that comes back is
// the one that was accepted.
func TestDeletedBranchHoldsWhatIs(t *testing.T) {
	w, src, _, tip := planned(t)
	w.Repo.Git("update-ref", "-d", "refs/heads/main")
	if _, err := src.Read(testContext(t), tip); !errors.Is(err, ErrBranchMissing) {
		t.Errorf("got %v", err)
	}
	w.Git("push", "-q", "origin", "HEAD:main")
	if d := read(t, src, tip); !d.Unchanged || len(d.Closures) != 2 {
		t.Errorf("%+v", d)
	}
}

package gitsource

import (
	"errors"
	"slices"
	"strings"
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

// A folder that commits have emptied stays a folder, also to a daemon that starts
// anew, and for commits that come later. A name that was never one is a slip: it
// removes nothing.
func TestAFolderThatIsGoneIsNoSlip(t *testing.T) {
	s := gittest.New(t)
	w := s.Repo("plans.git").Clone()
	w.Write("plans/common.yaml", commonYAML).Write("plans/a.yaml", planYAML("a", spec.Staged))
	first := w.Push("first")
	at := func(path string) *Source {
		c := testConfig(t, s, w.Repo)
		c.Spec.Source.Path = path
		return openSource(t, c)
	}
	rec := &reconciler.Recorded{Plans: map[string]*spec.PlanStatus{}}
	accept := func(src *Source) (removed []string, hold *spec.Waiting) {
		t.Helper()
		plans, d := reconciler.AcceptAll(time.Now(), rec, read(t, src, rec.Daemon.Accepted))
		for _, st := range plans {
			if rec.Plans[st.Metadata.Name] = st; st.Recorded.Removed {
				removed = append(removed, st.Metadata.Name)
			}
		}
		rec.Daemon = *d
		return removed, d.Hold
	}
	if _, hold := accept(at("plans")); hold != nil || rec.Plans["a"] == nil {
		t.Fatalf("hold %+v, plans %v", hold, rec.Plans)
	}
	for _, tip := range []string{first, w.Write("more", "x").Push("more")} {
		removed, hold := accept(at("plnas"))
		if len(removed) > 0 || hold == nil || hold.Reason != "SourcePathMissing" || !strings.Contains(hold.Message, `"plnas"`) || rec.Daemon.Accepted != first {
			t.Errorf("a slip, at %.7s: removed %v, hold %+v", tip, removed, hold)
		}
	}
	if _, err := at("plnas").Read(testContext(t), ""); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("a slip, and nothing recorded: %v", err)
	}
	w.Git("rm", "-q", "-r", "plans")
	w.Push("remove")
	src := at("plans")
	if removed, hold := accept(src); hold != nil || !slices.Equal(removed, []string{"a"}) {
		t.Errorf("removed %v, hold %+v", removed, hold)
	}
	for _, reader := range []*Source{at("plans"), src} { // anew, and where one runs
		for range 2 {
			if removed, hold := accept(reader); hold != nil || len(removed) > 0 {
				t.Errorf("removed %v, hold %+v", removed, hold)
			}
			w.Write("more", rec.Daemon.Accepted).Push("something else")
		}
	}
	w.Write("plans/b.yaml", planYAML("b", spec.Staged)).Push("back")
	if _, hold := accept(at("plans")); hold != nil || rec.Plans["b"] == nil {
		t.Errorf("hold %+v, plans %v", hold, rec.Plans)
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

package reconciler

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	seen  = spec.NewScope(nil, []string{"ConfigMap shop/settings", "Deployment.apps shop/web"})
	grown = spec.NewScope(nil, []string{"Deployment.apps shop/web", "Deployment.apps shop/worker"})
)

// A cutover whose plan names the scope that was approved starts with that one
// only; one that names none starts, with a warning.
func TestPlanStale(t *testing.T) {
	const news = "new: Deployment.apps shop/worker; gone: ConfigMap shop/settings"
	rows := []struct {
		name       string
		scope      string
		known, now *spec.Scope
		starts     bool
		ready      string // in the message
		warning    string
	}{
		{"no scope named, nothing changed", "", seen, seen, true, "", ""},
		{"no scope named, changed", "", seen, grown, true, "", news},
		{"no scope named, nothing known", "", nil, grown, true, "", ""},
		{"as approved", seen.Digest, seen, seen, true, "", ""},
		{"changed", seen.Digest, seen, grown, false, "has changed since it was approved (" + news + ")", ""},
		{"never seen", seen.Digest, nil, grown, false, "never did when it was surveyed; look at `tranship plan`; to approve what is there now, write cutover.scope: " + grown.Digest, ""},
		{"seen otherwise before", spec.NewScope(nil, nil).Digest, seen, grown, false, "never did when it was surveyed (since the newest survey before the approval: " + news + ")", ""},
		{"as approved, though the survey before saw another", seen.Digest, grown, seen, true, "", ""},
		{"objects cannot be listed", seen.Digest, seen, nil, false, "cannot list secrets", ""},
		{"objects cannot be listed, no scope named", "", seen, nil, true, "", ""},
	}
	for _, r := range rows {
		c := closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.Cutover.Scope = r.scope })
		st := newStatus("shop")
		st.Recorded.SeenState, st.Recorded.SeenAttempt, st.Scope = spec.Staged, 1, r.known
		Accept(st, PlanFlip{State: spec.Migrated, Attempt: 1, Digest: c.Digest()}, spec.Approval{Commit: "c1", Time: metav1.NewTime(time.Now())}, false, nil)
		l := idle(c, st)
		l.drivers["shop"] = l.newDriver(c)
		ctx, stop := context.WithCancel(t.Context())
		l.begin(ctx, message{plan: "shop", order: &Order{Kind: spec.RunMigrate, Plan: "shop", Closure: c}, survey: &Survey{Scope: r.now, ScopeProblem: "cannot list secrets"}})
		l.flush(ctx)
		got := l.rec.Plans["shop"]
		if starts := l.rec.Open["shop-migrate-1"] != nil; starts != r.starts {
			t.Errorf("%s: starts %v", r.name, starts)
		}
		if ready := find(got, "Ready"); !r.starts && (ready.Reason != "PlanStale" || !strings.Contains(ready.Message, r.ready) || got.Recorded.Flip == nil || find(got, "Stalled") == nil) {
			t.Errorf("%s: %s: %s", r.name, ready.Reason, ready.Message)
		}
		if w := find(got, "PlanStale"); (w != nil) != (r.warning != "") || w != nil && !strings.Contains(w.Message, r.warning) {
			t.Errorf("%s: warning %+v", r.name, w)
		}
		if r.starts && r.now != nil && got.Scope != r.now {
			t.Errorf("%s: the scope was not recorded", r.name)
		}
		stop()
		l.runs.Wait()
	}
}

// A survey after the merge that finds what cutover.scope names is what later
// changes are compared with.
func TestASurveyFindsTheApprovedScope(t *testing.T) {
	c := closureIn(spec.Migrated, 1, func(p *spec.PlanSpec) { p.Cutover.Scope = seen.Digest })
	st := approved(spec.Staged, c)
	summarize(st, &PlanInput{Now: noon}, nil)
	l := idle(c, st)
	l.noteSurvey(message{plan: "shop", survey: &Survey{Scope: seen}})
	l.flush(t.Context())
	l.noteSurvey(message{plan: "shop", survey: &Survey{Scope: grown}})
	l.flush(t.Context())
	if st := l.rec.Plans["shop"]; st.ApprovedScope != seen || st.Scope != grown || find(st, "PlanStale") == nil {
		t.Errorf("got %+v", st)
	}
	l.noteSurvey(message{plan: "shop", survey: &Survey{Scope: seen}})
	l.flush(t.Context())
	if st := l.rec.Plans["shop"]; find(st, "PlanStale") != nil {
		t.Errorf("what changed back is still a warning")
	}
}

func TestScopeNewsAreBounded(t *testing.T) {
	var many []string
	for _, a := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		many = append(many, "ConfigMap shop/"+a)
	}
	if say := ScopeNews(spec.NewScope(nil, nil), spec.NewScope(nil, many)); !strings.HasSuffix(say, "ConfigMap shop/j and 16 more") {
		t.Errorf("got %s", say)
	}
	if say := ScopeNews(nil, seen) + ScopeNews(seen, nil) + ScopeNews(seen, seen); say != "" {
		t.Errorf("got %s", say)
	}
}

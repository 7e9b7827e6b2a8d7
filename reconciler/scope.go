package reconciler

import (
	"fmt"
	"strings"

	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reasonStale: what a plan covers is not what its approval saw.
const reasonStale = "PlanStale"

// Stale says why a cutover that names the scope that it was approved with does
// not start: the plan covers something else now. Two empty answers let it start.
func Stale(o *Order, st *spec.PlanStatus, s *Survey) (reason, message string) {
	want := o.Closure.Plan.Spec.Cutover.Scope
	switch {
	case o.Kind != spec.RunMigrate || want == "" || s.Scope != nil && s.Scope.Digest == want:
		return "", ""
	case s.Scope == nil:
		return reasonStale, "nobody can say whether the plan still covers what cutover.scope names: " + s.ScopeProblem
	}
	next := fmt.Sprintf("look at `tranship plan`; to approve what is there now, write cutover.scope: %s and raise cutover.attempt", s.Scope.Digest)
	if was := st.ApprovedScope; was != nil && was.Digest == want {
		return reasonStale, fmt.Sprintf("what the plan covers has changed since it was approved (%s); %s", changedSince(s.Scope, was), next)
	}
	say := ""
	if was := st.ApprovedScope; was != nil {
		say = fmt.Sprintf(" (since the newest survey before the approval: %s)", changedSince(s.Scope, was))
	}
	return reasonStale, fmt.Sprintf("the plan does not cover what cutover.scope names, and never did when it was surveyed%s; %s", say, next)
}

// listed bounds how many entries of a scope one sentence names.
const listed = 10

// ScopeNews says what has come and gone between two surveys; "" when nothing
// has, or when one of them is not known.
func ScopeNews(was, now *spec.Scope) string {
	if was == nil || now == nil || was.Digest == now.Digest {
		return ""
	}
	return changedSince(now, was)
}

func changedSince(now, was *spec.Scope) string {
	come, gone := now.Since(was)
	var parts []string
	for _, list := range []struct {
		say string
		all []string
	}{{"new: ", come}, {"gone: ", gone}} {
		if n := len(list.all); n > listed {
			parts = append(parts, fmt.Sprintf("%s%s and %d more", list.say, strings.Join(list.all[:listed], ", "), n-listed))
		} else if n > 0 {
			parts = append(parts, list.say+strings.Join(list.all, ", "))
		}
	}
	if len(parts) == 0 {
		return "nothing among the entries that are kept"
	}
	return strings.Join(parts, "; ")
}

// noteScope records what a survey found, and warns where a cutover that names
// no scope starts with another one than its approval could see.
func noteScope(st *spec.PlanStatus, c *spec.Closure, s *Survey, now metav1.Time) {
	if s.Scope == nil {
		return
	}
	st.Scope = s.Scope
	if c != nil && c.Plan.Spec.Cutover.Scope == s.Scope.Digest {
		st.ApprovedScope = s.Scope
	}
	was := st.ApprovedScope
	if st.Recorded.Flip == nil || st.Recorded.Flip.To != spec.Migrated || was == nil || was.Digest == s.Scope.Digest {
		meta.RemoveStatusCondition(&st.Conditions, reasonStale)
		return
	}
	setCondition(st, metav1.Condition{Type: reasonStale, Status: metav1.ConditionTrue, Reason: "ScopeChanged", LastTransitionTime: now,
		Message: "what the plan covers has changed since it was approved: " + changedSince(s.Scope, was)})
}

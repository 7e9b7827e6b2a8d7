package reconciler

import (
	"fmt"

	"github.com/tranship/tranship/spec"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Clash is another plan that covers some of the same objects, and came first.
type Clash struct {
	Plan string
	What string // of what both cover, for people: "namespace shop of source cluster old"
	// Mute: the other plan's documents are gone or broken, so that only its
	// record speaks for it.
	Mute bool
}

// coverage is what one plan takes hold of.
type coverage struct {
	*spec.Covered
	volumes []spec.Volume // as discovered; they know claims that no document names
}

// coveredBy is what a closure covers.
func coveredBy(c *spec.Closure) *spec.Covered {
	place := func(c *spec.Cluster) spec.Place {
		return spec.Place{Server: c.Spec.Server, InCluster: c.Spec.InCluster}
	}
	p := &c.Plan.Spec
	v := &spec.Covered{Source: place(&c.Source), Target: place(&c.Target), Namespaces: p.Namespaces, LabelSelector: p.LabelSelector}
	v.Source.Cluster, v.Target.Cluster = p.SourceCluster, p.TargetCluster
	return v
}

// coverages are all that a plan takes hold of: what its documents say, what its
// open run was frozen with, and what its newest run had hold of where the
// documents do not say it, since they are gone or broken, or were changed after
// a cutover. A closed plan has hold of nothing.
func coverages(plan string, want *Desired, rec *Recorded) []coverage {
	var all []coverage
	st, c := rec.Plans[plan], want.Closures[plan]
	if st != nil && st.Recorded.State == spec.Closed {
		return nil
	}
	if c != nil {
		all = append(all, coverage{coveredBy(c), volumesOf(st)})
	}
	if st == nil {
		return all
	}
	if st.Covers != nil && (c == nil || st.Recorded.Cutover != "") {
		all = append(all, coverage{st.Covers, st.Volumes})
	}
	if run := rec.Open[st.Recorded.OpenRun]; run != nil {
		all = append(all, coverage{coveredBy(&run.Spec.Closure), run.Facts.Volumes})
	}
	return all
}

func volumesOf(st *spec.PlanStatus) []spec.Volume {
	if st == nil {
		return nil
	}
	return st.Volumes
}

// older says which of two plans came first: the one that has hold of the
// objects now, else the one that was recorded first. An order, not a guess:
// of any two plans exactly one is older.
func older(a, b string, recorded map[string]*spec.PlanStatus) bool {
	x, y := standingOf(recorded[a]), standingOf(recorded[b])
	switch {
	case x.holds != y.holds:
		return x.holds
	case !x.since.Equal(y.since):
		return x.since == nil || y.since != nil && x.since.Before(y.since)
	case x.ran != y.ran:
		return x.ran
	}
	return a < b
}

type standing struct {
	holds bool         // a run is going on, or a cutover is finished and not undone
	since *metav1.Time // nil, in records of older versions, is before all
	ran   bool
}

func standingOf(st *spec.PlanStatus) standing {
	if st == nil {
		return standing{}
	}
	r := &st.Recorded
	return standing{r.OpenRun != "" || r.Cutover != "", r.Since, len(r.Numbers) > 0}
}

// shared says what two plans both cover: a namespace, unless their selectors
// can match no object together, or a claim all the same.
func shared(a, b coverage) string {
	onSource, onTarget := sameCluster(a.Source, b.Source), sameCluster(a.Target, b.Target)
	for _, x := range a.Namespaces {
		for _, y := range b.Namespaces {
			source, target := onSource && x.Name == y.Name, onTarget && x.Target() == y.Target()
			if !source && !target {
				continue
			}
			if spec.Disjoint(a.LabelSelector, b.LabelSelector) {
				if claim := sharedClaim(a, b, x, source, target); claim != "" {
					return claim
				}
				continue
			}
			if source {
				return fmt.Sprintf("namespace %s of source cluster %s", x.Name, a.Source.Cluster)
			}
			return fmt.Sprintf("namespace %s of target cluster %s", x.Target(), a.Target.Cluster)
		}
	}
	return ""
}

// sameCluster: two documents may stand for one cluster.
func sameCluster(a, b spec.Place) bool {
	return a.Cluster == b.Cluster || a.Server != "" && a.Server == b.Server || a.InCluster && b.InCluster
}

// sharedClaim finds a claim that both plans bring: pods of both may mount it,
// or both give it the same name on the target.
func sharedClaim(a, b coverage, n spec.NamespaceMapping, source, target bool) string {
	for _, v := range a.volumes {
		if v.Action == "skip" || v.Namespace != n.Name {
			continue
		}
		for _, w := range b.volumes {
			switch {
			case w.Action == "skip":
			case source && v.Namespace == w.Namespace && v.Claim == w.Claim:
				return fmt.Sprintf("claim %s/%s of source cluster %s", v.Namespace, v.Claim, a.Source.Cluster)
			case target && v.TargetNamespace == w.TargetNamespace && v.TargetClaim == w.TargetClaim:
				return fmt.Sprintf("claim %s/%s of target cluster %s", v.TargetNamespace, v.TargetClaim, a.Target.Cluster)
			}
		}
	}
	return ""
}

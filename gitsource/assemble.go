package gitsource

import (
	"maps"
	"slices"

	"github.com/tranship/tranship/spec"
)

// assembled is what spec.Assemble says of a snapshot, with what is needed to
// say it of the next one without looking at every document again. It never
// changes once made.
type assembled struct {
	closures map[string]*spec.Closure
	problems map[string][]spec.Problem
	other    []spec.Problem
	counts   map[string]int
	shared   []spec.Document   // all that are no plans
	where    map[string]string // file of each plan
}

// clean says that no document has any problem: then names are unique, and a
// plan depends on other plans by their names only.
func (a *assembled) clean() bool {
	return a != nil && len(a.problems) == 0 && len(a.other) == 0
}

// assemble returns the closures of a snapshot; the first call may be slow.
func (s *snapshot) assemble(limits spec.Limits) *assembled {
	if s.asm != nil {
		return s.asm
	}
	docs := s.documents()
	a := &assembled{where: map[string]string{}}
	a.closures, a.problems, a.other, a.counts = spec.AssembleWithin(limits, docs)
	for _, d := range docs {
		if d.Kind == spec.KindMigrationPlan && !d.Elsewhere {
			a.where[d.Name] = d.File
		} else {
			a.shared = append(a.shared, d)
		}
	}
	s.asm = a
	return a
}

// editedPlans lists the plans that a commit touched, when that is all it did:
// the same plans in the same files, each whole before and after. ok is false
// otherwise.
func editedPlans(before, now *snapshot, changed []change) (names []string, ok bool) {
	if !before.asm.clean() {
		return nil, false
	}
	for _, c := range changed {
		old, new := before.files.get(c.path), now.files.get(c.path)
		if old == nil && new == nil {
			continue // no document
		}
		if old == nil || new == nil || len(old.docs) != len(new.docs) {
			return nil, false
		}
		for i, d := range new.docs {
			was := old.docs[i]
			if d.Elsewhere && was.Elsewhere && d.Name == was.Name {
				continue // other shards may edit what they like
			}
			if d.Kind != spec.KindMigrationPlan || was.Kind != d.Kind || was.Name != d.Name || d.Object == nil || was.Object == nil {
				return nil, false
			}
			if on := d.Object.(*spec.MigrationPlan).Spec.DependsOn; len(on) > 0 && !slices.Equal(on, was.Object.(*spec.MigrationPlan).Spec.DependsOn) {
				return nil, false // it may close a cycle with plans that were not touched
			}
			names = append(names, d.Name)
		}
	}
	return names, true
}

// edit is the assembly after a commit that only edited plans. Only those are
// assembled again, together with whatever they may refer to.
func (s *snapshot) edit(before *assembled, names []string, limits spec.Limits) {
	if len(names) == 0 {
		s.asm = before
		return
	}
	a := *before
	a.closures, a.problems = maps.Clone(before.closures), map[string][]spec.Problem{}
	docs := append([]spec.Document(nil), before.shared...)
	files := map[string]bool{}
	add := func(plan string) {
		if f := before.where[plan]; f != "" && !files[f] {
			files[f] = true
			for _, d := range s.files.get(f).docs {
				if d.Kind == spec.KindMigrationPlan && !d.Elsewhere { // the others are shared
					docs = append(docs, d)
				}
			}
		}
	}
	for _, name := range names {
		add(name)
		for _, d := range s.files.get(before.where[name]).docs {
			if p, ok := d.Object.(*spec.MigrationPlan); ok {
				for _, on := range p.Spec.DependsOn {
					add(on)
				}
			}
		}
	}
	closures, problems, _, _ := spec.AssembleWithin(limits, docs)
	for _, name := range names {
		delete(a.closures, name)
		if c := closures[name]; c != nil {
			a.closures[name] = c
		}
		if p := problems[name]; p != nil {
			a.problems[name] = p
		}
	}
	s.asm = &a
}

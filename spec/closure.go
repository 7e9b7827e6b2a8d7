package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// DefaultLimits are CAM's (F-127, F-129, F-131), and ours for movers.
var DefaultLimits = Limits{Namespaces: 10, Pods: 100, Volumes: 100, MoversPerCluster: 20, MoversPerPlan: 10}

// OrDefault fills the default limits in where none are configured.
func (l Limits) OrDefault() Limits {
	for _, f := range []struct{ v, def *int }{
		{&l.Namespaces, &DefaultLimits.Namespaces}, {&l.Pods, &DefaultLimits.Pods}, {&l.Volumes, &DefaultLimits.Volumes},
		{&l.MoversPerCluster, &DefaultLimits.MoversPerCluster}, {&l.MoversPerPlan, &DefaultLimits.MoversPerPlan},
	} {
		if *f.v == 0 {
			*f.v = *f.def
		}
	}
	return l
}

// origin remembers the documents of a closure, so that later problems can
// name file and line. It is no part of the record.
type origin struct {
	docs map[string]*Document // by "Kind/name"
}

// File is where the plan's document was read, "" in a record.
func (c *Closure) File() string {
	if c.origin == nil {
		return ""
	}
	return c.origin.docs[documentKey(KindMigrationPlan, c.Plan.Metadata.Name)].File
}

// SameDocuments says that two closures were made of the very same documents,
// read once. False means only that they may differ.
func (c *Closure) SameDocuments(other *Closure) bool {
	if c == nil || other == nil || c.origin == nil || other.origin == nil || len(c.origin.docs) != len(other.origin.docs) {
		return c == other
	}
	for key, d := range c.origin.docs {
		if o := other.origin.docs[key]; o == nil || o.Object != d.Object || o.File != d.File {
			return false
		}
	}
	return true
}

// Assemble joins the documents of one commit into closures, with CAM's limits.
//
// A plan is held, and has problems instead of a closure, when anything that it
// consists of has a problem: a document that cannot be read, a name that two
// documents have, a reference to nothing. All problems of the whole closure
// are given. Other holds the problems of documents that belong to no plan;
// while Hides(other, plan) is true a missing plan may be there and unreadable.
// Counts are the documents of each kind, broken ones included.
func Assemble(docs []Document) (closures map[string]*Closure, problems map[string][]Problem, other []Problem, counts map[string]int) {
	return AssembleWithin(Limits{}, docs)
}

// AssembleWithin is Assemble with limits of the daemon's configuration.
func AssembleWithin(limits Limits, docs []Document) (closures map[string]*Closure, problems map[string][]Problem, other []Problem, counts map[string]int) {
	a := &assembly{limits: limits.OrDefault(), byKey: map[string][]*Document{}, names: map[string][]string{}, used: map[*Document]bool{}, elsewhere: map[string]*Document{}, unclear: map[string]*Document{}}
	closures, problems, counts = map[string]*Closure{}, map[string][]Problem{}, map[string]int{}
	for i := range docs {
		a.index(&docs[i], counts)
	}
	for _, names := range a.names {
		slices.Sort(names)
	}
	a.loops = a.cycles()
	for _, name := range a.names[KindMigrationPlan] {
		c, found := a.plan(name)
		if len(found) > 0 {
			problems[name] = found
		} else {
			closures[name] = c
		}
	}
	for i := range docs {
		if d := &docs[i]; !a.used[d] && !d.Elsewhere {
			other = append(other, d.Problems...)
			other = append(other, a.twins(d)...)
		}
	}
	slices.SortStableFunc(other, compareProblems)
	return closures, problems, other, counts
}

type assembly struct {
	limits Limits
	byKey  map[string][]*Document
	names  map[string][]string // by kind, each once
	used   map[*Document]bool  // documents that a plan refers to
	loops  *cycles

	elsewhere map[string]*Document // plans of other shards
	unclear   map[string]*Document // plans of which nobody can say whose they are
}

func (a *assembly) index(d *Document, counts map[string]int) {
	if d.Kind == "" {
		if d.Name != "" {
			a.unclear[d.Name] = d
		}
		return
	}
	if d.Elsewhere {
		a.elsewhere[d.Name] = d
		return
	}
	counts[d.Kind]++
	key := documentKey(d.Kind, d.Name)
	if len(a.byKey[key]) == 0 {
		a.names[d.Kind] = append(a.names[d.Kind], d.Name)
	}
	a.byKey[key] = append(a.byKey[key], d)
}

// twins says which other documents have the same kind and name.
func (a *assembly) twins(d *Document) []Problem {
	var places []string
	for _, t := range a.byKey[documentKey(d.Kind, d.Name)] {
		if t != d && len(places) < 5 { // more places help nobody
			places = append(places, fmt.Sprintf("%s:%d", t.File, t.Line))
		}
	}
	if len(places) == 0 || d.Kind == "" {
		return nil
	}
	return []Problem{{File: d.File, Line: d.LineOf("metadata.name"), Path: "metadata.name", Document: documentKey(d.Kind, d.Name),
		Message: fmt.Sprintf("%s %q is also in %s: names are unique, so rename or remove one of them", d.Kind, d.Name, strings.Join(places, ", "))}}
}

// take returns the document of a key, if it is whole and the only one, and
// all problems that it has.
func (a *assembly) take(key string) (*Document, []Problem) {
	var problems []Problem
	docs := a.byKey[key]
	for _, d := range docs {
		a.used[d] = true
		problems = append(append(problems, d.Problems...), a.twins(d)...)
	}
	return docs[0], problems
}

// reference is a name that one document uses for another.
type reference struct{ path, kind, name string }

func references(p *MigrationPlan) []reference {
	refs := []reference{
		{"spec.sourceCluster", KindCluster, p.Spec.SourceCluster},
		{"spec.targetCluster", KindCluster, p.Spec.TargetCluster},
		{"spec.replicationRepository", KindReplicationRepository, p.Spec.ReplicationRepository},
	}
	for i, h := range p.Spec.Hooks {
		refs = append(refs, reference{fmt.Sprintf("spec.hooks[%d].hook", i), KindHook, h.Hook}, reference{fmt.Sprintf("spec.hooks[%d].undo", i), KindHook, h.Undo})
	}
	return refs
}

// plan builds the closure of one plan and gathers every problem of it.
func (a *assembly) plan(name string) (*Closure, []Problem) {
	key := documentKey(KindMigrationPlan, name)
	_, problems := a.take(key)
	found := map[string]*Document{}
	for _, doc := range a.byKey[key] {
		p, ok := doc.partial.(*MigrationPlan)
		if !ok {
			continue
		}
		found[key] = doc
		if other := a.elsewhere[name]; other != nil {
			problems = append(problems, doc.problem("metadata.name", fmt.Sprintf("MigrationPlan %s is also in %s:%d, of another shard: names are unique in a repository, so rename or remove one of them", quote(name), other.File, other.Line)))
		}
		if other := a.unclear[name]; other != nil {
			problems = append(problems, doc.problem("metadata.name", fmt.Sprintf("MigrationPlan %s is also in %s:%d, which cannot be read: names are unique in a repository, so rename or remove one of them", quote(name), other.File, other.Line)))
		}
		for _, r := range references(p) {
			problems = append(problems, a.follow(doc, r, found)...)
		}
		problems = append(problems, a.dependencies(doc, p)...)
		if n := len(p.Spec.Namespaces); n > a.limits.Namespaces {
			problems = append(problems, doc.problem("spec.namespaces", fmt.Sprintf(
				"Namespace limit exceeded: the plan has %d namespaces, the limit is %d (F-128); split the plan, or raise limits.namespaces of the daemon", n, a.limits.Namespaces)))
		}
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, compareProblems)
		return nil, slices.Compact(problems)
	}
	return newClosure(found, key), nil
}

func (d *Document) problem(path, message string) Problem {
	return Problem{File: d.File, Line: d.LineOf(path), Path: path, Message: message, Document: documentKey(d.Kind, d.Name)}
}

// follow looks a reference up. Empty ones have been reported as missing.
func (a *assembly) follow(doc *Document, r reference, found map[string]*Document) []Problem {
	if r.name == "" {
		return nil
	}
	key := documentKey(r.kind, r.name)
	if len(a.byKey[key]) == 0 {
		return []Problem{doc.problem(r.path, fmt.Sprintf("there is no %s %s%s", r.kind, quote(r.name), orAdd(r, a.names[r.kind])))}
	}
	if found[key] != nil {
		return nil
	}
	target, problems := a.take(key)
	found[key] = target
	return problems
}

func orAdd(r reference, names []string) string {
	if len(names) == 0 {
		return fmt.Sprintf(": add a document of kind %s", r.kind)
	}
	return meant(r.name, names)
}

func (a *assembly) dependencies(doc *Document, p *MigrationPlan) []Problem {
	var out []Problem
	for i, name := range p.Spec.DependsOn {
		path := fmt.Sprintf("spec.dependsOn[%d]", i)
		if a.elsewhere[name] != nil {
			out = append(out, doc.waitsAcross(i, name))
			continue
		}
		if name != "" && a.unclear[name] == nil && len(a.byKey[documentKey(KindMigrationPlan, name)]) == 0 {
			out = append(out, doc.problem(path, fmt.Sprintf("there is no MigrationPlan %s%s", quote(name), meant(name, a.names[KindMigrationPlan]))))
		}
		out = append(out, a.loops.problem(doc, path, name)...)
	}
	return out
}

// newClosure is only called when every document is whole.
func newClosure(found map[string]*Document, key string) *Closure {
	p := found[key].Object.(*MigrationPlan)
	c := &Closure{Plan: *p, origin: &origin{docs: found}}
	c.Source = *found[documentKey(KindCluster, p.Spec.SourceCluster)].Object.(*Cluster)
	c.Target = *found[documentKey(KindCluster, p.Spec.TargetCluster)].Object.(*Cluster)
	c.Repository = *found[documentKey(KindReplicationRepository, p.Spec.ReplicationRepository)].Object.(*ReplicationRepository)
	hooks := map[string]bool{}
	for _, h := range p.Spec.Hooks {
		hooks[h.Hook] = true
		if h.Undo != "" {
			hooks[h.Undo] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(hooks)) {
		c.Hooks = append(c.Hooks, *found[documentKey(KindHook, name)].Object.(*Hook))
	}
	return c
}

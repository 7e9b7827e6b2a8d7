package spec

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Divide leaves the plans of the shard among docs as they are, and of those of
// other shards nothing but the name (Document.Elsewhere). A plan whose labels
// cannot be read while they matter becomes a document of no kind that keeps its
// name: it may be anybody's, and so a plan of that name is not taken for removed
// (Hides). A nil shard has all plans.
func (s *Shard) Divide(docs []Document) {
	for i, d := range docs {
		if d.Kind != KindMigrationPlan {
			continue
		}
		ours, known := s.holds(d.File, &d)
		switch {
		case !known:
			p := why(&d)
			docs[i] = unreadable(d.File, p.Line, fmt.Sprintf("the labels of MigrationPlan %s cannot be read, and they say which shard runs it: %s", quote(d.Name), p.Message))
			docs[i].Name = d.Name
			docs[i].name(documentKey(d.Kind, d.Name))
		case !ours:
			docs[i] = Document{Kind: d.Kind, Name: d.Name, File: d.File, Line: d.Line, Elsewhere: true}
		}
	}
}

// why labels cannot be read: by a problem of theirs, or of the whole text.
func why(d *Document) Problem {
	if i := slices.IndexFunc(d.Problems, ofLabels); i >= 0 {
		return d.Problems[i]
	}
	return d.Problems[0]
}

// ofLabels says that a problem may be why labels look as they do: one of theirs or
// of the mapping around them, a field where somebody may have meant them, and one
// of the whole document, behind which nothing was read.
func ofLabels(p Problem) bool {
	return p.Path == "" || p.Path == "labels" || p.Path == "metadata" || strings.HasPrefix(p.Path, "metadata.") && p.Path != "metadata.name"
}

// holds says whether a plan, of a file of the repository, is the shard's; known is
// false where only labels would say so and they cannot be read.
func (s *Shard) holds(file string, d *Document) (ours, known bool) {
	if s == nil {
		return true, true
	}
	if len(s.Paths) > 0 && !slices.ContainsFunc(s.Paths, func(dir string) bool { return strings.HasPrefix(file, dir+"/") }) {
		return false, true
	}
	if s.Selector == nil {
		return true, true
	}
	p, ok := d.partial.(*MigrationPlan)
	if !ok || slices.ContainsFunc(d.Problems, ofLabels) {
		return false, false
	}
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	return err == nil && selector.Matches(labels.Set(p.Metadata.Labels)), true // DecodeConfig refuses selectors with an error
}

// ShardProblems says where daemons would meet that are meant to share a
// repository of plans: on a plan, on a shard's name or on a ledger's branch. No
// daemon sees another's configuration, so that somebody has to compare them.
func ShardProblems(configs []*DaemonConfig) []Problem {
	var out []Problem
	for i, b := range configs {
		for _, a := range configs[:i] {
			for _, message := range meeting(a, b) {
				out = append(out, Problem{Path: "spec.shard", Message: fmt.Sprintf("configurations %s and %s %s", quote(a.Metadata.Name), quote(b.Metadata.Name), message)})
			}
		}
	}
	return out
}

// Unclaimed lists plans that none of several configurations runs: no daemon would
// say a word of them. name is a file of a document as the repository has it, which
// is the first configuration's.
func Unclaimed(configs []*DaemonConfig, docs []Document, name func(file string) string) []Problem {
	configs = ofOneRepository(configs)
	if len(configs) < 2 {
		return nil
	}
	var out []Problem
	for i := range docs {
		d := &docs[i]
		runs := func(c *DaemonConfig) bool {
			ours, known := c.Spec.Shard.holds(name(d.File), d)
			return covers(c.Spec.Source.Path, name(d.File)) && (ours || !known) // its own problem says what is wrong with it
		}
		if d.Kind == KindMigrationPlan && !slices.ContainsFunc(configs, runs) {
			out = append(out, d.problem("metadata", fmt.Sprintf("MigrationPlan %s belongs to no shard of these configurations, so that no daemon runs it: change its labels or its folder, or add a shard", quote(d.Name))))
		}
	}
	return out
}

// WaitAcross lists the plans of the configurations that wait for one of another
// shard, which their daemons refuse. name is as for Unclaimed.
func WaitAcross(configs []*DaemonConfig, docs []Document, name func(file string) string) []Problem {
	byName := map[string]*Document{}
	for i := range docs {
		if docs[i].Kind == KindMigrationPlan {
			byName[docs[i].Name] = &docs[i]
		}
	}
	var out []Problem
	for _, c := range ofOneRepository(configs) {
		for i := range docs {
			d := &docs[i]
			p, ok := d.partial.(*MigrationPlan)
			if !ok {
				continue
			}
			if ours, known := c.Spec.Shard.holds(name(d.File), d); !known || !ours {
				continue
			}
			for j, on := range p.Spec.DependsOn {
				if o := byName[on]; o != nil {
					if ours, known := c.Spec.Shard.holds(name(o.File), o); known && !ours {
						out = append(out, d.waitsAcross(j, on))
					}
				}
			}
		}
	}
	return out
}

func (d *Document) waitsAcross(i int, on string) Problem {
	return d.problem(fmt.Sprintf("spec.dependsOn[%d]", i), fmt.Sprintf("MigrationPlan %s belongs to another shard, whose daemon keeps its own ledger: plans that wait for each other go into one shard", quote(on)))
}

// ofOneRepository leaves out the configurations of other repositories than the
// first one's.
func ofOneRepository(configs []*DaemonConfig) []*DaemonConfig {
	return slices.DeleteFunc(slices.Clone(configs), func(c *DaemonConfig) bool { return !sameRepository(c.Spec.Source.URL, configs[0].Spec.Source.URL) })
}

func meeting(x, y *DaemonConfig) (messages []string) {
	a, b := &x.Spec, &y.Spec
	if sameRepository(a.Ledger.URL, b.Ledger.URL) && a.Ledger.Branch == b.Ledger.Branch {
		messages = append(messages, fmt.Sprintf("write to the same ledger, branch %s: give each a ledger.branch of its own", quote(a.Ledger.Branch)))
	}
	if !sameRepository(a.Source.URL, b.Source.URL) {
		return messages
	}
	if a.Shard != nil && b.Shard != nil && a.Shard.Name == b.Shard.Name {
		messages = append(messages, fmt.Sprintf("are both shard %s: give each a name of its own", quote(a.Shard.Name)))
	}
	apart := Disjoint(a.selector(), b.selector())
	for _, f := range a.folders() {
		for _, g := range b.folders() {
			if covers(f, g) || covers(g, f) {
				messages = append(messages, together(x, y, deeper(f, g), apart)...)
			}
		}
	}
	return messages
}

// together is what two daemons that read one folder may not: run the same plan,
// or ask for other signatures, because whoever edits a label chooses between them.
func together(a, b *DaemonConfig, folder string, apart bool) []string {
	var without []string
	for _, c := range []*DaemonConfig{a, b} {
		if c.Spec.selector() == nil {
			without = append(without, c.Metadata.Name)
		}
	}
	switch {
	case apart && reflect.DeepEqual(a.Spec.Trust, b.Spec.Trust):
		return nil
	case apart:
		return []string{fmt.Sprintf("share the folder %s and differ in spec.trust: a label decides which of them runs a plan there, so give both the same keys and policies, or folders of their own", quote(folder))}
	case len(without) == 2:
		return []string{fmt.Sprintf("both run the plans below %s: give each plan to one of them", quote(folder))}
	case len(without) == 1:
		return []string{fmt.Sprintf("both run plans below %s: configuration %s has no selector, so give it one that leaves the other's labels out, or folders of its own", quote(folder), quote(without[0]))}
	}
	return []string{fmt.Sprintf("both run plans below %s: some labels match both selectors, so let each want another value of one label", quote(folder))}
}

func (s *DaemonConfigSpec) selector() *metav1.LabelSelector {
	if s.Shard == nil {
		return nil
	}
	return s.Shard.Selector
}

// folders are those whose plans a daemon runs; "" is the repository.
func (s *DaemonConfigSpec) folders() []string {
	if s.Shard == nil || len(s.Shard.Paths) == 0 {
		return []string{s.Source.Path}
	}
	return s.Shard.Paths
}

func covers(dir, inner string) bool {
	return dir == "" || dir == inner || strings.HasPrefix(inner, dir+"/")
}

func deeper(a, b string) string {
	if covers(a, b) {
		return either(b, ".")
	}
	return a
}

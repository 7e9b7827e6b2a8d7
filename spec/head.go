package spec

import (
	"fmt"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/version"
)

// Group is the API group of every document of ours.
const Group = "tranship.dev"

// head is what says which document this is.
type head struct {
	apiVersion, kind, name string
	mapping                bool
}

func readHead(root *yaml.Node) head {
	root = resolve(root)
	if root.Kind != yaml.MappingNode {
		return head{}
	}
	h := head{mapping: true, apiVersion: scalarField(root, "apiVersion"), kind: scalarField(root, "kind")}
	if m := field(root, "metadata"); m != nil {
		h.name = scalarField(m, "name")
	}
	return h
}

// problem is why a document is not one of ours, or nil. Its Document is set
// only where it is certain that nothing else can be meant: a misspelt kind or
// a missing name may hide a plan.
func (h head) problem() *Problem {
	if !h.mapping {
		return &Problem{Message: "a document starts with apiVersion, kind, metadata and spec; this is something else"}
	}
	if h.apiVersion == "" {
		return &Problem{Path: "apiVersion", Document: h.known(), Message: `apiVersion is missing: write "apiVersion: ` + APIVersion + `"; ` + documentsAreHere}
	}
	if group, v, _ := strings.Cut(h.apiVersion, "/"); group != Group {
		return h.foreign()
	} else if h.apiVersion != APIVersion {
		return &Problem{Path: "apiVersion", Document: h.known(), Message: versionSentence(h.apiVersion, v)}
	}
	if h.kind == "" {
		return &Problem{Path: "kind", Message: "kind is missing: write one of " + list(kinds())}
	}
	if say, ok := elsewhere[h.kind]; ok {
		return &Problem{Path: "kind", Document: documentKey(h.kind, h.name), Message: say}
	}
	if newObject[h.kind] == nil {
		return &Problem{Path: "kind", Message: fmt.Sprintf("kind %s is not known%s", quote(h.kind), meant(h.kind, kinds()))}
	}
	return nil
}

// foreign is the problem of a document of somebody else's. A plan with a
// misspelt group is still that plan.
func (h head) foreign() *Problem {
	p := &Problem{Path: "apiVersion", Document: documentKey(h.kind, h.name)}
	if newObject[h.kind] != nil && nearest(strings.Split(h.apiVersion, "/")[0], []string{Group}) != "" {
		p.Message = fmt.Sprintf("apiVersion %s is misspelt: write %s", quote(h.apiVersion), APIVersion)
		return p
	}
	p.Message = fmt.Sprintf("apiVersion %s does not belong to Tranship: %s; move the document out of it, or point source.path of the daemon's configuration at the folder with the plans",
		quote(h.apiVersion), documentsAreHere)
	return p
}

func (h head) known() string {
	if newObject[h.kind] == nil {
		return ""
	}
	return documentKey(h.kind, h.name)
}

// elsewhere names the kinds of ours that people do not write into the
// repository of plans.
var elsewhere = map[string]string{
	KindDaemonConfig: "the daemon's own configuration never lives in the repository that it protects: give it to the daemon with --config, and take it out of this folder",
	KindRun:          "a Run is a record that the daemon writes to its ledger; it is not read from here: remove it",
	KindPlanStatus:   "a PlanStatus is a record that the daemon writes to its ledger; it is not read from here: remove it",
	KindDaemonStatus: "a DaemonStatus is a record that the daemon writes to its ledger; it is not read from here: remove it",
}

func versionSentence(apiVersion, v string) string {
	if strings.HasPrefix(apiVersion, Group+"/") && newer(v) {
		return fmt.Sprintf("%s is newer than what this release reads (%s): upgrade the daemon first, or write the older format", quote(apiVersion), APIVersion)
	}
	return fmt.Sprintf("%s is no format of Tranship: write %s", quote(apiVersion), APIVersion)
}

// newer says whether a version such as v1beta2 came after ours.
func newer(v string) bool {
	_, ours, _ := strings.Cut(APIVersion, "/")
	return strings.HasPrefix(v, "v") && version.CompareKubeAwareVersionStrings(v, ours) > 0
}

func kinds() []string {
	var ks []string
	for k := range newObject {
		ks = append(ks, k)
	}
	sort.Strings(ks)
	return ks
}

// list writes "a, b or c".
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// meant completes "x is not known": with the nearest word, or with all of them.
func meant(word string, words []string) string {
	if n := nearest(word, words); n != "" {
		return fmt.Sprintf("; did you mean %q?", n)
	}
	switch {
	case len(words) == 0:
		return ""
	case len(words) > 20:
		return fmt.Sprintf("; there are %d others, none of a similar name", len(words))
	}
	return ": write " + list(words)
}

// nearest is the most similar word, or "" when none is similar: at most a
// third of it differs. Case does not count.
func nearest(word string, words []string) string {
	best, limit := "", len(word)/3+1
	for _, w := range words {
		if d := distance(strings.ToLower(word), strings.ToLower(w), limit); d < limit || d == limit && best == "" {
			best, limit = w, d
		}
	}
	return best
}

// distance is the number of letters to insert, remove or replace (Levenshtein);
// more than limit is reported as limit+1.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit+1)
}

package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// digestVersion is hashed in front of the canonical form. A change of the form
// needs another one, because every approval names a digest.
const digestVersion = "tranship-closure-1\n"

// Digest is what an approval approves: "sha256:" and the hash of the closure's
// canonical form, which is JSON with sorted keys. The form leaves out
//
//   - state, cutover.attempt: an approval names them beside the digest;
//   - suspend and stage: gates and schedules change without a new approval;
//   - apiVersion and kind, so that a release which migrates the format of
//     documents does not invalidate approvals;
//   - empty objects, so that a new optional group of fields changes nothing.
//
// Comments, order of fields and layout do not count. A default that is written
// out does: the digest may differ where the meaning is the same (one more
// approval), never the other way round.
func (c *Closure) Digest() string {
	data, err := json.Marshal(c)
	if err != nil {
		// Closures hold text, numbers and times of years that were parsed: there
		// is nothing in them that JSON cannot say.
		panic(fmt.Sprintf("spec: closure of plan %q has no JSON form: %v", c.Plan.Metadata.Name, err))
	}
	var tree map[string]any
	if err := json.Unmarshal(data, &tree); err != nil {
		panic(fmt.Sprintf("spec: JSON form of plan %q: %v", c.Plan.Metadata.Name, err))
	}
	forget(tree, "plan", "spec", "state")
	forget(tree, "plan", "spec", "suspend")
	forget(tree, "plan", "spec", "stage")
	forget(tree, "plan", "spec", "cutover", "attempt")
	for _, v := range tree {
		forgetHeads(v)
	}
	canonical, err := json.Marshal(withoutEmpty(tree)) // sorts keys
	if err != nil {
		panic(fmt.Sprintf("spec: canonical form of plan %q: %v", c.Plan.Metadata.Name, err))
	}
	sum := sha256.Sum256(append([]byte(digestVersion), canonical...))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func forget(tree map[string]any, path ...string) {
	for _, name := range path[:len(path)-1] {
		tree, _ = tree[name].(map[string]any)
	}
	delete(tree, path[len(path)-1])
}

// forgetHeads takes apiVersion and kind from a document or a list of them.
func forgetHeads(v any) {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "apiVersion")
		delete(v, "kind")
	case []any:
		for _, d := range v {
			forgetHeads(d)
		}
	}
}

// withoutEmpty drops objects without fields, from the innermost out.
func withoutEmpty(tree map[string]any) map[string]any {
	for k, v := range tree {
		switch v := v.(type) {
		case map[string]any:
			if len(withoutEmpty(v)) == 0 {
				delete(tree, k)
			}
		case []any:
			for _, item := range v {
				if m, ok := item.(map[string]any); ok {
					withoutEmpty(m)
				}
			}
		}
	}
	return tree
}

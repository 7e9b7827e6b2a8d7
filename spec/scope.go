package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Scope is what a plan was found to cover on the source: the claims, with what
// becomes of them, and the objects by kind and name. The closure's digest says
// what people wrote; this one says what it meant when the clusters were asked.
type Scope struct {
	Digest string `json:"digest"`
	// Entries are sorted; More counts those that are not kept here.
	Entries []string `json:"entries,omitempty"`
	More    int      `json:"more,omitempty"`
}

// scopeVersion is hashed in front of the entries; other entries need another one.
const scopeVersion = "tranship-scope-1\n"

// digestForm is how digests are written.
var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// maxEntries of a scope are kept, so that a status stays small. The digest is of all.
const maxEntries = 1000

// NewScope makes a scope of a plan's volumes, and of objects as "Kind.group
// namespace/name". What changes from run to run by itself, such as sizes and
// what was copied so far, is no part of it; another claim of the same name is.
func NewScope(volumes []Volume, objects []string) *Scope {
	all := slices.Clone(objects)
	for i := range volumes {
		v := &volumes[i]
		does := strings.TrimSpace(v.Action + " " + v.Method)
		if v.Action != "skip" {
			does += fmt.Sprintf(" to %s/%s", v.TargetNamespace, v.TargetClaim)
		}
		all = append(all, fmt.Sprintf("PersistentVolumeClaim %s/%s (%s): %s", v.Namespace, v.Claim, v.ClaimUID, does))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	sum := sha256.Sum256([]byte(scopeVersion + strings.Join(all, "\n")))
	s := &Scope{Digest: "sha256:" + hex.EncodeToString(sum[:]), Entries: all}
	if len(all) > maxEntries {
		s.Entries, s.More = all[:maxEntries:maxEntries], len(all)-maxEntries
	}
	return s
}

// Since lists the entries that have come and gone since another scope. With
// more entries than are kept the lists may lack some.
func (s *Scope) Since(old *Scope) (come, gone []string) {
	for _, e := range s.Entries {
		if _, found := slices.BinarySearch(old.Entries, e); !found {
			come = append(come, e)
		}
	}
	for _, e := range old.Entries {
		if _, found := slices.BinarySearch(s.Entries, e); !found {
			gone = append(gone, e)
		}
	}
	return come, gone
}

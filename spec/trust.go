package spec

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Trust says whose signatures make a merge an approval. It lives in the
// daemon's own configuration only: who can change the plans cannot change it.
type Trust struct {
	Keys []TrustedKey `json:"keys,omitempty"`
	// HostKeys names those of Keys that belong to the Git host, which signs web
	// edits, squash and rebase merges for everybody with them: they never count.
	HostKeys []string         `json:"hostKeys,omitempty"`
	Policies []ApprovalPolicy `json:"policies,omitempty"`
}

// TrustedKey is a public key that a signature may count for.
type TrustedKey struct {
	// Name is what policies and records call the key.
	Name string `json:"name"`
	// Owner is the person who holds it; several keys of one owner count once.
	Owner string `json:"owner"`
	// OpenPGP is an armored public key, SSH one line as in an .pub file; one of the two.
	OpenPGP string `json:"openPGP,omitempty"`
	SSH     string `json:"ssh,omitempty"`
}

// Way is how people approve.
type Way string

// Ways. SignedCommits: the commit that the branch went to is signed.
// Signatures: files that `tranship approve` writes. MergeCommits: the merged
// branch's last commit is signed, and the merge left the plan as it was there.
const (
	SignedCommits Way = "SignedCommits"
	Signatures    Way = "Signatures"
	MergeCommits  Way = "MergeCommits"
)

// ApprovalPolicy says which signatures the plans of some files need. The first
// policy whose paths match a plan's file holds for the plan, with everything
// that the plan refers to, wherever that is written.
type ApprovalPolicy struct {
	// Paths are patterns over the plan's file from the repository's root: * and ?
	// stand for parts of a name, ** for any folders.
	Paths []string `json:"paths"`
	// Require is how many different owners must have approved.
	Require int `json:"require"`
	// Keys are the names of the keys that count.
	Keys []string `json:"keys"`
	Ways []Way    `json:"ways"`
	// CountAuthor lets the author of a change approve it. Otherwise the author's
	// signature does not count, and one more is needed where the author cannot be
	// told by a signature.
	CountAuthor bool `json:"countAuthor,omitempty"`
	// Stages demands approved documents for stage runs and for looking at the
	// clusters too; default true. With false, whoever can merge can have data and
	// credentials sent to any server.
	Stages *bool `json:"stages,omitempty"`
}

// StagesOrDefault is true unless somebody has said false.
func (p *ApprovalPolicy) StagesOrDefault() bool { return p.Stages == nil || *p.Stages }

// PolicyFor is the index of the policy that holds for a plan's file, or -1.
func PolicyFor(policies []ApprovalPolicy, file string) int {
	return slices.IndexFunc(policies, func(p ApprovalPolicy) bool {
		return slices.ContainsFunc(p.Paths, func(pattern string) bool {
			return matches(strings.Split(pattern, "/"), strings.Split(file, "/"))
		})
	})
}

func matches(pattern, file []string) bool {
	switch {
	case len(pattern) == 0:
		return len(file) == 0
	case pattern[0] == "**":
		return matches(pattern[1:], file) || len(file) > 0 && matches(pattern, file[1:])
	case len(file) == 0:
		return false
	}
	ok, err := path.Match(pattern[0], file[0])
	return err == nil && ok && matches(pattern[1:], file[1:])
}

// Signer is a key that stands behind a change, and how.
type Signer struct {
	Key   string `json:"key"`
	Owner string `json:"owner"`
	Way   Way    `json:"way"`
	// Fingerprint is the key's own, as Keyring tells it: SHA256:... of an SSH key, the
	// hexadecimal digits of an OpenPGP key's main part. Empty in records that were
	// written without: these name the key only.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Proof is what a commit shows about who stands behind a plan as it is there.
type Proof struct {
	Signers []Signer `json:"signers,omitempty"`
	// Author is the owner of the key that signed the change itself; "": nobody can tell.
	Author string `json:"author,omitempty"`
	// Notes are sentences about signatures that do not count.
	Notes []string `json:"notes,omitempty"`
}

// ApprovalNamespace is the SSH signature namespace of approvals: no signature
// that was made for something else is one.
const ApprovalNamespace = "approval@tranship.dev"

// ApprovalText is what somebody signs who approves a plan. Whatever it names
// is approved, and nothing else: another plan, state, attempt or digest has
// another text.
func ApprovalText(plan string, state State, attempt int, digest string) []byte {
	return fmt.Appendf(nil, "tranship approval 1\nplan: %s\nstate: %s\nattempt: %d\ndigest: %s\n", plan, state, attempt, digest)
}

// ApprovalsDir is the folder of all approvals, below the folder of the plans.
const ApprovalsDir = "approvals"

// ApprovalDir is where the signatures for one digest of a plan lie.
func ApprovalDir(plan, digest string) string {
	return path.Join(ApprovalsDir, ShortName(plan), digestDir(digest))
}

func digestDir(digest string) string {
	name := strings.TrimPrefix(digest, "sha256:")
	if _, err := hex.DecodeString(name); err != nil || name == "" {
		return "none"
	}
	return name
}

// trust holds the rules about keys and policies that need no look into keys.
func (c checker) trust(t *Trust) {
	names := map[string]bool{}
	for i, k := range t.Keys {
		at := fmt.Sprintf("spec.trust.keys[%d]", i)
		if names[k.Name] && k.Name != "" {
			c.addf(at+".name", "name %s is already taken by another key", quote(k.Name))
		}
		names[k.Name] = true
		if (k.OpenPGP == "") == (k.SSH == "") {
			c.addf(at, "write the public key into openPGP or into ssh, one of the two")
		}
	}
	host := map[string]bool{}
	for i, name := range t.HostKeys {
		c.knownKey(fmt.Sprintf("spec.trust.hostKeys[%d]", i), name, names)
		host[name] = true
	}
	for i := range t.Policies {
		c.policy(fmt.Sprintf("spec.trust.policies[%d]", i), &t.Policies[i], t.Keys, names, host)
	}
}

func (c checker) knownKey(path, name string, names map[string]bool) {
	if name != "" && !names[name] {
		c.addf(path, "there is no key %s in spec.trust.keys", quote(name))
	}
}

func (c checker) policy(at string, p *ApprovalPolicy, keys []TrustedKey, names, host map[string]bool) {
	owners := map[string]bool{}
	for i, name := range p.Keys {
		c.knownKey(fmt.Sprintf("%s.keys[%d]", at, i), name, names)
		if host[name] {
			c.addf(fmt.Sprintf("%s.keys[%d]", at, i), "key %s is one of hostKeys: the Git host signs for everybody with it, so it never counts", quote(name))
		}
	}
	for _, k := range keys {
		if slices.Contains(p.Keys, k.Name) {
			owners[k.Owner] = true
		}
	}
	for i, pattern := range p.Paths {
		for part := range strings.SplitSeq(pattern, "/") {
			if _, err := path.Match(part, ""); err != nil || part == "" || strings.Contains(part, "**") && part != "**" {
				c.addf(fmt.Sprintf("%s.paths[%d]", at, i), "%s is no pattern: write one such as plans/prod/** from the repository's root, with ** as a whole folder", quote(pattern))
				break
			}
		}
	}
	most := len(owners)
	if !slices.Contains(p.Ways, Signatures) {
		most = min(most, len(p.Ways)) // a commit carries one signature, and so does the merged one
	}
	if p.Require < 1 || p.Require > most && most > 0 {
		c.addf(at+".require", "require must be at least 1, and at most the %d different owners that these keys and ways can show", most)
	}
	if !p.CountAuthor && !slices.Contains(p.Ways, Signatures) && p.Require > 0 && p.Require >= len(p.Ways) {
		c.addf(at+".countAuthor", "ways %s show no more than the author and %d others: add Signatures to ways, or set countAuthor", list(words(p.Ways)), len(p.Ways)-1)
	}
}

func words(ways []Way) []string {
	out := make([]string, 0, len(ways))
	for _, w := range ways {
		out = append(out, string(w))
	}
	return out
}

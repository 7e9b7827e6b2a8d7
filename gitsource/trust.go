package gitsource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// maxApprovals is how many signatures for one digest are looked at.
const maxApprovals = 100

// trusting is what the configuration demands of approvals, with the keys read.
type trusting struct {
	ring     *Keyring
	host     map[string]bool
	policies []spec.ApprovalPolicy
	told     *reconciler.Trust // as handed out last
}

// CheckTrust says what is wrong with the keys of a configuration, or nil.
func CheckTrust(t spec.Trust) error {
	_, err := newTrusting(t)
	return err
}

// newTrusting is nil where no policy is configured.
func newTrusting(t spec.Trust) (*trusting, error) {
	ring, err := NewKeyring(t.Keys, nil)
	if err != nil || len(t.Policies) == 0 {
		return nil, err
	}
	out := &trusting{ring: ring, host: map[string]bool{}, policies: t.Policies}
	for _, name := range t.HostKeys {
		out.host[name] = true
	}
	return out, nil
}

// SetTrust takes over what a configuration that was read again demands. It
// holds for commits that are read from now on; keys that are gone count no
// more at once. On an error what held before goes on.
func (s *Source) SetTrust(t spec.Trust) error {
	trust, err := newTrusting(t)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trust = trust
	return nil
}

// now is what the core is told; the same pointer while nothing differs.
func (t *trusting) now() *reconciler.Trust {
	if t == nil {
		return nil
	}
	keys, problems := t.ring.Usable()
	for name := range t.host {
		delete(keys, name)
	}
	if t.told == nil || !maps.Equal(t.told.Keys, keys) || !slices.Equal(t.told.Problems, problems) {
		t.told = &reconciler.Trust{Policies: t.policies, Keys: keys, Problems: problems}
	}
	return t.told
}

// prove adds what a commit shows about approvals: for each plan that the
// commit flips, or whose closure, file or approvals it changes.
func (s *Source) prove(ctx context.Context, before, now *snapshot, st step, pc *reconciler.PlanCommit) error {
	touched, err := s.touched(before, now, pc)
	if err != nil || len(touched) == 0 {
		return err
	}
	shown, err := s.show(ctx, now, st)
	if err != nil {
		return err
	}
	was, is := before.assemble(s.limits), now.assemble(s.limits)
	for _, plan := range touched {
		closure := is.closures[plan]
		f := pc.Plans[plan]
		f.State, f.Attempt = now.plans.get(plan).state, now.plans.get(plan).attempt
		f.Path, f.WasPath = is.where[plan], was.where[plan]
		if old := was.closures[plan]; old != nil {
			f.Was = old.Digest()
		}
		if closure != nil {
			f.Digest = closure.Digest()
			if f.Proof, err = s.proof(now, shown, closure, &f); err != nil {
				return err
			}
		}
		pc.Plans[plan] = f
	}
	return nil
}

// touched lists the plans that a commit says something about, in order.
func (s *Source) touched(before, now *snapshot, pc *reconciler.PlanCommit) ([]string, error) {
	set := map[string]bool{}
	for plan := range pc.Plans {
		set[plan] = true
	}
	was, is := before.assemble(s.limits), now.assemble(s.limits)
	var err error
	if now.approvals, err = s.approvalDirs(now.dir); err != nil {
		return nil, err
	}
	if before.approvals == nil {
		if before.approvals, err = s.approvalDirs(before.dir); err != nil {
			return nil, err
		}
	}
	same := maps.Equal(before.approvals, now.approvals)
	for plan, c := range is.closures {
		if p := now.plans.get(plan); !p.known || p.missing {
			continue
		}
		if !c.SameDocuments(was.closures[plan]) {
			set[plan] = true
		} else if !same {
			name := spec.ShortName(plan)
			set[plan] = set[plan] || before.approvals[name] != now.approvals[name]
		}
	}
	return slices.Sorted(func(yield func(string) bool) {
		for plan, yes := range set {
			if yes && !yield(plan) {
				return
			}
		}
	}), nil
}

// approvalDirs are the folders of approvals, by short name of the plan.
func (s *Source) approvalDirs(dir plumbing.Hash) (map[string]plumbing.Hash, error) {
	top, err := subtree(s.store, dir, spec.ApprovalsDir)
	if err != nil {
		return nil, err
	}
	entries, err := s.store.tree(top)
	out := make(map[string]plumbing.Hash, len(entries))
	for _, e := range entries {
		out[e.Name] = e.Hash
	}
	return out, err
}

// shown is what a commit shows by itself, whatever the plan.
type shown struct {
	commit plumbing.Hash
	by     Signed
	merge  bool // it has two parents
	merged plumbing.Hash
	branch Signed    // who signed the merged commit
	tip    *snapshot // of the merged commit; nil unless its signature counts
}

func (s *Source) show(ctx context.Context, now *snapshot, st step) (*shown, error) {
	c := st.commit
	if len(c.ParentHashes) > 0 && c.ParentHashes[0] != st.parent { // who merged the branch into his work signed no change of the branch
		return &shown{commit: c.Hash, by: Signed{Problem: "it was not made on top of the branch: its first parent is another commit"}}, nil
	}
	raw, err := s.store.raw(plumbing.CommitObject, c.Hash)
	if err != nil {
		return nil, err
	}
	out := &shown{commit: c.Hash, by: s.trust.ring.Commit(raw), merge: len(c.ParentHashes) == 2}
	if !out.merge {
		return out, nil
	}
	out.merged = c.ParentHashes[1]
	if raw, err = s.store.raw(plumbing.CommitObject, out.merged); err != nil {
		out.branch = Signed{Problem: "it was not sent by the server"}
		return out, nil
	}
	if out.branch = s.trust.ring.Commit(raw); !out.branch.Counts() {
		return out, nil
	}
	merged, err := s.store.commit(out.merged)
	if err != nil {
		return nil, err
	}
	out.tip, err = s.snapshot(ctx, now, merged)
	var typed *Error
	if errors.As(err, &typed) && (errors.Is(err, ErrTooBig) || errors.Is(err, ErrBadTree)) {
		out.tip, out.branch = nil, Signed{Problem: "it holds what is not read"}
		return out, nil
	}
	return out, err
}

// proof gathers the signatures that stand behind one plan at a commit.
func (s *Source) proof(now *snapshot, c *shown, closure *spec.Closure, f *reconciler.PlanFlip) (*spec.Proof, error) {
	p := &spec.Proof{}
	own := s.counts(p, fmt.Sprintf("commit %.12s", c.commit.String()), c.by)
	if own {
		p.Signers = append(p.Signers, c.by.signer(spec.SignedCommits))
	}
	switch {
	case !c.merge && own:
		p.Author = c.by.Owner
	case c.merge && s.counts(p, fmt.Sprintf("merged commit %.12s", c.merged.String()), c.branch):
		if s.asMerged(c.tip, closure, f) {
			p.Author = c.branch.Owner
			p.Signers = append(p.Signers, c.branch.signer(spec.MergeCommits))
			break
		}
		p.Notes = append(p.Notes, fmt.Sprintf("merge %.12s changed the plan against the merged commit %.12s, which %s signed", c.commit.String(), c.merged.String(), c.branch.Owner))
		if own {
			p.Author = c.by.Owner
		}
	}
	return p, s.files(now, p, closure, f)
}

const hostSentence = "is signed with the Git host's key %s, which is everyone's: web edits, squash and rebase merges carry it, and it never counts"

// counts says whether a signature does, and notes why not.
func (s *Source) counts(p *spec.Proof, what string, by Signed) bool {
	switch {
	case s.trust.host[by.Key] && by.Key != "":
		p.Notes = append(p.Notes, what+" "+fmt.Sprintf(hostSentence, by.Key))
	case !by.Counts():
		p.Notes = append(p.Notes, what+": "+by.Problem)
	default:
		return true
	}
	return false
}

// asMerged says that a plan is in the merge what it is in the merged commit:
// state, attempt and everything that it consists of.
func (s *Source) asMerged(tip *snapshot, closure *spec.Closure, f *reconciler.PlanFlip) bool {
	there := tip.assemble(s.limits).closures[closure.Plan.Metadata.Name]
	if there == nil {
		return false
	}
	p := &there.Plan.Spec
	return p.State == f.State && p.Cutover.AttemptOrDefault() == f.Attempt && there.Digest() == f.Digest
}

// files adds the approvals that lie in the commit.
func (s *Source) files(now *snapshot, p *spec.Proof, closure *spec.Closure, f *reconciler.PlanFlip) error {
	plan := closure.Plan.Metadata.Name
	dir := spec.ApprovalDir(plan, f.Digest)
	if now.approvals[spec.ShortName(plan)].IsZero() {
		return nil
	}
	at, err := subtree(s.store, now.dir, dir)
	if err != nil {
		return err
	}
	entries, err := s.store.tree(at)
	if err != nil {
		return err
	}
	text := spec.ApprovalText(plan, f.State, f.Attempt, f.Digest)
	for i, e := range entries {
		if path.Ext(e.Name) != ".sig" || !e.Mode.IsFile() || i >= maxApprovals {
			continue
		}
		n, err := s.store.size(e.Hash)
		if err != nil {
			return err
		}
		by := Signed{Problem: "it is too long for a signature"}
		if n <= maxSignature {
			data, err := s.store.blob(e.Hash)
			if err != nil {
				return err
			}
			by = s.trust.ring.Approval(text, data)
		}
		if s.counts(p, oneLine(path.Join(dir, e.Name), 200), by) {
			p.Signers = append(p.Signers, by.signer(spec.Signatures))
		}
	}
	return nil
}

// signer is a signature that counts, as it is recorded.
func (s Signed) signer(way spec.Way) spec.Signer {
	return spec.Signer{Key: s.Key, Owner: s.Owner, Way: way, Fingerprint: s.Fingerprint}
}

// Approval says who made a file of approvals over a text. Only SSH signatures
// have a namespace, which keeps a signature for something else from being one.
func (r *Keyring) Approval(text, data []byte) Signed {
	if !strings.HasPrefix(strings.TrimSpace(string(data)), "-----BEGIN SSH SIGNATURE-----") {
		return Signed{Problem: "it is no SSH signature: `tranship approve` writes one"}
	}
	by := r.Detached(spec.ApprovalNamespace, text, data)
	if by.Key != "" && !by.Counts() {
		by.Problem = fmt.Sprintf("%s signed something else: another state or attempt of the plan", by.Owner)
	}
	return by
}

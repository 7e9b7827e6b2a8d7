package gitsource

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tranship/tranship/spec"
)

// Verdict is what came of one question about rights.
type Verdict string

// Verdicts. Unknown is never as good as Fine.
const (
	Fine    Verdict = "Fine"
	Missing Verdict = "Missing" // somebody must change something
	Unknown Verdict = "Unknown" // it could not be found out
)

// Right is one question about rights and its answer, a sentence that says what to do.
type Right struct {
	Item    string  `json:"item"`
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`
}

// CheckRights asks the servers and keys whether a daemon with this configuration
// can do its work, and whether it could do more than that. It changes nothing:
// its pushes move a branch to where it is, so that a server accepts or refuses
// them and has nothing to do (ADR 34). It needs no data directory.
func CheckRights(ctx context.Context, c Config) []Right {
	all := []Right{c.plansReadable(ctx), c.ledgerPushable(ctx)}
	all = append(all, c.separate(ctx)...)
	all = append(all, c.signingKey(ctx))
	return append(all, c.trustedKeys()...)
}

// unanswered is a right for which an error came instead of an answer.
func unanswered(item string, err error) Right {
	if errors.Is(err, ErrUnreachable) {
		return Right{item, Unknown, err.Error()}
	}
	return Right{item, Missing, err.Error()}
}

func (c *Config) plansReadable(ctx context.Context) Right {
	const item = "plans can be read"
	r, err := c.source()
	if err != nil {
		return unanswered(item, err)
	}
	tip, err := r.tip(ctx)
	switch {
	case err != nil:
		return unanswered(item, err)
	case tip.IsZero():
		return Right{item, Missing, fmt.Sprintf("cannot find %s of %s; push it, or correct source.%s", r.said, r.url, r.field)}
	}
	return Right{item, Fine, fmt.Sprintf("%s of %s is at %.12s", r.said, r.url, tip)}
}

func (c *Config) ledgerPushable(ctx context.Context) Right {
	const item = "ledger can be pushed"
	r, err := c.ledger()
	if err != nil {
		return unanswered(item, err)
	}
	there, err := r.pushNothing(ctx)
	switch {
	case err != nil:
		return unanswered(item, err)
	case !there:
		return Right{item, Unknown, fmt.Sprintf("%s lets the account begin a push, and %s is not there yet: whether it takes one shows at the daemon's first commit", r.url, r.said)}
	}
	return Right{item, Fine, fmt.Sprintf("%s accepts a push to %s", r.url, r.said)}
}

// pushNothing pushes the reference to where it is, and returns an error of this
// package where the server refuses that. A reference that is not there cannot be
// pushed without making it: then only the right to push anywhere is asked for.
// One refusal may come of somebody else's push at the same time: ErrRejected means
// that the server has refused twice while the reference stayed where it was.
func (r *remote) pushNothing(ctx context.Context) (there bool, err error) {
	var pause backoff
	refused := plumbing.ZeroHash // where the reference was when that happened
	for range 5 {
		tip, err := r.tip(ctx)
		if err != nil {
			return false, err
		}
		if tip.IsZero() {
			_, err := r.capabilities(ctx, receivePack)
			return false, err
		}
		err = r.pushTo(ctx, r.object(tip))
		switch {
		case errors.Is(err, errNotJudged): // not wrapped: it is of the kind ErrRejected
			return true, fail(ErrUnreachable, nil, "cannot tell whether %s accepts a push to %s, because it does not take the empty pack: %s", r.url, r.said, oneLine(err.Error(), 500))
		case !errors.Is(err, ErrRejected) || refused == tip:
			return true, err
		}
		refused = tip
		if err := pause.wait(ctx); err != nil {
			return true, explain(err, r.url)
		}
	}
	return true, fail(ErrUnreachable, nil, "cannot tell whether %s accepts a push to %s, which moves too often; try later", r.url, r.said)
}

// pushTo pushes what was found last to where it is.
func (r *remote) pushTo(ctx context.Context, at plumbing.Hash) error {
	if r.tags == nil {
		return r.upload(ctx, at, at, nil)
	}
	r.mu.Lock()
	name := r.found.name
	r.mu.Unlock()
	return r.on(plumbing.ReferenceName(name)).upload(ctx, at, at, nil)
}

// separate asks with each of the daemon's accounts whether it could change plans.
func (c *Config) separate(ctx context.Context) []Right {
	ledger := c.ledgerRepository()
	all := []Right{c.cannotPush(ctx, "source", c.Spec.Source)}
	if same(ledger.Credentials, c.Spec.Source.Credentials) {
		return all
	}
	if !sameServer(ledger.URL, c.Spec.Source.URL) {
		return append(all, Right{itemOf("ledger"), Unknown, fmt.Sprintf("the ledger is on another server, which alone gets its credentials: see yourself that its account cannot push to %s", c.Spec.Source.URL)})
	}
	as := c.Spec.Source
	as.Credentials = ledger.Credentials
	return append(all, c.cannotPush(ctx, "ledger", as))
}

func itemOf(account string) string { return "account of the " + account + " cannot change plans" }

func (c *Config) cannotPush(ctx context.Context, account string, plans spec.Repository) Right {
	item := itemOf(account)
	r, err := c.newRemote(plans)
	if err != nil {
		return unanswered(item, err)
	}
	there, err := r.pushNothing(ctx)
	switch {
	case errors.Is(err, ErrRejected):
		return Right{item, Fine, fmt.Sprintf("%s refuses its push to %s", r.url, r.said)}
	case errors.Is(err, ErrUnauthorized), errors.Is(err, ErrNotFound):
		return Right{item, Fine, fmt.Sprintf("it may not push to %s", r.url)}
	case err != nil:
		return Right{item, Unknown, err.Error()}
	case !there:
		return Right{item, Missing, fmt.Sprintf("it may push to %s, where %s is not there yet; give it read access only, or protect what it reads (docs/rulesets.md)", r.url, r.said)}
	}
	return Right{item, Missing, fmt.Sprintf("%s accepts its push to %s: whoever has %s can change plans; give the ledger a repository and an account of its own, or protect that branch (docs/rulesets.md)", r.url, r.said, credential(plans.Credentials))}
}

func credential(ref *spec.SecretRef) string {
	if ref == nil {
		return "the address"
	}
	return fmt.Sprintf("secret %q", ref.From)
}

func same(a, b *spec.SecretRef) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// sameServer says whether credentials for one address may be shown to the other.
func sameServer(a, b string) bool { return server(a) != "" && server(a) == server(b) }

func server(address string) string {
	if s, ok := spec.SSHAddress(address); ok {
		return "ssh " + s.User + "@" + s.Host + ":" + s.Port
	}
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Scheme + " " + u.Host
}

func (c *Config) signingKey(ctx context.Context) Right {
	const item = "ledger can be signed"
	s, err := newSealer(*c)
	if err != nil {
		return unanswered(item, err)
	}
	if s.ref == nil {
		if len(c.Spec.Trust.Policies) > 0 {
			return Right{item, Missing, "approvals are bound to signatures, and the ledger is not: whoever can push to it can write an approval into it; set ledger.signingKey and ledger.signers"}
		}
		return Right{item, Fine, "no signature is asked for (ledger.signingKey is not set)"}
	}
	if err := s.refresh(ctx); err != nil {
		return unanswered(item, err)
	}
	payload := []byte("tranship check\n")
	signature, err := s.sign(payload)
	if err != nil {
		return Right{item, Missing, fmt.Sprintf("cannot sign with secret %q: %v", s.ref.From, err)}
	}
	if s.signers == nil {
		return Right{item, Missing, fmt.Sprintf("the key of secret %q signs, and ledger.signers is empty, so that nothing demands its signature; add its public key there", s.ref.From)}
	}
	by := s.signers.Detached(GitNamespace, payload, signature)
	if !by.Counts() {
		return Right{item, Missing, fmt.Sprintf("what the key of secret %q signs does not count: %s; add its public key to ledger.signers", s.ref.From, by.Problem)}
	}
	return Right{item, Fine, fmt.Sprintf("secret %q holds key %s of ledger.signers", s.ref.From, by.Key)}
}

func (c *Config) trustedKeys() []Right {
	const item = "keys of approvals"
	t, err := newTrusting(c.Spec.Trust)
	switch {
	case err != nil:
		return []Right{unanswered(item, err)}
	case t == nil:
		return []Right{{item, Fine, "none are asked for: whoever can merge can approve (spec.trust has no policies)"}}
	}
	now := t.now()
	var all []Right
	for _, p := range now.Problems {
		all = append(all, Right{item, Missing, p})
	}
	if len(all) == 0 {
		all = append(all, Right{item, Fine, fmt.Sprintf("%d can be used", len(now.Keys))})
	}
	return all
}

// BranchOf is where a branch is on its Git host, for who asks the host's API.
type BranchOf struct{ Host, Repository, Branch string }

// Branches are those of the plans and of the ledger; the first has no Branch
// where a tag or another reference is read.
func (c *Config) Branches() (plans, ledger BranchOf) {
	repo := c.ledgerRepository()
	plans, ledger = placeOf(c.Spec.Source.URL), placeOf(repo.URL)
	if field, value := c.Spec.Source.Reads(); field == "branch" {
		plans.Branch = value
	}
	ledger.Branch = repo.Branch
	return plans, ledger
}

func placeOf(address string) BranchOf {
	var host, path string
	if s, ok := spec.SSHAddress(address); ok {
		host, path = s.Host, s.Path
	} else if u, err := url.Parse(address); err == nil {
		host, path = u.Host, u.Path
	}
	return BranchOf{Host: host, Repository: strings.TrimSuffix(strings.Trim(path, "/"), ".git")}
}

// Worst is the verdict of all together.
func Worst(all []Right) Verdict {
	for _, v := range []Verdict{Missing, Unknown} {
		if slices.ContainsFunc(all, func(r Right) bool { return r.Verdict == v }) {
			return v
		}
	}
	return Fine
}

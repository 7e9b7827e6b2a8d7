// Package forge posts to the pull requests of GitHub, GitLab and Gitea: one
// comment that is edited in place, and commit statuses. It changes nothing that
// says the same already. It also asks for the rules of branches.
package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// State of a commit status.
type State string

// States, in GitHub's words.
const (
	Success State = "success"
	Failure State = "failure"
)

// Status is a commit status; the context tells it from others of the commit.
type Status struct {
	Context     string
	State       State
	Description string // at most 140 bytes
}

// Host says where to post, and as whom.
type Host struct {
	Provider   string // github, gitlab or gitea
	URL        string // of the web pages; the only address that gets the token
	Repository string // OWNER/NAME, with gitlab the whole path
	Token      string
}

// Client posts to one repository. Not safe for concurrent use.
type Client struct {
	host provider
	base string // of the API
	repo string // as it stands in paths
	auth string // value of the provider's header
	http *http.Client
	wait func(ctx context.Context, d time.Duration) error
}

// Open checks where to post. It does not ask the host.
func Open(h Host) (*Client, error) {
	p, known := providers[h.Provider]
	if !known {
		return nil, fmt.Errorf("cannot post to provider %q: say github, gitlab or gitea", h.Provider)
	}
	if h.URL == "" {
		h.URL = p.web
	}
	u, err := url.Parse(strings.TrimSuffix(h.URL, "/"))
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "https" && !(u.Scheme == "http" && local(u.Hostname())) {
		return nil, fmt.Errorf("cannot post there: --url must be the https address of the host's web pages, without a user or password")
	}
	parts := strings.Split(h.Repository, "/")
	for _, part := range parts {
		if part == "" || part == "." || part == ".." || len(parts) < 2 || len(parts) > 2 && !p.nested {
			return nil, fmt.Errorf("cannot post to repository %q: give OWNER/NAME", h.Repository)
		}
	}
	return &Client{host: p, base: p.api(u), repo: p.escape(h.Repository), auth: p.scheme + h.Token, wait: pause,
		http: &http.Client{Timeout: requestTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

func local(host string) bool { return host == "127.0.0.1" || host == "::1" || host == "localhost" }

// Comment makes the pull request have one comment of ours that begins with the
// marker and says text. It returns what it has done.
func (c *Client) Comment(ctx context.Context, pull int, marker, text string) (said string, err error) {
	me, err := c.me(ctx)
	if err != nil {
		return "", err
	}
	for attempt := 1; ; attempt++ {
		found, err := c.find(ctx, pull, marker, me)
		if err != nil {
			return "", err
		}
		switch {
		case found != nil && same(found.Body, text):
			return "unchanged", nil
		case found != nil:
			return "edited", c.ask(ctx, c.host.editMethod, fmt.Sprintf(c.host.edit, c.repo, pull, found.ID), map[string]any{"body": text}, nil)
		}
		err = c.once(ctx, http.MethodPost, fmt.Sprintf(c.host.comments, c.repo, pull), map[string]any{"body": text}, nil)
		var again *passing
		if !errors.As(err, &again) || attempt == attempts {
			return "made", err
		}
		// The host may have made it all the same: look before it is made twice.
		if err := c.wait(ctx, again.after(attempt)); err != nil {
			return "", err
		}
	}
}

// comment is what the hosts have in common.
type comment struct {
	ID   int64  `json:"id"`
	Body string `json:"body"`
	User author `json:"user"`   // GitHub, Gitea
	By   author `json:"author"` // GitLab
}

type author struct {
	ID   int64  `json:"id"`
	Type string `json:"type"` // GitHub: Bot
}

// same compares as hosts keep text.
func same(a, b string) bool {
	clean := func(s string) string { return strings.TrimSpace(strings.ReplaceAll(s, "\r\n", "\n")) }
	return clean(a) == clean(b)
}

// me is the account of the token; 0 for one that may not ask, which GitHub's
// tokens of Actions and apps may not.
func (c *Client) me(ctx context.Context) (int64, error) {
	var who author
	err := c.ask(ctx, http.MethodGet, "/user", nil, &who)
	var refused *refusal
	if c.host.bots && errors.As(err, &refused) && (refused.status == http.StatusForbidden || refused.status == http.StatusUnauthorized) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot find out whose token it is, and so which comment is ours: %w", err)
	}
	return who.ID, nil
}

// find looks for our comment; others may have posted one with the marker.
func (c *Client) find(ctx context.Context, pull int, marker string, me int64) (*comment, error) {
	for page := 1; page <= maxPages; page++ {
		var all []comment
		if err := c.ask(ctx, http.MethodGet, fmt.Sprintf(c.host.comments, c.repo, pull)+c.host.page(page), nil, &all); err != nil {
			return nil, err
		}
		for i := range all {
			by := all[i].User
			if by.ID == 0 {
				by = all[i].By
			}
			ours := by.ID == me || me == 0 && by.Type == "Bot"
			if ours && strings.HasPrefix(all[i].Body, strings.TrimSpace(marker)) {
				return &all[i], nil
			}
		}
		if !c.host.paged || len(all) < perPage {
			return nil, nil
		}
	}
	return nil, fmt.Errorf("cannot find our comment among the first %d", maxPages*perPage)
}

const (
	perPage  = 100
	maxPages = 50
)

// Head is the newest commit of a pull request.
func (c *Client) Head(ctx context.Context, pull int) (string, error) {
	var p struct {
		SHA  string `json:"sha"` // GitLab
		Head struct {
			SHA string `json:"sha"`
		} `json:"head"`
	}
	err := c.ask(ctx, http.MethodGet, fmt.Sprintf(c.host.pull, c.repo, pull), nil, &p)
	if p.SHA == "" {
		p.SHA = p.Head.SHA
	}
	if err == nil && p.SHA == "" {
		err = fmt.Errorf("cannot find the commit of pull request %d: the host does not name it; give --commit", pull)
	}
	return p.SHA, err
}

// SetStatuses sets those that the commit does not have yet, and returns how many.
func (c *Client) SetStatuses(ctx context.Context, commit string, want []Status) (set int, err error) {
	if !isCommit(commit) {
		return 0, fmt.Errorf("cannot set the status of commit %q: give its full name", commit)
	}
	have, err := c.statuses(ctx, commit)
	if err != nil {
		return 0, err
	}
	for _, s := range want {
		if have[s.Context] == s {
			continue
		}
		body := map[string]any{c.host.contextKey: s.Context, "state": c.host.state(s.State), "description": s.Description}
		err := c.ask(ctx, http.MethodPost, fmt.Sprintf(c.host.setStatus, c.repo, commit), body, nil)
		switch {
		case err == nil:
			set++
		case !c.stands(ctx, commit, s, err):
			return set, err
		}
	}
	return set, nil
}

// stands says whether a refusal means that the commit has the state already:
// GitLab takes none twice.
func (c *Client) stands(ctx context.Context, commit string, want Status, err error) bool {
	var refused *refusal
	if !errors.As(err, &refused) || !strings.Contains(refused.text, "Cannot transition status") {
		return false
	}
	have, err := c.statuses(ctx, commit)
	return err == nil && have[want.Context].State == want.State
}

func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// statuses are the newest of each context.
func (c *Client) statuses(ctx context.Context, commit string) (map[string]Status, error) {
	have := map[string]Status{}
	for page := 1; page <= maxPages; page++ {
		all, err := c.host.read(ctx, c, fmt.Sprintf(c.host.statuses, c.repo, commit)+c.host.page(page))
		if err != nil {
			return nil, err
		}
		fresh := false
		for _, s := range all {
			if _, known := have[s.Context]; !known {
				have[s.Context], fresh = s, true
			}
		}
		if !fresh {
			break
		}
	}
	return have, nil
}

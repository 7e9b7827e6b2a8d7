package forge

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Answer is what the host's API says of a rule. The zero value means that it
// does not say.
type Answer int

// Answers.
const (
	NotSaid Answer = iota
	Yes
	No
)

// Protection is what is known of the rules of one branch. Who may pass a rule
// by is not asked: that takes an administrator's token.
type Protection struct {
	NoForcePush Answer // history cannot be rewritten
	Reviewed    Answer // changes need a pull request that somebody else approved
}

func answer(yes bool) Answer {
	if yes {
		return Yes
	}
	return No
}

// Protection asks for the rules of a branch.
func (c *Client) Protection(ctx context.Context, branch string) (Protection, error) {
	return c.host.protection(ctx, c, branch)
}

// githubProtection reads the rules of rulesets, which everybody may who can read
// the repository. Those of classic branch protection take an administrator: of
// these only is known that there are any.
func githubProtection(ctx context.Context, c *Client, branch string) (Protection, error) {
	name := url.PathEscape(branch)
	found := Protection{NoForcePush: No, Reviewed: No}
	for page := 1; page <= maxPages; page++ {
		var rules []struct {
			Type       string `json:"type"`
			Parameters struct {
				Approvals int `json:"required_approving_review_count"`
			} `json:"parameters"`
		}
		if err := c.ask(ctx, http.MethodGet, fmt.Sprintf("/repos/%s/rules/branches/%s", c.repo, name)+c.host.page(page), nil, &rules); err != nil {
			return Protection{}, err
		}
		for _, r := range rules {
			switch {
			case r.Type == "non_fast_forward":
				found.NoForcePush = Yes
			case r.Type == "pull_request" && r.Parameters.Approvals > 0:
				found.Reviewed = Yes
			}
		}
		if len(rules) < perPage {
			break
		}
	}
	if found.NoForcePush == Yes && found.Reviewed == Yes {
		return found, nil
	}
	var is struct {
		Protected bool `json:"protected"`
	}
	err := c.ask(ctx, http.MethodGet, fmt.Sprintf("/repos/%s/branches/%s", c.repo, name), nil, &is)
	if err != nil || is.Protected { // classic protection may be what the rulesets lack
		found.NoForcePush, found.Reviewed = orNotSaid(found.NoForcePush), orNotSaid(found.Reviewed)
	}
	return found, nil
}

func orNotSaid(a Answer) Answer {
	if a == Yes {
		return Yes
	}
	return NotSaid
}

// gitlabProtection reads the protected branches. Where several match, GitLab
// allows what any of them allows. How many must approve a merge request is not
// written there.
func gitlabProtection(ctx context.Context, c *Client, branch string) (Protection, error) {
	found := Protection{NoForcePush: No, Reviewed: No}
	matched, forced, pushed := false, false, false
	for page := 1; page <= maxPages; page++ {
		var all []struct {
			Name  string `json:"name"`
			Force bool   `json:"allow_force_push"`
			Push  []struct {
				Level int `json:"access_level"`
			} `json:"push_access_levels"`
		}
		if err := c.ask(ctx, http.MethodGet, fmt.Sprintf("/projects/%s/protected_branches", c.repo)+c.host.page(page), nil, &all); err != nil {
			return Protection{}, err
		}
		for _, p := range all {
			if !covers(p.Name, branch) {
				continue
			}
			matched, forced = true, forced || p.Force
			for _, who := range p.Push {
				pushed = pushed || who.Level > 0
			}
		}
		if len(all) < perPage {
			break
		}
	}
	found.NoForcePush = answer(matched && !forced)
	if matched && !pushed {
		found.Reviewed = NotSaid
	}
	return found, nil
}

// covers matches a name with * against a branch, as GitLab does.
func covers(pattern, branch string) bool {
	ok, err := regexp.MatchString("^"+strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")+"$", branch)
	return err == nil && ok
}

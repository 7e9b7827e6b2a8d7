package forge

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// giteaRule is a branch protection of Gitea and Forgejo.
type giteaRule struct {
	Name        string `json:"rule_name"`
	Old         string `json:"branch_name"` // before 1.19
	Priority    int    `json:"priority"`    // since 1.23; Forgejo has none
	Force       bool   `json:"enable_force_push"`
	Push        bool   `json:"enable_push"`
	Approvals   int    `json:"required_approvals"`
	Unprotected string `json:"unprotected_file_patterns"` // files that need no review
}

func (r giteaRule) says() Protection {
	is := Protection{NoForcePush: answer(!r.Force), Reviewed: answer(r.Approvals > 0 && !r.Push)}
	if is.Reviewed == Yes && r.Unprotected != "" {
		is.Reviewed = NotSaid
	}
	return is
}

// giteaProtection reads the rules in the order in which Gitea asks them: the
// first that covers the branch holds, and no other, also if another has the
// branch's own name. A rule in front of it that may cover the branch leaves open
// what the two say differently.
func giteaProtection(ctx context.Context, c *Client, branch string) (Protection, error) {
	var all []giteaRule
	if err := c.ask(ctx, http.MethodGet, fmt.Sprintf("/repos/%s/branch_protections", c.repo), nil, &all); err != nil {
		return Protection{}, err
	}
	for i := range all {
		all[i].Name = cmp.Or(all[i].Name, all[i].Old)
	}
	// Equal ones are listed by age already.
	slices.SortStableFunc(all, func(a, b giteaRule) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(special(a.Name), special(b.Name)))
	})
	may := []Protection{} // one of which holds
	for _, r := range all {
		does := giteaCovers(r.Name, branch)
		if does != No {
			may = append(may, r.says())
		}
		if does == Yes {
			return agreed(may), nil
		}
	}
	return agreed(append(may, Protection{No, No})), nil
}

// agreed is what all say.
func agreed(all []Protection) Protection {
	is := all[0]
	for _, p := range all[1:] {
		if p.NoForcePush != is.NoForcePush {
			is.NoForcePush = NotSaid
		}
		if p.Reviewed != is.Reviewed {
			is.Reviewed = NotSaid
		}
	}
	return is
}

// special is 1 for a pattern, 0 for a branch's name.
func special(rule string) int {
	if strings.ContainsAny(rule, `*?\[]{}`) {
		return 1
	}
	return 0
}

// giteaGlob translates what means the same in every version of Gitea and Forgejo.
var giteaGlob = map[string]string{"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}

var giteaToken = regexp.MustCompile(`\*\*|.`)

// giteaCovers says whether a rule's name covers a branch. Names count in any case
// of letters, patterns do not. Classes, escapes and braces that do not match are
// read differently by different versions: NotSaid.
func giteaCovers(rule, branch string) Answer {
	if special(rule) == 0 {
		return answer(strings.EqualFold(rule, branch))
	}
	if strings.ContainsAny(rule, `\[]`) {
		return NotSaid
	}
	depth := 0
	pattern := giteaToken.ReplaceAllStringFunc(rule, func(token string) string {
		if depth += strings.Count(token, "{") - strings.Count(token, "}"); depth < 0 {
			depth = len(rule) // never 0 again
		}
		if token == "," && depth > 0 {
			return "|"
		}
		return cmp.Or(giteaGlob[token], regexp.QuoteMeta(token))
	})
	is, err := regexp.Compile("^(?:" + pattern + ")$")
	if depth != 0 || err != nil {
		return NotSaid
	}
	return answer(is.MatchString(branch))
}

package forge

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// The answers have the fields of the documented ones.
func TestProtection(t *testing.T) {
	const gh, ghBranch = "/api/v3/repos/o/r/rules/branches/tranship%2Fledger", "/api/v3/repos/o/r/branches/tranship%2Fledger"
	const gl, gt = "/api/v4/projects/o%2Fr/protected_branches", "/api/v1/repos/o/r/branch_protections"
	const review = `{"type": "pull_request", "parameters": {"required_approving_review_count": 1}}`
	for i, test := range []struct {
		provider string
		answers  map[string]string // by path; others are 404
		want     Protection
		failed   bool
	}{
		{"github", map[string]string{gh: `[{"type": "non_fast_forward"}, ` + review + `]`}, Protection{Yes, Yes}, false},
		{"github", map[string]string{gh: `[{"type": "deletion"}, {"type": "pull_request", "parameters": {"required_approving_review_count": 0}}]`, ghBranch: `{"protected": false}`}, Protection{No, No}, false},
		{"github", map[string]string{gh: `[` + review + `]`, ghBranch: `{"protected": true}`}, Protection{NotSaid, Yes}, false},
		{"github", map[string]string{gh: `[]`}, Protection{NotSaid, NotSaid}, false},
		{"github", nil, Protection{}, true},
		{"gitlab", map[string]string{gl: `[]`}, Protection{No, No}, false},
		{"gitlab", map[string]string{gl: `[{"name": "tranship/*", "allow_force_push": false, "push_access_levels": [{"access_level": 0}]}]`}, Protection{Yes, NotSaid}, false},
		{"gitlab", map[string]string{gl: `[{"name": "tranship/ledger", "allow_force_push": false, "push_access_levels": [{"access_level": 40}]}, {"name": "t*", "allow_force_push": true}]`}, Protection{No, No}, false},
		{"gitlab", nil, Protection{}, true},
		{"gitea", map[string]string{gt: `[{"rule_name": "main"}]`}, Protection{No, No}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "*", "required_approvals": 1}]`}, Protection{No, No}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "tranship/*", "enable_push": true, "required_approvals": 1}]`}, Protection{Yes, No}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "**", "enable_force_push": true}, {"rule_name": "tranship/ledger", "required_approvals": 2}]`}, Protection{Yes, Yes}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "**", "required_approvals": 1}, {"rule_name": "*/ledger", "enable_force_push": true}]`}, Protection{Yes, Yes}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "tranship/ledger", "priority": 2, "required_approvals": 1}, {"rule_name": "**", "priority": 1, "enable_push": true, "enable_force_push": true}]`}, Protection{No, No}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "Tranship/LEDGER", "required_approvals": 1}]`}, Protection{Yes, Yes}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "TRANSHIP/*", "required_approvals": 1}]`}, Protection{No, No}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "{main,tranship/ledge?}", "required_approvals": 1}]`}, Protection{Yes, Yes}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "tranship/[a-z]*", "required_approvals": 1}]`}, Protection{NotSaid, NotSaid}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "[m]ain", "enable_force_push": true, "priority": 1}, {"rule_name": "**", "required_approvals": 1, "priority": 2}]`}, Protection{NotSaid, NotSaid}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "[m]ain", "priority": 1}, {"rule_name": "**", "required_approvals": 1, "priority": 2}]`}, Protection{Yes, NotSaid}, false},
		{"gitea", map[string]string{gt: `[{"rule_name": "tranship/ledger", "required_approvals": 1, "unprotected_file_patterns": "**.md"}]`}, Protection{Yes, NotSaid}, false},
		{"gitea", nil, Protection{}, true},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, ok := test.answers[r.URL.EscapedPath()]
				if !ok || r.Method != http.MethodGet {
					http.NotFound(w, r)
					return
				}
				_, _ = w.Write([]byte(text))
			}))
			defer s.Close()
			c, err := Open(Host{Provider: test.provider, URL: s.URL, Repository: "o/r", Token: "t"})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Protection(t.Context(), "tranship/ledger")
			if got != test.want || (err != nil) != test.failed {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

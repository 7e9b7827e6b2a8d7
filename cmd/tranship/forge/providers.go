package forge

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
)

// provider is what hosts do differently. Paths take the repository first.
type provider struct {
	web    string // default address
	api    func(web *url.URL) string
	nested bool // repositories may lie deeper than OWNER/NAME
	escape func(repository string) string
	header string // that carries the token, behind scheme
	scheme string
	accept string
	bots   bool // tokens that may not ask whose they are belong to bots

	comments   string // list and make: pull
	paged      bool   // the list of comments is
	limit      string // the word for the size of a page
	edit       string // pull, id
	editMethod string
	pull       string
	statuses   string // newest of each context: commit
	setStatus  string // commit
	contextKey string
	failure    string // the word for Failure
	read       func(ctx context.Context, c *Client, path string) ([]Status, error)
	protection func(ctx context.Context, c *Client, branch string) (Protection, error)
}

func (p *provider) page(n int) string { return fmt.Sprintf("?page=%d&%s=%d", n, p.limit, perPage) }

func (p *provider) state(s State) string {
	if s == Failure {
		return p.failure
	}
	return string(s)
}

// Of the documentation of each: docs.github.com/rest (2022-11-28),
// docs.gitlab.com/api (v4), the OpenAPI document of Gitea 1.22.
var providers = map[string]provider{
	"github": {
		web: "https://github.com", api: githubAPI, escape: plain, header: "Authorization", scheme: "Bearer ", accept: "application/vnd.github+json", bots: true,
		comments: "/repos/%s/issues/%d/comments", paged: true, limit: "per_page",
		edit: "/repos/%[1]s/issues/comments/%[3]d", editMethod: http.MethodPatch, pull: "/repos/%s/pulls/%d",
		statuses: "/repos/%s/commits/%s/status", setStatus: "/repos/%s/statuses/%s", contextKey: "context", failure: "failure", read: combined,
		protection: githubProtection,
	},
	"gitlab": {
		web: "https://gitlab.com", api: below("/api/v4"), nested: true, escape: url.PathEscape, header: "PRIVATE-TOKEN", accept: "application/json",
		comments: "/projects/%s/merge_requests/%d/notes", paged: true, limit: "per_page",
		edit: "/projects/%s/merge_requests/%d/notes/%d", editMethod: http.MethodPut, pull: "/projects/%s/merge_requests/%d",
		statuses: "/projects/%s/repository/commits/%s/statuses", setStatus: "/projects/%s/statuses/%s", contextKey: "name", failure: "failed", read: listed,
		protection: gitlabProtection,
	},
	"gitea": {
		api: below("/api/v1"), escape: plain, header: "Authorization", scheme: "token ", accept: "application/json",
		comments: "/repos/%s/issues/%d/comments", limit: "limit",
		edit: "/repos/%[1]s/issues/comments/%[3]d", editMethod: http.MethodPatch, pull: "/repos/%s/pulls/%d",
		statuses: "/repos/%s/commits/%s/status", setStatus: "/repos/%s/statuses/%s", contextKey: "context", failure: "failure", read: combined,
		protection: giteaProtection,
	},
}

// githubAPI is on a host of its own for github.com, and below the web pages of
// an Enterprise Server.
func githubAPI(web *url.URL) string {
	if web.Host == "github.com" {
		return "https://api.github.com"
	}
	return web.String() + "/api/v3"
}

func below(path string) func(*url.URL) string {
	return func(web *url.URL) string { return web.String() + path }
}

// plain is OWNER/NAME in a path.
func plain(repository string) string { return (&url.URL{Path: repository}).EscapedPath() }

// combined reads what GitHub and Gitea call the combined status.
func combined(ctx context.Context, c *Client, path string) ([]Status, error) {
	var answer struct {
		Statuses []struct {
			Context     string `json:"context"`
			State       State  `json:"state"`  // GitHub
			Status      State  `json:"status"` // Gitea
			Description string `json:"description"`
		} `json:"statuses"`
	}
	err := c.ask(ctx, http.MethodGet, path, nil, &answer)
	var all []Status
	for _, s := range answer.Statuses {
		if s.State == "" {
			s.State = s.Status
		}
		all = append(all, Status{s.Context, s.State, s.Description})
	}
	return all, err
}

// listed reads GitLab's list, which has the newest of each name.
func listed(ctx context.Context, c *Client, path string) ([]Status, error) {
	var answer []struct {
		Name        string `json:"name"`
		Status      string `json:"status"`
		Description string `json:"description"`
	}
	err := c.ask(ctx, http.MethodGet, path, nil, &answer)
	var all []Status
	for _, s := range answer {
		state := State(s.Status)
		if s.Status == c.host.failure {
			state = Failure
		}
		all = append(all, Status{s.Name, state, s.Description})
	}
	return all, err
}

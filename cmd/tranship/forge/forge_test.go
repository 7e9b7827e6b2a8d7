package forge

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// fake is a host as its documentation describes the requests that are made of
// it: every path, header and body is checked, and the answers have the fields
// and the paging of the documented ones.
type fake struct {
	*httptest.Server
	t        *testing.T
	provider string
	me       int64 // 0: the token may not ask
	comments []map[string]any
	statuses map[string]map[string]any
	writes   []string // methods and paths
	faults   []func(w http.ResponseWriter, r *http.Request) bool
}

const (
	head = "0123456789012345678901234567890123456789"
	mark = "<!-- m -->\n"
)

// shape is what tells the hosts apart, written down a second time.
var shapes = map[string]struct{ root, auth, comments, edit, pull, statuses, set, name, status string }{
	"github": {"/api/v3", "Authorization: Bearer s3cret", "/repos/o/r/issues/7/comments", "PATCH /repos/o/r/issues/comments/", "/repos/o/r/pulls/7", "/repos/o/r/commits/" + head + "/status", "/repos/o/r/statuses/" + head, "context", "state"},
	"gitlab": {"/api/v4", "Private-Token: s3cret", "/projects/o%2Fgroup%2Fr/merge_requests/7/notes", "PUT /projects/o%2Fgroup%2Fr/merge_requests/7/notes/", "/projects/o%2Fgroup%2Fr/merge_requests/7", "/projects/o%2Fgroup%2Fr/repository/commits/" + head + "/statuses", "/projects/o%2Fgroup%2Fr/statuses/" + head, "name", "status"},
	"gitea":  {"/api/v1", "Authorization: token s3cret", "/repos/o/r/issues/7/comments", "PATCH /repos/o/r/issues/comments/", "/repos/o/r/pulls/7", "/repos/o/r/commits/" + head + "/status", "/repos/o/r/statuses/" + head, "context", "status"},
}

func newFake(t *testing.T, provider string) *fake {
	f := &fake{t: t, provider: provider, me: 42, statuses: map[string]map[string]any{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) client() *Client {
	f.t.Helper()
	repository := "o/r"
	if f.provider == "gitlab" {
		repository = "o/group/r"
	}
	c, err := Open(Host{Provider: f.provider, URL: f.URL, Repository: repository, Token: "s3cret"})
	if err != nil {
		f.t.Fatal(err)
	}
	c.wait = func(context.Context, time.Duration) error { return nil }
	return c
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := shapes[f.provider]
	name, value, _ := strings.Cut(s.auth, ": ")
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), s.root)
	if !ok || r.Header.Get(name) != value {
		f.t.Errorf("%s %s with %s %q", r.Method, r.URL, name, r.Header.Get(name))
	}
	if len(f.faults) > 0 {
		fault := f.faults[0]
		f.faults = f.faults[1:]
		if fault(w, r) {
			return
		}
	}
	var body map[string]any
	if r.Method != http.MethodGet {
		f.writes = append(f.writes, r.Method+" "+path)
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Header.Get("Content-Type") != "application/json" {
			f.t.Errorf("%s %s: body %v, %s", r.Method, path, err, r.Header.Get("Content-Type"))
		}
	}
	f.serve(w, r, path, body)
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request, path string, body map[string]any) {
	s := shapes[f.provider]
	edit, editPath, _ := strings.Cut(s.edit, " ")
	switch {
	case path == "/user" && f.me == 0:
		http.Error(w, `{"message": "Resource not accessible by integration"}`, http.StatusForbidden)
	case path == "/user":
		f.answer(w, map[string]any{"id": f.me})
	case path == s.comments && r.Method == http.MethodGet:
		f.answer(w, f.page(r))
	case path == s.comments && r.Method == http.MethodPost:
		f.add(f.me, body["body"].(string))
		f.answer(w, f.comments[len(f.comments)-1])
	case r.Method == edit && strings.HasPrefix(path, editPath):
		for _, c := range f.comments {
			if fmt.Sprint(c["id"]) == strings.TrimPrefix(path, editPath) {
				c["body"] = body["body"]
			}
		}
		f.answer(w, map[string]any{})
	case path == s.pull:
		f.answer(w, map[string]any{"sha": map[string]any{"gitlab": head}[f.provider], "head": map[string]any{"sha": head}})
	case path == s.statuses && f.provider == "gitlab":
		f.answer(w, values(f.statuses))
	case path == s.statuses:
		f.answer(w, map[string]any{"state": "pending", "statuses": values(f.statuses)})
	case path == s.set && r.Method == http.MethodPost:
		f.statuses[body[s.name].(string)] = map[string]any{s.name: body[s.name], s.status: body["state"], "description": body["description"]}
		f.answer(w, map[string]any{})
	default:
		f.t.Errorf("%s %s is not of this API", r.Method, path)
		http.NotFound(w, r)
	}
}

func (f *fake) answer(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		f.t.Error(err)
	}
}

func (f *fake) add(by int64, body string) {
	who, kind := map[string]any{"id": by}, "user"
	if f.provider == "gitlab" {
		kind = "author"
	}
	if by == 0 {
		who = map[string]any{"id": 99, "type": "Bot"}
	}
	f.comments = append(f.comments, map[string]any{"id": len(f.comments) + 1000, "body": body, kind: who})
}

// page is a page of comments; Gitea has one only.
func (f *fake) page(r *http.Request) []map[string]any {
	n, size := 0, 0
	fmt.Sscan(r.URL.Query().Get("page"), &n)
	fmt.Sscan(r.URL.Query().Get("per_page"), &size)
	if f.provider == "gitea" {
		return append([]map[string]any{}, f.comments...)
	}
	from := min((n-1)*size, len(f.comments))
	return append([]map[string]any{}, f.comments[from:min(from+size, len(f.comments))]...)
}

func values(m map[string]map[string]any) []any {
	all := []any{}
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

func each(t *testing.T, test func(t *testing.T, f *fake, c *Client)) {
	for provider := range providers {
		t.Run(provider, func(t *testing.T) {
			f := newFake(t, provider)
			test(t, f, f.client())
		})
	}
}

func comments(t *testing.T, c *Client, texts ...string) string {
	t.Helper()
	var all []string
	for _, text := range texts {
		said, err := c.Comment(t.Context(), 7, mark, mark+text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, said)
	}
	return strings.Join(all, " ")
}

// One comment is made, edited and left alone; those of others are never touched,
// also where they begin with the marker, and ours is found behind many.
func TestComment(t *testing.T) {
	each(t, func(t *testing.T, f *fake, c *Client) {
		f.add(7, mark+"forged")
		for range 250 {
			f.add(8, "talk")
		}
		if got := comments(t, c, "one", "one", "two\r\n", "two"); got != "made unchanged edited unchanged" {
			t.Error(got)
		}
		f.add(8, "more talk")
		if got := comments(t, c, "three"); got != "edited" {
			t.Error(got)
		}
		if n := len(f.comments); n != 253 || f.comments[0]["body"] != mark+"forged" || f.comments[251]["body"] != mark+"three" {
			t.Errorf("%d comments, the first %q", n, f.comments[0]["body"])
		}
	})
}

// A token of GitHub Actions may not ask whose it is.
func TestCommentOfABot(t *testing.T) {
	f := newFake(t, "github")
	f.me = 0
	f.add(7, mark+"forged")
	if got := comments(t, f.client(), "one", "two"); got != "made edited" || f.comments[0]["body"] != mark+"forged" {
		t.Error(got, f.comments)
	}
	for _, provider := range []string{"gitlab", "gitea"} {
		f := newFake(t, provider)
		f.me = 0
		if _, err := f.client().Comment(t.Context(), 7, mark, mark); err == nil || !strings.Contains(err.Error(), "whose token it is") || len(f.writes) > 0 {
			t.Errorf("%s: %v, %v", provider, err, f.writes)
		}
	}
}

func TestStatuses(t *testing.T) {
	each(t, func(t *testing.T, f *fake, c *Client) {
		commit, err := c.Head(t.Context(), 7)
		if err != nil || commit != head {
			t.Fatal(commit, err)
		}
		shop, web := Status{"tranship/shop", Success, "starts the cutover"}, Status{"tranship/web", Failure, "PlanStale"}
		for _, step := range []struct {
			want []Status
			set  int
		}{{[]Status{shop, web}, 2}, {[]Status{shop, web}, 0}, {[]Status{{"tranship/shop", Failure, "starts the cutover"}, web}, 1}} {
			if set, err := c.SetStatuses(t.Context(), commit, step.want); err != nil || set != step.set {
				t.Errorf("%v: set %d, %v", step.want, set, err)
			}
		}
		if _, err := c.SetStatuses(t.Context(), "main/../../x", nil); err == nil {
			t.Error("that is no commit")
		}
	})
}

// GitLab refuses to write the state that a status has already. Where it has that
// state indeed, that is what was asked for.
func TestAStateThatStandsAlready(t *testing.T) {
	shop := Status{"tranship/shop", Success, "starts the cutover"}
	for _, stands := range []State{Success, Failure} {
		f := newFake(t, "gitlab")
		refuse := func(w http.ResponseWriter, _ *http.Request) bool {
			f.statuses[shop.Context] = map[string]any{"name": shop.Context, "status": f.client().host.state(stands)} // by somebody else meanwhile
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"message": "Cannot transition status via :succeed from :success (Reason(s): Status cannot transition via \"succeed\")"}`)
			return true
		}
		f.faults = append(f.faults, func(http.ResponseWriter, *http.Request) bool { return false }, refuse)
		set, err := f.client().SetStatuses(t.Context(), head, []Status{shop})
		if set != 0 || (err == nil) != (stands == Success) {
			t.Errorf("%s stands: set %d, %v", stands, set, err)
		}
	}
}

// answered fails the next requests with a status.
func answered(status int, headers ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		return true
	}
}

func TestPassingFailuresAreTriedAgain(t *testing.T) {
	each(t, func(t *testing.T, f *fake, c *Client) {
		var waits []time.Duration
		c.wait = func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
		f.faults = append(f.faults, answered(429, "Retry-After", "7"), answered(503), answered(403, "Retry-After", "100000"), answered(502, "Retry-After", "x"))
		if got := comments(t, c, "one"); got != "made" || fmt.Sprint(waits) != "[7s 2s 1m0s 8s]" {
			t.Error(got, waits)
		}
		f.faults = nil
		for range attempts {
			f.faults = append(f.faults, answered(500))
		}
		if _, err := c.Head(t.Context(), 7); err == nil || !strings.Contains(err.Error(), "500") {
			t.Error(err)
		}
	})
}

// A comment that was made although the answer was lost is not made twice.
func TestALostAnswerMakesNoSecondComment(t *testing.T) {
	each(t, func(t *testing.T, f *fake, c *Client) {
		nothing := func(http.ResponseWriter, *http.Request) bool { return false }
		f.faults = append(f.faults, nothing, nothing, func(w http.ResponseWriter, r *http.Request) bool {
			f.add(f.me, mark+"one")
			return answered(502)(w, r)
		})
		if got := comments(t, c, "one"); got != "unchanged" || len(f.comments) != 1 {
			t.Error(got, f.comments)
		}
	})
}

func TestNoRedirectIsFollowed(t *testing.T) {
	each(t, func(t *testing.T, f *fake, c *Client) {
		thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the token went to %s: %v", r.Host, r.Header) }))
		defer thief.Close()
		for _, status := range []int{301, 302, 307, 308} {
			f.faults = append(f.faults[:0], answered(status, "Location", thief.URL))
			if _, err := c.Head(t.Context(), 7); err == nil || !strings.Contains(err.Error(), "not followed") {
				t.Error(status, err)
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	each(t, func(t *testing.T, f *fake, c *Client) {
		for status, say := range map[int]string{401: "not accepted", 403: "may not do that", 404: "is the repository right"} {
			f.faults = append(f.faults[:0], answered(status))
			_, err := c.Head(t.Context(), 7)
			if err == nil || !strings.Contains(err.Error(), say) || strings.Contains(err.Error(), "s3cret") || len(f.faults) > 0 {
				t.Error(status, err)
			}
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	ok := Host{Provider: "github", Repository: "o/r", Token: "t"}
	for name, edit := range map[string]func(h *Host){
		"a provider":       func(h *Host) { h.Provider = "svn" },
		"plain HTTP":       func(h *Host) { h.URL = "http://git.example.com" },
		"a password":       func(h *Host) { h.URL = "https://u:p@git.example.com" },
		"no address":       func(h *Host) { h.Provider = "gitea" },
		"a path up":        func(h *Host) { h.Repository = "o/.." },
		"no owner":         func(h *Host) { h.Repository = "r" },
		"a deeper path":    func(h *Host) { h.Repository = "o/g/r" },
		"another protocol": func(h *Host) { h.URL = "file:///etc" },
	} {
		h := ok
		if edit(&h); name == "" {
			t.Fatal(name)
		}
		if _, err := Open(h); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	c, err := Open(ok)
	if err != nil || c.base != "https://api.github.com" {
		t.Error(c, err)
	}
	if u, err := url.Parse("https://ghe.example.com"); err != nil || githubAPI(u) != "https://ghe.example.com/api/v3" {
		t.Error(err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "99999999": longestPause, "Sun, 22 Nov 2026 12:00:30 GMT": 30 * time.Second, "Sun, 22 Nov 2026 11:00:00 GMT": 0} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: %s", v, got)
		}
	}
}

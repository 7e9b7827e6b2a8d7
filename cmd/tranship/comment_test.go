package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestComment: the report of tranship plan becomes a comment and a status a
// plan, once; package forge has the tests of the hosts.
func TestComment(t *testing.T) {
	const commit = "0123456789012345678901234567890123456789"
	var said []map[string]any // every body that was posted
	var comments, statuses []map[string]any
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if r.Method != http.MethodGet {
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			said = append(said, body)
		}
		var answer any = map[string]any{"id": 1}
		switch at := r.Method + " " + r.URL.Path; {
		case strings.HasPrefix(at, "POST /api/v1/repos/o/r/issues/"):
			comments = append(comments, map[string]any{"id": 5, "body": body["body"], "user": map[string]any{"id": 1}})
		case strings.HasPrefix(at, "GET /api/v1/repos/o/r/issues/"):
			answer = append([]map[string]any{}, comments...)
		case strings.HasPrefix(at, "POST /api/v1/repos/o/r/statuses/"+commit):
			statuses = append(statuses, map[string]any{"context": body["context"], "status": body["state"], "description": body["description"]})
		case strings.HasPrefix(at, "GET /api/v1/repos/o/r/commits/"+commit):
			answer = map[string]any{"statuses": statuses}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer host.Close()
	w := examples(t)
	edit(t, w, "plans/shop.yaml", "state: Staged", "state: Migrated")
	edit(t, w, "plans/website.yaml", "state: Staged", "state: RolledBack")
	report := filepath.Join(t.TempDir(), "plan.json")
	var b strings.Builder
	if err := printPlan(&b, "json", planned(t, w, bothClusters())); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(report, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FORGE_TOKEN", " s3cret\n")
	run := func(args ...string) (string, error) {
		c := commentCommand()
		var out strings.Builder
		c.SetOut(&out)
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetArgs(append([]string{"--provider", "gitea", "--url", host.URL, "--repository", "o/r", "--pull-request", "7", "--report", report, "--commit", commit}, args...))
		err := c.Execute()
		return out.String(), err
	}
	out, err := run("--token-env", "FORGE_TOKEN")
	if err != nil || out != "comment   made\nstatuses  2 set on 012345678901\n" {
		t.Fatal(out, err)
	}
	if text := said[0]["body"].(string); !strings.HasPrefix(text, "<!-- tranship:plan -->\n### Tranship: something is wrong") {
		t.Errorf("comment %.100s", text)
	}
	if said[1]["context"] != "tranship/shop" || said[1]["state"] != "success" || said[2]["context"] != "tranship/website" || said[2]["state"] != "failure" {
		t.Errorf("statuses %v", said[1:])
	}
	if out, err := run("--token-env", "FORGE_TOKEN"); err != nil || out != "comment   unchanged\nstatuses  0 set on 012345678901\n" || len(said) != 3 {
		t.Error(out, err)
	}
	for _, args := range [][]string{{}, {"--token-env", "NOT_SET_AT_ALL"}, {"--token-file", report}, {"--token-env", "FORGE_TOKEN", "--report", "/nowhere"}, {"--token-env", "FORGE_TOKEN", "--pull-request", "0"}} {
		if _, err := run(args...); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if len(said) != 3 {
		t.Errorf("something was posted after a mistake: %v", said[3:])
	}
	// Each shard's report stands beside the others.
	east := strings.Replace(b.String(), "{", `{"shard": "east",`, 1)
	for _, want := range []string{"comment   made\nstatuses  2 set on 012345678901\n", "comment   unchanged\nstatuses  0 set on 012345678901\n"} {
		if err := os.WriteFile(report, []byte(east), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := run("--token-env", "FORGE_TOKEN"); err != nil || out != want {
			t.Error(out, err)
		}
	}
	if text := said[3]["body"].(string); !strings.HasPrefix(text, "<!-- tranship:plan:east -->\n### Tranship, shard east: something is wrong") || said[4]["context"] != "tranship/east/shop" {
		t.Errorf("%v", said[3:])
	}
	if err := os.WriteFile(report, []byte(strings.Replace(east, "east", "east --> <script>", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run("--token-env", "FORGE_TOKEN"); err == nil || !strings.Contains(err.Error(), "cannot read the report") {
		t.Error(err)
	}
}

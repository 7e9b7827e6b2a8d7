package gitsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

func TestWhatCanBeWrongWithARepository(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	r.Clone().Write("common.yaml", commonYAML).Push("first")
	secret := func(m map[string]string) SecretReader {
		return func(context.Context, string) (map[string][]byte, error) {
			out := map[string][]byte{}
			for k, v := range m {
				out[k] = []byte(v)
			}
			return out, nil
		}
	}
	cases := []struct {
		name string
		set  func(c *Config)
		kind error
		say  string
	}{
		{"all well", func(*Config) {}, nil, ""},
		{"bearer token", func(c *Config) { c.Secrets = secret(map[string]string{"bearerToken": gittest.Password}) }, nil, ""},
		{"named key", func(c *Config) {
			c.Secrets = secret(map[string]string{"pat": gittest.Password + "\n"})
			c.Spec.Source.Credentials.Key = "pat"
		}, nil, ""},
		{"wrong password", func(c *Config) { c.Secrets = secret(map[string]string{"username": "u", "password": "wrong-pass"}) }, ErrUnauthorized, `secret "git"; renew them`},
		{"no credentials", func(c *Config) { c.Spec.Source.Credentials = nil }, ErrUnauthorized, "asks for credentials"},
		{"empty secret", func(c *Config) { c.Secrets = secret(nil) }, ErrMisconfigured, "neither bearerToken nor"},
		{"both kinds", func(c *Config) { c.Secrets = secret(map[string]string{"bearerToken": "x", "password": "y"}) }, ErrMisconfigured, "keep one of them"},
		{"missing secret", func(c *Config) {
			c.Secrets = func(context.Context, string) (map[string][]byte, error) { return nil, errors.New("no such secret") }
		}, ErrMisconfigured, "no such secret"},
		{"untrusted certificate", func(c *Config) { c.Spec.Source.CABundle = "" }, ErrUntrusted, `issued by "O=Acme Co", which is not trusted here; put that authority's PEM certificate into caBundle`},
		{"bundle is no PEM", func(c *Config) { c.Spec.Source.CABundle = "oops" }, ErrMisconfigured, "caBundle"},
		{"missing repository", func(c *Config) { c.Spec.Source.URL = s.URL + "/nothing.git" }, ErrNotFound, "cannot find the repository"},
		{"missing branch", func(c *Config) { c.Spec.Source.Branch = "release" }, ErrBranchMissing, "branch release"},
		{"branch is no name", func(c *Config) { c.Spec.Source.Branch = "a..b" }, ErrMisconfigured, "branch"},
		{"plain http", func(c *Config) { c.Spec.Source.URL = "http://git.example.com/x" }, ErrMisconfigured, "never sent over plain HTTP"},
		{"plain http to this machine", func(c *Config) { c.Spec.Source.URL = "http://127.0.0.1/x" }, ErrMisconfigured, "never sent over plain HTTP"},
		{"password in the url", func(c *Config) { c.Spec.Source.URL = strings.Replace(r.URL, "://", "://u:wrong-pass@", 1) }, ErrMisconfigured, "user name or password"},
		{"ssh", func(c *Config) { c.Spec.Source.URL = "ssh://git@example.com/x"; c.Spec.Source.Credentials = nil }, ErrMisconfigured, ""},
		{"file", func(c *Config) { c.Spec.Source.URL = "file:///etc" }, ErrMisconfigured, "https"},
		{"server down", func(c *Config) { c.Spec.Source.URL = "https://127.0.0.1:1/x" }, ErrUnreachable, "cannot reach"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := testConfig(t, s, r)
			tc.set(&c)
			src, err := OpenSource(c)
			if err == nil {
				defer func() { must(t, src.Close()) }()
				_, err = src.Read(testContext(t), "")
			}
			if tc.kind == nil {
				must(t, err)
				return
			}
			if !errors.Is(err, tc.kind) || !strings.Contains(fmt.Sprint(err), tc.say) {
				t.Errorf("%v", err)
			}
			if strings.Contains(fmt.Sprint(err), "wrong-pass") || strings.Contains(fmt.Sprint(err), gittest.Password) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestRotatedSecretIsUsedAtOnce(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	r.Clone().Write("common.yaml", commonYAML).Push("first")
	password := gittest.Password
	c := testConfig(t, s, r)
	c.Secrets = func(context.Context, string) (map[string][]byte, error) {
		return map[string][]byte{"username": []byte(gittest.User), "password": []byte(password)}, nil
	}
	src := openSource(t, c)
	read(t, src, "")
	s.SetPassword("rotated-by-the-host")
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("%v", err)
	}
	password = "rotated-by-the-host"
	read(t, src, "")
}

// A poll costs one request and one line, however many references there are.
func TestPollIsSmall(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	tip := r.Clone().Write("common.yaml", commonYAML).Push("first")
	var refs strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&refs, "create refs/pull/%d/head %s\n", i, tip)
	}
	r.Input(refs.String(), "update-ref", "--stdin")
	src := openSource(t, testConfig(t, s, r))
	read(t, src, "")
	requests, received := s.Traffic()
	read(t, src, "")
	if n, b := s.Traffic(); n-requests != 1 || b-received > 200 {
		t.Errorf("%d requests, %d bytes", n-requests, b-received)
	}
}

func TestServerThatHangs(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	r.Clone().Write("common.yaml", commonYAML).Push("first")
	c := testConfig(t, s, r)
	c.Spec.Source.Timeout = &metav1.Duration{Duration: 300 * time.Millisecond}
	src := openSource(t, c)
	s.Inject(uploadPack, 1, gittest.Slow(time.Minute))
	begun := time.Now()
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "in time") {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > 40*time.Second {
		t.Errorf("took %s", took)
	}
}

// A torn answer is never taken for a state.
func TestTornFetch(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	w := r.Clone()
	w.Write("common.yaml", commonYAML).Write("shop.yaml", planYAML("shop", spec.Staged)).Push("first")
	src := openSource(t, testConfig(t, s, r))
	for _, n := range []int{0, 3, 60, 200, 400} {
		src.remote.remember(func() { src.remote.proto = 1 }) // so that every POST is a fetch
		s.Inject(uploadPack, 9, gittest.Truncated(n))
		if d, err := src.Read(testContext(t), ""); err == nil {
			t.Errorf("%d bytes made a state: %+v", n, d)
		}
		s.Heal()
	}
	if d := read(t, src, ""); len(d.Problems)+len(d.Closures) != 1 {
		t.Errorf("%+v", d)
	}
}

func TestLedgerConfiguration(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	c.Spec.Ledger.Branch = "main"
	if _, err := OpenLedger(c); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("the ledger must not be the branch that people merge to: %v", err)
	}
	c = testConfig(t, s, r)
	c.Spec.Ledger.URL = s.Repo("ledger.git").URL
	l, err := c.ledger()
	must(t, err)
	if l.via.(*overHTTP).creds != nil {
		t.Error("credentials go to another repository than they were given for")
	}
	if _, err := OpenView(testContext(t), testConfig(t, s, r)); !errors.Is(err, ErrBranchMissing) {
		t.Errorf("%v", err)
	}
}

// A server that was broken into lists the commit that everybody knows and sends
// another one's objects: these have other names, and the one that was listed is not there.
func TestPackOfAnotherCommit(t *testing.T) {
	s := gittest.New(t)
	r, evil := s.Repo("plans.git"), s.Repo("evil.git")
	w := r.Clone()
	tip := w.Write("common.yaml", commonYAML).Write("shop.yaml", planYAML("shop", spec.Staged)).Push("first")
	src := openSource(t, testConfig(t, s, r))
	other := evil.Clone().Write("common.yaml", commonYAML).Write("shop.yaml", planYAML("shop", spec.Migrated)).Push("flip")
	sent := 0
	s.Inject(uploadPack, 9, func(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter)) {
		body, err := io.ReadAll(r.Body)
		if err == nil && bytes.Contains(body, []byte("want "+tip)) {
			body = bytes.ReplaceAll(body, []byte(tip), []byte(other))
			r.URL.Path = strings.ReplaceAll(r.URL.Path, "plans.git", "evil.git")
			sent++
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		serve(w)
	})
	if d, err := src.Read(testContext(t), ""); err == nil || sent == 0 {
		t.Errorf("%d packs of another commit made a state: %+v", sent, d)
	}
	s.Heal()
	if d := read(t, src, ""); d.Commit != tip || d.Closures["shop"] == nil || d.Closures["shop"].Plan.Spec.State != spec.Staged {
		t.Errorf("%+v", d)
	}
}

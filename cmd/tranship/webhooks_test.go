package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/tranship/tranship/spec"
)

const hookSecret = "It's a Secret to Everybody"

// standardSecret is the key and the secret of the specification's own example.
const standardSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// secretOf is a secret as a type of webhook wants it.
func secretOf(kind string) string {
	if kind == spec.WebhookStandard {
		return standardSecret
	}
	return hookSecret
}

// hookServer serves one webhook of every type, with one secret each.
type hookServer struct {
	*webhooks
	server  http.Handler
	polls   int
	clock   time.Time
	secrets map[string]string
}

func newHookServer() *hookServer {
	h := &hookServer{clock: time.Date(2026, 11, 3, 4, 5, 6, 0, time.UTC), secrets: map[string]string{}}
	var config []spec.Webhook
	for kind := range webhookFormats {
		from := strings.ToLower(kind)
		config = append(config, spec.Webhook{Type: kind, Secret: spec.SecretRef{From: from}})
		h.secrets[from] = secretOf(kind)
	}
	d := &daemon{log: slog.New(slog.DiscardHandler), config: &live{now: &spec.DaemonConfig{Spec: spec.DaemonConfigSpec{Webhooks: config}}}, secrets: &remembering{}}
	h.webhooks = newWebhooks(d, prometheus.NewRegistry())
	h.webhooks.poll = func() { h.polls++ }
	h.webhooks.now = func() time.Time { return h.clock }
	h.webhooks.read = func(_ context.Context, ref spec.SecretRef, key string) ([]byte, error) {
		if s := h.secrets[ref.From]; s != "" && key == "token" {
			return []byte(s), nil
		}
		return nil, errors.New("no such secret")
	}
	h.server = (&server{hooks: h.webhooks, registry: prometheus.NewRegistry(), progress: http.NotFoundHandler()}).handler()
	return h
}

func (h *hookServer) post(path string, body []byte, header map[string]string) int {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, r)
	return w.Code
}

func signed(secret, text string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(text))
	return hex.EncodeToString(m.Sum(nil))
}

// standard signs as the Standard Webhooks specification says.
func standard(secret, text string) string {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// signedHeaders is what each sender puts on a body, as its documentation says.
func (h *hookServer) signedHeaders(kind, secret, body string) map[string]string {
	at, name := fmt.Sprint(h.clock.Unix()), "msg_"+signed("", body)
	return map[string]map[string]string{
		spec.WebhookGitHub:          {"X-Hub-Signature-256": "sha256=" + signed(secret, body), "X-GitHub-Delivery": "1"},
		spec.WebhookGitLab:          {"X-Gitlab-Token": secret, "Idempotency-Key": signed("", body)},
		spec.WebhookGitea:           {"X-Gitea-Signature": signed(secret, body)},
		spec.WebhookBitbucket:       {"X-Hub-Signature": "sha256=" + signed(secret, body)},
		spec.WebhookBitbucketServer: {"X-Hub-Signature": "sha256=" + signed(secret, body)},
		spec.WebhookGeneric:         {"X-Signature": "sha256=" + signed(secret, at+"."+body), "X-Timestamp": at},
		spec.WebhookStandard:        {"Webhook-Signature": "v1a,x v1," + standard(secret, name+"."+at+"."+body), "Webhook-Timestamp": at, "Webhook-Id": name},
	}[kind]
}

func TestWebhooksOnlyPoll(t *testing.T) {
	for kind, f := range webhookFormats {
		t.Run(kind, func(t *testing.T) {
			h := newHookServer()
			path := webhookPath(kind, []byte(secretOf(kind)))
			for i, c := range []struct {
				body   string
				secret string
				change func(map[string]string)
				want   int
			}{
				{body: "a push", secret: secretOf(kind), want: http.StatusAccepted},
				{body: "a push", secret: secretOf(kind), want: http.StatusOK}, // again
				{body: "another", secret: "another secret, as long", want: http.StatusUnauthorized},
				{body: "another", secret: secretOf(kind), change: func(m map[string]string) { delete(m, f.signature) }, want: http.StatusUnauthorized},
				{body: "another", secret: secretOf(kind), change: func(m map[string]string) { m[f.signature] = f.prefix }, want: http.StatusUnauthorized},
				{body: "another", secret: secretOf(kind), change: func(m map[string]string) { m[f.signature] += "x" }, want: http.StatusUnauthorized},
				{body: strings.Repeat("x", webhookBody+1), secret: secretOf(kind), want: http.StatusRequestEntityTooLarge},
				{body: "another", secret: secretOf(kind), want: http.StatusAccepted},
			} {
				m := h.signedHeaders(kind, c.secret, c.body)
				if c.change != nil {
					c.change(m)
				}
				before := h.polls
				if got := h.post(path, []byte(c.body), m); got != c.want {
					t.Errorf("request %d: %d, want %d", i, got, c.want)
				}
				if polled := h.polls > before; polled != (c.want == http.StatusAccepted) {
					t.Errorf("request %d: polled %t", i, polled)
				}
			}
			if n := testutil.ToFloat64(h.answers.WithLabelValues(kind, "wrong signature")); n != 4 {
				t.Errorf("the metric counts %v wrong signatures", n)
			}
			if at := testutil.ToFloat64(h.last.WithLabelValues(kind)); int64(at) != h.clock.Unix() {
				t.Errorf("last handled at %v", at)
			}
		})
	}
}

// The examples in the documentation of GitHub and Bitbucket.
func TestWebhookSignaturesOfTheSenders(t *testing.T) {
	for _, c := range []struct{ kind, body, header string }{
		{spec.WebhookGitHub, "Hello, World!", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
		{spec.WebhookBitbucket, "Hello World!", "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"},
	} {
		f := webhookFormats[c.kind]
		h := http.Header{}
		h.Set(f.signature, c.header)
		if _, ok := f.verify([]byte(hookSecret), h, []byte(c.body), time.Now()); !ok {
			t.Errorf("%s: refused", c.kind)
		}
	}
}

// What the specification of Standard Webhooks shows, and what must not pass for it.
func TestStandardWebhooks(t *testing.T) {
	const id, at, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`
	const signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	now := time.Unix(1614265330, 0)
	for _, c := range []struct {
		name, id, at, signature, body, secret string
		now                                   time.Time
		want                                  bool
	}{
		{"the example", id, at, signature, body, standardSecret, now, true},
		{"one of several", id, at, "v1a,AAAA v1,AAAA " + signature, body, standardSecret, now, true},
		{"none", id, at, "", body, standardSecret, now, false},
		{"another version", id, at, strings.Replace(signature, "v1,", "v2,", 1), body, standardSecret, now, false},
		{"another body", id, at, signature, body + " ", standardSecret, now, false},
		{"another delivery", id + "x", at, signature, body, standardSecret, now, false},
		{"no delivery", "", at, signature, body, standardSecret, now, false},
		{"another time", id, "1614265331", signature, body, standardSecret, now, false},
		{"no time", id, "", signature, body, standardSecret, now, false},
		{"too old", id, at, signature, body, standardSecret, now.Add(webhookSkew + time.Second), false},
		{"from the future", id, at, signature, body, standardSecret, now.Add(-webhookSkew - time.Second), false},
		{"another secret", id, at, signature, body, "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32)), now, false},
		{"split elsewhere", "a." + at, "1614265331", "v1," + standard(standardSecret, "a."+at+".1614265331."+body), body, standardSecret, now, false},
	} {
		h := http.Header{}
		for k, v := range map[string]string{"webhook-id": c.id, "webhook-timestamp": c.at, "webhook-signature": c.signature} {
			h.Set(k, v)
		}
		name, ok := webhookFormats[spec.WebhookStandard].verify([]byte(c.secret), h, []byte(c.body), c.now)
		if ok != c.want || ok && name != id {
			t.Errorf("%s: %v as %q", c.name, ok, name)
		}
	}
	for _, secret := range []string{hookSecret, "whsec_", "whsec_c2hvcnQ=", "whsec_" + hookSecret, strings.TrimPrefix(standardSecret, "whsec_")} {
		h := newHookServer()
		h.secrets["standard"] = secret
		h.refresh(t.Context())
		if h.hooks[webhookPath(spec.WebhookStandard, []byte(secret))] != nil {
			t.Errorf("secret %q is used", secret)
		}
	}
}

func TestWebhookWithAnOldTime(t *testing.T) {
	h := newHookServer()
	path := webhookPath(spec.WebhookGeneric, []byte(hookSecret))
	for _, c := range []struct {
		off  time.Duration
		want int
	}{{-webhookSkew - time.Second, 401}, {webhookSkew + time.Second, 401}, {-webhookSkew + time.Second, 202}} {
		m := h.signedHeaders(spec.WebhookGeneric, hookSecret, "x")
		h.clock = h.clock.Add(-c.off)
		if got := h.post(path, []byte("x"), m); got != c.want {
			t.Errorf("%s: %d", c.off, got)
		}
	}
}

func TestWebhookFlood(t *testing.T) {
	h := newHookServer()
	path := webhookPath(spec.WebhookGitHub, []byte(hookSecret))
	refused := 0
	for i := range 4 * webhookBurst {
		body := fmt.Sprint(i)
		if h.post(path, []byte(body), h.signedHeaders(spec.WebhookGitHub, hookSecret, body)) == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("everything was let through")
	}
	other := webhookPath(spec.WebhookGitLab, []byte(hookSecret))
	if got := h.post(other, nil, h.signedHeaders(spec.WebhookGitLab, hookSecret, "")); got != http.StatusAccepted {
		t.Errorf("a flood on one path closes another: %d", got)
	}
	if got := h.post(webhookPaths+"guess", nil, nil); got != http.StatusNotFound {
		t.Errorf("unknown path: %d", got)
	}
	r := httptest.NewRequest(http.MethodGet, path, nil)
	w := httptest.NewRecorder()
	if h.server.ServeHTTP(w, r); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
}

func TestWebhookSecretsRotate(t *testing.T) {
	h := newHookServer()
	old, now := webhookPath(spec.WebhookGitea, []byte(hookSecret)), webhookPath(spec.WebhookGitea, []byte("the secret of next year"))
	post := func(path, secret, body string) int {
		return h.post(path, []byte(body), h.signedHeaders(spec.WebhookGitea, secret, body))
	}
	if got := post(old, hookSecret, "1"); got != 202 {
		t.Fatal(got)
	}
	h.secrets["gitea"] = "" // the API server is away
	h.clock = h.clock.Add(2 * webhookRefresh)
	if got := post(old, hookSecret, "2"); got != 202 {
		t.Errorf("a secret that cannot be read closes the path: %d", got)
	}
	if got := post(old, hookSecret, "1"); got != 200 {
		t.Errorf("a refresh forgets what was seen: %d", got)
	}
	h.secrets["gitea"] = "the secret of next year"
	h.clock = h.clock.Add(2 * webhookRefresh)
	if a, b := post(old, hookSecret, "3"), post(now, "the secret of next year", "3"); a != 404 || b != 202 {
		t.Errorf("after the rotation: %d, %d", a, b)
	}
	h.secrets["gitea"] = "short"
	h.clock = h.clock.Add(2 * webhookRefresh)
	if got := post(webhookPath(spec.WebhookGitea, []byte("short")), "short", "4"); got != 404 {
		t.Errorf("a short secret is used: %d", got)
	}
}

// Whatever is sent, only the right signature asks for a poll.
func FuzzWebhook(f *testing.F) {
	kinds := []string{}
	for kind := range webhookFormats {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for i := range kinds {
		f.Add(i, []byte(`{"ref":"refs/heads/main"}`), "sha256=00", "1762142706")
		f.Add(i, []byte("x"), "sha256="+signed(hookSecret, "x"), "")
		f.Add(i, []byte(""), hookSecret, "-1")
		f.Add(i, []byte("x"), "v1,"+standard(standardSecret, "1.1793678706.x"), "1793678706")
	}
	f.Fuzz(func(t *testing.T, which int, body []byte, signature, at string) {
		kind := kinds[uint(which)%uint(len(kinds))]
		h := newHookServer()
		format := webhookFormats[kind]
		header := map[string]string{format.signature: signature}
		if format.time != "" {
			header[format.time] = at
		}
		if format.standard {
			header[format.delivery] = "1"
		}
		got := h.post(webhookPath(kind, []byte(secretOf(kind))), body, header)
		text := string(body)
		if format.time != "" {
			text = at + "." + text
		}
		right := strings.EqualFold(signature, format.prefix+signed(hookSecret, text))
		if format.token {
			right = signature == hookSecret
		}
		if format.standard {
			right = slices.ContainsFunc(strings.Split(signature, " "), func(one string) bool { // base64 has several spellings
				said, ok := strings.CutPrefix(one, "v1,")
				given, err := base64.StdEncoding.DecodeString(said)
				return ok && err == nil && base64.StdEncoding.EncodeToString(given) == standard(standardSecret, "1."+text)
			})
		}
		if h.polls > 0 && !right {
			t.Errorf("%s: %q polls, with answer %d", kind, signature, got)
		}
		if h.polls > 0 != (got == http.StatusAccepted) {
			t.Errorf("%s: %d polls and %d", kind, h.polls, got)
		}
	})
}

package gitsource

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// served is a repository with one commit, and a configuration that reads its
// credentials from a map that may be changed between exchanges.
func served(t *testing.T, secret map[string]string) (*gittest.Server, Config) {
	t.Helper()
	s := gittest.New(t)
	r := s.Repo("plans.git")
	r.Clone().Write("common.yaml", commonYAML).Push("first")
	c := testConfig(t, s, r)
	c.Secrets = secretReader(secret)
	return s, c
}

func certificate(t *testing.T, name string) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// A client certificate alone is a credential; it and ca.crt are read again at
// each exchange.
func TestClientCertificate(t *testing.T) {
	secret := map[string]string{}
	s, c := served(t, secret)
	var allowed string
	var mu sync.Mutex
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != allowed {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		r.SetBasicAuth(gittest.User, gittest.Password)
		s.ServeHTTP(w, r)
	}))
	front.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	front.StartTLS()
	t.Cleanup(front.Close)
	allow := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		allowed = name
	}
	allow("ada")
	c.Spec.Source.URL, c.Spec.Source.CABundle = front.URL+"/plans.git", ""
	secret["ca.crt"] = s.CA
	secret["tls.crt"], secret["tls.key"] = certificate(t, "ada")
	src := openSource(t, c)
	read(t, src, "")
	allow("grace")
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("another's certificate: %v", err)
	}
	secret["tls.crt"], secret["tls.key"] = certificate(t, "grace")
	read(t, src, "")
	_, secret["tls.key"] = certificate(t, "grace")
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "tls.crt and tls.key") {
		t.Errorf("a key of another certificate: %v", err)
	}
	delete(secret, "tls.crt")
	delete(secret, "tls.key")
	secret["bearerToken"], secret["ca.crt"] = "x", "oops"
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("ca.crt that is none: %v", err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	_, c := served(t, map[string]string{"bearerToken": gittest.Password})
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.StartTLS()
	t.Cleanup(old.Close)
	c.Spec.Source.URL = old.URL + "/plans.git"
	if _, err := openSource(t, c).Read(testContext(t), ""); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "version") {
		t.Errorf("%v", err)
	}
}

// proxy is an HTTP proxy that counts tunnels and may want a password.
func proxy(t *testing.T, want string) (address string, tunnels func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != want {
			http.Error(w, "who are you", http.StatusProxyAuthRequired)
			return
		}
		there, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		mu.Lock()
		n++
		mu.Unlock()
		w.WriteHeader(http.StatusOK)
		here, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			_ = there.Close()
			return
		}
		go func() { _, _ = io.Copy(there, buffered); _ = there.Close() }()
		_, _ = io.Copy(here, there)
		_ = here.Close()
	}))
	t.Cleanup(p.Close)
	return p.URL, func() int { mu.Lock(); defer mu.Unlock(); return n }
}

func TestProxyFromASecret(t *testing.T) {
	_, c := served(t, nil)
	address, tunnels := proxy(t, basic("porter", "let-me-through"))
	door := map[string]string{"address": address, "username": "porter", "password": "let-me-through"}
	c.Spec.Source.Proxy = &spec.SecretRef{From: "proxy"}
	git := secretReader(map[string]string{"bearerToken": gittest.Password})
	c.Secrets = func(ctx context.Context, from string) (map[string][]byte, error) {
		if from == "proxy" {
			return secretReader(door)(ctx, from)
		}
		return git(ctx, from)
	}
	src := openSource(t, c)
	read(t, src, "")
	if tunnels() == 0 {
		t.Error("the proxy was not used")
	}
	door["password"] = "changed-on-the-proxy"
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "changed-on") {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"", "porter", "socks5://x:1", "http://porter:let-me-through@x:1"} {
		door["address"] = bad
		if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrMisconfigured) || strings.Contains(err.Error(), "let-me") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// github answers as GitHub's API was recorded to: POST
// /app/installations/ID/access_tokens with a JWT gives 201, token, expires_at.
type github struct {
	t   *testing.T
	key *rsa.PublicKey

	mu     sync.Mutex
	made   int
	status int
	life   time.Duration
	ahead  time.Duration // of the client's clock
	use    func(token string)
}

func (g *github) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Method != http.MethodPost || r.URL.Path != "/api/v3/app/installations/4711/access_tokens" || r.Header.Get("Accept") != "application/vnd.github+json" {
		g.t.Errorf("%s %s, %v", r.Method, r.URL, r.Header)
	}
	g.check(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	if g.status != 0 {
		http.Error(w, `{"message":"A JSON web token could not be decoded","documentation_url":"https://docs.github.com/rest"}`, g.status)
		return
	}
	g.made++
	token := fmt.Sprintf("ghs_16C7e42F292c6912E7710c838347Ae178B4a%d", g.made)
	g.use(token)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"token":%q,"expires_at":%q,"permissions":{"contents":"write","metadata":"read"},"repository_selection":"selected"}`,
		token, time.Now().Add(g.life).UTC().Format(time.RFC3339))
}

// check verifies the JWT as RFC 7519 and GitHub want it.
func (g *github) check(jwt string) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		g.t.Errorf("no JWT: %q", jwt)
		return
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || rsa.VerifyPKCS1v15(g.key, crypto.SHA256, sum[:], signature) != nil {
		g.t.Errorf("the signature is wrong: %v", err)
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	var c struct {
		Iss      string
		Iat, Exp int64
	}
	if err != nil || json.Unmarshal(claims, &c) != nil || c.Iss != "815" || c.Exp-c.Iat > 600 || c.Iat > time.Now().Add(g.ahead).Unix() {
		g.t.Errorf("claims %s", claims)
	}
}

func (g *github) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func TestGitHubApp(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	secret := map[string]string{"githubAppID": "815", "githubAppInstallationID": "4711\n", "githubAppPrivateKey": string(pem.EncodeToMemory(
		&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))}
	s, c := served(t, secret)
	s.SetPassword("not yet")
	g := &github{t: t, key: &key.PublicKey, life: time.Hour, use: func(token string) { s.SetAccount("x-access-token", token) }}
	api := httptest.NewTLSServer(g)
	t.Cleanup(api.Close)
	secret["githubAppBaseURL"] = api.URL + "/api/v3/"
	var told []string
	c.SecretMade = func(v []byte) { told = append(told, string(v)) }
	src := openSource(t, c)
	made := func(want int, why string) {
		t.Helper()
		read(t, src, "")
		if g.made != want || len(told) != want {
			t.Errorf("%s: %d tokens made, told of %d, want %d", why, g.made, len(told), want)
		}
	}
	made(1, "first")
	made(1, "cached")
	g.set(func() { g.ahead, g.life = 56*time.Minute, 2*time.Hour })
	src.remote.via.(*overHTTP).app.now = func() time.Time { return time.Now().Add(56 * time.Minute) }
	made(2, "shortly before its end")
	src.remote.via.(*overHTTP).app.now = nil
	s.SetAccount("x-access-token", "revoked")
	made(3, "made anew after 401")
	g.set(func() { g.use = func(string) {} })
	s.SetAccount("x-access-token", "revoked")
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnauthorized) || g.made != 4 {
		t.Errorf("refused for good: %v after %d", err, g.made)
	}
	for status, kind := range map[int]error{401: ErrUnauthorized, 404: ErrUnauthorized, 500: ErrUnreachable} {
		g.set(func() { g.status = status })
		if _, err := src.Read(testContext(t), ""); !errors.Is(err, kind) || strings.Contains(err.Error(), "eyJ") || strings.Contains(err.Error(), "ghs_") {
			t.Errorf("%d: %v", status, err)
		}
	}
	for entry, bad := range map[string]string{"githubAppInstallationID": "../users", "githubAppBaseURL": "http://x", "githubAppPrivateKey": "x", "password": "both"} {
		was, had := secret[entry]
		secret[entry] = bad
		if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrMisconfigured) {
			t.Errorf("%s: %v", entry, err)
		}
		if secret[entry] = was; !had {
			delete(secret, entry)
		}
	}
}

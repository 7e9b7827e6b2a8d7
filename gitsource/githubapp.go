package gitsource

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	githubAPI = "https://api.github.com"
	// GitHub accepts ten minutes, and clocks differ.
	appJWTLife = 9 * time.Minute
	appClock   = time.Minute
	// appRenew is how long before its end a token is made anew.
	appRenew = 5 * time.Minute
)

// githubApp makes installation tokens as GitHub documents them: a JWT signed
// with the app's key buys one for an hour. Safe for concurrent use.
type githubApp struct {
	made func(value []byte) // told every token; may be nil
	now  func() time.Time   // nil is time.Now

	mu    sync.Mutex
	from  [sha256.Size]byte // of the entries that the token was made with
	token string
	until time.Time
}

// drop forgets the token and says whether there was one.
func (a *githubApp) drop() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	had := a.token != ""
	a.token = ""
	return had
}

// authorization is the header with a token that is still good for a while.
func (a *githubApp) authorization(ctx context.Context, client *http.Client, r *overHTTP, entries map[string][]byte) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.now != nil {
		now = a.now()
	}
	app, installation := text(entries, "githubAppID"), text(entries, "githubAppInstallationID")
	key, base := entries["githubAppPrivateKey"], strings.TrimSuffix(text(entries, "githubAppBaseURL"), "/")
	if base == "" {
		base = githubAPI
	}
	from := sha256.Sum256([]byte(strings.Join([]string{app, installation, base, string(key)}, "\x00")))
	if a.token == "" || from != a.from || !now.Before(a.until.Add(-appRenew)) {
		misuse := func(cause error, what string) error {
			return fail(ErrMisconfigured, cause, "cannot use the GitHub App of secret %q for %s: %s", r.creds.From, r.url, what)
		}
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return "", misuse(nil, "githubAppBaseURL must be the https URL of the API, such as https://github.example.com/api/v3")
		}
		if installation == "" || strings.Trim(installation, "0123456789") != "" {
			return "", misuse(nil, "githubAppInstallationID must be the number of the installation")
		}
		jwt, err := appJWT(app, key, now)
		if err != nil {
			return "", misuse(err, "githubAppPrivateKey must be the PEM key that GitHub gave out")
		}
		token, until, err := appToken(ctx, client, base+"/app/installations/"+installation+"/access_tokens", jwt)
		if err != nil {
			return "", err
		}
		a.from, a.token, a.until = from, token, until
		if a.made != nil {
			a.made([]byte(token))
		}
	}
	return basic("x-access-token", a.token), nil
}

// appJWT signs the app's claim for the next minutes (RS256).
func appJWT(app string, key []byte, now time.Time) (string, error) {
	block, _ := pem.Decode(key)
	if block == nil {
		return "", fmt.Errorf("it is no PEM")
	}
	private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		any, err8 := x509.ParsePKCS8PrivateKey(block.Bytes)
		k, ok := any.(*rsa.PrivateKey)
		if err8 != nil || !ok {
			return "", fmt.Errorf("it is no RSA key")
		}
		private = k
	}
	part := func(v map[string]any) string {
		b, _ := json.Marshal(v) // of strings and numbers: cannot fail
		return base64.RawURLEncoding.EncodeToString(b)
	}
	claim := part(map[string]any{"alg": "RS256", "typ": "JWT"}) + "." +
		part(map[string]any{"iss": app, "iat": now.Add(-appClock).Unix(), "exp": now.Add(appJWTLife).Unix()})
	sum := sha256.Sum256([]byte(claim))
	signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	if err != nil {
		return "", err
	}
	return claim + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// appToken buys a token.
func appToken(ctx context.Context, client *http.Client, at, jwt string) (string, time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(nil))
	if err != nil {
		return "", time.Time{}, err
	}
	req.Header.Set("Authorization", "Bearer "+jwt)
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	req.Header.Set("User-Agent", "tranship")
	res, err := client.Do(req)
	if err != nil {
		return "", time.Time{}, explain(err, at)
	}
	defer discard(res)
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", time.Time{}, explain(err, at)
	}
	switch code := res.StatusCode; {
	case code == http.StatusCreated:
	case code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound:
		return "", time.Time{}, fail(ErrUnauthorized, nil, "cannot get a token from %s: GitHub answered %d; check githubAppID, githubAppInstallationID and githubAppPrivateKey, this machine's clock, and that the app is still installed", at, code)
	default:
		return "", time.Time{}, fail(ErrUnreachable, nil, "cannot get a token from %s: GitHub answered %d; try later", at, code)
	}
	var answer struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Token == "" || answer.ExpiresAt.IsZero() {
		// The cause is left out: it could show a part of the token.
		return "", time.Time{}, fail(ErrUnreachable, nil, "cannot get a token from %s: its answer has no token and expires_at; correct githubAppBaseURL", at)
	}
	return answer.Token, answer.ExpiresAt, nil
}

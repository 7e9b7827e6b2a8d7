package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// webhookSkew is how far the time that a sender signed may be from ours.
const webhookSkew = 5 * time.Minute

// webhookFormat says how a kind of sender proves that it knows the secret.
type webhookFormat struct {
	signature string // header with the HMAC-SHA256 of what is signed
	prefix    string // in front of it
	token     bool   // the header holds the secret itself instead
	time      string // header with Unix seconds, which are signed as "<seconds>.<body>"
	delivery  string // header that names the delivery, where no signature does
	// standard is the form of the Standard Webhooks specification: the delivery's name
	// is signed in front of the time, several signatures have spaces between them, and
	// these and the key are base64. Otherwise signatures are hexadecimal.
	standard bool
}

// webhookFormats is by spec.Webhook.Type. The headers are the senders' own, as
// their documentation has them.
var webhookFormats = map[string]webhookFormat{
	spec.WebhookGitHub:          {signature: "X-Hub-Signature-256", prefix: "sha256="},
	spec.WebhookGitLab:          {signature: "X-Gitlab-Token", token: true, delivery: "Idempotency-Key"},
	spec.WebhookGitea:           {signature: "X-Gitea-Signature"},
	spec.WebhookBitbucket:       {signature: "X-Hub-Signature", prefix: "sha256="},
	spec.WebhookBitbucketServer: {signature: "X-Hub-Signature", prefix: "sha256="},
	spec.WebhookStandard:        {signature: "Webhook-Signature", prefix: "v1,", time: "Webhook-Timestamp", delivery: "Webhook-Id", standard: true},
	spec.WebhookGeneric:         {signature: "X-Signature", prefix: "sha256=", time: "X-Timestamp"},
}

// standardKey is the least number of bytes that the specification allows.
const standardKey = 24

// key is what a secret makes signatures with.
func (f webhookFormat) key(secret []byte) ([]byte, error) {
	if !f.standard {
		if len(secret) < webhookSecret {
			return nil, fmt.Errorf("it is shorter than %d characters; write a longer one there and at the sender", webhookSecret)
		}
		return secret, nil
	}
	text, ok := strings.CutPrefix(string(secret), "whsec_")
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < standardKey {
		return nil, fmt.Errorf("it is not whsec_ and the base64 of %d bytes or more; copy the sender's signing token there", standardKey)
	}
	return key, nil
}

// verify says whether a request comes from somebody who knows the secret, and
// under which name a second one like it is a replay; "" where the format has
// none. A signature is such a name, for it covers the whole body.
func (f webhookFormat) verify(secret []byte, h http.Header, body []byte, now time.Time) (id string, ok bool) {
	said := h.Get(f.signature)
	if f.token {
		a, b := sha256.Sum256([]byte(said)), sha256.Sum256(secret) // hides the length too
		return h.Get(f.delivery), subtle.ConstantTimeCompare(a[:], b[:]) == 1
	}
	key, err := f.key(secret)
	if err != nil {
		return "", false
	}
	sum := hmac.New(sha256.New, key)
	if f.standard {
		// A dot in it would let one signature stand for two splits of the same text.
		if id = h.Get(f.delivery); id == "" || strings.Contains(id, ".") {
			return "", false
		}
		sum.Write([]byte(id + "."))
	}
	if f.time != "" {
		at := h.Get(f.time)
		seconds, err := strconv.ParseInt(at, 10, 64)
		if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > webhookSkew {
			return "", false
		}
		sum.Write([]byte(at + "."))
	}
	sum.Write(body)
	want := sum.Sum(nil)
	if f.standard {
		return id, slices.ContainsFunc(strings.Split(said, " "), func(one string) bool { return f.is(want, one, base64.StdEncoding.DecodeString) })
	}
	return string(want), f.is(want, said, hex.DecodeString)
}

// is compares one signature as it was sent.
func (f webhookFormat) is(want []byte, said string, decode func(string) ([]byte, error)) bool {
	text, ok := strings.CutPrefix(said, f.prefix)
	given, err := decode(text)
	return ok && err == nil && hmac.Equal(given, want)
}

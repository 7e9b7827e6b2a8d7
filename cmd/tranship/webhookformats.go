package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// webhookSkew is how far the time that a sender signed may be from ours.
const webhookSkew = 5 * time.Minute

// webhookFormat says how a kind of sender proves that it knows the secret.
type webhookFormat struct {
	signature string // header with the hexadecimal HMAC-SHA256 of the body
	prefix    string // in front of those digits
	token     bool   // the header holds the secret itself instead
	time      string // header with Unix seconds, which are signed as "<seconds>.<body>"
	delivery  string // header that names the delivery, where no signature does
}

// webhookFormats is by spec.Webhook.Type. The headers are the senders' own, as
// their documentation has them.
var webhookFormats = map[string]webhookFormat{
	spec.WebhookGitHub:          {signature: "X-Hub-Signature-256", prefix: "sha256="},
	spec.WebhookGitLab:          {signature: "X-Gitlab-Token", token: true, delivery: "Idempotency-Key"},
	spec.WebhookGitea:           {signature: "X-Gitea-Signature"},
	spec.WebhookBitbucket:       {signature: "X-Hub-Signature", prefix: "sha256="},
	spec.WebhookBitbucketServer: {signature: "X-Hub-Signature", prefix: "sha256="},
	spec.WebhookGeneric:         {signature: "X-Signature", prefix: "sha256=", time: "X-Timestamp"},
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
	digits, ok := strings.CutPrefix(said, f.prefix)
	if !ok {
		return "", false
	}
	given, err := hex.DecodeString(digits)
	if err != nil {
		return "", false
	}
	sum := hmac.New(sha256.New, secret)
	if f.time != "" {
		at := h.Get(f.time)
		seconds, err := strconv.ParseInt(at, 10, 64)
		if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > webhookSkew {
			return "", false
		}
		sum.Write([]byte(at + "."))
	}
	sum.Write(body)
	return string(given), hmac.Equal(given, sum.Sum(nil))
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tranship/tranship/spec"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/util/cache"
)

// Limits of what strangers may send.
const (
	webhookPaths   = "/hook/"
	webhookBody    = 1 << 20 // bytes
	webhookReading = 10 * time.Second
	webhookSecret  = 16          // characters at least
	webhookEvery   = time.Second // requests to one path, on average; so many at once:
	webhookBurst   = 10
	webhookKept    = 1024 // deliveries remembered to know a replay, for as long as:
	webhookMemory  = time.Hour
	webhookRefresh = time.Minute // a rotated secret holds after it
)

// webhooks turn a request of somebody who knows a secret into a poll. They
// look at nothing else in it. Safe for concurrent use.
type webhooks struct {
	config  func() []spec.Webhook
	read    func(ctx context.Context, ref spec.SecretRef, defaultKey string) ([]byte, error)
	poll    func()
	now     func() time.Time
	log     *slog.Logger
	answers *prometheus.CounterVec
	last    *prometheus.GaugeVec

	mu    sync.Mutex
	asked time.Time // when the secrets were last read
	hooks map[string]*webhook
}

// webhook is one path.
type webhook struct {
	kind   string
	from   spec.SecretRef
	secret []byte
	limit  *rate.Limiter
	seen   *cache.LRUExpireCache
}

// webhookPath is where a sender posts to. Who does not know the secret cannot
// guess it, and so cannot use up the limit of those who do.
func webhookPath(kind string, secret []byte) string {
	sum := sha256.Sum256(append([]byte(kind+":"), secret...))
	return webhookPaths + hex.EncodeToString(sum[:])
}

func newWebhooks(d *daemon, registry *prometheus.Registry) *webhooks {
	w := &webhooks{
		config:  func() []spec.Webhook { return d.config.get().Spec.Webhooks },
		read:    d.secrets.Read,
		poll:    func() { trigger(d.loop) },
		now:     time.Now,
		log:     d.log,
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tranship_webhook_requests_total", Help: "Webhook requests by type and result."}, []string{"type", "result"}),
		last:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tranship_webhook_last_timestamp_seconds", Help: "When a webhook last asked for a poll, by type."}, []string{"type"}),
	}
	registry.MustRegister(w.answers, w.last)
	return w
}

// ServeHTTP answers POST /hook/<path>: 202 when a poll was asked for, 200 for a
// replay, 401 for a wrong signature, 404, 413 or 429.
func (w *webhooks) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	kind, status, result := w.answer(out, r)
	w.answers.WithLabelValues(kind, result).Inc()
	out.WriteHeader(status)
	fmt.Fprintln(out, result)
}

func (w *webhooks) answer(out http.ResponseWriter, r *http.Request) (kind string, status int, result string) {
	w.refresh(r.Context())
	w.mu.Lock()
	hook := w.hooks[r.URL.Path]
	w.mu.Unlock()
	if hook == nil {
		return "", http.StatusNotFound, "unknown path"
	}
	if !hook.limit.Allow() {
		out.Header().Set("Retry-After", "10")
		return hook.kind, http.StatusTooManyRequests, "too many requests"
	}
	_ = http.NewResponseController(out).SetReadDeadline(time.Now().Add(webhookReading)) // where the connection has one
	body, err := io.ReadAll(http.MaxBytesReader(out, r.Body, webhookBody))
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return hook.kind, http.StatusRequestEntityTooLarge, "body too large"
	case err != nil:
		return hook.kind, http.StatusBadRequest, "body unreadable"
	}
	id, ok := webhookFormats[hook.kind].verify(hook.secret, r.Header, body, w.now())
	if !ok {
		w.log.Warn("a webhook with a wrong signature was refused", "type", hook.kind, "from", r.RemoteAddr)
		return hook.kind, http.StatusUnauthorized, "wrong signature"
	}
	if hook.replayed(id) {
		return hook.kind, http.StatusOK, "seen before"
	}
	w.poll()
	w.last.WithLabelValues(hook.kind).Set(float64(w.now().Unix()))
	return hook.kind, http.StatusAccepted, "accepted"
}

// replayed remembers a delivery and says whether it was known.
func (h *webhook) replayed(id string) bool {
	if id == "" {
		return false
	}
	sum := sha256.Sum256([]byte(id)) // the header may be long
	_, known := h.seen.Get(sum)
	h.seen.Add(sum, true, webhookMemory)
	return known
}

// refresh reads the secrets again when that was not done lately. A secret that
// cannot be read leaves its paths as they were.
func (w *webhooks) refresh(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.asked.IsZero() && w.now().Sub(w.asked) < webhookRefresh {
		return
	}
	w.asked = w.now()
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), webhookReading) // for the next request too
	defer stop()
	hooks := map[string]*webhook{}
	for _, c := range w.config() {
		secret, err := w.read(ctx, c.Secret, "token")
		if err == nil {
			if _, wrong := webhookFormats[c.Type].key(secret); wrong != nil {
				err = fmt.Errorf("secret %s: %w", c.Secret.From, wrong)
			}
		}
		if err != nil {
			w.log.Error("a webhook's secret cannot be used", "type", c.Type, "error", err)
			for path, old := range w.hooks {
				if old.kind == c.Type && old.from == c.Secret && hooks[path] == nil {
					hooks[path] = old
				}
			}
			continue
		}
		path := webhookPath(c.Type, secret)
		if hooks[path] = w.hooks[path]; hooks[path] == nil {
			hooks[path] = &webhook{kind: c.Type, from: c.Secret, secret: secret, limit: rate.NewLimiter(rate.Every(webhookEvery), webhookBurst), seen: cache.NewLRUExpireCache(webhookKept)}
			w.log.Info("a webhook is served", "type", c.Type, "secret", c.Secret.From, "path", path)
		}
	}
	w.hooks = hooks
}

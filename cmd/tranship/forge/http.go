package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Limits of every request.
const (
	requestTimeout = 30 * time.Second
	attempts       = 5
	longestPause   = time.Minute // also where the host asks for more
	maxAnswer      = 16 << 20    // bytes
)

// passing is a failure that may be gone at the next attempt.
type passing struct {
	why   error
	asked time.Duration // that the host asks to wait; 0: nothing said
}

func (p *passing) Error() string { return p.why.Error() }
func (p *passing) Unwrap() error { return p.why }

func (p *passing) after(attempt int) time.Duration {
	return min(max(p.asked, time.Second<<(attempt-1)), longestPause)
}

// refusal is an answer that another attempt does not change.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask makes a request that may be made twice, until it is answered.
func (c *Client) ask(ctx context.Context, method, path string, body, into any) error {
	for attempt := 1; ; attempt++ {
		err := c.once(ctx, method, path, body, into)
		var again *passing
		if !errors.As(err, &again) || attempt == attempts {
			return err
		}
		if err := c.wait(ctx, again.after(attempt)); err != nil {
			return fmt.Errorf("%w (given up: %w)", again.why, err)
		}
	}
}

// once makes one request. A redirect is not followed: the token is for one address.
func (c *Client) once(ctx context.Context, method, path string, body, into any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("cannot ask %s: %w", c.base, err)
	}
	req.Header.Set(c.host.header, c.auth)
	req.Header.Set("Accept", c.host.accept)
	req.Header.Set("User-Agent", "tranship")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("cannot reach %s in time: %w", c.base, err)
		}
		return &passing{why: fmt.Errorf("cannot reach %s: %w; is --url right?", c.base, err)}
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return &passing{why: fmt.Errorf("cannot read the answer of %s: %w", c.base, err)}
	}
	if res.StatusCode/100 != 2 {
		return refused(req, res, answer)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s %s answered something else than this provider does: is --provider right?", method, req.URL.Redacted())
	}
	return nil
}

// hints say what to do about an answer.
var hints = map[int]string{
	http.StatusUnauthorized: "the token is not accepted", http.StatusForbidden: "the token may not do that",
	http.StatusNotFound: "is the repository right, and may the token see it?",
}

func refused(req *http.Request, res *http.Response, answer []byte) error {
	hint := hints[res.StatusCode]
	if res.StatusCode/100 == 3 {
		hint = "it redirects, which is not followed: correct --url or --repository"
	}
	text := fmt.Sprintf("%s %s was answered with %s (%s): %s", req.Method, req.URL.Redacted(), res.Status, hint, excerpt(answer))
	asked := retryAfter(res.Header, time.Now())
	limited := res.StatusCode == http.StatusForbidden && (asked > 0 || res.Header.Get("X-RateLimit-Remaining") == "0")
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500 || limited {
		return &passing{why: errors.New(text), asked: asked}
	}
	return &refusal{res.StatusCode, text}
}

// retryAfter reads seconds or a date; 0 when there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return time.Duration(min(n, int(longestPause/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// excerpt is the beginning of an answer, on one line.
func excerpt(b []byte) string {
	s := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, string(b[:min(len(b), 300)]))
	return strings.ToValidUTF8(s, "")
}

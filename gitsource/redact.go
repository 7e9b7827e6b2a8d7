package gitsource

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	// redacted replaces what must not be seen. It is a plain YAML scalar, so a
	// record stays readable where it replaces a part of a text.
	redacted  = "<redacted>"
	minSecret = 8 // bytes; shorter values would tear ordinary words out
)

// Redactor takes secret values out of text before it is hashed, journalled or
// committed (safety property 11). It knows the values it is given in their
// raw, base64, URL- and JSON-escaped forms, and the usual shapes of
// credentials. Safe for concurrent use.
type Redactor struct {
	values func() [][]byte

	mu    sync.Mutex
	seen  [][]byte
	forms *strings.Replacer
	raw   []string
}

// NewRedactor makes a redactor. values gives every secret value that is known
// now and is asked for each text; it may be nil.
func NewRedactor(values func() [][]byte) *Redactor {
	if values == nil {
		values = func() [][]byte { return nil }
	}
	return &Redactor{values: values}
}

var shapes = []struct {
	find *regexp.Regexp
	put  string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z0-9 ]*-----|\z)`), redacted},
	{regexp.MustCompile(`\A(?:[A-Za-z0-9+/=\s]|\\n)*-----END [A-Z0-9 ]*PRIVATE KEY[A-Z0-9 ]*-----`), redacted},
	{regexp.MustCompile(`(?i)\b((?:proxy-)?authorization\b["']?\s*[:=]\s*)[^\r\n]+`), "${1}" + redacted},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.~=-]{16,}`), "${1} " + redacted},
	{regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)[^\s:/@"'<>]*:[^\s@"'<>]+@`), "${1}" + redacted + "@"},
	{regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)[^\s:/@"'<>]+@`), "${1}" + redacted + "@"},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*`), redacted},
	{regexp.MustCompile(`(?i)\b((?:[a-z0-9]+[_-])*(?:token|password|passwd|client-key-data|secret[_-]?key|access[_-]?key|client[_-]?secret)["']?\s*[:=]\s*["']?)[^\s"',}<][^\s"',}]{5,}`), "${1}" + redacted},
}

// Text returns s without secrets. Text that is not UTF-8, or holds NUL bytes,
// cannot be searched reliably and is dropped, with a note in its place.
func (r *Redactor) Text(s string) string {
	if s == "" {
		return s
	}
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return fmt.Sprintf("<dropped: %d bytes that are not text>\n", len(s))
	}
	s = r.replacer().Replace(s)
	for _, shape := range shapes {
		s = shape.find.ReplaceAllString(s, shape.put)
	}
	return s
}

// Holds says whether data contains a form of a known secret value.
func (r *Redactor) Holds(data []byte) bool {
	r.replacer()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.raw, func(form string) bool { return bytes.Contains(data, []byte(form)) })
}

// Known returns s without the forms of known secret values. Unlike Text it
// touches nothing else, so it is fit for sentences in records.
func (r *Redactor) Known(s string) string { return r.replacer().Replace(s) }

func (r *Redactor) replacer() *strings.Replacer {
	values := r.values()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.forms != nil && slices.EqualFunc(values, r.seen, bytes.Equal) {
		return r.forms
	}
	r.seen = make([][]byte, len(values))
	set := map[string]bool{}
	for i, v := range values {
		r.seen[i] = bytes.Clone(v)
		for _, part := range parts(v) {
			for _, form := range formsOf(part) {
				set[form] = true
			}
		}
	}
	r.raw = r.raw[:0]
	for form := range set {
		r.raw = append(r.raw, form)
	}
	// The longest first: a replacer takes the first of its patterns that fits.
	slices.SortFunc(r.raw, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	pairs := make([]string, 0, 2*len(r.raw))
	for _, form := range r.raw {
		pairs = append(pairs, form, redacted)
	}
	r.forms = strings.NewReplacer(pairs...)
	return r.forms
}

// parts are a value without surrounding white space and, for values of several
// lines (keys, kubeconfigs), those lines that nobody else would write.
func parts(v []byte) []string {
	whole := strings.TrimSpace(string(v))
	if len(whole) < minSecret {
		return nil
	}
	out := []string{whole}
	for _, line := range strings.Split(whole, "\n") {
		if line = strings.TrimSpace(line); len(line) >= 24 && line != whole && !strings.ContainsAny(line, " \t") {
			out = append(out, line)
		}
	}
	return out
}

// formsOf lists how a value may be spelt.
func formsOf(v string) []string {
	forms := []string{v, url.QueryEscape(v), url.PathEscape(v), base64.StdEncoding.EncodeToString([]byte(v)), base64.URLEncoding.EncodeToString([]byte(v))}
	for _, html := range []bool{true, false} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(html)
		if e.Encode(v) == nil {
			forms = append(forms, strings.Trim(strings.TrimSpace(b.String()), `"`))
		}
	}
	// Inside something longer, such as base64(user:password), a value starts at
	// one of three places of a base64 group. Only the characters that depend on
	// the value alone are looked for.
	for shift, skip := range []int{0, 2, 3} {
		padded := append(make([]byte, shift), v...)
		end := len(padded) * 8 / 6
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			forms = append(forms, enc.EncodeToString(padded)[skip:end])
		}
	}
	return forms
}

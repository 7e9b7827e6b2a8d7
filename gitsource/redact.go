package gitsource

import (
	"bytes"
	"fmt"
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
	minHeld   = 4 // bytes of a secret that are not let go alone; the end of a text often is the beginning of one by chance
)

// Redactor takes secret values out of text before it is hashed, journalled or
// committed (safety property 11). It knows the values it is given in every
// spelling of spellings.go, also when they are broken into lines, and the usual
// shapes of credentials. Safe for concurrent use.
type Redactor struct {
	values func() [][]byte

	mu    sync.Mutex
	seen  [][]byte
	index *index
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
	{regexp.MustCompile(`\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}|glpat-[A-Za-z0-9_-]{20,})`), redacted},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*`), redacted},
	{regexp.MustCompile(`(?i)\b((?:[a-z0-9]+[_-])*(?:token|password|passwd|client-key-data|secret[_-]?key|access[_-]?key|client[_-]?secret)["']?\s*[:=]\s*["']?)[^\s"',}<][^\s"',}]{5,}`), "${1}" + redacted},
}

// Text returns s without secrets. Text that is not UTF-8, or holds NUL bytes,
// cannot be searched reliably and is dropped, with a note in its place.
func (r *Redactor) Text(s string) string { return r.After("", s) }

// After is Text for a piece of a log: before is what the log holds already, so
// that a secret does not survive because it came in two pieces. Of such a secret
// it takes out the part that is in s.
func (r *Redactor) After(before, s string) string {
	if s == "" {
		return s
	}
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return fmt.Sprintf("<dropped: %d bytes that are not text>\n", len(s))
	}
	x := r.known()
	if n := x.reach(); len(before) > n {
		before = before[len(before)-n:]
	}
	s = mask(before+s, x.spans(before+s), len(before))
	for _, shape := range shapes {
		s = shape.find.ReplaceAllString(s, shape.put)
	}
	return s
}

// mask writes a mark for every span, in what comes after the first skip bytes.
func mask(s string, secrets []span, skip int) string {
	var b strings.Builder
	at := skip
	for _, x := range secrets {
		if x.to <= at {
			continue
		}
		b.WriteString(s[at:max(x.from, at)])
		b.WriteString(redacted)
		at = x.to
	}
	if at == skip {
		return s[skip:]
	}
	b.WriteString(s[at:])
	return b.String()
}

// Begun is where the end of a text begins that could be the beginning of a secret
// value, whose rest is still to come; len(s) when nothing could. Text that will be
// dropped is not looked at.
func (r *Redactor) Begun(s string) int {
	if !utf8.ValidString(s) {
		return len(s)
	}
	return r.known().begun(s)
}

// replaced is how many secrets were replaced by a redaction.
func replaced(before, after string) int {
	return max(0, strings.Count(after, redacted)-strings.Count(before, redacted))
}

// Holds says whether data contains a form of a known secret value.
func (r *Redactor) Holds(data []byte) bool { return len(r.known().spans(string(data))) > 0 }

// Known returns s without the forms of known secret values. Unlike Text it
// touches nothing else, so it is fit for sentences in records.
func (r *Redactor) Known(s string) string { return mask(s, r.known().spans(s), 0) }

// known is the index of the values that there are now.
func (r *Redactor) known() *index {
	values := r.values()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.index != nil && slices.EqualFunc(values, r.seen, bytes.Equal) {
		return r.index
	}
	r.seen = values
	patterns := map[string]bool{}
	for _, v := range values {
		for _, part := range parts(v) {
			for _, form := range spellings(part) {
				patterns[form] = true
				for _, f := range folds {
					if kept, at := without(f, form); at != nil {
						patterns[string(kept)] = true
					}
				}
			}
		}
	}
	r.index = newIndex(patterns)
	return r.index
}

// WorthRedacting says whether a value of somebody else's Secret can be told from
// ordinary words: at least 8 bytes, 5 of them different, and either 20 of them
// or more than one kind of character. The name of a database or host is often
// in a Secret, and taking it out of every sentence would leave none to read.
func WorthRedacting(v []byte) bool {
	v = bytes.TrimSpace(v)
	if len(v) < minSecret {
		return false
	}
	different, kinds := map[byte]bool{}, map[int]bool{}
	for _, c := range v {
		different[c] = true
		switch {
		case 'a' <= c && c <= 'z':
			kinds[0] = true
		case 'A' <= c && c <= 'Z':
			kinds[1] = true
		case '0' <= c && c <= '9':
			kinds[2] = true
		case c != '-' && c != '_' && c != '.':
			kinds[3] = true
		}
	}
	return len(different) >= 5 && (len(v) >= 20 || len(kinds) > 1)
}

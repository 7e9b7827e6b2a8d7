package gitsource

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// spelt writes a secret in some way, inside something longer where the way has
// that, and returns what of it depends on the secret alone.
type spelt func(secret, before, after string) (text, core string)

func plainly(f func(string) string) spelt {
	return func(secret, before, after string) (string, string) { return before + f(secret) + after, f(secret) }
}

func inBase64(enc *base64.Encoding) spelt {
	return func(secret, before, after string) (string, string) {
		text := enc.EncodeToString([]byte(before + secret + after))
		return text, text[(len(before)*8+5)/6 : (len(before)+len(secret))*8/6]
	}
}

func inJSON(s string) string {
	b, _ := json.Marshal(s) // a text always has a JSON form
	return string(b[1 : len(b)-1])
}

var ways = map[string]spelt{
	"raw":             plainly(func(s string) string { return s }),
	"base64":          inBase64(base64.StdEncoding),
	"raw base64":      inBase64(base64.RawStdEncoding),
	"base64url":       inBase64(base64.URLEncoding),
	"raw base64url":   inBase64(base64.RawURLEncoding),
	"hex":             plainly(func(s string) string { return hex.EncodeToString([]byte(s)) }),
	"HEX":             plainly(func(s string) string { return fmt.Sprintf("%X", s) }),
	"query":           plainly(url.QueryEscape),
	"path":            plainly(url.PathEscape),
	"userinfo":        plainly(func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }),
	"JSON":            plainly(inJSON),
	"JSON in JSON":    plainly(func(s string) string { return inJSON(inJSON(s)) }),
	"Go":              plainly(func(s string) string { q := strconv.Quote(s); return q[1 : len(q)-1] }),
	"YAML quoted":     plainly(func(s string) string { return strings.ReplaceAll(s, "'", "''") }),
	"shell quoted":    plainly(func(s string) string { return strings.ReplaceAll(s, "'", `'\''`) }),
	"shlex of Python": plainly(func(s string) string { return strings.ReplaceAll(s, "'", `'"'"'`) }),
}

// broken puts line breaks into a text, at random places.
func broken(t *rapid.T, text, with string) string {
	var b strings.Builder
	for i, c := range []byte(text) {
		if i > 0 && rapid.IntRange(0, 9).Draw(t, "break") == 0 {
			b.WriteString(with)
		}
		b.WriteByte(c)
	}
	return b.String()
}

// noSecretSurvives: however a secret is spelt, whatever stands around it, into
// whatever lines it is broken and in whatever pieces it arrives.
func noSecretSurvives(t *rapid.T) {
	secret := rapid.OneOf(rapid.StringMatching(`[!-~]{8,60}`), rapid.StringMatching(`[!-~]{4,20}( [!-~]{4,20}){1,3}`)).Draw(t, "secret")
	others := rapid.SliceOfN(rapid.StringMatching(`[!-~]{8,20}`), 0, 5).Draw(t, "others")
	values := [][]byte{[]byte(secret + "\n")}
	for _, o := range others {
		values = append(values, []byte(o))
	}
	r := NewRedactor(func() [][]byte { return values })
	way := rapid.SampledFrom(slices.Sorted(maps.Keys(ways))).Draw(t, "way")
	around := rapid.StringMatching(`[ -~]{0,20}`)
	text, core := ways[way](secret, around.Draw(t, "before"), around.Draw(t, "after"))
	breaks := []string{"", "\n", "\r\n"}
	if !strings.Contains(secret, " ") { // whose blanks are whose nobody can tell
		breaks = append(breaks, "\n    ")
	}
	if strings.Contains(way, "base64") {
		breaks = append(breaks, `\n`)
	}
	if with := rapid.SampledFrom(breaks).Draw(t, "line break"); with != "" {
		text = broken(t, text, with)
	}
	text = rapid.StringMatching(`[ -~\n]{0,40}`).Draw(t, "earlier") + "\n" + text + "\n"
	log := written(t, r, text)
	if at := strings.Index(text, core); at >= 0 && !strings.Contains(text[:at+minHeld-1]+text[at+len(core):], core[:minHeld]) && strings.Contains(log, core[:minHeld]) {
		t.Fatalf("%s: the first part of %q survives in %q", way, core, log)
	}
	log = strings.ReplaceAll(log, redacted, "\x00") // "<" may be a secret's last character
	if strings.Contains(log, core) {
		t.Fatalf("%s: %q survives in %q", way, core, log)
	}
	for i, f := range folds {
		if kept, _ := without(f, log); strings.Contains(string(kept), core) {
			t.Fatalf("%s: %q survives in %q, without line breaks %d", way, core, log, i)
		}
	}
}

// written is what a log is in Git, when a text came in any pieces, these were put
// into any commits, and the run has ended.
func written(t *rapid.T, r *Redactor, text string) string {
	const file = "x.log"
	var inGit []byte
	held, e := map[string]heldTail{}, entry{}
	commit := func() {
		var added strings.Builder
		for _, piece := range e.Logs {
			added.WriteString(piece.Text)
		}
		inGit = appendLog(inGit, r.After(string(inGit), added.String()))
		e = entry{}
	}
	for text != "" {
		n := rapid.IntRange(1, len(text)).Draw(t, "piece")
		e.addLog(r, file, text[:n], false, held)
		if text = text[n:]; rapid.Bool().Draw(t, "commit") {
			commit()
		}
	}
	e.addLog(r, file, "", true, held)
	commit()
	return string(inGit)
}

func TestNoSecretSurvives(t *testing.T) { rapid.Check(t, noSecretSurvives) }

func FuzzNoSecretSurvives(f *testing.F) { f.Fuzz(rapid.MakeFuzz(noSecretSurvives)) }

func TestOrdinaryTextStays(t *testing.T) {
	words := []string{"copied", "12", "files", "of", "shop/web-7d9f6c", "Deployment", "password", "is", "wrong", "at", "10:11:12", "https://s3.example.com/bucket",
		"user@example.com", "sha256:9f86d081884c7d659a2feaa0c55ad015", "\n", "\n  ", "\t", "error:", "exit", "status", "1", "ünïcode", "`x`", "{\"a\":1}"}
	rapid.Check(t, func(t *rapid.T) {
		var values [][]byte
		for range rapid.IntRange(0, 20).Draw(t, "values") {
			values = append(values, []byte(rapid.StringMatching(`[A-Z]{3}[a-z0-9]{12}[!-/]`).Draw(t, "value")))
		}
		r := NewRedactor(func() [][]byte { return values })
		text := strings.Join(rapid.SliceOf(rapid.SampledFrom(words)).Draw(t, "words"), " ")
		if got := r.Text(text); got != text {
			t.Fatalf("%q became %q", text, got)
		}
	})
}

// Passwords inside the files that Secrets hold are looked for themselves.
func TestPartsOfValues(t *testing.T) {
	docker := `{"auths":{"registry.example.com":{"username":"robot","password":"hunter2-of-the-shop","auth":"cm9ib3Q6aHVudGVyMi1vZi10aGUtc2hvcA=="}}}`
	kubeconfig := "apiVersion: v1\nusers:\n- name: admin\n  user:\n    token: abcdefghijklmnopqrstuvwxyz0123\n"
	r := NewRedactor(func() [][]byte { return [][]byte{[]byte(docker), []byte(kubeconfig)} })
	for in, want := range map[string]string{
		"login hunter2-of-the-shop failed":       "login <redacted> failed",
		"sent abcdefghijklmnopqrstuvwxyz0123":    "sent <redacted>",
		"registry.example.com refused the robot": "registry.example.com refused the robot",
	} {
		if got := r.Known(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestWorthRedacting(t *testing.T) {
	for v, want := range map[string]bool{
		"": false, "short1": false, "postgres": false, "shop-database": false, "production\n": false, "db.shop.svc": false, "AAAAAAAA1111": false, "00000000": false,
		"hunter2x": true, "Tr0ub4dor": true, "correct horse battery": true, "correct-horse-battery-staple": true, "c29tZS1rZXk=": true,
	} {
		if got := WorthRedacting([]byte(v)); got != want {
			t.Errorf("%q: %t", v, got)
		}
	}
}

func BenchmarkRedact(b *testing.B) {
	values := make([][]byte, 5000)
	for i := range values {
		values[i] = []byte(rand.Text())
	}
	r := NewRedactor(func() [][]byte { return values })
	var log strings.Builder
	for i := 0; log.Len() < logHead+logTail; i++ {
		fmt.Fprintf(&log, "2026-11-03T04:05:06Z copied file %d of shop/web to https://s3.example.com/bucket\n", i)
		if i%50 == 0 {
			fmt.Fprintf(&log, "login with %s\n", values[i%len(values)])
		}
	}
	b.Run("index", func(b *testing.B) {
		for b.Loop() {
			NewRedactor(r.values).known()
		}
	})
	text := log.String()
	b.Run("values", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			r.Known(text)
		}
	})
	b.Run("end", func(b *testing.B) {
		for b.Loop() {
			r.Begun(text + string(values[0][:9]))
		}
	})
	b.Run("log", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			r.Text(text)
		}
	})
}

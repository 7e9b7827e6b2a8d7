package gitsource

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

func TestRedactShapes(t *testing.T) {
	r := NewRedactor(nil)
	for _, c := range []struct{ in, leak string }{
		{"GET / HTTP/1.1\nAuthorization: Basic dHJhbnNoaXA6aHVudGVyMg==\nHost: x", "dHJhbnNoaXA6"},
		{`{"authorization":"Digest username=\"u\", response=\"abcdef\""}`, "abcdef"},
		{"curl -H 'Bearer abcdefghijklmnop.qr'", "abcdefghijklmnop"},
		{"cloning https://user:hunter2@git.example.com/x", "hunter2"},
		{"cloning https://user:p%40ss/word@git.example.com/x", "word"},
		{"cloning https://ghp_0123456789@github.com/x", "ghp_"},
		{"-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----\nafter", "MIIEow"},
		{"-----BEGIN PRIVATE KEY-----\nMIIEow", "MIIEow"},
		{"MIIEow\n-----END PRIVATE KEY-----\n", "MIIEow"},
		{`key: "-----BEGIN EC PRIVATE KEY-----\nMIIEow\n-----END EC PRIVATE KEY-----\n"`, "MIIEow"},
		{"users:\n- user:\n    token: sha256~abcdefghijk\n", "sha256~abcdefghijk"},
		{"    client-key-data: LS0tLS1CRUdJTg==", "LS0tLS1CRUdJTg"},
		{"aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"},
		{"got eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2ln", "eyJpc3MiOiJrdWJlIn0"},
		{"upload by AKIAIOSFODNN7EXAMPLE failed", "AKIAIOSFODNN7"},
		{"push with ghp_0123456789abcdefghijklmnopqrstuvwxyz", "ghp_0123"},
		{"binary \x00 hunter2secret", "hunter2secret"},
		{"binary \xff\xfe hunter2secret", "hunter2secret"},
	} {
		if got := r.Text(c.in); strings.Contains(got, c.leak) || !strings.Contains(got, "<") {
			t.Errorf("%q became %q", c.in, got)
		}
	}
	plain := "copied 12 files of shop/web to https://s3.example.com/bucket at 10:11 (user@example.com)\n"
	if got := r.Text(plain); got != plain {
		t.Errorf("%q became %q", plain, got)
	}
}

func TestShortValuesAreLeftAlone(t *testing.T) {
	r := NewRedactor(func() [][]byte { return [][]byte{[]byte("shop"), nil} })
	if got := r.Text("shop is staged"); got != "shop is staged" {
		t.Error(got)
	}
}

func TestRecordsAndLogsHoldNoSecret(t *testing.T) {
	const secret = "s3cr3t-of-the-shop"
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	c.SecretValues = func() [][]byte { return [][]byte{[]byte(secret)} }
	l := acquired(t, c, "a")
	run, st := openRun("shop", 1)
	run.Steps[0].Message, run.Status.Warnings = "exit 1: "+secret, []string{secret}
	st.WaitsFor.Message = "login with " + secret + " failed"
	st.WaitsFor.Events = []string{"Failed: " + secret}
	must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run), Message: "saw " + secret, Trailers: map[string]string{"Migration-Step": secret},
		Logs: []reconciler.Log{{Plan: "shop", Run: run.Metadata.Name, Name: "x.log", Text: "half s3cr3t-of"}, {Plan: "shop", Run: run.Metadata.Name, Name: "y.log", Text: secret}}}))
	if run.Steps[0].Message != "exit 1: "+secret {
		t.Error("the caller's record was changed")
	}
	must(t, l.Push(testContext(t)))
	all := r.Git("log", "-p", "--format=%B", ledgerRef)
	if strings.Contains(all, secret) || !strings.Contains(all, redacted) {
		t.Errorf("in Git:\n%s", all)
	}
	got, err := l.Run(testContext(t), spec.RunPath(run))
	must(t, err)
	if got.Steps[0].Message != "exit 1: "+redacted {
		t.Errorf("%q", got.Steps[0].Message)
	}
}

// A record is cut to its size after its secrets were taken out: no part of one
// stays at the end of a sentence. What is signed for is what is written.
func TestRecordsAreCutBehindTheirSecrets(t *testing.T) {
	const secret = "s3cr3t-of-the-shop"
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	c.SecretValues = func() [][]byte { return [][]byte{[]byte(secret)} }
	l := acquired(t, c, "a")
	run, st := openRun("shop", 1)
	run.Steps[0].Message = strings.Repeat("x", 4096-len(redacted)) + secret + strings.Repeat("y", 70_000)
	ended := runStart
	run.Status.Phase, run.Status.Ended = spec.RunFailed, &ended
	st.LastFailure, st.Recorded.OpenRun, st.Recorded.LastRunPath = strings.Repeat("z", 40_000), "", spec.RunPath(run)
	must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run), Message: "end", Trailers: map[string]string{"Migration-Run": run.Metadata.Name}}))
	must(t, l.Push(testContext(t)))
	for file, most := range map[string]int{spec.RunPath(run): spec.MaxRunBytes, statusPath("shop"): spec.MaxStatusBytes} {
		if text := r.Git("show", ledgerRef+":"+file); len(text) > most || strings.Contains(text, "s3cr") || !strings.Contains(text, "\ncut:\n") {
			t.Errorf("%s has %d bytes", file, len(text))
		}
	}
	got, err := l.Run(testContext(t), spec.RunPath(run))
	must(t, err)
	if m := got.Steps[0].Message; !strings.HasSuffix(m, redacted+"… [cut]") || got.Cut.Bytes != 70_000 {
		t.Errorf("%q, %+v", m[max(0, len(m)-40):], got.Cut)
	}
	if data := r.Git("show", ledgerRef+":"+spec.RunPath(run)); load(t, l).Plans["shop"].Recorded.LastDigest != digestOf([]byte(data+"\n")) {
		t.Error("the status has another digest than the record")
	}
	if len(run.Steps[0].Message) < 70_000 {
		t.Error("the caller's record was changed")
	}
}

// Each half is harmless, and would go to Git in a commit of its own; the daemon is
// started anew in between.
func TestSecretInTwoCommits(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	c := testConfig(t, s, r)
	c.SecretValues = func() [][]byte { return [][]byte{[]byte("s3cr3t-of-the-shop")} }
	l := acquired(t, c, "a")
	run, st := openRun("shop", 1)
	file := logPath("shop", run.Metadata.Name, "x.log", runStart.Time)
	for _, step := range []struct{ text, want string }{
		{"said s3cr3t-of", "said"},
		{"-the-shop and more\n", "said " + redacted + " and more"},
		{"plain\n", "said " + redacted + " and more\nplain"},
		{"it ends in s3cr", "said " + redacted + " and more\nplain\nit ends in"},
	} {
		must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run), Logs: []reconciler.Log{{Plan: "shop", Run: run.Metadata.Name, Name: "x.log", Text: step.text}}}))
		must(t, l.Push(testContext(t)))
		if got := strings.TrimSpace(r.Git("show", ledgerRef+":"+file)); got != step.want {
			t.Errorf("%q", got)
		}
		must(t, l.Close())
		l = acquired(t, c, "a")
		run = load(t, l).Open[run.Metadata.Name]
	}
	run.Status.Phase, run.Status.Ended, st.Recorded.OpenRun = spec.RunSucceeded, &runStart, ""
	must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run)}))
	must(t, l.Push(testContext(t)))
	if got := r.Git("show", ledgerRef+":"+file); got != "said "+redacted+" and more\nplain\nit ends in s3cr" {
		t.Errorf("when the run has ended: %q", got)
	}
	if got := r.Git("log", "-p", "--format=%B", ledgerRef); strings.Contains(got, "of-the") || strings.Contains(got, "s3cr3t") {
		t.Errorf("in Git:\n%s", got)
	}
	if got, err := l.Run(testContext(t), spec.RunPath(run)); err != nil || got.Redacted == nil || *got.Redacted != (spec.Redacted{Logs: 1}) {
		t.Errorf("%+v, %v", got.Redacted, err)
	}
}

// What was taken out, and what nobody looks for, stands in the record; a daemon
// that starts anew goes on counting.
func TestRedactionsAreCounted(t *testing.T) {
	s := gittest.New(t)
	c := testConfig(t, s, s.Repo("plans.git"))
	c.SecretValues = func() [][]byte { return [][]byte{[]byte("s3cr3t-of-the-shop")} }
	c.SecretsPlain = func(plan string) int { return map[string]int{"shop": 3}[plan] }
	l := acquired(t, c, "a")
	run, st := openRun("shop", 1)
	run.Steps[0].Message, run.Status.Warnings = "s3cr3t-of-the-shop twice: s3cr3t-of-the-shop", []string{"s3cr3t-of-the-shop"}
	for range 2 {
		must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run),
			Logs: []reconciler.Log{{Plan: "shop", Run: run.Metadata.Name, Name: "x.log", Text: "s3cr3t-of-the-shop\npassword: hunter2\n"}}}))
	}
	if run.Redacted != nil {
		t.Error("the caller's record was changed")
	}
	must(t, l.Close())
	c.SecretsPlain = nil // nobody has learned anything yet
	l = acquired(t, c, "a")
	run = load(t, l).Open[run.Metadata.Name]
	must(t, l.Record(testContext(t), reconciler.Change{Plans: plans(st), Runs: runs(run),
		Logs: []reconciler.Log{{Plan: "shop", Run: run.Metadata.Name, Name: "y.log", Text: "s3cr3t-of-the-shop\n"}}}))
	if got := load(t, l).Open[run.Metadata.Name].Redacted; got == nil || *got != (spec.Redacted{Record: 3, Logs: 5, NotSearched: 3}) {
		t.Errorf("%+v", got)
	}
}

// A log is the same whether it is written at once or in pieces, never exceeds
// its limit by more than one line, and names the digest of everything.
func TestLogsAreCapped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var file []byte
		var all strings.Builder
		for i := range rapid.IntRange(1, 40).Draw(t, "pieces") {
			line := fmt.Sprintf("%d %s\n", i, strings.Repeat("x", rapid.IntRange(0, 3000).Draw(t, "length")))
			piece := strings.Repeat(line, rapid.IntRange(1, 30).Draw(t, "lines"))
			all.WriteString(piece)
			file = appendLog(file, piece)
		}
		whole := all.String()
		if len(whole) <= logHead+logTail {
			if string(file) != whole {
				t.Fatal("a log within its limits was changed")
			}
			return
		}
		sum := sha256.Sum256([]byte(whole))
		if !strings.Contains(string(file), "sha256 of the whole: "+hex.EncodeToString(sum[:])+";") {
			t.Fatal("the digest is wrong")
		}
		l, ok := parseCut(file)
		if !ok || len(file) > logHead+logTail+1024 {
			t.Fatalf("%d bytes", len(file))
		}
		if !strings.HasPrefix(whole, string(l.head)) || !strings.HasSuffix(whole, string(l.tail)) ||
			len(l.head)+len(l.tail)+int(l.bytes) != len(whole) || len(l.tail) < logTail-8192 {
			t.Fatalf("head %d, cut %d, tail %d of %d", len(l.head), l.bytes, len(l.tail), len(whole))
		}
	})
}

func TestLogCannotForgeTheCut(t *testing.T) {
	file := appendLog(nil, cutMark+"1 bytes, 1 lines; sha256 of the whole: x; state: y\nnext\n")
	if _, ok := parseCut(append([]byte("\n"), file...)); ok {
		t.Errorf("%q", file)
	}
}

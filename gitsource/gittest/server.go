// Package gittest serves real Git repositories to tests: C git's http-backend
// behind TLS and basic authentication, with hooks for faults. It needs the git
// program and is used by tests only.
package gittest

import (
	"bytes"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The account of every server.
const (
	User     = "tranship"
	Password = "correct-horse-battery"
	Reader   = "reader" // may read and not push, once LetRead was called
)

// Server serves the bare repositories below a directory. Safe for concurrent use.
type Server struct {
	URL string // https, without a repository
	CA  string // PEM of the certificate's authority

	t    testing.TB
	root string
	git  http.Handler

	mu       sync.Mutex
	user     string
	password string
	reader   string // password of Reader; "" lets nobody in
	faults   []fault
	down     bool
	requests int
	received int64 // bytes of answers
}

// Fault stands between a request and Git. It calls serve to let Git act.
type Fault func(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter))

type fault struct {
	service string
	left    int
	do      Fault
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Skipf("git is not installed: %v", err)
	}
	s := &Server{t: t, root: t.TempDir(), user: User, password: Password}
	s.git = &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Root: "/",
		Env:    append(environment(), "GIT_PROJECT_ROOT="+s.root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER="+User),
		Stderr: io.Discard, InheritEnv: []string{"PATH"},
	}
	h := httptest.NewTLSServer(s)
	t.Cleanup(h.Close)
	s.URL = h.URL
	s.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	return s
}

func environment() []string {
	return []string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Grace", "GIT_COMMITTER_EMAIL=grace@example.com"}
}

// ServeHTTP answers one request, for tests that put something in front.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests++
	user, password, reader, down := s.user, s.password, s.reader, s.down
	do := s.next(r)
	s.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler) // the connection is cut
	}
	u, p, ok := r.BasicAuth()
	if ok && reader != "" && u == Reader && p == reader {
		if strings.Contains(r.URL.String(), "git-receive-pack") {
			http.Error(w, "you may read", http.StatusForbidden)
			return
		}
	} else if (!ok || u != user || p != password) && r.Header.Get("Authorization") != "Bearer "+password {
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	}
	git := func(w http.ResponseWriter) { s.git.ServeHTTP(&counter{ResponseWriter: w, s: s}, r) }
	if do != nil {
		do(w, r, git)
		return
	}
	git(w)
}

func (s *Server) next(r *http.Request) Fault {
	for i := range s.faults {
		f := &s.faults[i]
		if f.left > 0 && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/"+f.service) {
			f.left--
			return f.do
		}
	}
	return nil
}

type counter struct {
	http.ResponseWriter
	s *Server
}

func (c *counter) Write(p []byte) (int, error) {
	c.s.mu.Lock()
	c.s.received += int64(len(p))
	c.s.mu.Unlock()
	return c.ResponseWriter.Write(p)
}

// Inject lets the next n POST requests to a service ("git-receive-pack" or
// "git-upload-pack") meet a fault.
func (s *Server) Inject(service string, n int, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fault{service, n, f})
}

// Heal forgets the faults that were not met.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// SetDown cuts every connection while down is true.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// SetPassword changes the account's password and bearer token.
func (s *Server) SetPassword(p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.password = p
}

// SetAccount changes the account.
func (s *Server) SetAccount(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user, s.password = user, password
}

// LetRead lets the account Reader in, which may not push.
func (s *Server) LetRead(password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reader = password
}

// Traffic returns the number of requests and the bytes of Git's answers so far.
func (s *Server) Traffic() (requests int, received int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests, s.received
}

// LostReply lets Git act and then cuts the connection. then may be nil; it
// runs in between.
func LostReply(then func()) Fault {
	return func(_ http.ResponseWriter, _ *http.Request, serve func(http.ResponseWriter)) {
		serve(httptest.NewRecorder())
		if then != nil {
			then()
		}
		panic(http.ErrAbortHandler)
	}
}

// Answer replies with a status instead of Git.
func Answer(status int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func(http.ResponseWriter)) {
		http.Error(w, "fault", status)
	}
}

// Later replies with a status and the header Retry-After instead of Git.
func Later(status int, retryAfter string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func(http.ResponseWriter)) {
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, "fault", status)
	}
}

// Slow waits before Git acts, or until the client gives up.
func Slow(d time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter)) {
		// A server notices that its client is gone only after it read the body.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler) // to return would be an empty 200
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case <-time.After(d):
			serve(w)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// Loris sends the first n bytes of Git's answer and then nothing more, until
// the client gives up.
func Loris(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter)) {
		rec := httptest.NewRecorder()
		serve(rec)
		w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
		body := rec.Body.Bytes()
		_, _ = w.Write(body[:min(n, len(body))])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// Before runs f before Git acts.
func Before(f func()) Fault {
	return func(w http.ResponseWriter, _ *http.Request, serve func(http.ResponseWriter)) {
		f()
		serve(w)
	}
}

// Truncated sends only the first n bytes of Git's answer.
func Truncated(n int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, serve func(http.ResponseWriter)) {
		rec := httptest.NewRecorder()
		serve(rec)
		w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
		body := rec.Body.Bytes()
		_, _ = w.Write(body[:min(n, len(body))])
	}
}

// Repo is a bare repository on the server.
type Repo struct {
	URL string
	Dir string
	t   testing.TB

	unsound bool
}

// Repo makes an empty repository, which must be sound when the test ends, as every
// pack must be that is pushed into it.
func (s *Server) Repo(name string) *Repo {
	s.t.Helper()
	r := &Repo{URL: s.URL + "/" + name, Dir: filepath.Join(s.root, name), t: s.t}
	r.run("", "git", "init", "-q", "--bare", "-b", "main", r.Dir)
	r.Git("config", "http.receivepack", "true")
	r.Git("config", "receive.fsckObjects", "true") // with --strict, of every pack that arrives
	r.Git("config", "receive.unpackLimit", "1")    // by git index-pack, however small it is
	s.t.Cleanup(func() {
		if !s.t.Failed() && !r.unsound {
			r.Fsck()
		}
	})
	return r
}

// OddTree stores a tree that git fsck refuses, as it is given, and returns its
// name; the repository is not asked any more whether it is sound.
func (r *Repo) OddTree(content string) string {
	r.t.Helper()
	r.unsound = true
	return r.Input(content, "hash-object", "-t", "tree", "--literally", "-w", "--stdin")
}

// Git runs git in the bare repository and returns its output, trimmed.
func (r *Repo) Git(args ...string) string {
	r.t.Helper()
	return r.run(r.Dir, "git", args...)
}

// Input runs git with text on its standard input.
func (r *Repo) Input(text string, args ...string) string {
	r.t.Helper()
	return r.run(text, "git", append([]string{"-C", r.Dir}, args...)...)
}

// Fsck fails the test unless the repository is sound.
func (r *Repo) Fsck() {
	r.t.Helper()
	if out := r.Git("fsck", "--strict", "--no-dangling"); out != "" {
		r.t.Errorf("git fsck: %s", out)
	}
}

// Hook installs a server hook, a shell script.
func (r *Repo) Hook(name, script string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.Dir, "hooks", name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

// run executes a program. With a directory as first argument it runs there,
// otherwise that argument is its input.
func (r *Repo) run(in string, name string, args ...string) string {
	r.t.Helper()
	c := exec.Command(name, args...)
	if in == r.Dir {
		c.Dir = r.Dir
	} else {
		c.Stdin = strings.NewReader(in)
	}
	c.Env = append(environment(), "PATH="+os.Getenv("PATH"))
	var out, err bytes.Buffer
	c.Stdout, c.Stderr = &out, &err
	if failed := c.Run(); failed != nil {
		r.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), failed, err.String())
	}
	return strings.TrimRight(out.String(), "\n")
}

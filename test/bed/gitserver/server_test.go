package gitserver

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// clone clones as user and returns a function that runs git in the clone.
func clone(t *testing.T, server, user, password string) func(args ...string) error {
	t.Helper()
	dir := t.TempDir()
	url := strings.Replace(server, "://", "://"+user+":"+password+"@", 1) + "/plans.git"
	run := func(args ...string) error {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@bed.test"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "no_proxy=*", "NO_PROXY=*")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %v: %w: %s", args, err, out)
		}
		return nil
	}
	if err := run("clone", "-q", url, "."); err != nil {
		t.Fatal(err)
	}
	return run
}

func TestUsers(t *testing.T) {
	root := t.TempDir()
	if err := CreateRepository(t.Context(), root, "plans.git", "tranship"); err != nil {
		t.Fatal(err)
	}
	handler, err := Handler(Config{Root: root, Users: map[string]string{"dev": "a", "tranship": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()

	dev, daemon := clone(t, server.URL, "dev", "a"), clone(t, server.URL, "tranship", "b")
	for _, tt := range []struct {
		name string
		run  func(args ...string) error
		ref  string
		ok   bool
	}{
		{"dev to main", dev, "main", true},
		{"dev to a daemon branch", dev, "tranship/x", true},
		{"daemon to its ledger", daemon, "tranship/ledger", true},
		{"daemon to main", daemon, "main", false},
	} {
		if err := tt.run("commit", "-q", "--allow-empty", "-m", tt.name); err != nil {
			t.Fatal(err)
		}
		err := tt.run("push", "-q", "origin", "HEAD:refs/heads/"+tt.ref)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, allowed: %t", tt.name, err, tt.ok)
		}
	}
	url := strings.Replace(server.URL, "://", "://dev:wrong@", 1) + "/plans.git"
	if err := dev("ls-remote", url); err == nil {
		t.Error("a wrong password was accepted")
	}
}

// A push larger than http.postBuffer comes in chunks.
func TestChunkedPush(t *testing.T) {
	root := t.TempDir()
	if err := CreateRepository(t.Context(), root, "plans.git", "tranship"); err != nil {
		t.Fatal(err)
	}
	handler, err := Handler(Config{Root: root, Users: map[string]string{"dev": "a"}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	dir := filepath.Join(t.TempDir(), "big")
	noise := bytes.Buffer{}
	for i := range 200_000 {
		fmt.Fprintf(&noise, "%x", i*i*7919)
	}
	if err := os.WriteFile(dir, noise.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	dev := clone(t, server.URL, "dev", "a")
	for _, args := range [][]string{
		{"--work-tree", filepath.Dir(dir), "add", "-A"}, {"commit", "-q", "-m", "big"}, {"-c", "http.postBuffer=65536", "push", "-q", "origin", "HEAD:main"},
	} {
		if err := dev(args...); err != nil {
			t.Fatal(err)
		}
	}
}

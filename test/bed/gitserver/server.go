// Package gitserver serves bare Git repositories over HTTPS with passwords, by
// means of Git's own http-backend.
package gitserver

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Config is read by the server process.
type Config struct {
	Listen   string            `json:"listen"`
	Root     string            `json:"root"` // folder of the bare repositories
	CertFile string            `json:"certFile"`
	KeyFile  string            `json:"keyFile"`
	Users    map[string]string `json:"users"` // name to password
}

// Serve serves until it fails.
func Serve(configFile string) error {
	raw, err := os.ReadFile(configFile)
	if err != nil {
		return fmt.Errorf("cannot read the configuration of the Git server: %w", err)
	}
	var c Config
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("cannot read %s: %w", configFile, err)
	}
	handler, err := Handler(c)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: c.Listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServeTLS(c.CertFile, c.KeyFile)
}

// Handler serves the repositories to the users of c.
func Handler(c Config) (http.Handler, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("cannot serve Git: %w", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		want, known := c.Users[user]
		if !known || subtle.ConstantTimeCompare([]byte(password), []byte(want)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="bed"`)
			http.Error(w, "authentication required", http.StatusUnauthorized)
			return
		}
		log.Printf("%s %s %s", user, r.Method, r.URL)
		backend(git, c.Root, user, r).ServeHTTP(w, r)
	}), nil
}

func backend(git, root, user string, r *http.Request) http.Handler {
	// net/http/cgi refuses chunked bodies, since CGI wants to know the length. Git's
	// backend does not: without a length it reads to the end.
	if r.ContentLength < 0 {
		r.TransferEncoding = nil
	}
	return &cgi.Handler{
		Path: git, Args: []string{"http-backend"}, Root: "/",
		Env: []string{
			"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=" + user,
			"GIT_PROTOCOL=" + r.Header.Get("Git-Protocol"),
			// Nothing of the account that runs the bed may change how it serves.
			"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		},
	}
}

// updateHook lets the daemon write its own branches only. Git's backend passes the
// user on to hooks.
const updateHook = `#!/bin/sh
case "$REMOTE_USER" in
%[1]s)
	case "$1" in
	refs/heads/tranship/*) exit 0 ;;
	esac
	echo "user %[1]s may push to refs/heads/tranship/* only" >&2
	exit 1 ;;
esac
`

// CreateRepository makes a bare repository with one commit on main. The user
// restricted may push to refs/heads/tranship/* only; all others may push anywhere.
func CreateRepository(ctx context.Context, root, name, restricted string) error {
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of the repositories: %w", err)
	}
	if _, err := git(ctx, "", "init", "-q", "--bare", "-b", "main", dir); err != nil {
		return err
	}
	for _, setting := range [][2]string{{"http.receivepack", "true"}, {"uploadpack.allowFilter", "true"}, {"uploadpack.allowAnySHA1InWant", "true"}, {"gc.auto", "0"}} {
		if _, err := git(ctx, "", "-C", dir, "config", setting[0], setting[1]); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hooks", "update"), fmt.Appendf(nil, updateHook, restricted), 0o755); err != nil {
		return fmt.Errorf("cannot write the hook: %w", err)
	}
	return firstCommit(ctx, dir)
}

func firstCommit(ctx context.Context, dir string) error {
	blob, err := git(ctx, "# Plans\n", "-C", dir, "hash-object", "-w", "--stdin")
	if err != nil {
		return err
	}
	tree, err := git(ctx, "100644 blob "+blob+"\tREADME.md\n", "-C", dir, "mktree")
	if err != nil {
		return err
	}
	commit, err := git(ctx, "", "-C", dir, "-c", "user.name=dev", "-c", "user.email=dev@bed.test", "commit-tree", "-m", "Start", tree)
	if err != nil {
		return err
	}
	_, err = git(ctx, "", "-C", dir, "update-ref", "refs/heads/main", commit)
	return err
}

func git(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", fmt.Errorf("cannot run git %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

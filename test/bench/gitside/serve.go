package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// counted is a listener whose connections count what is written to them.
type countedListener struct {
	net.Listener
	sent *atomic.Int64
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countedConn{c, l.sent}, err
}

type countedConn struct {
	net.Conn
	sent *atomic.Int64
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// runServer is C git's http-backend on loopback. It is a process of its own, so
// that its work is not counted with that of the clients.
func runServer(args []string) error {
	if len(args) != 1 {
		return errors.New("serve takes the folder of the repositories")
	}
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return fmt.Errorf("git is not installed: %w", err)
	}
	git := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Root: "/", Stderr: io.Discard, InheritEnv: []string{"PATH"},
		Env: []string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_PROJECT_ROOT=" + args[0], "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=dev"},
	}
	var sent atomic.Int64
	mux := http.NewServeMux()
	mux.Handle("/", git)
	mux.HandleFunc("GET /_sent", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, sent.Load()) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	fmt.Printf("http://%s\n", l.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return server.Serve(countedListener{l, &sent})
}

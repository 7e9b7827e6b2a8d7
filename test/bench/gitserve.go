package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// serveCommand makes this program a Git server: C git's http-backend on
// loopback. It is a process of its own, so that its work is not counted with
// that of the clients.
const serveCommand = "git-serve"

type gitServer struct {
	URL string
	cmd *exec.Cmd
}

// startServer serves the bare repositories below root until the context ends.
func startServer(ctx context.Context, root string) (*gitServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, serveCommand, root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot listen to the Git server: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the Git server: %w", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the Git server did not say where it listens: %w", err)
	}
	return &gitServer{URL: strings.TrimSpace(line), cmd: cmd}, nil
}

func (s *gitServer) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// sent is how many bytes of answers the server has sent, heads included.
func (s *gitServer) sent() (n int64, err error) {
	res, err := http.Get(s.URL + "/_sent")
	if err != nil {
		return 0, fmt.Errorf("cannot ask the Git server what it sent: %w", err)
	}
	defer res.Body.Close()
	_, err = fmt.Fscan(res.Body, &n)
	return n, err
}

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

// runServer is the process that startServer starts.
func runServer(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes the folder of the repositories", serveCommand)
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

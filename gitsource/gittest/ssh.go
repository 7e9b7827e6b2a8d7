package gittest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSHServer serves the repositories of a Server over SSH, with Git's own
// upload-pack and receive-pack. Safe for concurrent use.
type SSHServer struct {
	Address    string // host:port
	KnownHosts string // its line

	t    testing.TB
	root string

	mu       sync.Mutex
	keys     []ssh.PublicKey
	host     ssh.Signer
	old      bool // no protocol version 2
	stall    bool
	commands []string
}

// SSH starts an SSH server that ends with the test and lets these keys in.
func (s *Server) SSH(allowed ...ssh.PublicKey) *SSHServer {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	x := &SSHServer{Address: l.Addr().String(), t: s.t, root: s.root, keys: allowed, host: host}
	x.KnownHosts = knownhosts.Line([]string{x.Address}, host.PublicKey())
	var open sync.WaitGroup
	done := make(chan struct{})
	s.t.Cleanup(func() {
		close(done)
		_ = l.Close()
		open.Wait()
	})
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { x.serve(c, done) })
		}
	})
	return x
}

// URL is the address of a repository.
func (x *SSHServer) URL(name string) string { return "ssh://git@" + x.Address + "/" + name }

// Allow replaces the keys that are let in.
func (x *SSHServer) Allow(keys ...ssh.PublicKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.keys = keys
}

// SetOld makes it a server that knows version 0 of the protocol only.
func (x *SSHServer) SetOld(old bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.old = old
}

// SetStall makes services hang before they say anything.
func (x *SSHServer) SetStall(stall bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stall = stall
}

// Commands returns what was run so far, with "v2 " in front where the client
// asked for that version and got it.
func (x *SSHServer) Commands() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.commands)
}

func (x *SSHServer) serve(c net.Conn, done <-chan struct{}) {
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, k := range x.keys {
			if string(k.Marshal()) == string(key.Marshal()) {
				return nil, nil
			}
		}
		return nil, fmt.Errorf("unknown key")
	}}
	cfg.AddHostKey(x.host)
	defer func() { _ = c.Close() }()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-done:
			_ = c.Close()
		case <-ended:
		}
	}()
	conn, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		x.session(ch, requests)
	}
	_ = conn.Wait()
}

// payload reads the strings of a request.
func payload(b []byte) (words []string) {
	for len(b) >= 4 {
		n := binary.BigEndian.Uint32(b)
		words = append(words, string(b[4:4+n]))
		b = b[4+n:]
	}
	return words
}

func (x *SSHServer) session(ch ssh.Channel, requests <-chan *ssh.Request) {
	env := append(environment(), "PATH="+os.Getenv("PATH"))
	version := ""
	for r := range requests {
		words := payload(r.Payload)
		x.mu.Lock()
		old, stall := x.old, x.stall
		x.mu.Unlock()
		switch {
		case r.Type == "env" && !old && words[0] == "GIT_PROTOCOL":
			env, version = append(env, "GIT_PROTOCOL="+words[1]), "v2 "
			_ = r.Reply(true, nil)
		case r.Type == "exec":
			_ = r.Reply(true, nil)
			x.mu.Lock()
			x.commands = append(x.commands, version+words[0])
			x.mu.Unlock()
			if !stall {
				_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{x.run(ch, words[0], env)}))
				_ = ch.Close()
			}
		default:
			_ = r.Reply(false, nil)
		}
	}
}

func (x *SSHServer) run(ch ssh.Channel, command string, env []string) uint32 {
	service, path, _ := strings.Cut(command, " ")
	if service != "git-upload-pack" && service != "git-receive-pack" {
		return 127
	}
	c := exec.Command("git", strings.TrimPrefix(service, "git-"), filepath.Join(x.root, strings.Trim(path, "'")))
	c.Env, c.Stdout, c.Stderr = env, ch, ch.Stderr()
	in, err := c.StdinPipe()
	if err != nil {
		return 1
	}
	go func() { _, _ = io.Copy(in, ch); _ = in.Close() }()
	if err := c.Run(); err != nil {
		return 1
	}
	return 0
}

package gitea

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Server is a Gitea on 127.0.0.1 with an empty database. It speaks HTTPS with a
// certificate of its own, SSH, and signs with an SSH key what it merges where its
// administrator says so. Safe for concurrent use.
type Server struct {
	URL    string // https, without a slash at the end
	CA     string // file with the certificate
	SSH    string // ssh://git@127.0.0.1:port
	Hosts  string // line of known_hosts
	Signer string // line of the .pub file of its signing key

	t      testing.TB
	dir    string
	client *http.Client
	admin  string // token
}

// password is every account's.
const password = "correct-horse-battery"

// settings is app.ini: nothing that reaches the network, no work in the background.
const settings = `I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
RUN_MODE = prod
WORK_PATH = %[1]s
[server]
PROTOCOL = https
CERT_FILE = %[1]s/cert.pem
KEY_FILE = %[1]s/key.pem
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %[3]s
ROOT_URL = https://127.0.0.1:%[3]s/
STATIC_ROOT_PATH = %[2]s
START_SSH_SERVER = true
BUILTIN_SSH_SERVER_USER = git
SSH_LISTEN_HOST = 127.0.0.1
SSH_PORT = %[4]s
OFFLINE_MODE = true
[database]
DB_TYPE = sqlite3
PATH = %[1]s/gitea.db
[security]
INSTALL_LOCK = true
SECRET_KEY = not-a-secret-in-a-test
[repository.signing]
SIGNING_KEY = %[1]s/signing.pub
SIGNING_FORMAT = ssh
SIGNING_NAME = Gitea
SIGNING_EMAIL = gitea@example.com
INITIAL_COMMIT = never
CRUD_ACTIONS = %[5]s
MERGES = %[5]s
[webhook]
ALLOWED_HOST_LIST = loopback
[indexer]
ISSUE_INDEXER_TYPE = db
[service]
DISABLE_REGISTRATION = true
[actions]
ENABLED = false
[packages]
ENABLED = false
[cron]
ENABLED = false
[log]
MODE = console
LEVEL = Warn
`

// Start runs the Gitea of the module in ./server until the test ends. Signs says
// what it signs of merges, in the words of its configuration: always or never.
func Start(t testing.TB, signs string) *Server {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 35*time.Minute)
	defer stop()
	program, err := Ensure(ctx, "server", func(s string) { fmt.Fprintln(os.Stderr, s) })
	must(t, err)
	s := &Server{t: t, dir: t.TempDir()}
	s.certify()
	must(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gitea", "-f", s.file("signing")).Run())
	s.Signer = read(t, s.file("signing.pub"))
	web, shell := freePort(t), freePort(t)
	s.URL, s.SSH = "https://127.0.0.1:"+web, "ssh://git@127.0.0.1:"+shell
	must(t, os.WriteFile(s.file("app.ini"), fmt.Appendf(nil, settings, s.dir, program, web, shell, signs), 0o600))
	s.run(ctx, program, "migrate")
	s.run(ctx, program, "admin", "user", "create", "--admin", "--username", "boss", "--password", password, "--email", "boss@example.com", "--must-change-password=false")
	said := s.run(ctx, program, "admin", "user", "generate-access-token", "--username", "boss", "--scopes", "all", "--raw")
	if s.admin = regexp.MustCompile(`(?m)^[0-9a-f]{40}$`).FindString(said); s.admin == "" {
		t.Fatalf("Gitea has made no token: %s", said)
	}
	s.serve(program)
	s.Hosts = knownHost(t, "127.0.0.1:"+shell)
	return s
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

// certify makes a certificate for 127.0.0.1 out of that of the test servers.
func (s *Server) certify() {
	h := httptest.NewTLSServer(nil)
	defer h.Close()
	own := h.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	must(s.t, err)
	s.CA = s.file("cert.pem")
	must(s.t, os.WriteFile(s.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}), 0o600))
	must(s.t, os.WriteFile(s.file("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	s.client = h.Client()
	s.client.Timeout = 2 * time.Minute
}

func (s *Server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(program, "gitea"), append(args, "--config", s.file("app.ini"))...)
	c.Env = append(os.Environ(), "HOME="+s.dir, "GIT_CONFIG_NOSYSTEM=1")
	return c
}

// run executes a subcommand and returns all that it prints, its log among it.
func (s *Server) run(ctx context.Context, program string, args ...string) string {
	s.t.Helper()
	out, err := s.command(ctx, program, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("gitea %s: %v\n%s", args[0], err, out)
	}
	return string(out)
}

// serve starts the server, waits until it answers, and ends it with the test.
func (s *Server) serve(program string) {
	s.t.Helper()
	c := s.command(context.Background(), program, "web")
	log, err := os.Create(s.file("log"))
	must(s.t, err)
	c.Stdout, c.Stderr = log, log
	must(s.t, c.Start())
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	s.t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = c.Process.Kill()
			<-ended
		}
		log.Close()
		if s.t.Failed() {
			s.t.Logf("Gitea says:\n%s", read(s.t, log.Name()))
		}
	})
	Eventually(s.t, 3*time.Minute, func() error {
		select {
		case <-ended:
			s.t.Fatalf("Gitea has ended:\n%s", read(s.t, log.Name()))
		default:
		}
		_, err := s.Ask(s.admin, http.MethodGet, "/version", nil, nil)
		return err
	})
}

// Ask makes a request of the API with a token, and decodes the answer into into
// unless that is nil. The error has the answer's text where that is not 2xx.
func (s *Server) Ask(token, method, path string, body, into any) (status int, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(method, s.URL+"/api/v1"+path, bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if user, ok := strings.CutPrefix(token, "user:"); ok {
		req.SetBasicAuth(user, password)
	} else {
		req.Header.Set("Authorization", "token "+token)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, err
	}
	if res.StatusCode/100 != 2 {
		return res.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, res.Status, answer)
	}
	if into == nil {
		return res.StatusCode, nil
	}
	return res.StatusCode, json.Unmarshal(answer, into)
}

// Must is Ask as the administrator, where nothing else than success will do.
func (s *Server) Must(method, path string, body, into any) {
	s.t.Helper()
	_, err := s.Ask(s.admin, method, path, body, into)
	must(s.t, err)
}

// Account makes one and returns a token of it that may do what the scopes say.
func (s *Server) Account(name string, scopes ...string) (token string) {
	s.t.Helper()
	s.Must(http.MethodPost, "/admin/users", map[string]any{"username": name, "email": name + "@example.com", "password": password, "must_change_password": false}, nil)
	return s.Token(name, scopes...)
}

// Token makes another token of an account.
func (s *Server) Token(name string, scopes ...string) string {
	s.t.Helper()
	var made struct {
		SHA1 string `json:"sha1"`
	}
	_, err := s.Ask("user:"+name, http.MethodPost, "/users/"+name+"/tokens", map[string]any{"name": strings.Join(scopes, "-"), "scopes": scopes}, &made)
	must(s.t, err)
	return made.SHA1
}

// Repository makes OWNER/NAME of the administrator, with a first commit on main,
// and lets others in: read or write by account.
func (s *Server) Repository(name string, others map[string]string) (full string) {
	s.t.Helper()
	s.Must(http.MethodPost, "/user/repos", map[string]any{"name": name, "auto_init": true, "default_branch": "main", "private": true}, nil)
	for account, may := range others {
		s.Must(http.MethodPut, "/repos/boss/"+name+"/collaborators/"+account, map[string]any{"permission": may}, nil)
	}
	return "boss/" + name
}

// knownHost is the host's key as it answers.
func knownHost(t testing.TB, address string) (line string) {
	t.Helper()
	c := &ssh.ClientConfig{User: "git", Timeout: 10 * time.Second, HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
		host, port, _ := net.SplitHostPort(address)
		line = fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(key))
		return nil
	}}
	if conn, err := ssh.Dial("tcp", address, c); err == nil {
		conn.Close()
	} else if line == "" {
		t.Fatal(err)
	}
	return line
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}

// Eventually asks until there is no error; the last one fails the test.
func Eventually(t testing.TB, within time.Duration, ask func() error) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(300 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	return string(data)
}

package gitea

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Place is a clone, a configuration and secrets for the product.
type Place struct {
	Binary string
	Dir    string

	t testing.TB
	s *Server
}

var built struct {
	once sync.Once
	path string
	err  error
}

// product is the binary that TRANSHIP_BINARY names, or one that is built here.
func product(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.path = os.Getenv("TRANSHIP_BINARY"); built.path != "" {
			return
		}
		var dir string
		if dir, built.err = os.MkdirTemp("", "tranship-"); built.err != nil {
			return
		}
		built.path = filepath.Join(dir, "tranship")
		if out, err := exec.Command("go", "build", "-o", built.path, "../../cmd/tranship").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("cannot build the product: %w\n%s", err, out)
		}
	})
	must(t, built.err)
	return built.path
}

// NewPlace makes an empty one.
func NewPlace(t testing.TB, s *Server) *Place {
	return &Place{Binary: product(t), Dir: t.TempDir(), t: t, s: s}
}

// Write puts a file below the place.
func (p *Place) Write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.Dir, name)
	must(p.t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(p.t, os.WriteFile(path, []byte(text), 0o600))
}

// Configure writes the daemon's configuration; extra is YAML below spec. Secrets
// are those of an account's password, or of the SSH key in the file identity.
func (p *Place) Configure(source, ledger, extra string) {
	p.t.Helper()
	p.Write("config.yaml", fmt.Sprintf(`apiVersion: tranship.dev/v1alpha1
kind: DaemonConfig
metadata: {name: test}
spec:
  source:
    url: %s
    credentials: {from: plans}
    %s
  ledger:
    url: %s
    credentials: {from: ledger}
    %s
    batchInterval: 1s
  mover: {image: 'example.com/tranship:1'}
%s
`, source, p.trust(source), ledger, p.trust(ledger), indent(extra, "  ")))
}

// trust is what makes the server's certificate count, which only https wants.
func (p *Place) trust(address string) string {
	if !strings.HasPrefix(address, "https") {
		return ""
	}
	return "caBundle: |\n" + indent(read(p.t, p.s.CA), "      ")
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

// Secret writes the credentials of an account.
func (p *Place) Secret(name, account, secret string) {
	p.t.Helper()
	p.Write("secrets/"+name+"/username", account)
	p.Write("secrets/"+name+"/password", secret)
}

// flags are what every subcommand needs that reads the configuration.
func (p *Place) flags() []string {
	return []string{"--config", filepath.Join(p.Dir, "config.yaml"), "--secrets-dir", filepath.Join(p.Dir, "secrets")}
}

// Run executes a subcommand in the clone and returns what it says on its standard
// output, what it says beside that, and its exit status.
func (p *Place) Run(args ...string) (out, said string, code int) {
	p.t.Helper()
	c := p.command(args...)
	var a, b strings.Builder
	c.Stdout, c.Stderr = &a, &b
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return a.String(), b.String(), c.ProcessState.ExitCode()
}

func (p *Place) command(args ...string) *exec.Cmd {
	c := exec.Command(p.Binary, args...)
	c.Env = append(os.Environ(), "SSL_CERT_FILE="+p.s.CA)
	if clone := filepath.Join(p.Dir, "clone"); exists(clone) {
		c.Dir = clone
	}
	return c
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Daemon starts the product, which ends with the test, and returns a function
// for what it has said so far.
func (p *Place) Daemon(listen string) (said func() string) {
	p.t.Helper()
	c := p.command(append([]string{"run", "--listen", listen, "--data-dir", filepath.Join(p.Dir, "data")}, p.flags()...)...)
	log, err := os.Create(filepath.Join(p.Dir, "daemon.log"))
	must(p.t, err)
	c.Stdout, c.Stderr = log, log
	must(p.t, c.Start())
	said = func() string { return read(p.t, log.Name()) }
	p.t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(30*time.Second, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		late.Stop()
		log.Close()
		if p.t.Failed() {
			p.t.Logf("the daemon says:\n%s", said())
		}
	})
	return said
}

// Clone makes the clone, as an account; it is on main.
func (p *Place) Clone(repository, account string) {
	p.t.Helper()
	at := strings.Replace(p.s.URL, "https://", "https://"+account+":"+password+"@", 1) + "/" + repository + ".git"
	if out, err := p.git("", "clone", "-q", at, filepath.Join(p.Dir, "clone")); err != nil {
		p.t.Fatal(out)
	}
}

// Git runs C git in the clone and returns what it prints.
func (p *Place) Git(args ...string) string {
	p.t.Helper()
	out, err := p.TryGit(args...)
	if err != nil {
		p.t.Fatalf("git %v: %s", args, out)
	}
	return out
}

// TryGit is Git where a failure is of interest.
func (p *Place) TryGit(args ...string) (string, error) {
	return p.git(filepath.Join(p.Dir, "clone"), args...)
}

func (p *Place) git(dir string, args ...string) (string, error) {
	c := exec.Command("git", append([]string{"-c", "user.name=Dana Dev", "-c", "user.email=dana@example.com"}, args...)...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_SSL_CAINFO="+p.s.CA, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := c.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Commit writes files of the clone, commits them and returns the commit. Git gets
// the options in front, such as those of a signature.
func (p *Place) Commit(message string, files map[string]string, options ...string) string {
	p.t.Helper()
	for name, text := range files {
		p.Write("clone/"+name, text)
	}
	p.Git("add", "-A")
	p.Git(append(options, "commit", "-q", "-m", message)...)
	return p.Git("rev-parse", "HEAD")
}

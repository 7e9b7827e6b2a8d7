// Package e2e runs the product as people do: the real binary, a real Git
// server, two real clusters with Velero and object storage. The tests need
// `make bed-up`; without TRANSHIP_BED they are skipped.
package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	"k8s.io/apimachinery/pkg/api/meta"
)

// bed is bed.json of test/bed.
type bed struct {
	Source, Target struct{ Server, CAFile, TokenFile, Kubeconfig string }
	S3             struct{ Endpoint, Bucket, Region, CAFile, AccessKeyFile, SecretKeyFile string }
	Git            struct {
		URL, CAFile string
		Dev, Daemon struct{ User, PasswordFile string }
	}
	Images  map[string]string
	Kubectl string
}

// lab is one test's own branch, ledger, namespaces and daemon on the bed.
type lab struct {
	t       *testing.T
	bed     bed
	binary  string
	dir     string // clone, config, secrets, data
	name    string // unique; plans and namespaces carry it
	daemon  *exec.Cmd
	log     *bytes.Buffer
	mu      sync.Mutex
	address string
}

var image struct {
	once sync.Once
	ref  string
	err  error
}

func newLab(t *testing.T) *lab {
	t.Helper()
	file := os.Getenv("TRANSHIP_BED")
	if file == "" {
		t.Skip("TRANSHIP_BED names no bed: run `make test`")
	}
	l := &lab{t: t, dir: t.TempDir(), binary: os.Getenv("TRANSHIP_BINARY"), log: &bytes.Buffer{}}
	l.must(json.Unmarshal(l.read(file), &l.bed))
	if l.binary == "" {
		t.Fatal("TRANSHIP_BINARY names no binary: run `make test`")
	}
	image.once.Do(func() { image.ref, image.err = l.loadImage() })
	l.must(image.err)
	sum := sha256.Sum256([]byte(t.Name() + time.Now().String()))
	l.name = "e" + hex.EncodeToString(sum[:4])
	l.clone()
	l.writeConfig(image.ref)
	t.Cleanup(l.cleanUp)
	return l
}

// loadImage puts the product into an image of its own content and loads it
// into every node.
func (l *lab) loadImage() (string, error) {
	sum := sha256.Sum256(l.read(l.binary))
	ref := "localhost/tranship:" + hex.EncodeToString(sum[:6])
	tar := filepath.Join(l.dir, "image.tar")
	for _, args := range [][]string{
		{"image", "--out", tar, "--ref", ref, "--entrypoint", "/tranship", "tranship=" + l.binary},
		{"load", "--dir", filepath.Dir(os.Getenv("TRANSHIP_BED")), tar},
	} {
		c := exec.Command("go", append([]string{"run", "."}, args...)...)
		c.Dir = "../bed"
		if out, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("bed %s: %w\n%s", args[0], err, out)
		}
	}
	return ref, nil
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) read(file string) []byte {
	l.t.Helper()
	b, err := os.ReadFile(file)
	l.must(err)
	return b
}

func (l *lab) text(file string) string { return strings.TrimSpace(string(l.read(file))) }

func (l *lab) write(file, text string) {
	l.t.Helper()
	file = filepath.Join(l.dir, file)
	l.must(os.MkdirAll(filepath.Dir(file), 0o700))
	l.must(os.WriteFile(file, []byte(text), 0o600))
}

// run executes a program and returns what it prints.
func (l *lab) run(name string, args ...string) string {
	l.t.Helper()
	out, err := l.try(name, args...)
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (l *lab) try(name string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "GIT_SSL_CAINFO="+l.bed.Git.CAFile) // a variable of the machine's would win over http.sslCAInfo
	out, err := c.CombinedOutput()
	return string(out), err
}

func (l *lab) git(args ...string) string {
	l.t.Helper()
	base := []string{"-C", filepath.Join(l.dir, "clone"), "-c", "user.name=Dana Dev", "-c", "user.email=dana@example.com"}
	return l.run("git", append(base, args...)...)
}

func (l *lab) clone() {
	u, err := url.Parse(l.bed.Git.URL)
	l.must(err)
	u.User = url.UserPassword(l.bed.Git.Dev.User, l.text(l.bed.Git.Dev.PasswordFile))
	l.must(os.MkdirAll(filepath.Join(l.dir, "clone"), 0o700))
	l.git("init", "-q", "-b", l.name)
	l.git("remote", "add", "origin", u.String())
}

// commit writes files (an empty text deletes) and pushes them; merge makes a
// merge commit, as a pull request does.
func (l *lab) commit(message string, files map[string]string) string {
	l.t.Helper()
	for name, text := range files {
		path := filepath.Join(l.dir, "clone", name)
		if text == "" {
			l.must(os.Remove(path))
			continue
		}
		l.must(os.MkdirAll(filepath.Dir(path), 0o755))
		l.must(os.WriteFile(path, []byte(text), 0o644))
	}
	l.git("add", "-A")
	l.git("commit", "-q", "-m", message)
	l.git("push", "-q", "origin", "HEAD:refs/heads/"+l.name)
	return strings.TrimSpace(l.git("rev-parse", "HEAD"))
}

func indent(text string, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

// writeConfig writes the daemon's configuration and its secrets.
func (l *lab) writeConfig(moverImage string) {
	l.write("secrets/git/username", l.bed.Git.Daemon.User)
	l.write("secrets/git/password", l.text(l.bed.Git.Daemon.PasswordFile))
	l.write("secrets/old/token", l.text(l.bed.Source.TokenFile))
	l.write("secrets/new/token", l.text(l.bed.Target.TokenFile))
	l.write("secrets/s3/accessKey", l.text(l.bed.S3.AccessKeyFile))
	l.write("secrets/s3/secretKey", l.text(l.bed.S3.SecretKeyFile))
	l.write("secrets/s3/password", "correct horse battery staple "+l.name)
	l.write("config.yaml", fmt.Sprintf(`apiVersion: tranship.dev/v1alpha1
kind: DaemonConfig
metadata: {name: %s}
spec:
  source:
    url: %s
    branch: %s
    credentials: {from: git}
    caBundle: |
%s
  ledger: {branch: tranship/ledger-%s, batchInterval: 1s}
  interval: 1s
  mover: {image: %s}
`, l.name, l.bed.Git.URL, l.name, indent(l.text(l.bed.Git.CAFile), "      "), l.name, moverImage))
}

// infrastructure is the documents that every plan needs.
func (l *lab) infrastructure() map[string]string {
	cluster := func(name string, c struct{ Server, CAFile, TokenFile, Kubeconfig string }) string {
		return fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: Cluster\nmetadata: {name: %s}\nspec:\n  server: %s\n  token: {from: %s}\n  caBundle: |\n%s\n",
			name, c.Server, name, indent(l.text(c.CAFile), "    "))
	}
	return map[string]string{
		"clusters/old.yaml": cluster("old", l.bed.Source),
		"clusters/new.yaml": cluster("new", l.bed.Target),
		"repositories/main.yaml": fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: ReplicationRepository\nmetadata: {name: main}\nspec:\n  provider: aws\n  bucket: %s\n  prefix: %s\n  region: %s\n  endpoint: %s\n  credentials: {from: s3}\n  encryption: {from: s3, key: password}\n  caBundle: |\n%s\n",
			l.bed.S3.Bucket, l.name, l.bed.S3.Region, l.bed.S3.Endpoint, indent(l.text(l.bed.S3.CAFile), "    ")),
	}
}

// plan is a plan's document; extra is YAML below spec.
func (l *lab) plan(state spec.State, extra string) string {
	return fmt.Sprintf("apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: {name: %s}\nspec:\n  state: %s\n  sourceCluster: old\n  targetCluster: new\n  replicationRepository: main\n  namespaces: [{name: %s}]\n%s\n", l.name, state, l.name, indent(extra, "  "))
}

// open is how most tests begin: the application runs on the source, the plan
// is committed, the daemon has been started. extra is YAML below the plan's spec.
func (l *lab) open(app, workload, extra string) {
	l.t.Helper()
	l.apply(app)
	l.rolledOut(workload)
	files := l.infrastructure()
	files["plan.yaml"] = l.plan(spec.Staged, extra)
	l.commit("Plan the move", files)
	l.start()
}

// openStaged is open, and the daemon has taken the plan up.
func (l *lab) openStaged(app, workload, extra string) {
	l.t.Helper()
	l.open(app, workload, extra)
	l.waitReason("Staged", time.Minute)
}

// flip commits the plan with another state, and returns the commit.
func (l *lab) flip(state spec.State, extra string) string {
	l.t.Helper()
	return l.commit("Set the plan to "+string(state), map[string]string{"plan.yaml": l.plan(state, extra)})
}

// start runs the daemon; kill ends it with SIGKILL.
func (l *lab) start() {
	l.t.Helper()
	l.daemon = exec.Command(l.binary, "run", "--config", filepath.Join(l.dir, "config.yaml"), "--secrets-dir", filepath.Join(l.dir, "secrets"),
		"--data-dir", filepath.Join(l.dir, "data"), "--listen", "")
	out := &syncWriter{l: l}
	l.daemon.Stdout, l.daemon.Stderr = out, out
	l.must(l.daemon.Start())
}

type syncWriter struct{ l *lab }

func (w *syncWriter) Write(p []byte) (int, error) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	return w.l.log.Write(p)
}

func (l *lab) kill() {
	if l.daemon != nil {
		_ = l.daemon.Process.Kill()
		_ = l.daemon.Wait()
		l.daemon = nil
	}
}

// story is what `tranship status` says of the plan, from Git alone.
type story struct {
	Status spec.PlanStatus
	Run    *spec.Run
}

func (s *story) condition(kind string) (reason, message string) {
	if c := meta.FindStatusCondition(s.Status.Conditions, kind); c != nil {
		return c.Reason, c.Message
	}
	return "", ""
}

func (l *lab) status() (*story, error) {
	c := exec.Command(l.binary, "status", l.name, "-o", "json", "--config", filepath.Join(l.dir, "config.yaml"), "--secrets-dir", filepath.Join(l.dir, "secrets"))
	out, err := c.Output()
	if err != nil {
		return nil, err
	}
	s := &story{}
	return s, json.Unmarshal(out, s)
}

// wait polls the ledger until ok says so; the failure shows the last story and
// the daemon's log.
func (l *lab) wait(what string, limit time.Duration, ok func(s *story) bool) *story {
	l.t.Helper()
	var last *story
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if s, err := l.status(); err == nil {
			if last = s; ok(s) {
				return s
			}
		}
	}
	text, _ := json.MarshalIndent(last, "", " ")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Fatalf("timed out waiting for %s\n%s\ndaemon:\n%s", what, text, tail(l.log.String(), 6000))
	return nil
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (l *lab) waitReason(reason string, limit time.Duration) *story {
	l.t.Helper()
	return l.wait(reason, limit, func(s *story) bool { r, _ := s.condition("Ready"); return r == reason })
}

func (l *lab) kubectl(kubeconfig string, args ...string) (string, error) {
	return l.try(l.bed.Kubectl, append([]string{"--kubeconfig", kubeconfig}, args...)...)
}

// onSource and onTarget run kubectl and must succeed.
func (l *lab) onSource(args ...string) string {
	l.t.Helper()
	return l.run(l.bed.Kubectl, append([]string{"--kubeconfig", l.bed.Source.Kubeconfig}, args...)...)
}

func (l *lab) onTarget(args ...string) string {
	l.t.Helper()
	return l.run(l.bed.Kubectl, append([]string{"--kubeconfig", l.bed.Target.Kubeconfig}, args...)...)
}

// apply puts YAML onto the source.
func (l *lab) apply(yaml string) {
	l.t.Helper()
	l.write("app.yaml", yaml)
	l.onSource("apply", "-f", filepath.Join(l.dir, "app.yaml"))
}

func (l *lab) cleanUp() {
	l.kill()
	for _, k := range []string{l.bed.Source.Kubeconfig, l.bed.Target.Kubeconfig} {
		_, _ = l.kubectl(k, "delete", "namespace", l.name, "--ignore-not-found", "--wait=false")
		_, _ = l.kubectl(k, "-n", "velero", "delete", "backups.velero.io,restores.velero.io,backupstoragelocations.velero.io,secret,configmap", "-l", "tranship.dev/plan="+spec.ShortName(l.name), "--ignore-not-found", "--wait=false")
		_, _ = l.kubectl(k, "-n", "tranship-system", "delete", "pod,job,pvc,configmap,secret", "-l", "tranship.dev/plan="+spec.ShortName(l.name), "--ignore-not-found", "--wait=false")
	}
	if l.t.Failed() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.t.Logf("daemon:\n%s", tail(l.log.String(), 8000))
	}
}

// logTimes prints how long the steps of a cutover took.
func (l *lab) logTimes(r *spec.Run) {
	l.t.Helper()
	var b strings.Builder
	for _, s := range r.Steps {
		if s.Started != nil && s.Ended != nil {
			fmt.Fprintf(&b, " %s %.2f", s.Name, s.Ended.Sub(s.Started.Time).Seconds())
		}
	}
	l.t.Logf("stop time: %.1f s (application's own: %.1f s); seconds a step:%s", r.Status.StopSeconds, r.Status.OwnSeconds, b.String())
}

// neverSaid looks for words in the daemon's log and the run's messages that
// stand for a way that works and should not have been taken.
func (l *lab) neverSaid(words ...string) {
	l.t.Helper()
	s, err := l.status()
	l.must(err)
	text, err := json.Marshal(s)
	l.must(err)
	l.mu.Lock()
	all := l.log.String() + string(text)
	l.mu.Unlock()
	for _, w := range words {
		if strings.Contains(all, w) {
			l.t.Errorf("the daemon said %q:\n%s", w, tail(all, 4000))
		}
	}
}

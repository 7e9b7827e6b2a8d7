package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	shared "github.com/tranship/tranship/test/lab"
)

// breakable puts a proxy of the test's own before a server: its address, the
// certificate to trust, and the switch that makes connections to it break: those
// to paths that end with only.
func (l *lab) breakable(server, caFile, only string) (address, ca string, down *atomic.Bool) {
	l.t.Helper()
	down = &atomic.Bool{}
	address, ca = l.before(server, caFile, func(r *http.Request, serve func()) {
		if down.Load() && strings.HasSuffix(r.URL.Path, only) {
			panic(http.ErrAbortHandler)
		}
		serve()
	})
	return address, ca, down
}

// before puts a proxy before a server that hands every request to do.
func (l *lab) before(server, caFile string, do func(r *http.Request, serve func())) (address, ca string) {
	l.t.Helper()
	to, err := url.Parse(server)
	l.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(l.text(caFile)))
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: to.Scheme, Host: to.Host})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	proxy.FlushInterval = -1 // watches
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		do(r, func() { proxy.ServeHTTP(w, r) })
	}))
	l.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL + to.Path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// through makes the document of a cluster lead to another address.
func (l *lab) through(files map[string]string, name string, c *shared.Cluster, address, ca string) {
	l.t.Helper()
	name = "clusters/" + name + ".yaml"
	files[name] = strings.NewReplacer(c.Server, address, indent(l.text(c.CAFile), "    "), indent(ca, "    ")).Replace(files[name])
}

// slowToStop is a Deployment without a volume whose pod takes its whole grace
// period to end.
func (l *lab) slowToStop() string {
	return strings.NewReplacer("NS", l.name, "IMAGE", l.bed.Images["busybox"]).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 8
      containers:
      - {name: web, image: IMAGE, command: [/bin/sh, -c, "trap '' TERM; while true; do sleep 1; done"]}
`)
}

// TestGitGoneAndTheDaemonToo takes Git away when the application has been
// stopped, and kills the daemon: the next one, which cannot reach Git either,
// brings the application back on the source within gitOutage, and tells Git
// when it can.
func TestGitGoneAndTheDaemonToo(t *testing.T) {
	l := newLab(t)
	address, ca, down := l.breakable(l.bed.Git.URL, l.bed.Git.CAFile, "")
	l.throughProxy(address, ca)
	l.openStaged(l.slowToStop(), "deployment/web", "cutover: {gitOutage: 10s}")
	l.flip(spec.Migrated, "cutover: {gitOutage: 10s}")
	l.source("stopped", time.Minute, "{.spec.replicas}", "0")
	down.Store(true)
	l.kill()
	l.start()
	gone := time.Now()
	// Its controller may not have seen the stop yet, and still count the pod.
	l.source("back", 3*time.Minute, "{.spec.replicas} {.status.readyReplicas}", "1 1")
	t.Logf("the application was back %.1f s after Git and the daemon had gone", time.Since(gone).Seconds())
	down.Store(false)
	s := l.said(time.Minute, "CutoverNotDone", "could not be pushed")
	if s.Run.Status.Phase != spec.RunFailed {
		t.Errorf("the run: %+v", s.Run.Status)
	}
	l.flip(spec.Migrated, "cutover: {attempt: 2}")
	l.waitReason("Migrated", 3*time.Minute)
}

// throughProxy makes the daemon reach Git at another address.
func (l *lab) throughProxy(address, ca string) {
	l.t.Helper()
	l.write("config.yaml", strings.NewReplacer(l.bed.Git.URL, address, indent(l.text(l.bed.Git.CAFile), "      "), indent(ca, "      ")).Replace(l.text(l.dir+"/config.yaml"))+"\n")
}

// TestNothingBeginsBeforeItIsInGit lets the daemon read the approval and not write
// to Git: the run is frozen, and nothing is done on either cluster before its
// record has arrived.
func TestNothingBeginsBeforeItIsInGit(t *testing.T) {
	long(t)
	l := newLab(t)
	address, ca, down := l.breakable(l.bed.Git.URL, l.bed.Git.CAFile, "/git-receive-pack")
	l.throughProxy(address, ca)
	l.openStaged(l.stateless(), "deployment/web", "cutover: {gitOutage: 10m}")
	down.Store(true)
	l.flip(spec.Migrated, "cutover: {gitOutage: 10m}")
	l.poll("a run that waits for Git", time.Second, func() (string, bool) {
		files, err := filepath.Glob(l.dir + "/data/journal/*.jsonl")
		l.must(err)
		text := ""
		for _, f := range files {
			text += l.text(f)
		}
		return tail(text, 2000), strings.Contains(text, "GitUnreachable") && strings.Contains(text, "-migrate-1")
	})
	if got := l.onSource("-n", l.name, "get", "deployment", "web", "-o", "jsonpath={.spec.replicas} {.metadata.annotations}"); !strings.HasPrefix(got, "2 ") || strings.Contains(got, "tranship.dev") {
		t.Errorf("the source was changed: %s", got)
	}
	if out, err := l.kubectl(l.bed.Target.Kubeconfig, "get", "namespace", l.name, "--ignore-not-found", "-o", "name"); err != nil || out != "" {
		t.Errorf("the target has %s %v", out, err)
	}
	down.Store(false)
	s := l.waitReason("Migrated", 3*time.Minute)
	if s.Status.Recorded.Numbers[spec.RunMigrate] != 1 {
		t.Errorf("%d cutovers for one approval", s.Status.Recorded.Numbers[spec.RunMigrate])
	}
}

// source waits until a field of the source's Deployment web has a value.
func (l *lab) source(what string, limit time.Duration, path, want string) {
	l.t.Helper()
	l.web(&l.bed.Source, what, limit, path, want)
}

// freeAddress is one on which nobody listens.
func (l *lab) freeAddress() string {
	l.t.Helper()
	s, err := net.Listen("tcp", "127.0.0.1:0")
	l.must(err)
	defer s.Close()
	return s.Addr().String()
}

// TestTheTargetIsDead loses the target after it was started: the source is not
// started while nobody knows what runs there, the status says so, and starts
// when somebody has said that the target is gone.
func TestTheTargetIsDead(t *testing.T) {
	long(t)
	l := newLab(t)
	address, ca, down := l.breakable(l.bed.Target.Server, l.bed.Target.CAFile, "")
	l.write("token", "let me in, for I am a test")
	l.apply(strings.Replace(l.slowToStop(), "  replicas: 1\n", "  replicas: 1\n  minReadySeconds: 10\n", 1))
	l.rolledOut("deployment/web")
	files := l.infrastructure()
	l.through(files, "new", &l.bed.Target, address, ca)
	files["plan.yaml"] = l.plan(spec.Staged, "cutover: {healthTimeout: 12s}")
	l.commit("Plan the move", files)
	address = l.freeAddress()
	l.must(l.Start(0, "--listen", address, "--reconcile-token-file", l.dir+"/token"))
	l.waitReason("Staged", time.Minute)
	l.flip(spec.Migrated, "cutover: {healthTimeout: 12s}")
	l.source("stopped", time.Minute, "{.spec.replicas}", "0")
	l.web(&l.bed.Target, "started on the target", time.Minute, "{.spec.replicas}", "1")
	down.Store(true)
	s := l.wait("TargetUnreachable", 2*time.Minute, func(s *story) bool {
		return s.Status.WaitsFor != nil && s.Status.WaitsFor.Reason == "TargetUnreachable"
	})
	t.Log(s.Status.WaitsFor.Message)
	l.source("stopped still", time.Second, "{.spec.replicas}", "0")
	l.run(l.binary, "rollback", l.name, "--target-is-dead", "--server", "http://"+address, "--token-file", l.dir+"/token")
	said := time.Now()
	l.source("back", 2*time.Minute, "{.spec.replicas} {.status.readyReplicas}", "1 1")
	t.Logf("the application was back %.1f s after the word", time.Since(said).Seconds())
	down.Store(false)
	s = l.said(2*time.Minute, "CutoverNotDone")
	if text := strings.Join(s.Run.Status.Warnings, "\n"); !strings.Contains(text, "TargetIsDead") || !strings.Contains(text, "somebody said") {
		t.Errorf("the record does not tell what was left out: %s", text)
	}
}

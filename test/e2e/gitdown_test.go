package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
)

// gitProxy puts a proxy of the test's own between the daemon and the Git
// server; while down is set, connections to it break.
func (l *lab) gitProxy() (down *atomic.Bool) {
	l.t.Helper()
	down = &atomic.Bool{}
	to, err := url.Parse(l.bed.Git.URL)
	l.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(l.text(l.bed.Git.CAFile)))
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: to.Scheme, Host: to.Host})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	l.t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	config := strings.NewReplacer(l.bed.Git.URL, s.URL+to.Path, indent(l.text(l.bed.Git.CAFile), "      "), indent(string(ca), "      ")).Replace(l.text(l.dir + "/config.yaml"))
	l.write("config.yaml", config+"\n")
	return down
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
	down := l.gitProxy()
	l.openStaged(l.slowToStop(), "deployment/web", "cutover: {gitOutage: 10s}")
	l.flip(spec.Migrated, "cutover: {gitOutage: 10s}")
	l.source("stopped", time.Minute, "{.spec.replicas}", "0")
	down.Store(true)
	l.kill()
	l.start()
	gone := time.Now()
	l.source("back", 3*time.Minute, "{.status.readyReplicas}", "1")
	t.Logf("the application was back %.1f s after Git and the daemon had gone", time.Since(gone).Seconds())
	down.Store(false)
	s := l.said(time.Minute, "CutoverNotDone", "could not be pushed")
	if s.Run.Status.Phase != spec.RunFailed {
		t.Errorf("the run: %+v", s.Run.Status)
	}
	l.flip(spec.Migrated, "cutover: {attempt: 2}")
	l.waitReason("Migrated", 3*time.Minute)
}

// source waits until a field of the source's Deployment web has a value.
func (l *lab) source(what string, limit time.Duration, path, want string) {
	l.t.Helper()
	got := ""
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if got, _ = l.kubectl(l.bed.Source.Kubeconfig, "-n", l.name, "get", "deployment", "web", "-o", "jsonpath="+path); got == want {
			return
		}
	}
	l.t.Fatalf("the source is not %s after %s: %s is %q\ndaemon:\n%s", what, limit, path, got, tail(l.Log.String(), 6000))
}

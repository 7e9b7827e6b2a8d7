package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	shared "github.com/tranship/tranship/test/lab"
	"k8s.io/client-go/util/jsonpath"
)

// A limit costs time only where a test fails, so that all of them are far above
// what the slowest machine needs: nothing here is measured.
const (
	// slack multiplies the limits of waits for the product.
	slack = 3
	// patience is for what a cluster does by itself, and for kubectl's --timeout.
	patience     = 5 * time.Minute
	kubePatience = "--timeout=5m"
)

// poll asks again and again until ok; the failure shows what was seen last.
func (l *lab) poll(what string, every time.Duration, ask func() (seen string, ok bool)) {
	l.t.Helper()
	seen := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(every) {
		var ok bool
		if seen, ok = ask(); ok {
			return
		}
	}
	l.t.Fatalf("timed out waiting for %s; seen last: %s\ndaemon:\n%s", what, seen, tail(l.Log.String(), 6000))
}

// gone waits until a list of names is empty or the namespace is not there:
// what was deleted may take its grace period and finalizers to go.
func (l *lab) gone(what, kubeconfig string, args ...string) {
	l.t.Helper()
	l.poll(what+" to be gone", time.Second, func() (string, bool) {
		out, err := l.kubectl(kubeconfig, append(args, "--ignore-not-found", "-o", "name")...)
		return fmt.Sprint(out, err), err == nil && !strings.Contains(out, "/")
	})
}

// busy are the words of a server that has not done what it was asked.
var busy = []string{"TLS handshake timeout", "connection refused", "connection reset", "i/o timeout", "etcdserver: ", "http2: client connection lost", "currently unable to handle the request", "error dialing backend"}

// on runs kubectl and must succeed; a server that is too busy is asked again.
func (l *lab) on(c *shared.Cluster, args ...string) string {
	l.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Second) {
		out, err := l.kubectl(c.Kubeconfig, args...)
		again := false
		for _, w := range busy {
			again = again || err != nil && strings.Contains(out, w)
		}
		if !again || time.Now().After(end) {
			l.must(err)
			return out
		}
	}
}

// created waits until a selector finds something: kubectl wait fails at once
// while there is nothing that it could wait for.
func (l *lab) created(kind, selector string) {
	l.t.Helper()
	l.poll(kind+" "+selector, time.Second, func() (string, bool) {
		out := l.onSource("-n", l.name, "get", kind, "-l", selector, "-o", "name")
		return out, strings.Contains(out, "/")
	})
}

// web waits until a field of the Deployment web has a value. It asks the API
// server itself: a kubectl on a busy machine takes seconds to start, and the
// tests have to act while the application stops or starts.
func (l *lab) web(c *shared.Cluster, what string, limit time.Duration, path, want string) {
	l.t.Helper()
	client, token := l.client(c)
	field := jsonpath.New("field").AllowMissingKeys(true)
	l.must(field.Parse(path))
	look := func() (string, error) {
		r, err := http.NewRequestWithContext(l.t.Context(), http.MethodGet, c.Server+"/apis/apps/v1/namespaces/"+l.name+"/deployments/web", nil)
		if err != nil {
			return "", err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(r)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			return "", fmt.Errorf("%s: %s %v", res.Status, raw, err)
		}
		var object any
		if err := json.Unmarshal(raw, &object); err != nil {
			return "", err
		}
		var out bytes.Buffer
		err = field.Execute(&out, object)
		return out.String(), err
	}
	var got string
	var err error
	for end := time.Now().Add(slack * limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if got, err = look(); err == nil && got == want {
			return
		}
	}
	l.t.Fatalf("the Deployment is not %s after %s: %s is %q (%v)\ndaemon:\n%s", what, slack*limit, path, got, err, tail(l.Log.String(), 6000))
}

// client reaches a cluster's API server as the daemon does.
func (l *lab) client(c *shared.Cluster) (client *http.Client, token string) {
	l.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(l.text(c.CAFile)))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	l.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}, l.text(c.TokenFile)
}

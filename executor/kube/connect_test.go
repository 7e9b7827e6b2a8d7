package kube

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

type mapSecrets map[string]string

func (m mapSecrets) Read(_ context.Context, ref spec.SecretRef, key string) ([]byte, error) {
	v, ok := m[ref.From+"/"+keyOf(ref, key)]
	if !ok {
		return nil, errors.New(refString(ref, key) + " does not exist")
	}
	return []byte(v), nil
}

// apiServer answers for kube-system like an API server that knows one token.
func apiServer(t *testing.T, status int) *httptest.Server {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		code := status
		if code == http.StatusOK && r.Header.Get("Authorization") != "Bearer good-token" {
			code = http.StatusUnauthorized
		}
		if code != http.StatusOK {
			w.WriteHeader(code)
			reason := map[int]metav1.StatusReason{401: metav1.StatusReasonUnauthorized, 403: metav1.StatusReasonForbidden}[code]
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: reason, Message: "namespaces \"kube-system\" is forbidden", Code: int32(code)})
			return
		}
		_ = json.NewEncoder(w).Encode(corev1.Namespace{TypeMeta: metav1.TypeMeta{Kind: "Namespace", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "uid-1"}})
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	return s
}

func caOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestConnectSentences(t *testing.T) {
	good, forbidden := apiServer(t, 200), apiServer(t, 403)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	ref := func(from string) *spec.SecretRef { return &spec.SecretRef{From: from} }
	secrets := mapSecrets{"ok/token": "good-token\n", "old/token": "s3cr3t-expired", "kc/kubeconfig": "{a: [s3cr3t"}
	execKubeconfig := "apiVersion: v1\nkind: Config\nusers: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: sh}}}]\n"
	secrets["exec/kubeconfig"] = execKubeconfig

	for name, c := range map[string]struct {
		spec   spec.ClusterSpec
		reason string // "" means that it connects
		says   []string
	}{
		"works":         {spec.ClusterSpec{Server: good.URL, Token: ref("ok"), CABundle: caOf(good)}, "", nil},
		"wrong token":   {spec.ClusterSpec{Server: good.URL, Token: ref("old"), CABundle: caOf(good)}, ReasonInvalidToken, []string{"secret old (key token)", "expired", good.URL}},
		"no token":      {spec.ClusterSpec{Server: good.URL, CABundle: caOf(good)}, ReasonInvalidToken, []string{"spec.token is not set"}},
		"lost secret":   {spec.ClusterSpec{Server: good.URL, Token: ref("lost")}, ReasonInvalidSecretRef, []string{"secret lost (key token)"}},
		"forbidden":     {spec.ClusterSpec{Server: forbidden.URL, Token: ref("ok"), CABundle: caOf(forbidden)}, ReasonTokenNotPrivileged, []string{"docs/permissions.md"}},
		"untrusted":     {spec.ClusterSpec{Server: good.URL, Token: ref("ok")}, ReasonUntrustedCertificate, []string{"Acme Co", "spec.caBundle", "openssl s_client -connect 127.0.0.1:"}},
		"wrong name":    {spec.ClusterSpec{Server: strings.Replace(good.URL, "127.0.0.1", "localhost", 1), Token: ref("ok"), CABundle: caOf(good)}, ReasonUntrustedCertificate, []string{"other names"}},
		"unreachable":   {spec.ClusterSpec{Server: "https://" + closed.Addr().String(), Token: ref("ok")}, ReasonTestConnectFailed, []string{closed.Addr().String(), "refused"}},
		"no TLS":        {spec.ClusterSpec{Server: strings.Replace(plain.URL, "http:", "https:", 1), Token: ref("ok")}, ReasonUntrustedCertificate, []string{"does not speak TLS"}},
		"nothing":       {spec.ClusterSpec{}, ReasonInvalidCluster, []string{"spec.server"}},
		"bad file":      {spec.ClusterSpec{Kubeconfig: ref("kc")}, ReasonInvalidSecretRef, []string{"is not a kubeconfig"}},
		"runs programs": {spec.ClusterSpec{Kubeconfig: ref("exec")}, ReasonInvalidSecretRef, []string{"exec"}},
	} {
		t.Run(name, func(t *testing.T) {
			doc := &spec.Cluster{Metadata: spec.Metadata{Name: "old"}, Spec: c.spec}
			got, err := Connect(t.Context(), spec.Source, doc, secrets)
			if c.reason == "" {
				if err != nil || got.UID != "uid-1" || got.VeleroNamespace != "velero" {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			a, ok := IsAccessError(err)
			if !ok || a.Reason != c.reason {
				t.Fatalf("got %v, want reason %s", err, c.reason)
			}
			for _, want := range append(c.says, "cluster old") {
				if !strings.Contains(a.Error(), want) {
					t.Errorf("%q does not say %q", a.Error(), want)
				}
			}
			if strings.Contains(a.Error(), "s3cr3t") || strings.Contains(a.Error(), "good-token") {
				t.Errorf("%q shows a secret", a.Error())
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "s3"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]string{"s3/accessKey": "abc", "s3/empty": " \n", "outside": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(v), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "s3", "link")); err != nil {
		t.Fatal(err)
	}
	inCluster := NamespaceSecrets{fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s3", Namespace: "tranship"}, Data: map[string][]byte{"accessKey": []byte("abc"), "empty": nil}}), "tranship"}
	for _, c := range []struct {
		from, key, want string
	}{
		{"s3", "", "abc"}, {"s3", "accessKey", "abc"}, {"s3", "empty", ""}, {"s3", "nope", ""}, {"gone", "", ""},
		{"..", "outside", ""}, {"s3", "../outside", ""}, {"s3", "link", ""},
	} {
		for name, s := range map[string]Secrets{"files": FileSecrets{dir}, "cluster": inCluster} {
			got, err := s.Read(t.Context(), spec.SecretRef{From: c.from, Key: c.key}, "accessKey")
			if (err == nil) != (c.want != "") || string(got) != c.want {
				t.Errorf("%s %s/%s: got %q, %v", name, c.from, c.key, got, err)
			}
		}
	}
}

func TestEntriesOfASecret(t *testing.T) {
	dir := t.TempDir()
	for name, v := range map[string]string{"git/identity": "key\n", "git/known_hosts": "host", "git/..data/identity": "x", "bad/empty": ""} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(v), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	inCluster := NamespaceSecrets{fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "git", Namespace: "tranship"},
		Data: map[string][]byte{"identity": []byte("key\n"), "known_hosts": []byte("host")}}), "tranship"}
	for name, read := range map[string]func(context.Context, string) (map[string][]byte, error){"files": FileSecrets{dir}.Entries, "cluster": inCluster.Entries} {
		got, err := read(t.Context(), "git")
		if err != nil || len(got) != 2 || string(got["identity"]) != "key\n" || string(got["known_hosts"]) != "host" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		for _, from := range []string{"gone", "..", "bad"} {
			if got, err := read(t.Context(), from); err == nil {
				t.Errorf("%s: %s gave %q", name, from, got)
			}
		}
	}
}

func TestPoolFollowsRotation(t *testing.T) {
	server := apiServer(t, 200)
	secrets := mapSecrets{"tok/token": "good-token"}
	doc := &spec.Cluster{Metadata: spec.Metadata{Name: "old"}, Spec: spec.ClusterSpec{Server: server.URL, CABundle: caOf(server), Token: &spec.SecretRef{From: "tok"}}}
	p := NewPool(secrets)
	now := time.Now()
	p.now = func() time.Time { return now }
	first, err := p.Get(t.Context(), spec.Source, doc)
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.Get(t.Context(), spec.Source, doc)
	if err != nil || again != first {
		t.Fatalf("an unchanged document opened a second connection: %v", err)
	}
	secrets["tok/token"] = "bad-token"
	if c, err := p.Get(t.Context(), spec.Source, doc); err != nil || c != first {
		t.Fatalf("within the recheck time: %v", err)
	}
	now = now.Add(recheck)
	if _, err := p.Get(t.Context(), spec.Source, doc); err == nil {
		t.Fatal("the rotated token was not noticed")
	}
	secrets["tok/token"] = "good-token"
	if c, err := p.Get(t.Context(), spec.Source, doc); err != nil || c != first {
		t.Fatalf("the old token is back, so is its connection: %v", err)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	var deadlines []bool
	rt := bound(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		_, ok := r.Context().Deadline()
		deadlines = append(deadlines, ok)
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	for _, url := range []string{"http://x/api/v1/pods", "http://x/api/v1/pods?watch=true", "http://x/log?follow=true"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if len(deadlines) != 3 || !deadlines[0] || deadlines[1] || deadlines[2] {
		t.Fatalf("deadlines: %v", deadlines)
	}
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tranship/tranship/executor/kube"
)

// Every entry of a Git credential reaches gitsource, also one that only the
// reference names, and all but the public ones are redacted.
func TestEntriesOfAGitCredential(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "git"), 0o700); err != nil {
		t.Fatal(err)
	}
	secret := []string{"password", "bearerToken", "identity", "tls.key", "githubAppPrivateKey", "a-named-token"}
	for _, key := range slices.Concat(secret, publicEntries) {
		if err := os.WriteFile(filepath.Join(dir, "git", key), []byte("value of "+key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &remembering{secretStore: kube.FileSecrets{Dir: dir}}
	got, err := r.entries(t.Context(), "git")
	if err != nil {
		t.Fatal(err)
	}
	known := func(key string) bool {
		return slices.ContainsFunc(r.values(), func(v []byte) bool { return bytes.Equal(v, []byte("value of "+key)) })
	}
	for _, key := range secret {
		if string(got[key]) != "value of "+key || !known(key) {
			t.Errorf("%s: %q, redacted %v", key, got[key], known(key))
		}
	}
	for _, key := range publicEntries {
		if string(got[key]) != "value of "+key || known(key) {
			t.Errorf("%s: %q, redacted %v", key, got[key], known(key))
		}
	}
	for i := range 3 * maxMade {
		r.rememberMade(fmt.Appendf(nil, "token-%d", i))
	}
	if n := len(r.values()); n != len(secret)+maxMade || string(r.values()[n-1]) != fmt.Sprintf("token-%d", 3*maxMade-1) {
		t.Errorf("%d values are kept", n)
	}
}

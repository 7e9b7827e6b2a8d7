package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

const approvable = `apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: old}
spec: {server: "https://old.example.com:6443", token: {from: old}}
---
apiVersion: tranship.dev/v1alpha1
kind: Cluster
metadata: {name: new}
spec: {server: "https://new.example.com:6443", token: {from: new}}
---
apiVersion: tranship.dev/v1alpha1
kind: ReplicationRepository
metadata: {name: main}
spec: {provider: aws, bucket: migrations, region: eu-central-1, credentials: {from: s3}, encryption: {from: s3, key: password}}
---
apiVersion: tranship.dev/v1alpha1
kind: MigrationPlan
metadata: {name: shop, labels: {team: web, region: east}}
spec: {state: Migrated, cutover: {attempt: 3}, sourceCluster: old, targetCluster: new, replicationRepository: main, namespaces: [{name: shop}]}
`

// Keys with and without a passphrase, and those of an agent, make approvals
// that the daemon's keyring takes for exactly what was shown.
func TestApprove(t *testing.T) {
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	plain, err := ssh.MarshalPrivateKey(private, "")
	locked, err2 := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("open sesame"))
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	line := append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(public)), " ada lovelace@example.com\n"...)
	put("locked.pub", line)
	keys := agent.NewKeyring()
	serveAgent(t, keys)
	ring, err := gitsource.NewKeyring([]spec.TrustedKey{{Name: "ada", Owner: "Ada", SSH: string(line)}}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	add := func() {
		if err := keys.Add(agent.AddedKey{PrivateKey: private, Comment: "ada@agent"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, key, state, file, want string
		attempt                      int
		before                       func()
	}{
		{name: "file", key: put("plain", pem.EncodeToMemory(plain)), state: "Migrated", attempt: 3, file: ""},
		{name: "locked", key: put("locked", pem.EncodeToMemory(locked)), state: "Closed", attempt: 4, file: "ada-lovelace@example.com.sig"},
		{name: "empty agent", key: sshAgent, want: "the SSH agent holds 0 keys"},
		{name: "agent", key: sshAgent, state: "Migrated", attempt: 3, file: "ada@agent.sig", before: add},
		{name: "agent by .pub", key: put("agent.pub", line), state: "Migrated", attempt: 3, file: "ada-lovelace@example.com.sig"},
		{name: "unknown state", key: sshAgent, state: "Moved", want: "cannot approve state"},
		{name: "no key", key: filepath.Join(dir, "none"), want: "name it with --key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.before != nil {
				c.before()
			}
			folder := t.TempDir()
			if err := os.WriteFile(filepath.Join(folder, "all.yaml"), []byte(approvable), 0o600); err != nil {
				t.Fatal(err)
			}
			f := &approveFlags{key: c.key, passphrase: func(string) ([]byte, error) { return []byte("open sesame"), nil }}
			if c.state != "Migrated" {
				f.state, f.attempt = c.state, c.attempt
			}
			var out bytes.Buffer
			err := f.approve(&out, "shop", folder)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("got %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			closure, err := closureIn(folder, "shop")
			if err != nil {
				t.Fatal(err)
			}
			found, err := filepath.Glob(filepath.Join(folder, spec.ApprovalDir("shop", closure.Digest()), "*.sig"))
			if err != nil || len(found) != 1 || c.file != "" && filepath.Base(found[0]) != c.file {
				t.Fatalf("written: %v, %v; want %s", found, err, c.file)
			}
			sig, err := os.ReadFile(found[0])
			if err != nil {
				t.Fatal(err)
			}
			if by := ring.Detached(spec.ApprovalNamespace, spec.ApprovalText("shop", spec.State(c.state), c.attempt, closure.Digest()), sig); !by.Counts() {
				t.Errorf("the daemon says: %s", by.Problem)
			}
			for _, line := range []string{"labels     region=east,team=web\n", "to         new (https://new.example.com:6443)", "state      " + c.state, closure.Digest()} {
				if !strings.Contains(out.String(), line) {
					t.Errorf("not shown: %q in\n%s", line, out.String())
				}
			}
		})
	}
	if _, err := closureIn(dir, "shop"); err == nil || !strings.Contains(err.Error(), "there is no plan shop") {
		t.Errorf("a folder without the plan: %v", err)
	}
}

// serveAgent is an SSH agent with the given keys for the test's time.
func serveAgent(t *testing.T, keys agent.Agent) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	t.Setenv("SSH_AUTH_SOCK", socket)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keys, c) }() // ends with the connection
		}
	}()
}

package gitsource

import (
	"context"
	"crypto/ecdsa"
	curve "crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// sshKey is a private key in OpenSSH's form, with its public half.
func sshKey(t testing.TB, key any, passphrase string) (string, ssh.PublicKey) {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	must(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(block)), signer.PublicKey()
}

func newEd25519(t testing.TB) any {
	t.Helper()
	_, key, err := curve.GenerateKey(rand.Reader)
	must(t, err)
	return key
}

func newRSA(t testing.TB, bits int) any {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	return key
}

// overSSHConfig points source and ledger at the repository by SSH. The secret
// may be changed between exchanges.
func overSSHConfig(t testing.TB, url string, secret map[string]string) Config {
	t.Helper()
	return Config{
		Spec: spec.DaemonConfigSpec{Source: spec.Repository{
			URL: url, Credentials: &spec.SecretRef{From: "git"}, Timeout: &metav1.Duration{Duration: time.Minute},
		}},
		DataDir: t.TempDir(), Version: "test", Secrets: secretReader(secret),
	}
}

func secretReader(secret map[string]string) SecretReader {
	return func(context.Context, string) (map[string][]byte, error) {
		out := map[string][]byte{}
		for k, v := range secret {
			out[k] = []byte(v)
		}
		return out, nil
	}
}

// Reading and the ledger's pushes both work, with version 2 of the protocol
// and with a server that knows version 0 only.
func TestSSHReadsAndPushes(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old server %v", old), func(t *testing.T) {
			s := gittest.New(t)
			r := s.Repo("plans.git")
			w := r.Clone()
			tip := w.Write("common.yaml", commonYAML).Write("shop.yaml", planYAML("shop", spec.Staged)).Push("first")
			identity, public := sshKey(t, newEd25519(t), "")
			x := s.SSH(public)
			x.SetOld(old)
			c := overSSHConfig(t, x.URL("plans.git"), map[string]string{"identity": identity, "known_hosts": x.KnownHosts})
			src := openSource(t, c)
			if d := read(t, src, ""); d.Commit != tip || d.Closures["shop"] == nil {
				t.Fatalf("%+v", d)
			}
			w.Write("shop.yaml", planYAML("shop", spec.Migrated)).Push("flip")
			expect(t, read(t, src, tip), "flip: shop=Migrated/1")

			l := acquired(t, c, "one")
			must(t, l.Record(testContext(t), planChange("shop", "hello")))
			must(t, l.Push(testContext(t)))
			if got := waits(t, load(t, l), "shop"); got != "hello" {
				t.Errorf("recorded %q", got)
			}
			ledgerSound(t, r)
			asked := slices.ContainsFunc(x.Commands(), func(c string) bool { return strings.HasPrefix(c, "v2 git-upload-pack") })
			if asked == old {
				t.Errorf("commands %q", x.Commands())
			}
		})
	}
}

func TestSSHKeysThatAreUsed(t *testing.T) {
	s := gittest.New(t)
	s.Repo("plans.git").Clone().Write("common.yaml", commonYAML).Push("first")
	x := s.SSH()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	for _, tc := range []struct {
		name       string
		key        any
		passphrase string
		set        map[string]string
		kind       error
		say        string
	}{
		{"ed25519", newEd25519(t), "", nil, nil, ""},
		{"ed25519 with a passphrase", newEd25519(t), "open sesame", map[string]string{"password": "open sesame\n"}, nil, ""},
		{"no passphrase", newEd25519(t), "open sesame", nil, ErrMisconfigured, "add its passphrase as entry password"},
		{"wrong passphrase", newEd25519(t), "open sesame", map[string]string{"password": "shut"}, ErrMisconfigured, "correct the passphrase"},
		{"RSA of 3072 bits", newRSA(t, 3072), "", nil, nil, ""},
		{"RSA of 2048 bits", newRSA(t, 2048), "", nil, ErrMisconfigured, "3072 bits or more, and this one has 2048"},
		{"ECDSA", ec, "", nil, ErrMisconfigured, "only ed25519 and RSA"},
		{"no key", newEd25519(t), "", map[string]string{"identity": ""}, ErrMisconfigured, "it is missing"},
		{"no PEM", newEd25519(t), "", map[string]string{"identity": "hello"}, ErrMisconfigured, "not a private key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			identity, public := sshKey(t, tc.key, tc.passphrase)
			x.Allow(public)
			secret := map[string]string{"identity": identity, "known_hosts": x.KnownHosts}
			maps.Copy(secret, tc.set)
			src := openSource(t, overSSHConfig(t, x.URL("plans.git"), secret))
			_, err := src.Read(testContext(t), "")
			if !errors.Is(err, tc.kind) || err != nil && (!strings.Contains(err.Error(), tc.say) || strings.Contains(err.Error(), "sesame")) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Without a line in known_hosts for this very host nothing is even connected.
func TestSSHHostMustBeKnown(t *testing.T) {
	s := gittest.New(t)
	s.Repo("plans.git").Clone().Write("common.yaml", commonYAML).Push("first")
	identity, public := sshKey(t, newEd25519(t), "")
	x, other := s.SSH(public), s.SSH(public)
	_, line, _ := strings.Cut(other.KnownHosts, " ")
	host, _, _ := strings.Cut(x.KnownHosts, " ")
	_, rsaPublic := sshKey(t, newRSA(t, 3072), "")
	rsaLine := host + " " + string(ssh.MarshalAuthorizedKey(rsaPublic))
	for _, tc := range []struct {
		name, known string
		kind        error
		say         string
	}{
		{"the right one", "# comment\n" + other.KnownHosts + "\n" + x.KnownHosts + "\n", nil, ""},
		{"among several kinds", rsaLine + x.KnownHosts, nil, ""},
		{"none", "", ErrMisconfigured, "has no line for [127.0.0.1]"},
		{"another host's", other.KnownHosts, ErrMisconfigured, "has no line for"},
		{"another key", host + " " + line, ErrUntrusted, "is not the one in known_hosts"},
		{"another kind of key", rsaLine, ErrUntrusted, "no host key of the kinds"},
		{"revoked", x.KnownHosts + "\n@revoked * " + strings.SplitN(x.KnownHosts, " ", 2)[1], ErrUntrusted, "is not the one"},
		{"garbage", "hello", ErrMisconfigured, "form of OpenSSH's file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(x.Commands())
			src := openSource(t, overSSHConfig(t, x.URL("plans.git"), map[string]string{"identity": identity, "known_hosts": tc.known}))
			_, err := src.Read(testContext(t), "")
			if !errors.Is(err, tc.kind) || err != nil && !strings.Contains(err.Error(), tc.say) {
				t.Errorf("%v", err)
			}
			if err != nil && len(x.Commands()) != before {
				t.Error("a command was run on a server that is not known")
			}
		})
	}
}

func TestSSHWhatCanBeWrong(t *testing.T) {
	s := gittest.New(t)
	r := s.Repo("plans.git")
	r.Clone().Write("common.yaml", commonYAML).Push("first")
	identity, public := sshKey(t, newEd25519(t), "")
	stranger, strange := sshKey(t, newEd25519(t), "")
	x := s.SSH(public)
	secret := map[string]string{"identity": identity, "known_hosts": x.KnownHosts}
	c := overSSHConfig(t, x.URL("plans.git"), secret)
	src := openSource(t, c)
	read(t, src, "")

	secret["identity"] = stranger // the key is read again at each exchange
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), `secret "git" for user git`) {
		t.Errorf("refused key: %v", err)
	}
	x.Allow(strange)
	read(t, src, "")

	for _, tc := range []struct {
		name string
		set  func(c *Config)
		kind error
		say  string
	}{
		{"no repository", func(c *Config) { c.Spec.Source.URL = x.URL("nothing.git") }, ErrNotFound, "not appear to be a git repository"},
		{"no credentials", func(c *Config) { c.Spec.Source.Credentials = nil }, ErrMisconfigured, "identity and known_hosts"},
		{"a proxy", func(c *Config) { c.Spec.Source.Proxy = &spec.SecretRef{From: "proxy"} }, ErrMisconfigured, "for https only"},
		{"no branch", func(c *Config) { c.Spec.Source.Branch = "nothing" }, ErrBranchMissing, "branch nothing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := overSSHConfig(t, x.URL("plans.git"), secret)
			tc.set(&c)
			src, err := OpenSource(c)
			if err == nil {
				defer func() { must(t, src.Close()) }()
				_, err = src.Read(testContext(t), "")
			}
			if !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.say) {
				t.Errorf("%v", err)
			}
		})
	}
	r.Hook("pre-receive", "echo protected branch >&2; exit 1")
	l := openLedger(t, c)
	if _, err := l.Acquire(triedOnce(t, l), "one", false); err == nil || !strings.Contains(err.Error(), "protected branch") {
		t.Errorf("rejected push: %v", err)
	}
}

// A server that lets us in and then says nothing ends at the deadline.
func TestSSHServerThatHangs(t *testing.T) {
	s := gittest.New(t)
	s.Repo("plans.git").Clone().Write("common.yaml", commonYAML).Push("first")
	identity, public := sshKey(t, newEd25519(t), "")
	x := s.SSH(public)
	x.SetStall(true)
	c := overSSHConfig(t, x.URL("plans.git"), map[string]string{"identity": identity, "known_hosts": x.KnownHosts})
	c.Spec.Source.Timeout = &metav1.Duration{Duration: 2 * time.Second}
	src := openSource(t, c)
	if _, err := src.Read(testContext(t), ""); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "in time") {
		t.Errorf("%v", err)
	}
	x.SetStall(false)
	src.remote.timeout = time.Minute
	read(t, src, "")
}

func TestPathsAreOneWordForTheServer(t *testing.T) {
	if got := quote(`it's!.git; rm -rf /`); got != `'it'\''s'\!'.git; rm -rf /'` {
		t.Error(got)
	}
}

package gitsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// keyed makes a configuration whose ledger is signed with what entries says now.
func keyed(t testing.TB, s *gittest.Server, r *gittest.Repo, entries func() (map[string][]byte, error)) Config {
	c := testConfig(t, s, r)
	git := c.Secrets
	c.Spec.Ledger.SigningKey = &spec.SecretRef{From: "signing"}
	c.Secrets = func(ctx context.Context, from string) (map[string][]byte, error) {
		if from == "signing" {
			return entries()
		}
		return git(ctx, from)
	}
	return c
}

// identity is the secret of an SSH signer.
func (s *signer) identity(t testing.TB) map[string][]byte {
	t.Helper()
	key, err := os.ReadFile(s.file)
	must(t, err)
	return map[string][]byte{"identity": key}
}

// lock puts a passphrase on an SSH signer's file.
func (s *signer) lock(t testing.TB, passphrase string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-p", "-P", "", "-N", passphrase, "-f", s.file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
}

func privateText(t testing.TB, e *openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PrivateKeyType, nil)
	must(t, err)
	must(t, e.SerializePrivate(w, nil))
	must(t, w.Close())
	return b.Bytes()
}

// verifyCommits asks C git about every commit of the ledger.
func verifyCommits(t testing.TB, r *gittest.Repo, by *signer) {
	t.Helper()
	args := []string{"-C", r.Dir, "-c", "gpg.format=openpgp", "verify-commit"}
	c := exec.Command("git")
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	if by.pgp == nil {
		allowed := filepath.Join(t.TempDir(), "allowed")
		must(t, os.WriteFile(allowed, []byte("bot@example.com "+by.SSH), 0o600))
		args = []string{"-C", r.Dir, "-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile=" + allowed, "verify-commit"}
	} else {
		home, err := os.MkdirTemp("/tmp", "gpg") // sockets have short paths
		must(t, err)
		t.Cleanup(func() { must(t, os.RemoveAll(home)) })
		c.Env = append(c.Env, "GNUPGHOME="+home)
		imports := exec.Command("gpg", "--batch", "--no-autostart", "--import")
		imports.Env, imports.Stdin = c.Env, strings.NewReader(by.OpenPGP)
		if out, err := imports.CombinedOutput(); err != nil {
			t.Fatalf("gpg: %v: %s", err, out)
		}
	}
	commits := strings.Fields(r.Git("rev-list", ledgerRef))
	c.Path, c.Args = gitPath(t), append(append([]string{"git"}, args...), commits...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("git verify-commit: %v: %s", err, out)
	}
}

func gitPath(t testing.TB) string {
	t.Helper()
	p, err := exec.LookPath("git")
	must(t, err)
	return p
}

func TestGitAcceptsOurSignatures(t *testing.T) {
	locked := sshSigner(t, "locked", "Bot")
	locked.lock(t, "open sesame")
	pgp := pgpSigner(t, "pgp", "Bot", ed25519)
	plain, rsa := sshSigner(t, "plain", "Bot"), sshSigner(t, "rsa", "Bot", "rsa", "-b", "3072")
	lockedEntries := locked.identity(t)
	lockedEntries["password"] = []byte("open sesame\n")
	for name, c := range map[string]struct {
		by      *signer
		entries map[string][]byte
	}{
		"ed25519": {plain, plain.identity(t)}, "rsa": {rsa, rsa.identity(t)}, "locked": {locked, lockedEntries},
		"openPGP": {pgp, map[string][]byte{"openPGP": privateText(t, pgp.pgp)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gittest.New(t)
			r := s.Repo("plans.git")
			config := keyed(t, s, r, func() (map[string][]byte, error) { return c.entries, nil })
			l := acquired(t, config, "a")
			must(t, l.Record(testContext(t), planChange("shop", "one")))
			must(t, l.Push(testContext(t)))
			must(t, openLedger(t, keyed(t, s, r, func() (map[string][]byte, error) { return c.entries, nil })).Adopt(testContext(t)))
			verifyCommits(t, r, c.by)
			ledgerSound(t, r)
		})
	}
}

func TestTheSigningKeyIsReadAgain(t *testing.T) {
	one, two := sshSigner(t, "one", "Bot"), sshSigner(t, "two", "Bot")
	s := gittest.New(t)
	r := s.Repo("plans.git")
	now, failed := one.identity(t), error(nil)
	l := acquired(t, keyed(t, s, r, func() (map[string][]byte, error) { return now, failed }), "a")
	push := func(text string) string {
		must(t, l.Record(testContext(t), planChange("shop", text)))
		must(t, l.Push(testContext(t)))
		return r.Git("rev-parse", ledgerRef)
	}
	first := push("one")
	now = two.identity(t)
	second := push("two")
	failed = errors.New("the API server is away")
	third := push("three")
	keys := ring(t, time.Now(), one, two)
	for i, want := range []struct{ commit, key string }{{first, "one"}, {second, "two"}, {third, "two"}} {
		raw, err := exec.Command("git", "-C", r.Dir, "cat-file", "commit", want.commit).Output()
		must(t, err)
		if s := keys.Commit(raw); !s.Counts() || s.Key != want.key {
			t.Errorf("commit %d: %+v", i, s)
		}
	}
}

// No commit goes out unsigned, and every error says what to do.
func TestSigningKeysThatCannotBeUsed(t *testing.T) {
	weak, locked := sshSigner(t, "weak", "Bot", "rsa", "-b", "2048"), sshSigner(t, "locked", "Bot")
	locked.lock(t, "open sesame")
	good, pgp := sshSigner(t, "good", "Bot"), pgpSigner(t, "pgp", "Bot", ed25519)
	both := good.identity(t)
	both["openPGP"] = privateText(t, pgp.pgp)
	wrong := locked.identity(t)
	wrong["password"] = []byte("simsalabim")
	for name, c := range map[string]struct {
		entries map[string][]byte
		err     error
		want    string
	}{
		"weak":          {weak.identity(t), nil, "too weak"},
		"locked":        {locked.identity(t), nil, "put it into entry password"},
		"wrong":         {wrong, nil, "no SSH private key, or entry password does not open it"},
		"both":          {both, nil, "keep one of them"},
		"neither":       {map[string][]byte{"username": []byte("x")}, nil, "neither entry identity"},
		"public":        {map[string][]byte{"identity": []byte(good.SSH)}, nil, "no SSH private key"},
		"public pgp":    {map[string][]byte{"openPGP": []byte(pgp.OpenPGP)}, nil, "not one armored private key"},
		"missing":       {nil, errors.New("no such secret"), `secret "signing" of ledger.signingKey cannot be read`},
		"garbage armor": {map[string][]byte{"openPGP": []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----\n")}, nil, "not one armored private key"},
	} {
		t.Run(name, func(t *testing.T) {
			s := gittest.New(t)
			r := s.Repo("plans.git")
			l := openLedger(t, keyed(t, s, r, func() (map[string][]byte, error) { return c.entries, c.err }))
			_, err := l.Acquire(triedOnce(t, l), "a", false)
			if !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if out := r.Git("for-each-ref"); out != "" {
				t.Errorf("something was pushed: %s", out)
			}
			if err != nil && strings.Contains(err.Error(), "sesame") {
				t.Error("the error quotes the secret")
			}
		})
	}
}

// Whoever may push to the ledger can write the trailers of a daemon. Without the
// signature of one of its signers such a commit is an edit like any other, and so
// is one that says that a person has adopted the ledger.
func TestForgedTrailersAreRefused(t *testing.T) {
	bot := sshSigner(t, "bot", "Bot")
	for name, forged := range map[string]string{
		"another daemon": "status of shop: Ready\n\nTranship-Epoch: 1\nTranship-Journal: someone:7\n",
		"an adoption":    "Adopt the ledger as it is\n\nTranship-Epoch: 1\nTranship-Adopt: " + strings.Repeat("0", 40) + "\n",
	} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, signers known %v", name, known), func(t *testing.T) {
				s := gittest.New(t)
				r := s.Repo("plans.git")
				c := keyed(t, s, r, func() (map[string][]byte, error) { return bot.identity(t), nil })
				if known {
					c.Spec.Ledger.Signers = []spec.TrustedKey{bot.TrustedKey}
				}
				l := acquired(t, c, "a")
				must(t, l.Record(testContext(t), planChange("shop", "one")))
				must(t, l.Push(testContext(t)))
				forgedCommit(r, statusPath("shop"), r.Git("show", ledgerRef+":"+statusPath("shop"))+"\nlastFailure: forged\n", forged)
				if err := l.Check(testContext(t)); errors.Is(err, ErrLedgerEdited) != known {
					t.Errorf("%v", err)
				}
				if rec := load(t, openLedger(t, keyedLike(t, c))); (rec.Changed != "") != known {
					t.Errorf("a daemon that remembers nothing finds %q", rec.Changed)
				}
				must(t, openLedger(t, keyedLike(t, c)).Adopt(testContext(t)))
				if err := l.Check(testContext(t)); err != nil {
					t.Errorf("after an adoption that was signed: %v", err)
				}
			})
		}
	}
}

// keyedLike is the configuration of another process of the same account.
func keyedLike(t *testing.T, c Config) Config {
	c.DataDir = t.TempDir()
	return c
}

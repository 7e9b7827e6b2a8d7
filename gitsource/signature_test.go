package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"golang.org/x/crypto/ssh"

	"github.com/tranship/tranship/gitsource/gittest"
	"github.com/tranship/tranship/spec"
)

// signer is somebody with a key: an ssh-keygen-made one, with its file, or an
// OpenPGP one.
type signer struct {
	spec.TrustedKey
	file string
	pgp  *openpgp.Entity
	at   time.Time // of OpenPGP signatures; zero is now
}

// sshSigner makes a key with ssh-keygen.
func sshSigner(t testing.TB, name, owner string, kind ...string) *signer {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if len(kind) == 0 {
		kind = []string{"ed25519"}
	}
	args := append([]string{"-q", "-N", "", "-C", name + "@example.com", "-f", file, "-t"}, kind...)
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	pub, err := os.ReadFile(file + ".pub")
	must(t, err)
	return &signer{TrustedKey: spec.TrustedKey{Name: name, Owner: owner, SSH: string(pub)}, file: file}
}

func pgpSigner(t testing.TB, name, owner string, c *packet.Config) *signer {
	t.Helper()
	e, err := openpgp.NewEntity(owner, "", owner+"@example.com", c)
	must(t, err)
	s := &signer{TrustedKey: spec.TrustedKey{Name: name, Owner: owner}, pgp: e}
	s.OpenPGP = publicText(t, e)
	return s
}

func publicText(t testing.TB, e *openpgp.Entity) string {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	must(t, err)
	must(t, e.Serialize(w))
	must(t, w.Close())
	return b.String()
}

var ed25519 = &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}

// commitAs commits everything that is in the working copy with the signer's key.
func (s *signer) commitAs(w *gittest.Work, message string, args ...string) string {
	w.Git("add", "-A")
	return s.gitAs(w, append([]string{"commit", "-q", "--allow-empty", "-m", message}, args...)...)
}

// gitAs makes a signed commit: Git does it with ssh-keygen, or we put the
// OpenPGP signature in where gpg would.
func (s *signer) gitAs(w *gittest.Work, args ...string) string {
	if s.pgp == nil {
		w.Git(append([]string{"-c", "gpg.format=ssh", "-c", "user.signingkey=" + s.file, "-c", "commit.gpgsign=true"}, args...)...)
		return w.Git("rev-parse", "HEAD")
	}
	w.Git(args...)
	raw := w.Git("cat-file", "commit", "HEAD") + "\n"
	h := w.Repo.Input(string(insertSignature([]byte(raw), s.sign([]byte(raw)))), "-C", w.Dir, "hash-object", "-t", "commit", "-w", "--stdin")
	w.Git("reset", "-q", "--soft", strings.TrimSpace(h))
	return strings.TrimSpace(h)
}

func (s *signer) sign(payload []byte) []byte {
	var b bytes.Buffer
	c := &packet.Config{}
	if !s.at.IsZero() {
		c.Time = func() time.Time { return s.at }
	}
	if err := openpgp.ArmoredDetachSign(&b, []*openpgp.Entity{s.pgp}, bytes.NewReader(payload), &openpgp.SignParams{Config: c}); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func insertSignature(raw, signature []byte) []byte {
	head, message, _ := bytes.Cut(raw, []byte("\n\n"))
	field := "gpgsig " + strings.ReplaceAll(strings.TrimSpace(string(signature)), "\n", "\n ")
	return []byte(string(head) + "\n" + field + "\n\n" + string(message))
}

// fingerprint is the key's own, as ssh-keygen tells it.
func (s *signer) fingerprint(t testing.TB) string {
	t.Helper()
	if s.pgp != nil {
		return fmt.Sprintf("%X", s.pgp.PrimaryKey.Fingerprint)
	}
	out, err := exec.Command("ssh-keygen", "-l", "-f", s.file+".pub").Output()
	must(t, err)
	return strings.Fields(string(out))[1]
}

func ring(t testing.TB, now time.Time, signers ...*signer) *Keyring {
	t.Helper()
	var keys []spec.TrustedKey
	for _, s := range signers {
		keys = append(keys, s.TrustedKey)
	}
	r, err := NewKeyring(keys, func() time.Time { return now })
	must(t, err)
	return r
}

func rawCommit(t testing.TB, w *gittest.Work, commit string) []byte {
	t.Helper()
	out, err := exec.Command("git", "-C", w.Dir, "cat-file", "commit", commit).Output()
	must(t, err)
	return out
}

func TestCommitSignatures(t *testing.T) {
	now := time.Now()
	expires := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 3600}
	ed, rsa := sshSigner(t, "ada", "Ada"), sshSigner(t, "ada-rsa", "Ada", "rsa", "-b", "3072")
	pgp, old := pgpSigner(t, "grace", "Grace", ed25519), pgpSigner(t, "old", "Olga", expires)
	revoked := pgpSigner(t, "lost", "Lea", ed25519)
	must(t, revoked.pgp.Revoke(packet.KeyCompromised, "lost", nil))
	revoked.OpenPGP = publicText(t, revoked.pgp)
	revoked.pgp.Revocations = nil // its thief does not care
	sub := pgpSigner(t, "sub", "Sue", ed25519)
	must(t, sub.pgp.AddSigningSubkey(&packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 3600}))
	sub.OpenPGP = publicText(t, sub.pgp)
	stranger := sshSigner(t, "eve", "Eve")
	w := gittest.New(t).Repo("plans").Clone()
	for _, c := range []struct {
		name string
		by   *signer
		at   time.Time
		key  string // "" when nobody is named
		want string // part of the problem; "" when it counts
	}{
		{"SSH", ed, now, "ada", ""},
		{"SSH with RSA", rsa, now, "ada-rsa", ""},
		{"OpenPGP", pgp, now, "grace", ""},
		{"OpenPGP that will expire", old, now, "old", ""},
		{"OpenPGP expired, signed before", old, now.Add(2 * time.Hour), "old", "is expired"},
		{"OpenPGP revoked", revoked, now, "lost", "is revoked"},
		{"OpenPGP subkey", sub, now, "sub", ""},
		{"OpenPGP subkey expired", sub, now.Add(2 * time.Hour), "sub", "expired"},
		{"unknown key", stranger, now, "", "does not name"},
		{"nobody", nil, now, "", "not signed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := ""
			if c.by == nil {
				h = w.Commit("unsigned")
			} else {
				h = c.by.commitAs(w, c.name)
			}
			got := ring(t, c.at, ed, rsa, pgp, old, revoked, sub).Commit(rawCommit(t, w, h))
			if got.Key != c.key || got.Counts() != (c.want == "") || !strings.Contains(got.Problem, c.want) {
				t.Errorf("got %+v, want key %q and problem %q", got, c.key, c.want)
			}
			if c.key != "" && got.Fingerprint != c.by.fingerprint(t) {
				t.Errorf("its fingerprint is %q, not %q", got.Fingerprint, c.by.fingerprint(t))
			}
		})
	}
	w.Git("fsck", "--strict")
}

// What is signed is the object as it is: any other byte, and a head in which
// two readers could see two commits, counts for nothing.
func TestCommitSignatureCoversEveryByte(t *testing.T) {
	ada := sshSigner(t, "ada", "Ada")
	w := gittest.New(t).Repo("plans").Clone()
	raw := rawCommit(t, w, ada.commitAs(w, "subject\n\nbody"))
	r := ring(t, time.Now(), ada)
	if got := r.Commit(raw); !got.Counts() {
		t.Fatalf("the commit as it is: %+v", got)
	}
	begin, end := bytes.Index(raw, []byte("gpgsig ")), bytes.Index(raw, []byte("\n\n"))
	for i := range raw {
		if i >= begin && i <= end {
			continue
		}
		other := bytes.Clone(raw)
		other[i] ^= 1
		if got := r.Commit(other); got.Counts() {
			t.Fatalf("byte %d was changed, and the signature still counts", i)
		}
	}
	tree, _, _ := strings.Cut(string(raw), "\n")
	for name, other := range map[string]string{
		"second tree":       strings.Replace(string(raw), "gpgsig ", tree+"\ngpgsig ", 1),
		"second signature":  strings.Replace(string(raw), "gpgsig ", "gpgsig x\ngpgsig ", 1),
		"field in front":    "note x\n" + string(raw),
		"field in signed":   strings.Replace(string(raw), "gpgsig ", "note x\ngpgsig ", 1),
		"message continued": string(raw) + "more",
	} {
		if got := r.Commit([]byte(other)); got.Counts() {
			t.Errorf("%s: it still counts", name)
		}
	}
}

func TestWeakKeysAreRefused(t *testing.T) {
	dsa := pgpSigner(t, "dsa", "Dora", ed25519)
	dsa.pgp.PrimaryKey.PubKeyAlgo = packet.PubKeyAlgoDSA
	private := pgpSigner(t, "private", "Paul", ed25519)
	var b bytes.Buffer
	enc, err := armor.Encode(&b, openpgp.PrivateKeyType, nil)
	must(t, err)
	must(t, private.pgp.SerializePrivate(enc, nil))
	must(t, enc.Close())
	private.OpenPGP = b.String()
	ada := sshSigner(t, "ada", "Ada")
	for _, c := range []struct {
		name string
		keys []spec.TrustedKey
		want string
	}{
		{"SSH RSA", []spec.TrustedKey{sshSigner(t, "weak", "Wes", "rsa", "-b", "2048").TrustedKey}, "RSA with 2048 bits is too weak"},
		{"OpenPGP RSA", []spec.TrustedKey{pgpSigner(t, "weak", "Wes", &packet.Config{RSABits: 2048, Algorithm: packet.PubKeyAlgoRSA}).TrustedKey}, "RSA with 2048 bits is too weak"},
		{"private", []spec.TrustedKey{private.TrustedKey}, "a private key never belongs here"},
		{"garbage", []spec.TrustedKey{{Name: "x", Owner: "X", SSH: "ssh-ed25519 nothing"}}, "the one line of an .pub file"},
		{"two lines", []spec.TrustedKey{{Name: "x", Owner: "X", SSH: ada.SSH + ada.SSH}}, "the one line of an .pub file"},
		{"twice", []spec.TrustedKey{ada.TrustedKey, {Name: "again", Owner: "Other", SSH: ada.SSH}}, `the same key as "ada"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := NewKeyring(c.keys, nil); err == nil || !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if err := pgpStrength(dsa.pgp); err == nil || !strings.Contains(err.Error(), "DSA is not accepted") {
		t.Errorf("DSA: got %v", err)
	}
	_, problems := ring(t, time.Now().Add(time.Hour), pgpSigner(t, "old", "Olga", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 60})).Usable()
	if len(problems) != 1 || !strings.Contains(problems[0], "key old of Olga is expired: renew it") {
		t.Errorf("an expired key is told of as %q", problems)
	}
}

// A signature of another kind of thing by the same key is not one of this.
func TestDetachedNamespaces(t *testing.T) {
	ada := sshSigner(t, "ada", "Ada")
	data, err := os.ReadFile(ada.file)
	must(t, err)
	key, err := ssh.ParsePrivateKey(data)
	must(t, err)
	sig, err := SignSSH(key, "one@example.com", []byte("text"))
	must(t, err)
	r := ring(t, time.Now(), ada)
	if got := r.Detached("one@example.com", []byte("text"), sig); !got.Counts() || got.Owner != "Ada" {
		t.Errorf("our own signature: %+v", got)
	}
	if got := r.Detached(GitNamespace, []byte("text"), sig); got.Counts() || !strings.Contains(got.Problem, "was made for") {
		t.Errorf("in another namespace: %+v", got)
	}
	if got := r.Detached("one@example.com", []byte("other"), sig); got.Counts() || !strings.Contains(got.Problem, "over something else") {
		t.Errorf("over another text: %+v", got)
	}
	check := exec.Command("ssh-keygen", "-Y", "check-novalidate", "-n", "one@example.com", "-s", write(t, sig))
	check.Stdin = strings.NewReader("text")
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("ssh-keygen does not take our signature: %v: %s", err, out)
	}
}

func write(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, data, 0o600))
	return file
}

func FuzzDetached(f *testing.F) {
	ada, grace := sshSigner(f, "ada", "Ada"), pgpSigner(f, "grace", "Grace", ed25519)
	data, err := os.ReadFile(ada.file)
	must(f, err)
	key, err := ssh.ParsePrivateKey(data)
	must(f, err)
	sig, err := SignSSH(key, "ns", []byte("signed"))
	must(f, err)
	f.Add(sig)
	f.Add(grace.sign([]byte("signed")))
	f.Add([]byte("-----BEGIN PGP SIGNATURE-----\n\n=AAAA\n-----END PGP SIGNATURE-----"))
	f.Add([]byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----"))
	r := ring(f, time.Now(), ada, grace)
	f.Fuzz(func(t *testing.T, armored []byte) {
		if got := r.Detached("ns", []byte("another text"), armored); got.Counts() {
			t.Errorf("it counts for what nobody signed: %+v", got)
		}
	})
}

func FuzzSplitCommit(f *testing.F) {
	plain := "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nparent 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nsubject\n\nbody\n"
	f.Add([]byte(plain))
	f.Add(insertSignature([]byte(plain), []byte("-----BEGIN SSH SIGNATURE-----\nx\n-----END SSH SIGNATURE-----")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		payload, sig, err := splitCommit(raw)
		if err != nil || len(sig) > 0 || bytes.Contains(raw, []byte("gpgsig")) {
			return
		}
		if !bytes.Equal(payload, raw) {
			t.Errorf("an unsigned commit is not what it was: %q, %q", payload, raw)
		}
	})
}

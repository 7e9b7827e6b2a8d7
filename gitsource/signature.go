package gitsource

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/tranship/tranship/reconciler"
	"github.com/tranship/tranship/spec"
)

// GitNamespace is the SSH signature namespace of Git's own commits and tags.
const GitNamespace = "git"

const (
	minRSABits   = 3072
	maxSignature = 16 << 10 // bytes of an armored signature
	// clockSkew is how far ahead of ours the clock of somebody who signs may be.
	clockSkew = 5 * time.Minute
)

// Keyring says whose key has made a signature. It never changes once made and
// is safe for concurrent use. An expired or revoked key stays in it, so that
// what it has signed is named, but counts for nothing.
type Keyring struct {
	keys []publicKey
	now  func() time.Time
}

type publicKey struct {
	spec.TrustedKey
	pgp openpgp.EntityList // one key with its subkeys, or none
	ssh ssh.PublicKey
}

// Signed is what a Keyring says of a signature.
type Signed struct {
	Key, Owner  string // of the key that made it, also where it does not count
	Fingerprint string // the key's own; see spec.Signer
	// Problem is why the signature does not count, a clause without a capital
	// letter; "" when it counts.
	Problem string
}

// Counts says that the signature is valid and its key is known and usable now.
func (s Signed) Counts() bool { return s.Problem == "" }

// NewKeyring reads public keys. RSA below 3072 bits, DSA, private keys and
// what cannot be read are refused with a sentence that names the key
// (ErrMisconfigured). now tells when keys expire; nil is the machine's clock.
func NewKeyring(keys []spec.TrustedKey, now func() time.Time) (*Keyring, error) {
	if now == nil {
		now = time.Now
	}
	r := &Keyring{now: func() time.Time { return now().Add(clockSkew) }}
	for _, k := range keys {
		p, err := readKey(k)
		if err != nil {
			return nil, fail(ErrMisconfigured, nil, "cannot use key %q of %s: %v", k.Name, k.Owner, err)
		}
		for _, other := range r.keys {
			if other.fingerprint() == p.fingerprint() {
				return nil, fail(ErrMisconfigured, nil, "cannot use key %q of %s: it is the same key as %q; remove one of the two", k.Name, k.Owner, other.Name)
			}
		}
		r.keys = append(r.keys, p)
	}
	return r, nil
}

func readKey(k spec.TrustedKey) (publicKey, error) {
	p := publicKey{TrustedKey: k}
	if k.SSH != "" {
		pub, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(k.SSH))
		if err != nil || len(bytes.TrimSpace(rest)) > 0 {
			return p, errors.New("ssh must be the one line of an .pub file, such as \"ssh-ed25519 AAAA... ada@example.com\"")
		}
		p.ssh = pub
		return p, sshStrength(pub)
	}
	if !strings.Contains(k.OpenPGP, "PUBLIC KEY BLOCK") {
		return p, errors.New("openPGP must be an armored public key, as `gpg --armor --export` prints it; a private key never belongs here")
	}
	list, err := openpgp.ReadArmoredKeyRing(strings.NewReader(k.OpenPGP))
	if err != nil {
		return p, fmt.Errorf("openPGP cannot be read: %s", oneLine(err.Error(), 200))
	}
	if len(list) != 1 {
		return p, fmt.Errorf("openPGP holds %d keys: give each key an entry and a name of its own", len(list))
	}
	p.pgp = list
	return p, pgpStrength(list[0])
}

var sshKinds = map[string]bool{ssh.KeyAlgoED25519: true, ssh.KeyAlgoECDSA256: true, ssh.KeyAlgoECDSA384: true, ssh.KeyAlgoECDSA521: true,
	ssh.KeyAlgoSKED25519: true, ssh.KeyAlgoSKECDSA256: true}

func sshStrength(pub ssh.PublicKey) error {
	if sshKinds[pub.Type()] {
		return nil
	}
	if c, ok := pub.(ssh.CryptoPublicKey); ok && pub.Type() == ssh.KeyAlgoRSA {
		if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok {
			return rsaStrength(k.N.BitLen())
		}
	}
	return fmt.Errorf("its kind %s is not accepted: use ed25519, ECDSA or RSA with %d bits or more", oneLine(pub.Type(), 60), minRSABits)
}

func rsaStrength(bits int) error {
	if bits < minRSABits {
		return fmt.Errorf("RSA with %d bits is too weak: use %d bits or more, or ed25519", bits, minRSABits)
	}
	return nil
}

// pgpStrength looks at every part of a key that can sign.
func pgpStrength(e *openpgp.Entity) error {
	parts := []*packet.PublicKey{e.PrimaryKey}
	for _, s := range e.Subkeys {
		if s.PublicKey.PubKeyAlgo.CanSign() {
			parts = append(parts, s.PublicKey)
		}
	}
	for _, k := range parts {
		switch k.PubKeyAlgo {
		case packet.PubKeyAlgoDSA:
			return errors.New("DSA is not accepted: use ed25519, ECDSA or RSA with 3072 bits or more")
		case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
			bits, err := k.BitLength()
			if err != nil {
				return err
			}
			if err := rsaStrength(int(bits)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *publicKey) fingerprint() string {
	if p.ssh != nil {
		return ssh.FingerprintSHA256(p.ssh)
	}
	return fmt.Sprintf("%X", p.pgp[0].PrimaryKey.Fingerprint)
}

func (r *Keyring) pgpConfig() *packet.Config {
	return &packet.Config{Time: r.now, MinRSABits: minRSABits}
}

// unusable is why a key counts for nothing now, or "".
func (r *Keyring) unusable(p *publicKey) string {
	if p.ssh != nil {
		return ""
	}
	c := r.pgpConfig()
	if _, err := p.pgp[0].VerifyPrimaryKey(r.now(), c); err != nil {
		return "key " + p.Name + " of " + p.Owner + " " + whyNot(err)
	}
	if _, ok := p.pgp[0].SigningKey(r.now(), c); !ok {
		return "key " + p.Name + " of " + p.Owner + " has no part that may sign now: expired, revoked or made for encryption only"
	}
	return ""
}

func whyNot(err error) string {
	switch {
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return "is expired: renew it and put it into the daemon's configuration"
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return "is revoked"
	}
	return "cannot be used: " + oneLine(err.Error(), 200)
}

// Usable returns the keys that count now, by name, and one sentence about each
// of the others.
func (r *Keyring) Usable() (keys map[string]reconciler.Key, problems []string) {
	keys = map[string]reconciler.Key{}
	for i := range r.keys {
		p := &r.keys[i]
		if why := r.unusable(p); why != "" {
			problems = append(problems, why)
			continue
		}
		keys[p.Name] = reconciler.Key{Owner: p.Owner, Fingerprint: p.fingerprint()}
	}
	return keys, problems
}

// Commit says who has signed a commit. raw is the commit object's content as
// Git stores it: it is never encoded anew, since that could leave out what was
// signed.
func (r *Keyring) Commit(raw []byte) Signed {
	payload, signature, err := splitCommit(raw)
	switch {
	case err != nil:
		return Signed{Problem: err.Error()}
	case len(signature) == 0:
		return Signed{Problem: "it is not signed"}
	}
	return r.Detached(GitNamespace, payload, signature)
}

// Detached says who has made an armored signature over payload. namespace is
// that of SSH signatures; a signature made for another one does not count.
func (r *Keyring) Detached(namespace string, payload, armored []byte) Signed {
	armored = bytes.TrimSpace(armored)
	switch {
	case len(armored) > maxSignature:
		return Signed{Problem: fmt.Sprintf("its signature has more than %d bytes", maxSignature)}
	case bytes.HasPrefix(armored, []byte("-----BEGIN SSH SIGNATURE-----")):
		return r.checkSSH(namespace, payload, armored)
	case bytes.HasPrefix(armored, []byte("-----BEGIN PGP ")):
		return r.checkPGP(payload, armored)
	}
	return Signed{Problem: "its signature is neither OpenPGP nor SSH"}
}

func (r *Keyring) checkSSH(namespace string, payload, armored []byte) Signed {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return Signed{Problem: "its SSH signature cannot be read: " + oneLine(err.Error(), 200)}
	}
	print := ssh.FingerprintSHA256(sig.PublicKey)
	for i := range r.keys {
		p := &r.keys[i]
		if p.ssh == nil || p.fingerprint() != print {
			continue
		}
		s := Signed{Key: p.Name, Owner: p.Owner, Fingerprint: print}
		switch err := sshsig.Verify(bytes.NewReader(payload), sig, p.ssh, sig.HashAlgorithm, namespace); {
		case errors.Is(err, sshsig.ErrNamespaceMismatch):
			s.Problem = fmt.Sprintf("its signature by key %s was made for %q and not for %q", p.Name, oneLine(sig.Namespace, 60), namespace)
		case err != nil:
			s.Problem = fmt.Sprintf("its signature by key %s is over something else", p.Name)
		}
		return s
	}
	return Signed{Problem: fmt.Sprintf("it is signed by SSH key %s, which the configuration does not name", print)}
}

func (r *Keyring) checkPGP(payload, armored []byte) Signed {
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil || block.Type != openpgp.SignatureType {
		return Signed{Problem: "its OpenPGP signature cannot be read"}
	}
	body := new(bytes.Buffer)
	if _, err := body.ReadFrom(block.Body); err != nil {
		return Signed{Problem: "its OpenPGP signature cannot be read: " + oneLine(err.Error(), 200)}
	}
	c := r.pgpConfig()
	ids := issuers(body.Bytes())
	for i := range r.keys {
		p := &r.keys[i]
		if p.pgp == nil || !p.made(ids) {
			continue
		}
		s := Signed{Key: p.Name, Owner: p.Owner, Fingerprint: p.fingerprint(), Problem: r.unusable(p)}
		sig, signer, err := openpgp.VerifyDetachedSignature(p.pgp, bytes.NewReader(payload), bytes.NewReader(body.Bytes()), c)
		switch {
		case s.Problem != "":
		case err != nil || signer == nil || sig == nil || sig.IssuerKeyId == nil:
			s.Problem = fmt.Sprintf("its signature by key %s is not valid: %s", p.Name, oneLine(fmt.Sprint(err), 200))
		default:
			// The library asks whether the key was good when the signature says that it
			// was made, a date that its maker chose; what counts is today.
			if _, ok := signer.SigningKeyById(r.now(), *sig.IssuerKeyId, c); !ok {
				s.Problem = fmt.Sprintf("the part of key %s that signed it is expired or revoked", p.Name)
			}
		}
		return s
	}
	return Signed{Problem: fmt.Sprintf("it is signed by OpenPGP key %s, which the configuration does not name", hexIDs(ids))}
}

// issuers lists the IDs of the keys that a signature says it was made by.
func issuers(body []byte) (ids []uint64) {
	packets := packet.NewReader(bytes.NewReader(body))
	for {
		p, err := packets.Next()
		if err != nil {
			return ids
		}
		if s, ok := p.(*packet.Signature); ok && s.IssuerKeyId != nil {
			ids = append(ids, *s.IssuerKeyId)
		}
	}
}

func (p *publicKey) made(ids []uint64) bool {
	for _, id := range ids {
		if len(p.pgp.EntitiesById(id)) > 0 {
			return true
		}
	}
	return false
}

func hexIDs(ids []uint64) string {
	words := make([]string, 0, len(ids))
	for _, id := range ids {
		words = append(words, fmt.Sprintf("%016X", id))
	}
	if len(words) == 0 {
		return "(none)"
	}
	return strings.Join(words[:min(len(words), 3)], ", ")
}

// splitCommit separates a commit's signature from what it is over, as Git
// does. A commit whose head is not plain is refused: two readers must not see
// two different commits in what was signed once.
func splitCommit(raw []byte) (payload, signature []byte, err error) {
	head, _, whole := bytes.Cut(raw, []byte("\n\n"))
	if !whole {
		head = bytes.TrimSuffix(raw, []byte("\n"))
	}
	seen := map[string]int{}
	last, inSignature := "", false
	for _, line := range bytes.SplitAfter(raw[:min(len(head)+1, len(raw))], []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		text, more := bytes.CutPrefix(line, []byte(" "))
		if !more {
			name, value, _ := bytes.Cut(line, []byte(" "))
			word := string(bytes.TrimSuffix(name, []byte("\n")))
			if seen[word]++; strange(word, last, seen) {
				return nil, nil, fmt.Errorf("its head is not a plain one (field %q)", oneLine(word, 40))
			}
			last, text = word, value
			inSignature = word == "gpgsig" || word == "gpgsig-sha256"
		}
		switch {
		case !inSignature:
			payload = append(payload, line...)
		case last == "gpgsig":
			signature = append(signature, text...)
		}
	}
	return append(payload, raw[min(len(head)+1, len(raw)):]...), signature, nil
}

// order is how a commit begins; each of these fields stands where Git writes it.
var order = map[string][]string{"tree": {""}, "parent": {"tree", "parent"}, "author": {"tree", "parent"}, "committer": {"author"}}

func strange(word, last string, seen map[string]int) bool {
	if after, fixed := order[word]; fixed {
		for _, w := range after {
			if w == last {
				return seen[word] > 1 && word != "parent"
			}
		}
		return true
	}
	return seen["committer"] == 0 || word == "gpgsig" && seen[word] > 1
}

// SignSSH makes an armored SSH signature over payload, as ssh-keygen -Y sign
// does: with namespace GitNamespace it is what Git puts into a commit.
func SignSSH(key ssh.Signer, namespace string, payload []byte) ([]byte, error) {
	if err := sshStrength(key.PublicKey()); err != nil {
		return nil, fail(ErrMisconfigured, nil, "cannot sign with this key: %v", err)
	}
	sig, err := sshsig.Sign(bytes.NewReader(payload), key, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	return sshsig.Armor(sig), nil
}

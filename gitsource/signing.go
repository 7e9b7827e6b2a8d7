package gitsource

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"golang.org/x/crypto/ssh"

	"github.com/tranship/tranship/spec"
)

// sealer signs the commits of a ledger with the key of a secret: entry identity
// holds an SSH private key, or entry openPGP an armored OpenPGP one, and entry
// password what it is locked with. The secret is read before every commit, so
// that a new key is used at once. Only the holder of the ledger's turn uses it.
type sealer struct {
	ref     *spec.SecretRef
	secrets SecretReader
	log     *slog.Logger

	// signers are the keys of ledger.signers, where commits are signed here as well;
	// nil where nobody demands a signature.
	signers *Keyring

	read [sha256.Size]byte // of the entries that sign was made from
	sign func(payload []byte) ([]byte, error)
}

func newSealer(c Config) (*sealer, error) {
	ref := c.Spec.Ledger.SigningKey
	if ref != nil && c.Secrets == nil {
		return nil, fail(ErrMisconfigured, nil, "cannot sign the ledger's commits: ledger.signingKey is set, and secrets cannot be read here")
	}
	s := &sealer{ref: ref, secrets: c.Secrets, log: c.log()}
	var err error
	if ref != nil && len(c.Spec.Ledger.Signers) > 0 {
		if s.signers, err = NewKeyring(c.Spec.Ledger.Signers, nil); err != nil {
			return nil, fail(ErrMisconfigured, err, "cannot use ledger.signers")
		}
	}
	if s.signers == nil && len(c.Spec.Trust.Policies) > 0 {
		s.log.Warn("approvals are bound to signatures, and the ledger is not: whoever can push to it can write an approval into it; set ledger.signingKey and ledger.signers")
	}
	return s, nil
}

// marks reads the marks of a commit. Anybody can write a daemon's trailers: where
// signers are known, a commit that none of them has signed is nobody's of ours.
func (l *Ledger) marks(c *object.Commit) (marks, error) {
	m := readMarks(c.Message)
	if !m.ours || l.sealer.signers == nil {
		return m, nil
	}
	raw, err := l.store.raw(plumbing.CommitObject, c.Hash)
	m.ours = err == nil && l.sealer.signers.Commit(raw).Counts()
	return m, err
}

// refresh reads the key. One that was read before stays where its secret cannot
// be read: a commit never goes out unsigned, and an outage of the place where
// secrets are must not stop a run on its way.
func (s *sealer) refresh(ctx context.Context) error {
	if s.ref == nil {
		return nil
	}
	entries, err := s.secrets(ctx, s.ref.From)
	if err != nil {
		if s.sign != nil {
			s.log.Warn("the key that signs the ledger could not be read again; the one before is used", "secret", s.ref.From, "error", err)
			return nil
		}
		return fail(ErrMisconfigured, err, "cannot sign the ledger's commits: secret %q of ledger.signingKey cannot be read; create it with entry identity (SSH) or openPGP", s.ref.From)
	}
	identity, pgp, password := entries["identity"], entries["openPGP"], bytes.TrimRight(entries["password"], "\r\n")
	sum := sha256.Sum256(bytes.Join([][]byte{identity, pgp, password}, []byte{0}))
	if s.sign != nil && sum == s.read {
		return nil
	}
	sign, err := signWith(identity, pgp, password)
	if err != nil {
		return fail(ErrMisconfigured, nil, "cannot sign the ledger's commits with secret %q of ledger.signingKey: %v", s.ref.From, err)
	}
	s.read, s.sign = sum, sign
	return nil
}

// signWith makes a signing function of a key. Its errors never quote the key.
func signWith(identity, pgp, password []byte) (func([]byte) ([]byte, error), error) {
	switch {
	case len(identity) > 0 && len(pgp) > 0:
		return nil, errors.New("it has both identity and openPGP; keep one of them")
	case len(identity) > 0:
		return signSSH(identity, password)
	case len(pgp) > 0:
		return signPGP(pgp, password)
	}
	return nil, errors.New("it has neither entry identity (an SSH private key) nor openPGP (an armored private key)")
}

func signSSH(identity, password []byte) (func([]byte) ([]byte, error), error) {
	key, err := ssh.ParsePrivateKey(append(bytes.TrimSpace(identity), '\n'))
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		if len(password) == 0 {
			return nil, errors.New("entry identity is locked with a passphrase; put it into entry password")
		}
		key, err = ssh.ParsePrivateKeyWithPassphrase(append(bytes.TrimSpace(identity), '\n'), password)
	}
	if err != nil {
		return nil, errors.New("entry identity is no SSH private key, or entry password does not open it; make one with ssh-keygen -t ed25519")
	}
	if err := sshStrength(key.PublicKey()); err != nil {
		return nil, err
	}
	return func(payload []byte) ([]byte, error) { return SignSSH(key, GitNamespace, payload) }, nil
}

func signPGP(armored, password []byte) (func([]byte) ([]byte, error), error) {
	list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(armored))
	if err != nil || len(list) != 1 || list[0].PrivateKey == nil {
		return nil, errors.New("entry openPGP is not one armored private key, as `gpg --armor --export-secret-keys KEY` prints it")
	}
	e := list[0]
	if err := pgpStrength(e); err != nil {
		return nil, err
	}
	if e.PrivateKey.Encrypted {
		if len(password) == 0 {
			return nil, errors.New("entry openPGP is locked with a passphrase; put it into entry password")
		}
		if e.DecryptPrivateKeys(password) != nil {
			return nil, errors.New("entry password does not open the key in entry openPGP")
		}
	}
	return func(payload []byte) ([]byte, error) {
		var b strings.Builder
		if err := openpgp.ArmoredDetachSign(&b, []*openpgp.Entity{e}, bytes.NewReader(payload), nil); err != nil {
			return nil, errors.New("the key in entry openPGP cannot sign: it may be expired, revoked or made for encryption only")
		}
		return []byte(b.String()), nil
	}, nil
}

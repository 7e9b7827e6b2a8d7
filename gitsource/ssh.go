package gitsource

import (
	"bufio"
	"bytes"
	"context"
	curve "crypto/ed25519" // a test of this package has the name
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/fluxcd/pkg/ssh/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"github.com/tranship/tranship/spec"
)

const minRSA = 3072 // bits of our key

// overSSH runs Git's services on an SSH server. Every exchange is a connection
// of its own, with what the secret holds then.
type overSSH struct {
	secretOf
	to spec.SSH
}

func (c *Config) overSSH(repo spec.Repository, to spec.SSH) (transport, error) {
	switch {
	case repo.Credentials == nil:
		return nil, fail(ErrMisconfigured, nil, "cannot use %s: SSH needs a key; set credentials to a secret with identity and known_hosts", to)
	case repo.Proxy != nil || repo.CABundle != "":
		return nil, fail(ErrMisconfigured, nil, "cannot use %s: proxy and caBundle are for https only; remove them", to)
	}
	return &overSSH{secretOf{url: to.String(), creds: repo.Credentials, secrets: c.Secrets}, to}, nil
}

// do implements transport.
func (s *overSSH) do(ctx context.Context, c call) (io.ReadCloser, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	x := &sshExchange{ctx: ctx, client: client}
	x.free = context.AfterFunc(ctx, func() { _ = client.Close() })
	if err := s.run(x, c); err != nil {
		_ = x.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return x, nil
}

// run starts the service and leaves in x what it says to the call's body.
func (s *overSSH) run(x *sshExchange, c call) error {
	session, err := x.client.NewSession()
	if err != nil {
		return err
	}
	if c.v2 {
		_ = session.Setenv("GIT_PROTOCOL", "version=2") // a server that refuses it speaks version 0
	}
	in, err := session.StdinPipe()
	if err != nil {
		return err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	said := &saying{}
	session.Stderr = said
	if err := session.Start(c.service + " " + quote(s.to.Path)); err != nil {
		return err
	}
	buffered := bufio.NewReader(out)
	head, err := advertisement(buffered)
	if err != nil {
		_ = session.Wait() // so that everything it says has arrived
		return s.refused(c, err, said.String())
	}
	if c.body == nil {
		x.out = bytes.NewReader(head)
		_, _ = io.WriteString(in, "0000") // wants nothing; the answer is here already
		return nil
	}
	if _, err := in.Write(c.body); err != nil {
		return err
	}
	x.out = buffered
	return in.Close()
}

// advertisement reads what a service says first, up to its flush packet.
func advertisement(r io.Reader) ([]byte, error) {
	var all bytes.Buffer
	for all.Len() < maxAdvertised {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(string(size[:]), 16, 16)
		if err != nil || n > 0 && n < 4 {
			return nil, fmt.Errorf("%q is not Git's protocol", size)
		}
		all.Write(size[:])
		if n == 0 {
			return all.Bytes(), nil
		}
		from := all.Len()
		if _, err := io.CopyN(&all, r, int64(n)-4); err != nil {
			return nil, err
		}
		if line := all.Bytes()[from:]; bytes.HasPrefix(line, []byte("ERR ")) {
			return nil, errors.New(string(line[4:]))
		}
	}
	return nil, fail(ErrTooBig, nil, "the reference list is larger than this release accepts; use a smaller repository")
}

// refusals tell from a server's words what is wrong: SSH has no status codes.
var refusals = []struct {
	word string
	kind error
	next string
}{
	{"not found", ErrNotFound, "correct the url, or give the key access (many servers hide what it may not see)"},
	{"could not be found", ErrNotFound, "correct the url, or give the key access"},
	{"does not exist", ErrNotFound, "correct the url, or give the key access"},
	{"not appear to be a git repository", ErrNotFound, "correct the url"},
	{"denied", ErrUnauthorized, "give the key's account access"},
	{"read only", ErrUnauthorized, "give the key write access"},
	{"read-only", ErrUnauthorized, "give the key write access"},
	{"not allowed", ErrUnauthorized, "give the key's account access"},
	{"not authorized", ErrUnauthorized, "give the key's account access"},
}

func (s *overSSH) refused(c call, err error, said string) error {
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	words := strings.TrimSpace(said)
	if words == "" && !errors.Is(err, io.EOF) {
		words = err.Error()
	}
	text := "the server gives no reason"
	if words != "" {
		text = "the server says: " + oneLine(words, 300)
	}
	for _, r := range refusals {
		if strings.Contains(strings.ToLower(words), r.word) {
			return fail(r.kind, nil, "cannot run %s for %s (%s); %s", c.service, s.url, text, r.next)
		}
	}
	return fail(ErrUnreachable, nil, "cannot run %s for %s (%s); check that the url is a Git repository's, or try later", c.service, s.url, text)
}

// connect returns a connection on which both sides have shown who they are.
func (s *overSSH) connect(ctx context.Context) (*ssh.Client, error) {
	entries, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	signer, err := s.identity(entries)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(s.to.Host, s.to.Port)
	check, kinds, err := s.hostKeys(address, entries["known_hosts"])
	if err != nil {
		return nil, err
	}
	var untrusted error
	cfg := &ssh.ClientConfig{
		User: s.to.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: kinds,
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			untrusted = check(host, remote, key)
			return untrusted
		},
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	free := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer free()
	c, channels, requests, err := ssh.NewClientConn(conn, address, cfg)
	if err == nil {
		return ssh.NewClient(c, channels, requests), nil
	}
	_ = conn.Close()
	var none *ssh.AlgorithmNegotiationError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case untrusted != nil:
		return nil, fail(ErrUntrusted, nil, "cannot trust %s: its host key is not the one in known_hosts of secret %q; ask its administrator, and correct known_hosts only if the key was changed on purpose", s.url, s.creds.From)
	case errors.As(err, &none) && none.What == "host key":
		return nil, fail(ErrUntrusted, nil, "cannot trust %s: it has no host key of the kinds that known_hosts of secret %q names; add its line as ssh-keyscan prints it, and compare it with what its administrator publishes", s.url, s.creds.From)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return nil, fail(ErrUnauthorized, nil, "cannot read %s: the server refused the key of secret %q for user %s; add its public key there", s.url, s.creds.From, s.to.User)
	}
	return nil, err
}

// hostKeys is the check by known_hosts, with the algorithms of the keys that
// it names for this host: a server with several keys must show one of those.
func (s *overSSH) hostKeys(address string, known []byte) (ssh.HostKeyCallback, []string, error) {
	check, _, err := knownhosts.New(known)
	if err != nil {
		return nil, nil, fail(ErrMisconfigured, err, "cannot use known_hosts of secret %q for %s; it must have the form of OpenSSH's file", s.creds.From, s.url)
	}
	nobody, err := ssh.NewPublicKey(curve.PublicKey(make([]byte, curve.PublicKeySize)))
	if err != nil {
		return nil, nil, err
	}
	var lines *xknownhosts.KeyError
	if !errors.As(check(address, &net.TCPAddr{}, nobody), &lines) || len(lines.Want) == 0 {
		return nil, nil, fail(ErrMisconfigured, nil, "cannot trust %s: known_hosts of secret %q has no line for %s; add the one that the server's administrator publishes", s.url, s.creds.From, xknownhosts.Normalize(address))
	}
	var kinds []string
	for _, line := range lines.Want {
		if kind := line.Key.Type(); kind == ssh.KeyAlgoRSA {
			kinds = append(kinds, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256) // never with SHA-1
		} else {
			kinds = append(kinds, kind)
		}
	}
	return check, kinds, nil
}

// identity is our key. A key in the reference names its entry.
func (s *overSSH) identity(entries map[string][]byte) (ssh.Signer, error) {
	entry := s.creds.Key
	if entry == "" {
		entry = "identity"
	}
	misuse := func(cause error, what string) error {
		return fail(ErrMisconfigured, cause, "cannot use entry %s of secret %q for %s: %s", entry, s.creds.From, s.url, what)
	}
	pem := entries[entry]
	if len(bytes.TrimSpace(pem)) == 0 {
		return nil, misuse(nil, "it is missing; put a private key there")
	}
	key, err := ssh.ParseRawPrivateKey(pem)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		phrase := text(entries, "password")
		if phrase == "" {
			return nil, misuse(nil, "the key is encrypted; add its passphrase as entry password")
		}
		if key, err = ssh.ParseRawPrivateKeyWithPassphrase(pem, []byte(phrase)); err != nil {
			return nil, misuse(nil, "entry password does not open it; correct the passphrase")
		}
	}
	if err != nil {
		return nil, misuse(nil, "it is not a private key in PEM or OpenSSH form")
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, misuse(err, "use an ed25519 key")
	}
	switch k := key.(type) {
	case *curve.PrivateKey, curve.PrivateKey:
		return signer, nil
	case *rsa.PrivateKey:
		if k.N.BitLen() < minRSA {
			return nil, misuse(nil, fmt.Sprintf("an RSA key must have %d bits or more, and this one has %d; make an ed25519 key", minRSA, k.N.BitLen()))
		}
		many, ok := signer.(ssh.AlgorithmSigner)
		if !ok {
			return nil, misuse(nil, "use an ed25519 key")
		}
		return ssh.NewSignerWithAlgorithms(many, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
	}
	return nil, misuse(nil, "only ed25519 and RSA keys are used; make an ed25519 key")
}

// quote makes one word of a path for the server's shell.
func quote(path string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(path) + "'"
}

// sshExchange is an answer; closing it ends the connection.
type sshExchange struct {
	ctx    context.Context
	client *ssh.Client
	free   func() bool
	out    io.Reader
}

// Read implements io.Reader. An end after the deadline is no end.
func (x *sshExchange) Read(p []byte) (int, error) {
	n, err := x.out.Read(p)
	if err != nil && x.ctx.Err() != nil {
		err = x.ctx.Err()
	}
	return n, err
}

// Close implements io.Closer.
func (x *sshExchange) Close() error {
	x.free()
	return x.client.Close()
}

// saying keeps the beginning of what a service says to people.
type saying struct {
	mu   sync.Mutex
	kept []byte
}

// Write implements io.Writer.
func (s *saying) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, p[:min(len(p), 4096-len(s.kept))]...)
	return len(p), nil
}

func (s *saying) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.kept)
}

package engine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The names in the certificates of the two ends of a direct transfer. They are no addresses: whatever
// way leads to the receiver, it must be able to prove that it is the receiver of this run.
const (
	receiverName = "receiver.direct.tranship.dev"
	senderName   = "sender.direct.tranship.dev"
	// directProtocol is negotiated in the handshake; another version is another name.
	directProtocol = "tranship-direct/1"
)

// The files of an Identity, in a directory or as keys of a Secret.
const (
	IdentityCA          = "ca.crt"
	IdentityCertificate = "tls.crt"
	IdentityKey         = "tls.key"
)

// Identity is what one end of a direct transfer proves itself with: PEM texts by file name.
type Identity map[string][]byte

// NewIdentities makes the two ends of a transfer known to each other and to nobody else: an authority
// signs one certificate for each end and is then forgotten, so that no third one can ever be made.
func NewIdentities(now time.Time, valid time.Duration) (receiver, sender Identity, err error) {
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tranship direct transfer"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(valid), // clocks of clusters differ
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, fmt.Errorf("cannot read the certificate just made: %w", err)
	}
	if receiver, err = newIdentity(ca, key, receiverName, x509.ExtKeyUsageServerAuth); err != nil {
		return nil, nil, err
	}
	sender, err = newIdentity(ca, key, senderName, x509.ExtKeyUsageClientAuth)
	return receiver, sender, err
}

func newIdentity(ca *x509.Certificate, caKey *ecdsa.PrivateKey, name string, use x509.ExtKeyUsage) (Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("cannot make a serial number: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use},
	}, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	return Identity{
		IdentityCA:          pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}),
		IdentityCertificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		IdentityKey:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
	}, nil
}

// directTLS reads an identity from its directory and makes the configuration of one end. Both ends
// accept TLS 1.3 only, and of the run's authority only the one name that belongs to the other end.
func directTLS(dir string, receiving bool) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(dir, IdentityCA))
	if err != nil {
		return nil, fail(ReasonCredentialsUnreadable, err, "cannot read the authority of the direct transfer")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, IdentityCertificate), filepath.Join(dir, IdentityKey))
	if err != nil {
		return nil, fail(ReasonCredentialsUnreadable, err, "cannot read the certificate of the direct transfer")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fail(ReasonCredentialsUnreadable, nil, "%s/%s holds no PEM certificate", dir, IdentityCA)
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{directProtocol},
		SessionTicketsDisabled: true,
	}
	if !receiving {
		c.RootCAs, c.ServerName = roots, receiverName
		return c, nil
	}
	c.ClientCAs, c.ClientAuth = roots, tls.RequireAndVerifyClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 || !slices.Equal(s.PeerCertificates[0].DNSNames, []string{senderName}) {
			return fmt.Errorf("the certificate is not the sender's")
		}
		return nil
	}
	return c, nil
}

// Package pki makes the certificates of the bed. All of them are thrown away with
// the bed, so nothing is renewed or revoked.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Pair is a certificate with its key.
type Pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	CertPEM []byte
	KeyPEM  []byte
}

// Request says what a certificate is for.
type Request struct {
	Name   string
	Groups []string
	Hosts  []string // names and addresses of a server
	Client bool
	Server bool
}

// NewCA makes an authority.
func NewCA(name string) (*Pair, error) {
	t := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	return sign(t, nil)
}

// Issue makes a certificate signed by this authority.
func (p *Pair) Issue(r Request) (*Pair, error) {
	t := &x509.Certificate{
		Subject:  pkix.Name{CommonName: r.Name, Organization: r.Groups},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	if r.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return sign(t, p)
}

func sign(t *x509.Certificate, ca *Pair) (*Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key for %s: %w", t.Subject.CommonName, err)
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, fmt.Errorf("cannot make a serial number: %w", err)
	}
	t.BasicConstraintsValid = true
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(2, 0, 0)
	parent, signer := t, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the certificate of %s: %w", t.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate of %s: %w", t.Subject.CommonName, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the key of %s: %w", t.Subject.CommonName, err)
	}
	return &Pair{
		cert: cert, key: key,
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// Save writes dir/name.crt and dir/name.key, readable by root only.
func (p *Pair) Save(dir, name string) error {
	if err := os.WriteFile(filepath.Join(dir, name+".crt"), p.CertPEM, 0o600); err != nil {
		return fmt.Errorf("cannot save the certificate: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".key"), p.KeyPEM, 0o600); err != nil {
		return fmt.Errorf("cannot save the key: %w", err)
	}
	return nil
}

// Kubeconfig lets the holder of p into the cluster at server, whose authority is ca.
func Kubeconfig(cluster, server string, ca, p *Pair) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster: {server: %[2]q, certificate-authority-data: %[3]s}
users:
- name: %[1]s
  user: {client-certificate-data: %[4]s, client-key-data: %[5]s}
contexts:
- name: %[1]s
  context: {cluster: %[1]s, user: %[1]s}
current-context: %[1]s
`, cluster, server, b64(ca.CertPEM), b64(p.CertPEM), b64(p.KeyPEM))
}

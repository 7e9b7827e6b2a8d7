package kube

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/tranship/tranship/spec"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Reasons why a cluster cannot be used; the words are mig-controller's.
const (
	ReasonInvalidCluster       = "InvalidCluster"
	ReasonInvalidSecretRef     = "InvalidSaSecretRef"
	ReasonInvalidToken         = "InvalidSaToken"
	ReasonTokenNotPrivileged   = "SaTokenNotPrivileged"
	ReasonTestConnectFailed    = "TestConnectFailed"
	ReasonUntrustedCertificate = "UntrustedCertificate"
)

// AccessError says why a cluster cannot be used and what to do about it. Its
// text never holds a secret value.
type AccessError struct {
	Reason  string
	Message string
	Err     error
}

// Error is the sentence.
func (e *AccessError) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *AccessError) Unwrap() error { return e.Err }

func accessError(reason string, cause error, format string, args ...any) *AccessError {
	return &AccessError{Reason: reason, Message: fmt.Sprintf(format, args...), Err: cause}
}

// Explain turns the error of a request to the cluster of doc into a sentence.
// Errors that say nothing about access come back as they are.
func Explain(doc *spec.Cluster, host string, err error) error {
	if err == nil {
		return nil
	}
	if a, ok := IsAccessError(err); ok {
		return a
	}
	name := doc.Metadata.Name
	switch {
	case apierrors.IsUnauthorized(err):
		return accessError(ReasonInvalidToken, err, "cluster %s (%s) refuses %s: it is wrong or has expired; put a new one there, as docs/install.md makes one", name, host, credential(doc))
	case apierrors.IsForbidden(err):
		return accessError(ReasonTokenNotPrivileged, err, "cluster %s (%s): the account of %s may not do this: %s; give it the right, docs/permissions.md says what for", name, host, credential(doc), apiMessage(err))
	}
	if a := explainTLS(name, host, err); a != nil {
		return a
	}
	var netErr net.Error
	var urlErr *url.Error
	if errors.As(err, &netErr) || errors.As(err, &urlErr) {
		return accessError(ReasonTestConnectFailed, err, "cluster %s cannot be reached at %s: %s; check the address, the network and any proxy between", name, host, cause(err))
	}
	return err
}

// TLSProblem returns the sentence about the certificate that made a TLS
// connection fail, or "". What says in its own words whose certificate it is
// and where the CA belongs ("spec.caBundle of Cluster old").
func TLSProblem(err error, what, host, field string) string {
	var verification *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		cert := unknown.Cert
		if cert == nil && errors.As(err, &verification) && len(verification.UnverifiedCertificates) > 0 {
			cert = verification.UnverifiedCertificates[0]
		}
		issuer := "an unknown authority"
		if cert != nil {
			issuer = fmt.Sprintf("%q", cert.Issuer.String())
		}
		return fmt.Sprintf("%s at %s shows a certificate issued by %s, which is not trusted; put that CA's certificate into %s: `openssl s_client -connect %s -showcerts </dev/null` prints the chain, its last certificate is the one (compare it with the owner's before trusting it)", what, host, issuer, field, hostPort(host))
	case errors.As(err, &name):
		return fmt.Sprintf("%s at %s shows a certificate for other names: %s; use one of its names as address", what, host, name.Error())
	case errors.As(err, &invalid):
		return fmt.Sprintf("%s at %s shows an unusable certificate: %s", what, host, invalid.Error())
	case errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("%s at %s does not speak TLS; use http:// or the TLS port", what, host)
	}
	return ""
}

func explainTLS(name, host string, err error) *AccessError {
	if m := TLSProblem(err, "cluster "+name, host, "spec.caBundle of Cluster "+name); m != "" {
		return accessError(ReasonUntrustedCertificate, err, "%s", m)
	}
	return nil
}

func credential(doc *spec.Cluster) string {
	switch {
	case doc.Spec.Token != nil:
		return "the token of " + refString(*doc.Spec.Token, "token")
	case doc.Spec.Kubeconfig != nil:
		return "the credentials of " + refString(*doc.Spec.Kubeconfig, "kubeconfig")
	case doc.Spec.InCluster:
		return "the daemon's own ServiceAccount token"
	}
	return "an anonymous request (spec.token is not set)"
}

// apiMessage is the API server's own sentence.
func apiMessage(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Message != "" {
		return status.Status().Message
	}
	return err.Error()
}

// cause is the innermost part of a network error, without the URL.
func cause(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err.Error()
	}
	return err.Error()
}

func hostPort(host string) string {
	u, err := url.Parse(host)
	if err != nil || u.Host == "" {
		return host
	}
	if u.Port() == "" {
		return u.Hostname() + ":443"
	}
	return u.Host
}

package gitsource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"unicode"

	"github.com/tranship/tranship/reconciler"
)

// Kinds of failure, to be asked for with errors.Is.
var (
	// ErrUnauthorized: the server refused the credentials (401, 403).
	ErrUnauthorized = errors.New("credentials refused")
	// ErrNotFound: the server knows no such repository, or hides it from us.
	ErrNotFound = errors.New("repository not found")
	// ErrBranchMissing: the repository has no such branch.
	ErrBranchMissing = errors.New("branch not found")
	// ErrUntrusted: the server's certificate cannot be verified.
	ErrUntrusted = errors.New("certificate not trusted")
	// ErrUnreachable: no usable answer within the time given; may pass.
	ErrUnreachable = errors.New("Git server unreachable")
	// ErrMisconfigured: the configuration cannot work; only an edit helps.
	ErrMisconfigured = errors.New("configuration not usable")
	// ErrRejected: the server received a push and did not accept it.
	ErrRejected = errors.New("push rejected")
	// ErrTooBig: a limit on what is read from Git is exceeded.
	ErrTooBig = errors.New("repository exceeds a limit")
	// ErrBadTree: a folder of the repository is one that git fsck refuses.
	ErrBadTree = errors.New("repository has a folder that is not sound")
	// ErrFormat: the ledger was written in a newer format than this release knows.
	ErrFormat = errors.New("ledger has a newer format")
	// ErrHeld: another daemon holds this ledger and was seen lately.
	ErrHeld = errors.New("another daemon holds the ledger")
	// ErrLedgerRewritten: the ledger's tip does not descend from the last one
	// that this daemon wrote or accepted (safety property 12).
	ErrLedgerRewritten = fmt.Errorf("ledger rewritten: %w", reconciler.ErrLedgerChanged)
	// ErrLedgerEdited: somebody else than a daemon changed records (safety property 12).
	ErrLedgerEdited = fmt.Errorf("ledger edited by hand: %w", reconciler.ErrLedgerChanged)
	// ErrNotAcquired: Record, Push or Check before Acquire.
	ErrNotAcquired = errors.New("epoch not acquired")
)

// Error is a failure with a kind and a sentence that says what to do next. It
// never holds a secret value.
type Error struct {
	Kind  error  // one of the Err values of this package
	Text  string // what failed and what to do next
	Cause error  // may be nil
}

// Error returns the sentence, with the cause behind it.
func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Text
	}
	return e.Text + ": " + oneLine(e.Cause.Error(), 500)
}

// Unwrap makes errors.Is and errors.As see both the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

func fail(kind, cause error, format string, args ...any) error {
	return &Error{Kind: kind, Cause: cause, Text: fmt.Sprintf(format, args...)}
}

// explain turns a failed HTTP exchange into a sentence. where is the
// repository's URL, which holds no credentials (newRemote refuses them).
func explain(err error, where string) error {
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		issuer := "an unknown authority"
		if unknown.Cert != nil {
			issuer = fmt.Sprintf("%q", unknown.Cert.Issuer.String())
		}
		return fail(ErrUntrusted, nil, "cannot read %s: its certificate is issued by %s, which is not trusted here; put that authority's PEM certificate into caBundle", where, issuer)
	case errors.As(err, &host):
		return fail(ErrUntrusted, stripURL(err), "cannot read %s: its certificate is for another host name; correct the url", where)
	case errors.As(err, &invalid), errors.As(err, &verify):
		return fail(ErrUntrusted, stripURL(err), "cannot read %s: its certificate is not valid; renew it on the server", where)
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return fail(ErrUnreachable, stripURL(err), "cannot reach %s in time; check the server and the network, or raise timeout", where)
	}
	return fail(ErrUnreachable, stripURL(err), "cannot reach %s; check the server and the network", where)
}

// stripURL drops the request line that net/http puts in front of a cause: the
// sentence has the URL already.
func stripURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// oneLine makes foreign text safe for a log line, a trailer or a sentence: no
// control characters, at most limit bytes.
func oneLine(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	s = strings.TrimSpace(s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

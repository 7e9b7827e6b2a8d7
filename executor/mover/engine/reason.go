package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/minio/minio-go/v7"
	"golang.org/x/sys/unix"
)

// Reason says in one CamelCase word why a run failed.
type Reason string

// The reasons of a failed run.
const (
	ReasonBadRequest            Reason = "BadRequest"
	ReasonCredentialsUnreadable Reason = "CredentialsUnreadable"
	ReasonRepositoryUnreachable Reason = "RepositoryUnreachable"
	ReasonUntrustedCertificate  Reason = "UntrustedCertificate"
	ReasonBucketMissing         Reason = "BucketMissing"
	ReasonAccessDenied          Reason = "AccessDenied"
	ReasonWrongPassword         Reason = "WrongPassword"
	ReasonRepositoryMissing     Reason = "RepositoryMissing"
	ReasonRepositoryDamaged     Reason = "RepositoryDamaged"
	ReasonRepositoryFailed      Reason = "RepositoryFailed"
	ReasonCacheFailed           Reason = "CacheFailed"
	ReasonSnapshotMissing       Reason = "SnapshotMissing"
	ReasonSnapshotUnknown       Reason = "SnapshotUnknown"
	ReasonNoSpace               Reason = "NoSpace"
	ReasonReadFailed            Reason = "ReadFailed"
	ReasonWriteFailed           Reason = "WriteFailed"
	ReasonSourceChanged         Reason = "SourceChanged"
	ReasonCancelled             Reason = "Cancelled"
	ReasonStalled               Reason = "CopyStalled"
	// ReasonContentElsewhere: a file's bytes went straight to a target, and this target lacks them.
	ReasonContentElsewhere  Reason = "ContentElsewhere"
	ReasonDirectUnreachable Reason = "DirectUnreachable"
	ReasonDirectUntrusted   Reason = "DirectUntrusted"
	ReasonDirectBroken      Reason = "DirectBroken"
	ReasonDirectTooLarge    Reason = "DirectTooLarge"
)

// next says what a person can do about a reason; "" where the message says it all.
func (r Reason) next() string {
	switch r {
	case ReasonCredentialsUnreadable:
		return "check the Secret with the store's credentials"
	case ReasonRepositoryUnreachable:
		return "check the endpoint and the network policy; the run can be repeated"
	case ReasonUntrustedCertificate:
		return "give the store's CA certificate in the repository's caBundle"
	case ReasonBucketMissing:
		return "create the bucket or correct its name"
	case ReasonAccessDenied:
		return "check the credentials and the bucket's policy: list, get, put and delete under the prefix are needed"
	case ReasonWrongPassword:
		return "give the password with which the repository was created"
	case ReasonRepositoryMissing:
		return "upload a snapshot first"
	case ReasonRepositoryDamaged:
		return "remove the prefix and copy everything anew"
	case ReasonRepositoryFailed:
		return "repeat the run; if it fails again, remove the prefix and copy everything anew"
	case ReasonCacheFailed:
		return "give the mover's pod more room for its cache directory"
	case ReasonSnapshotMissing, ReasonSnapshotUnknown:
		return "take a new snapshot"
	case ReasonNoSpace:
		return "enlarge the target claim and repeat the run"
	case ReasonSourceChanged:
		return "stop what still writes to the volume and repeat the run"
	case ReasonContentElsewhere, ReasonDirectBroken:
		return "repeat the run: it compares by content and sends what is missing"
	case ReasonDirectUnreachable:
		return "let the source's pods reach the target's movers, or write transfer: Repository"
	case ReasonDirectTooLarge:
		return "raise mover.memory, or write transfer: Repository"
	case ReasonDirectUntrusted:
		return "something between the clusters answers in place of the mover: look at the address"
	case ReasonReadFailed, ReasonWriteFailed:
		return "look at the node's and the volume's health and repeat the run"
	}
	return ""
}

// Error is a failure with its reason. Its text holds no secret once Run has returned it.
type Error struct {
	Reason Reason
	// What happened, to which object.
	What string
	Err  error
}

// Error returns what happened and the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.What
	}
	return e.What + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func fail(r Reason, err error, format string, args ...any) *Error {
	return &Error{Reason: r, What: fmt.Sprintf(format, args...), Err: err}
}

// reasonOf finds the reason of an error that passed through other packages.
func reasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ReasonCancelled
	}
	return storeReason(err)
}

// targetFailed wraps an error met while changing the target's entry at rel.
func targetFailed(err error, what, rel string) *Error {
	r := ReasonWriteFailed
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		r = ReasonNoSpace
	}
	return fail(r, err, "cannot %s %q on the target", what, rel)
}

// sourceFailed wraps an error met while reading the source's entry at rel.
func sourceFailed(err error, what, rel string) *Error {
	return fail(ReasonReadFailed, err, "cannot %s %q of the source", what, rel)
}

// storeFailed wraps an error of the repository or the store below it.
func storeFailed(err error, format string, args ...any) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return fail(ReasonCancelled, err, format, args...)
	}
	return fail(storeReason(err), err, format, args...)
}

// errDamaged marks an object of the repository that contradicts itself.
var errDamaged = errors.New("the repository is damaged")

// damaged judges an error met while reading what the repository should hold: what is no failure of
// the network, of the store or of our own cache is the content itself, which its cipher refuses.
func damaged(ctx context.Context, err error) error {
	if ctx.Err() != nil || storeReason(err) != ReasonRepositoryFailed {
		return err
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// undecryptable is how the library speaks of what its cipher does not authenticate; it keeps no error
// that could be asked instead.
const undecryptable = "unable to decrypt content"

func storeReason(err error) Reason {
	switch {
	case untrusted(err):
		return ReasonUntrustedCertificate
	case errors.Is(err, repo.ErrInvalidPassword):
		return ReasonWrongPassword
	case errors.Is(err, snapshot.ErrSnapshotNotFound):
		return ReasonSnapshotMissing
	case errors.Is(err, errDamaged), err != nil && strings.Contains(err.Error(), undecryptable), errors.Is(err, object.ErrObjectNotFound), errors.Is(err, blob.ErrBlobNotFound):
		return ReasonRepositoryDamaged
	case errors.Is(err, blob.ErrInvalidCredentials):
		return ReasonAccessDenied
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EROFS):
		return ReasonCacheFailed
	}
	var (
		resp    minio.ErrorResponse
		network net.Error
	)
	switch {
	case errors.As(err, &resp) && resp.Code == minio.NoSuchBucket:
		return ReasonBucketMissing
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden, refusedKey(resp.Code):
		return ReasonAccessDenied
	case resp.StatusCode != 0, errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return ReasonRepositoryUnreachable
	}
	return ReasonRepositoryFailed
}

// refusedKey knows the codes for credentials that are no good; stores disagree about their status.
func refusedKey(code string) bool {
	switch code {
	case minio.InvalidAccessKeyID, minio.SignatureDoesNotMatch, minio.AuthorizationHeaderMalformed,
		"InvalidToken", "ExpiredToken", "XAdminUserNotFound": // the last is versitygw's, with status 404
		return true
	}
	return false
}

func untrusted(err error) bool {
	var (
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
		host     x509.HostnameError
		verify   *tls.CertificateVerificationError
		rootsErr x509.SystemRootsError
	)
	return errors.As(err, &unknown) || errors.As(err, &invalid) || errors.As(err, &host) ||
		errors.As(err, &verify) || errors.As(err, &rootsErr)
}

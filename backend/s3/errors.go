package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/backend"
)

// A failure is what a call returns for a request that failed. It wraps what the
// contract names, if anything, and never the error below: that one may wrap
// io.ErrUnexpectedEOF, or the end of somebody else's context.
type failure struct {
	op, name string
	needs    string
	text     string
	is       error // nil: a failure of the store
	denied   bool  // for lack of the permission, and not of good credentials
	passing  bool  // another try may help
	tries    int   // 0: the first one was final
}

func (f *failure) Error() string {
	s := fmt.Sprintf("backend/s3: %s %s: %s", f.op, f.name, f.text)
	if f.tries > 1 {
		s = fmt.Sprintf("backend/s3: %s %s: gave up after %d tries: %s", f.op, f.name, f.tries, f.text)
	}
	if f.is != nil {
		s += ": " + f.is.Error()
	}
	return s
}

func (f *failure) Unwrap() error { return f.is }

// Errors that this package makes itself, for explain to name.
var (
	errCut      = errors.New("the connection ended in the middle of the object")
	errChanged  = errors.New("the object was replaced while it was read")
	errChecksum = errors.New("the bytes that arrived do not match the checksum that the store keeps of them")
	errVanished = errors.New("reading back what a failed try may have put: the object is gone again")

	errNoVersion = errors.New("there is no such version of the object")
	errNoLocks   = errors.New("no locks") // the bucket has none
)

// A lockedError says which lock it is.
type lockedError string

func (e lockedError) Error() string { return string(e) }

// A protocolError is what the service should not say.
type protocolError string

func (e protocolError) Error() string { return string(e) }

// explain turns the error of one request into one for people and programs.
func (b *Bucket) explain(op, name, needs string, err error) *failure {
	f := &failure{op: op, name: name, needs: needs}
	if errors.As(err, &f) { // a request that was part of this call
		return f
	}
	var (
		api     minio.ErrorResponse
		wrong   protocolError
		locked  lockedError
		alien   *foreignError
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		verify  *tls.CertificateVerificationError
	)
	say := func(format string, args ...any) *failure { f.text = fmt.Sprintf(format, args...); return f }
	switch {
	case errors.As(err, &alien):
		if strings.Contains(alien.what, "HTTP request to an HTTPS server") {
			return say("%s speaks TLS, and plain HTTP was asked for: leave out insecure", b.where)
		}
		f.passing = alien.code >= 500
		return say("what answers at %s is not an S3 service: it sent %v. Is there a proxy or a login page on the way, or is the endpoint wrong (a console's address, say)?", b.where, alien)
	case errors.As(err, &api):
		b.explainCode(f, api)
		return f
	case errors.Is(err, errNoVersion):
		f.is = fs.ErrNotExist
		return say("%v", err)
	case errors.Is(err, errNoLocks):
		f.is = errors.ErrUnsupported
		return say("%s", b.noLocks())
	case errors.As(err, &locked):
		f.is = backend.ErrRetained
		return say("%v", locked)
	case errors.As(err, &wrong):
		return say("the service at %s does not keep to the protocol: %v", b.where, wrong)
	case errors.As(err, &unknown):
		return say("TLS: the certificate of %s is signed by an authority that this machine does not trust; give the file of its CA certificate (ca=FILE), or install it: %v", b.where, unknown)
	case errors.As(err, &host):
		return say("TLS: the certificate is for another host than %s (%v); correct the endpoint, or try path-style=1", b.where, host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return say("TLS: the certificate of %s is expired or not yet valid by this machine's clock (%s): %v", b.where, time.Now().UTC().Format(time.RFC3339), invalid)
	case errors.As(err, &verify):
		return say("TLS: the certificate of %s is not accepted: %v", b.where, verify)
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return say("%s does not speak TLS; if plain HTTP, which all on the way can read and change, is all right, ask for it (insecure=1)", b.where)
	case errors.As(err, &alert):
		return say("TLS: %s ended the handshake: %v", b.where, alert)
	case errors.As(err, &dns) && dns.IsNotFound:
		return say("there is no host %s: is the endpoint right (and the bucket's name, where it is part of the host's)?", dns.Name)
	}
	f.passing = true
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return say("%s did not answer in time: %v", b.where, err)
	case errors.Is(err, errCut), errors.Is(err, errChanged), errors.Is(err, errChecksum), errors.Is(err, errVanished):
		return say("%v", err)
	}
	hint := ""
	if b.insecure && !b.reached.Load() {
		// What wants TLS may end the connection without a word.
		hint = " (if it speaks TLS, leave out insecure)"
	}
	return say("no answer from %s: %v%s", b.where, err, hint)
}

// explainCode is explain for an error that the service sent.
func (b *Bucket) explainCode(f *failure, api minio.ErrorResponse) {
	says := fmt.Sprintf("%s (%s", strings.TrimSuffix(api.Message, "."), api.Code)
	if api.RequestID != "" {
		says += ", request " + api.RequestID
	}
	says += ")"
	refused := func(format string, args ...any) {
		f.text = fmt.Sprintf(format, args...) + "; it says: " + says
		f.is = fs.ErrPermission
	}
	switch lockCode(api) {
	case noLockHere:
		f.text, f.is = b.noLocks(), errors.ErrUnsupported
		return
	case lockHolds:
		f.text, f.is = "it is locked; "+b.where+" says: "+says, backend.ErrRetained
		return
	case lockPast:
		f.text, f.is = "the lock would be over already, by the clock of the store", fs.ErrInvalid
		return
	}
	switch api.Code {
	case "NoSuchKey", "NoSuchVersion", "XMinioParentIsObject":
		f.text, f.is = "no such object", fs.ErrNotExist
	case "PreconditionFailed":
		f.text, f.is = "there is such an object", fs.ErrExist
	case "NoSuchBucket":
		f.text = fmt.Sprintf("there is no bucket %s at %s: correct its name or the endpoint, or create it there first", b.name, b.where)
	case "InvalidBucketName":
		f.text = fmt.Sprintf("%s is not a name for a bucket: %s", b.name, says)
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden":
		f.denied = true
		refused("the access key %s may not do this in bucket %s: give it a policy that allows %s on %s* (without s3:ListBucket, what does not exist is refused, too)", b.key, b.name, f.needs, b.prefix)
	case "InvalidAccessKeyId", "InvalidAccessKeyID":
		refused("%s does not know the access key %s: is it for another service, or was it removed?", b.where, b.key)
	case "SignatureDoesNotMatch":
		refused("the secret key does not belong to the access key %s", b.key)
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		refused("the session token that belongs to the access key %s has expired: get new temporary credentials", b.key)
	case "InvalidToken", "InvalidTokenId", "InvalidClientTokenId":
		refused("the session token is not, or no longer, one for the access key %s: get new temporary credentials", b.key)
	case "RequestTimeTooSkewed", "RequestExpired", "RequestNotReadyYet":
		ahead := time.Duration(b.skew.Load()).Round(time.Second)
		word := "ahead of"
		if ahead < 0 {
			word, ahead = "behind", -ahead
		}
		refused("this machine's clock is wrong: the store's is %v %s it; set it right (NTP)", ahead, word)
	case "AuthorizationHeaderMalformed", "AuthorizationQueryParametersError", "InvalidRegion", "PermanentRedirect", "TemporaryRedirect",
		"Redirect", "IllegalLocationConstraintException", "301 Moved Permanently", "307 Temporary Redirect":
		right := "leave the region out to have it looked up"
		if api.Region != "" {
			right = "set region=" + api.Region
			// minio-go has noted the right region, unless one was given.
			f.passing = b.region == "" && api.Region != ""
		}
		f.text = fmt.Sprintf("the bucket %s is not in region %q: %s; %s says: %s", b.name, b.region, right, b.where, says)
	case "NotImplemented", "MethodNotAllowed", "501 Not Implemented":
		f.text, f.is = fmt.Sprintf("%s can't do this; it says: %s", b.where, says), errors.ErrUnsupported
	default:
		f.text = fmt.Sprintf("%s says: %s", b.where, says)
		f.passing = passing(api)
		if !f.passing && api.StatusCode == http.StatusForbidden {
			f.is = fs.ErrPermission
		}
	}
}

// passing reports whether a service that says so may say something else later.
func passing(api minio.ErrorResponse) bool {
	switch api.Code {
	case "RequestTimeout", "IncompleteBody", // the body did not arrive in time, or not whole
		"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest", // or not unchanged
		"Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "TooManyRequests", "SlowDown", "SlowDownRead", "SlowDownWrite",
		"OperationAborted", "ConditionalRequestConflict": // somebody else is at it
		return true
	}
	switch api.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, 499:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
		return false
	}
	return api.StatusCode >= 500 || api.StatusCode == 0
}

// What a service says about locks.
const (
	noLockHere = 1 + iota // the bucket has no object lock
	lockHolds             // a lock keeps this from being done
	lockPast              // a lock that would be over already
)

// lockCode returns one of these, or 0. There are no codes for most of it:
// services say InvalidRequest, AccessDenied, MalformedXML or InvalidArgument,
// and what they mean in their message.
func lockCode(api minio.ErrorResponse) int {
	message := strings.ToLower(api.Message)
	has := func(s string) bool { return strings.Contains(message, s) }
	switch {
	case api.Code == "ObjectLockConfigurationNotFoundError", api.Code == "InvalidBucketState":
		return noLockHere
	case api.StatusCode < 400 || api.StatusCode >= 500:
		return 0
	case has("missing objectlockconfiguration"), has("missing object lock configuration"): // MinIO, Amazon
		return noLockHere
	case has("must be in the future"):
		return lockPast
	case api.Code == "ObjectLocked", has("worm protected"), has("protected by object lock"), has("object is locked"), has("locked by retention"):
		return lockHolds
	}
	return 0
}

func (b *Bucket) noLocks() string {
	return fmt.Sprintf("the bucket %s at %s has no object lock. A bucket gets it when it is created (aws s3api create-bucket --object-lock-enabled-for-bucket, mc mb --with-lock; at Amazon also later): create one with it, and copy over what is here", b.name, b.where)
}

// noVersion reports whether a service says that an object has no such version,
// or that it is the mark of a deletion.
func noVersion(api minio.ErrorResponse) bool {
	switch api.Code {
	case "NoSuchVersion", "NoSuchKey", "MethodNotAllowed":
		return true
	case "InvalidArgument": // an id that can't be one there
		return strings.Contains(strings.ToLower(api.Message), "version id")
	}
	return false
}

// denied reports whether a service says that the credentials may not do this,
// which it says of what is locked, too.
func denied(err error) bool {
	switch minio.ToErrorResponse(err).Code {
	case "AccessDenied", "AllAccessDisabled", "Forbidden", "403 Forbidden":
		return true
	}
	return false
}

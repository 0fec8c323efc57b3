// Package s3 is a store in a bucket of Amazon S3, MinIO or another service that
// speaks their protocol: one S3 object for each object, its key the prefix, a
// slash and the name.
//
// [Open] takes a bucket that exists. A [Bucket] keeps the contract of
// [backend.Backend], as far as the service keeps its own:
//
//   - An object is sent in one PUT, never in parts: put-if-absent is its header
//     If-None-Match, which the completion of a multipart upload would forget. A
//     service that answers that the header is not implemented makes it
//     [errors.ErrUnsupported]; one that ignores it can't be told from here.
//   - The SHA-256 of the bytes is part of the signed request, and their CRC32C
//     is sent along and kept by the service: what arrives changed is refused. A
//     Get of a whole object checks the CRC32C that comes with it, if one does;
//     services send none with a range.
//   - Requests that fail in a way that may pass (no connection, a reset, no
//     progress for two minutes, throttling, 5xx) are repeated with growing
//     pauses, and a Get goes on where it stopped; so nothing is gained by
//     [backend.Retry] around it. Refusals (4xx) are final at once. A put if
//     absent that finds an object after a failed try reads it and compares, for
//     it may be its own.
//   - Keys below the prefix that can't be an object's name are not listed.
//
// It is a [backend.Versioner], and where the bucket has object lock, a
// [backend.Retainer]:
//
//   - A put with a lock is one request, too, so there is no moment without it. A
//     bucket without object lock, or a service that knows of none, is asked
//     before the first one, and gets nothing.
//   - Delete asks once whether the bucket ever kept versions. If it did, it
//     deletes each of them by its id, the newest last: nothing older comes to
//     light on the way, nor when one is locked. It never leaves a mark.
//   - Besides s3:GetObject, s3:PutObject and s3:ListBucket, this takes
//     s3:GetBucketVersioning, s3:ListBucketVersions, s3:GetObjectVersion and
//     s3:DeleteObjectVersion for versions (and s3:DeleteObject without), and
//     s3:GetBucketObjectLockConfiguration, s3:GetObjectRetention and
//     s3:PutObjectRetention for locks. An error names the one that is missing.
//   - Governance is as strong as the service has it. At Amazon,
//     s3:BypassGovernanceRetention ends such a lock. MinIO (as of 2026-02) lets
//     every user do that who has a key, whatever the policies say, and its
//     s3:PutObjectRetention shortens one; only compliance holds there.
//
// Errors say what to do. None of a missing bucket, bad credentials, a wrong
// region, a clock that is off, a failed TLS handshake or a proxy's HTML page
// passes for an object, or a store, that is not there.
package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/varvebackup/varve/backend"
)

// Options says where a bucket is and how to get at it. Nil and zero: at Amazon,
// in the region that it names itself, with the credentials of the environment.
type Options struct {
	Endpoint string // host, host:port, or https://host:port of the service; "": Amazon's
	Region   string // the bucket's; "": ask the service, which costs one request
	Prefix   string // begins every key, followed by a slash; slashes around it are dropped

	// PathStyle puts the bucket's name into the path of requests, VirtualHost
	// into the host's name. Neither: as the endpoint's kind is known to have it,
	// which is the path for all but the large clouds.
	PathStyle, VirtualHost bool

	// Insecure speaks plain HTTP. Without it, only TLS is spoken.
	Insecure bool

	// CAFile names a file of PEM certificates to trust besides the system's.
	CAFile string

	// Credentials, if not nil, are what requests are signed with. Otherwise the
	// first of these that are there: AWS_ACCESS_KEY_ID and so on, or
	// MINIO_ACCESS_KEY and MINIO_SECRET_KEY, in the environment; the file of
	// AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials, with AWS_PROFILE; the
	// role of the machine or container.
	Credentials *credentials.Credentials

	// Transport, if not nil, carries the requests, and remains the caller's to
	// close; CAFile can't be given then. It should wait for "100 Continue" (see
	// [http.Transport.ExpectContinueTimeout]), for otherwise a large put that is
	// refused may look like a reset connection.
	Transport http.RoundTripper

	// Retry says how often and how long failed requests are repeated. Where
	// nothing ever answered, it is not longer than 15 seconds.
	Retry *backend.RetryOptions
}

// A Bucket is a backend.Backend in a bucket, or below a prefix in one, with
// versions and locks where the bucket has them.
type Bucket struct {
	core     minio.Core
	name     string
	prefix   string // "" or ends in a slash
	where    string // the endpoint, for errors
	region   string // as it was given
	key      string // the access key, for errors; no secret
	retry    backend.RetryOptions
	own      *http.Transport // nil if it is the caller's
	reached  atomic.Bool     // something answered at the endpoint
	insecure bool
	skew     atomic.Int64 // nanoseconds that the store's clock was ahead when it last answered, or up to a second more
	kept     atomic.Int32 // whether the bucket keeps versions: one of the constants of versions.go
	locks    atomic.Bool  // the bucket is known to have locks
}

const (
	stall     = 2 * time.Minute // a connection without progress for so long is given up
	conns     = 64              // connections at the same time, and kept for later
	absence   = 15 * time.Second
	maxPrefix = 511             // a key has at most 1024 bytes
	roleWait  = 5 * time.Second // for the machine's own service to name a role; most machines have none
)

// Open returns the store in a bucket. It looks for credentials, and sends the
// store nothing: whether there is such a bucket, the first call tells. The
// error is [fs.ErrInvalid] for a name, prefix or endpoint that can't be one,
// and [fs.ErrPermission] if there are no credentials.
func Open(ctx context.Context, bucket string, o *Options) (*Bucket, error) {
	if o == nil {
		o = new(Options)
	}
	fail := func(err error, format string, args ...any) (*Bucket, error) {
		return nil, fmt.Errorf("backend/s3: open %s: %s: %w", bucket, fmt.Sprintf(format, args...), err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err, "not begun")
	}
	if bucket == "" || strings.ContainsAny(bucket, "/?#% ") {
		return fail(fs.ErrInvalid, "not a name for a bucket")
	}
	prefix := strings.Trim(o.Prefix, "/")
	if prefix != "" {
		if !backend.ValidName(prefix) || len(prefix) > maxPrefix {
			return fail(fs.ErrInvalid, "prefix %q can't begin the names of objects", o.Prefix)
		}
		prefix += "/"
	}
	host, err := endpoint(o)
	if err != nil {
		return fail(fs.ErrInvalid, "%v", err)
	}
	if o.PathStyle && o.VirtualHost {
		return fail(fs.ErrInvalid, "path style and virtual host exclude each other")
	}

	b := &Bucket{name: bucket, prefix: prefix, where: host, region: o.Region, insecure: o.Insecure}
	if o.Retry != nil {
		b.retry = *o.Retry
	}
	base := o.Transport
	if base == nil {
		if b.own, err = transport(o.CAFile); err != nil {
			return fail(fs.ErrInvalid, "certificates to trust: %v", err)
		}
		base = b.own
	} else if o.CAFile != "" {
		return fail(fs.ErrInvalid, "a transport of one's own brings its certificates along")
	}
	creds := credentialsOf(o, base)
	if v, err := creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Transport: base}, Endpoint: scheme(o) + host, Context: ctx}); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fail(err, "credentials")
	} else if b.key = v.AccessKeyID; b.key == "" {
		return fail(fs.ErrPermission, "no credentials: neither given, nor in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), nor in ~/.aws/credentials, nor has this machine a role")
	}

	lookup := minio.BucketLookupAuto
	switch {
	case o.PathStyle:
		lookup = minio.BucketLookupPath
	case o.VirtualHost:
		lookup = minio.BucketLookupDNS
	}
	client, err := minio.New(host, &minio.Options{
		Creds: creds, Secure: !o.Insecure, Region: o.Region, BucketLookup: lookup,
		Transport:  &inspector{base: base, b: b},
		MaxRetries: 1, // requests are repeated here, see attempts
	})
	if err != nil {
		return fail(fs.ErrInvalid, "%v", err)
	}
	b.core = minio.Core{Client: client}
	return b, nil
}

// Close closes connections that are kept for later. It ends no call that is
// under way; calls that come after it work, and keep connections again.
func (b *Bucket) Close() error {
	if b.own != nil {
		b.own.CloseIdleConnections()
	}
	return nil
}

// String says where the bucket is, as a URL without anything secret.
func (b *Bucket) String() string {
	return "s3://" + b.name + "/" + strings.TrimSuffix(b.prefix, "/") + "?endpoint=" + b.where
}

func scheme(o *Options) string {
	if o.Insecure {
		return "http://"
	}
	return "https://"
}

// endpoint returns host or host:port.
func endpoint(o *Options) (string, error) {
	e := o.Endpoint
	if e == "" {
		return "s3.amazonaws.com", nil
	}
	if !strings.Contains(e, "://") {
		e = scheme(o) + e
	}
	u, err := url.Parse(e)
	switch {
	case err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		// Not repeated: it may hold a password.
		return "", errors.New("the endpoint is no host, host:port or https://host:port")
	case u.Scheme == "http" && !o.Insecure:
		return "", errors.New("the endpoint is plain HTTP, which all on the way can read and change: that must be asked for (insecure)")
	case u.Scheme == "https" && o.Insecure:
		return "", errors.New("the endpoint is https, and plain HTTP is asked for (insecure): leave one of the two out")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("the endpoint's scheme is %q: it must be https", u.Scheme)
	}
	return u.Host, nil
}

func credentialsOf(o *Options, base http.RoundTripper) *credentials.Credentials {
	if o.Credentials != nil {
		return o.Credentials
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.EnvMinio{},
		&credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Transport: base, Timeout: roleWait}},
	})
}

// transport is what minio-go has by default, but for the size of its pool, and
// for connections that hang.
func transport(caFile string) (*http.Transport, error) {
	t, err := minio.DefaultTransport(true)
	if err != nil {
		return nil, err
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		pool := t.TLSClientConfig.RootCAs
		if pool == nil {
			if pool, err = x509.SystemCertPool(); err != nil {
				pool = x509.NewCertPool()
			}
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds none in PEM form", caFile)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	t.MaxIdleConnsPerHost, t.MaxConnsPerHost = conns, conns
	t.ResponseHeaderTimeout = stall
	t.ExpectContinueTimeout = 3 * time.Second
	t.WriteBufferSize, t.ReadBufferSize = 64<<10, 64<<10
	t.DialContext = impatient(t.DialContext)
	return t, nil
}

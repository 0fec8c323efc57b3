// Package open turns a URL, as a person writes it in a configuration, into a
// [backend.Backend].
//
//	/srv/backup  ./backup  C:\backup    a folder (backend/dir)
//	file:///srv/backup                  the same
//	s3://bucket/prefix                  a bucket, at Amazon (backend/s3)
//	s3://bucket/prefix?endpoint=minio.example.com:9000&region=eu-west-1
//	s3://bucket/prefix?as-of=2026-11-19T00:00:00Z  as it was then, to read
//
// The query of an s3 URL may have endpoint (host, host:port or an https URL),
// region, path-style=1 or 0 (the bucket's name in the path or in the host's
// name; without it, as is usual there), insecure=1 (plain HTTP) and ca (a file
// of certificates to trust). Keys are not part of it: they come from the
// environment, ~/.aws/credentials or the machine's role, see [s3.Options].
//
// With as-of, a time as in RFC 3339 or a date, which is its midnight in UTC, it
// is [backend.AsOf]: what the bucket held then, read-only, if it keeps versions.
// What was replaced or deleted before it began to keep them is not known.
//
// It is the only package that knows every store; a program that needs one of
// them imports that one.
package open

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/s3"
)

// Options changes what URL does. Nil and zero: open what exists.
type Options struct {
	// Create makes the store's folder if it is missing. A bucket is never made.
	Create bool
}

// ErrScheme is the error for a URL whose scheme names no store.
var ErrScheme = errors.New("no such kind of store (there are: a path, file:///path, s3://bucket/prefix)")

// Two letters at least: C: is a drive.
var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`)

// URL opens the store at a path or URL. What begins with letters and a colon is
// a URL (./a:b is a path). The error is ErrScheme for a scheme that is none of
// the above, fs.ErrNotExist if the folder is missing and is not to be created,
// and otherwise that of the store. A bucket is sent nothing yet, but with as-of,
// where it is asked whether it keeps versions: errors.ErrUnsupported if it never
// did. A Backend that is an io.Closer, as any bucket is, also as of a time, keeps
// connections, which Close ends.
func URL(ctx context.Context, rawURL string, o *Options) (backend.Backend, error) {
	if o == nil {
		o = new(Options)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("backend/open: %s: %w", rawURL, err)
	}
	if rawURL == "" {
		return nil, errors.New("backend/open: empty path or URL")
	}
	switch s := strings.ToLower(scheme.FindString(rawURL)); s {
	case "":
		return openDir(rawURL, o)
	case "file:":
		path, err := filePath(rawURL)
		if err != nil {
			return nil, err
		}
		return openDir(path, o)
	case "s3:":
		return openS3(ctx, rawURL)
	default:
		// The URL itself is not repeated: it may hold a password.
		return nil, fmt.Errorf("backend/open: %s %w", s, ErrScheme)
	}
}

func openDir(path string, o *Options) (backend.Backend, error) {
	// Not returned at once: a nil *dir.Dir would be a Backend that is not nil.
	open := dir.Open
	if o.Create {
		open = dir.Create
	}
	d, err := open(path)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func openS3(ctx context.Context, rawURL string) (backend.Backend, error) {
	// Errors don't repeat the URL: it may hold a password.
	fail := func(format string, args ...any) (backend.Backend, error) {
		return nil, fmt.Errorf("backend/open: s3: %s: %w", fmt.Sprintf(format, args...), fs.ErrInvalid)
	}
	name, o, rest, err := s3.ParseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("backend/open: s3: %w", err)
	}
	var asOf time.Time
	for param, v := range rest {
		if param != "as-of" {
			return fail("%q means nothing here (there are endpoint, region, path-style, insecure, ca and as-of)", param)
		}
		if asOf, err = moment(v); err != nil {
			return fail("as-of is a time like 2026-11-19T08:30:00Z, or a date like 2026-11-19, not %q", v)
		}
	}
	b, err := s3.Open(ctx, name, o)
	if err != nil {
		return nil, err
	}
	if asOf.IsZero() {
		return b, nil
	}
	kept, err := b.KeepsVersions(ctx)
	if err == nil && !kept {
		// Its view would be the present, less what was replaced since.
		err = fmt.Errorf("backend/open: the bucket %s keeps no versions, so what it held at an earlier time is not known; switch versions on, and from then on it is: %w", name, errors.ErrUnsupported)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	v := backend.AsOf(b, asOf)
	return &view{v, v.(backend.Retainer), v.(backend.Versioner), b}, nil
}

// A view is a bucket as of a time, which is closed like the bucket.
type view struct {
	backend.Backend
	backend.Retainer
	backend.Versioner
	io.Closer
}

// Unwrap returns the Backend without Close.
func (v *view) Unwrap() backend.Backend { return v.Backend }

// moment reads a date, or a time whose offset's + may have become a space, which
// it is in a query.
func moment(s string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t, err = time.Parse(time.RFC3339, strings.Replace(s, " ", "+", 1))
	}
	if err == nil && t.IsZero() {
		err = errors.New("the first moment of all")
	}
	return t, err
}

// filePath returns the path of a file: URL.
func filePath(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("backend/open: %w", err)
	}
	if u.Host != "" && u.Host != "localhost" || u.User != nil {
		return "", fmt.Errorf("backend/open: %s: a file URL names no host; write file:///path", rawURL)
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return "", fmt.Errorf("backend/open: %s: a file URL has no query or fragment (write %%3F and %%23 in a path)", rawURL)
	}
	path := u.Path
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("backend/open: %s: the path of a file URL begins with a slash; write file:///path", rawURL)
	}
	if runtime.GOOS == "windows" && len(path) > 2 && path[2] == ':' {
		path = path[1:] // file:///C:/backup
	}
	return path, nil
}

// Path returns the folder that URL would open; ok is false for a store that is no folder, and for what URL refuses.
func Path(rawURL string) (path string, ok bool) {
	switch strings.ToLower(scheme.FindString(rawURL)) {
	case "":
		return rawURL, rawURL != ""
	case "file:":
		path, err := filePath(rawURL)
		return path, err == nil
	}
	return "", false
}

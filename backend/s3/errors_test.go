package s3_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/internal/miniotest"
)

// calls is every method of a Backend.
var calls = []struct {
	op   string
	call func(ctx context.Context, b backend.Backend) error
}{
	{"put", func(ctx context.Context, b backend.Backend) error {
		return backend.PutBytes(ctx, b, "a/b", []byte("x"), nil)
	}},
	{"put if absent", func(ctx context.Context, b backend.Backend) error {
		return backend.PutBytes(ctx, b, "a/b", []byte("x"), &backend.PutOptions{IfAbsent: true})
	}},
	{"get", func(ctx context.Context, b backend.Backend) error {
		_, err := b.Get(ctx, "a/b", 0, -1, nil)
		return err
	}},
	{"get a range", func(ctx context.Context, b backend.Backend) error { _, err := b.Get(ctx, "a/b", 5, 7, nil); return err }},
	{"stat", func(ctx context.Context, b backend.Backend) error { _, err := b.Stat(ctx, "a/b"); return err }},
	{"list", func(ctx context.Context, b backend.Backend) error {
		for _, err := range b.List(ctx, "a/") {
			return err
		}
		return nil
	}},
	{"delete", func(ctx context.Context, b backend.Backend) error { return b.Delete(ctx, "a/b") }},
}

// wantSentence checks that every call fails with this sentence, which says
// nothing about an object.
func wantSentence(t *testing.T, b backend.Backend, sentence string, is error) {
	t.Helper()
	for _, c := range calls {
		err := c.call(t.Context(), b)
		if err == nil || !strings.Contains(err.Error(), sentence) {
			t.Errorf("%s: %v; want %q", c.op, err, sentence)
			continue
		}
		if !strings.Contains(err.Error(), "a/") {
			t.Errorf("%s: %v does not name the object", c.op, err)
		}
		if is != nil && !errors.Is(err, is) {
			t.Errorf("%s: %v is not %v", c.op, err, is)
		}
		for _, about := range []error{fs.ErrNotExist, fs.ErrExist, io.ErrUnexpectedEOF, fs.ErrInvalid, context.Canceled, context.DeadlineExceeded} {
			if errors.Is(err, about) {
				t.Errorf("%s: %v is %v", c.op, err, about)
			}
		}
		if strings.Contains(err.Error(), "top-secret") {
			t.Errorf("%s: %v holds a secret", c.op, err)
		}
	}
}

func apiError(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message><RequestId>r1</RequestId></Error>`, code, message)
	}
}

func page(status int, kind, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
}

var static = credentials.NewStaticV4("AKVARVE", "top-secret", "")

func TestSentences(t *testing.T) {
	const html = "<!DOCTYPE html>\n<html><head><title>Please log in</title></head><body>...</body></html>"
	for name, c := range map[string]struct {
		answer   http.HandlerFunc
		sentence string
		is       error
	}{
		"login page":          {page(200, "text/html", html), `not an S3 service: it sent an HTML page: "Please log in" (status 200 OK)`, nil},
		"page not found":      {page(404, "text/html", html), `not an S3 service: it sent an HTML page: "Please log in" (status 404 Not Found)`, nil},
		"page forbidden":      {page(403, "text/html", html), `not an S3 service`, nil},
		"well-formed page":    {page(200, "application/xml", "<html><body/></html>"), `not an S3 service`, nil},
		"text not found":      {page(404, "text/plain", "404 page not found\n"), `not an S3 service: it sent a page: "404 page not found"`, nil},
		"nothing found":       {page(404, "", ""), `not an S3 service: it sent an empty page`, nil},
		"nothing":             {page(200, "", ""), `not an S3 service: it sent an empty page`, nil},
		"other XML":           {page(404, "application/xml", "<Fault/>"), `not an S3 service`, nil},
		"TLS wanted":          {page(400, "text/plain", "Client sent an HTTP request to an HTTPS server.\n"), "speaks TLS, and plain HTTP was asked for: leave out insecure", nil},
		"no bucket":           {apiError(404, "NoSuchBucket", "The specified bucket does not exist"), "there is no bucket some-bucket at 127.0.0.1", nil},
		"wrong key":           {apiError(403, "InvalidAccessKeyId", "The key is not in our records."), "does not know the access key AKVARVE", fs.ErrPermission},
		"wrong secret":        {apiError(403, "SignatureDoesNotMatch", "Mismatch."), "the secret key does not belong to the access key AKVARVE", fs.ErrPermission},
		"denied":              {apiError(403, "AccessDenied", "Access Denied."), "give it a policy that allows s3:", fs.ErrPermission},
		"expired":             {apiError(400, "ExpiredToken", "The provided token has expired."), "has expired: get new temporary credentials", fs.ErrPermission},
		"token":               {apiError(403, "InvalidTokenId", "The security token is invalid."), "get new temporary credentials", fs.ErrPermission},
		"region":              {apiError(400, "AuthorizationHeaderMalformed", "expecting eu-west-1</Message><Region>eu-west-1</Region><Message>"), `not in region "us-east-1": set region=eu-west-1`, nil},
		"redirect":            {apiError(301, "PermanentRedirect", "must be addressed elsewhere"), `not in region "us-east-1"`, nil},
		"full":                {apiError(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."), "minimum free drive threshold", nil},
		"not implemented":     {apiError(501, "NotImplemented", "A header is not implemented."), "can't do this; it says: A header", errors.ErrUnsupported},
		"something forbidden": {apiError(403, "Novel", "No."), "says: No (Novel, request r1)", fs.ErrPermission},
		"clock": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(47*time.Minute).UTC().Format(http.TimeFormat))
			apiError(403, "RequestTimeTooSkewed", "The difference is too large.")(w, r)
		}, "this machine's clock is wrong: the store's is 4", fs.ErrPermission},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				io.Copy(io.Discard, r.Body)
				c.answer(w, r)
			}))
			defer srv.Close()
			b := open(t, "some-bucket", &s3.Options{Endpoint: srv.URL, Region: "us-east-1", Insecure: true, Credentials: static})
			wantSentence(t, b, c.sentence, c.is)
			if n, most := requests.Load(), int64(len(calls)+2); n > most { // stat asks twice, and delete asks for versions
				t.Errorf("%d requests for %d calls: they were repeated", n, len(calls))
			}
		})
	}
}

// What fails before the service hears of it, or is worth another try.
func TestConnections(t *testing.T) {
	plain := httptest.NewServer(page(200, "", ""))
	defer plain.Close()
	secure := httptest.NewUnstartedServer(apiError(403, "AccessDenied", "so TLS was all right"))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	_, port, _ := net.SplitHostPort(secure.Listener.Addr().String())
	for name, c := range map[string]struct {
		o        s3.Options
		sentence string
	}{
		"no TLS there":      {s3.Options{Endpoint: plain.Listener.Addr().String()}, "does not speak TLS"},
		"only TLS there":    {s3.Options{Endpoint: secure.Listener.Addr().String(), Insecure: true}, "leave out insecure"},
		"unknown authority": {s3.Options{Endpoint: secure.URL}, "signed by an authority that this machine does not trust"},
		"known authority":   {s3.Options{Endpoint: secure.URL, CAFile: ca}, "so TLS was all right"},
		"other host":        {s3.Options{Endpoint: "localhost:" + port, CAFile: ca}, "the certificate is for another host than localhost:"},
		"nobody there":      {s3.Options{Endpoint: closed.Addr().String(), Insecure: true}, "gave up after 3 tries: no answer from 127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Region, c.o.Credentials = "us-east-1", static
			c.o.Retry = &backend.RetryOptions{Tries: 3, Wait: time.Millisecond, MaxWait: 20 * time.Millisecond}
			wantSentence(t, open(t, "some-bucket", &c.o), c.sentence, nil)
		})
	}
}

// The same from a real server, which words things in its own way.
func TestSentencesOfMinIO(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	for name, c := range map[string]struct {
		bucket   string
		change   func(o *s3.Options)
		sentence string
		is       error
	}{
		"no bucket":    {"none-such", func(o *s3.Options) {}, "there is no bucket none-such at ", nil},
		"wrong key":    {bucket, func(o *s3.Options) { o.Credentials = static }, "does not know the access key AKVARVE", fs.ErrPermission},
		"wrong secret": {bucket, func(o *s3.Options) { o.Credentials = credentials.NewStaticV4(srv.AccessKey, "top-secret", "") }, "the secret key does not belong to the access key", fs.ErrPermission},
		"wrong token": {bucket, func(o *s3.Options) {
			o.Credentials = credentials.NewStaticV4(srv.AccessKey, srv.SecretKey, "top-secret")
		}, "get new temporary credentials", fs.ErrPermission},
		"wrong region": {bucket, func(o *s3.Options) { o.Region = "eu-west-1" }, `not in region "eu-west-1": set region=us-east-1`, nil},
		"denied": {bucket, func(o *s3.Options) {
			o.Credentials = srv.AssumeRole(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::elsewhere/*"]}]}`)
		}, "give it a policy that allows s3:", fs.ErrPermission},
		"no region given": {"none-such", func(o *s3.Options) { o.Region = "" }, "there is no bucket none-such at ", nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := at(srv, srv.Endpoint)
			c.change(o)
			wantSentence(t, open(t, c.bucket, o), c.sentence, c.is)
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		bucket string
		o      s3.Options
	}{
		{"", s3.Options{}}, {"a/b", s3.Options{}}, {"x y", s3.Options{}}, {"ok-bucket", s3.Options{Prefix: "../x"}}, {"ok-bucket", s3.Options{Prefix: "a//b"}},
		{"ok-bucket", s3.Options{Prefix: strings.Repeat("long/", 102) + "ab"}},
		{"ok-bucket", s3.Options{Endpoint: "http://host"}}, {"ok-bucket", s3.Options{Endpoint: "https://host", Insecure: true}},
		{"ok-bucket", s3.Options{Endpoint: "ftp://host"}}, {"ok-bucket", s3.Options{Endpoint: "https://k:top-secret@host"}}, {"ok-bucket", s3.Options{Endpoint: "https://host/path"}},
		{"ok-bucket", s3.Options{PathStyle: true, VirtualHost: true}},
		{"ok-bucket", s3.Options{Transport: http.DefaultTransport, CAFile: none}},
	} {
		c.o.Credentials = static
		if b, err := s3.Open(t.Context(), c.bucket, &c.o); !errors.Is(err, fs.ErrInvalid) || b != nil || strings.Contains(err.Error(), "top-secret") {
			t.Errorf("%q, %+v: %v, %v", c.bucket, c.o, b, err)
		}
	}
	if _, err := s3.Open(t.Context(), "ok-bucket", &s3.Options{CAFile: none, Credentials: static}); !errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing certificates: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	for _, v := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD",
		"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		t.Setenv(v, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	// Whoever asks for a role is told that there is none.
	var keys []string
	transport := roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Query().Has("versioning") {
			return &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<VersioningConfiguration/>")), Request: r}, nil
		}
		if r.URL.Hostname() == "169.254.169.254" {
			return nil, errors.New("no such service")
		}
		keys = append(keys, r.Header.Get("Authorization"))
		return &http.Response{StatusCode: 204, Status: "204 No Content", Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})
	use := func(want string) {
		t.Helper()
		keys = nil
		b, err := s3.Open(t.Context(), "some-bucket", &s3.Options{Region: "us-east-1", Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), "x"); err != nil || len(keys) != 1 || !strings.Contains(keys[0], "Credential="+want+"/") {
			t.Errorf("signed %q, %v; want %s", keys, err, want)
		}
	}
	if _, err := s3.Open(t.Context(), "some-bucket", &s3.Options{Transport: transport}); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "no credentials") {
		t.Errorf("without credentials: %v", err)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = AKFILE\naws_secret_access_key = top-secret\n[shop]\naws_access_key_id = AKSHOP\naws_secret_access_key = top-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	use("AKFILE")
	t.Setenv("AWS_PROFILE", "shop")
	use("AKSHOP")
	t.Setenv("MINIO_ACCESS_KEY", "AKMINIO")
	t.Setenv("MINIO_SECRET_KEY", "top-secret")
	use("AKMINIO")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKENV")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "top-secret")
	use("AKENV")
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

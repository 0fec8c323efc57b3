package open_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/open"
	"github.com/varvebackup/varve/internal/miniotest"
)

func TestContract(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		b, err := open.URL(t.Context(), t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestURL(t *testing.T) {
	root := filepath.ToSlash(t.TempDir())
	t.Chdir(root)
	if !strings.HasPrefix(root, "/") {
		root = "/" + root // C:/x in a URL
	}
	for _, c := range []struct{ url, folder string }{
		{"plain", "plain"}, {"./dot/and/below", "dot/and/below"}, {"./a:b", "a:b"},
		{"file://" + root + "/url", "url"}, {"FILE:" + root + "/short", "short"}, {"file://localhost" + root + "/host", "host"},
		{"file://" + root + "/a%20b%3Fc", "a b?c"}, {"sp ace", "sp ace"}, {"c", "c"},
	} {
		if os.PathSeparator == '\\' && strings.ContainsAny(c.folder, ":?") {
			continue
		}
		if b, err := open.URL(t.Context(), c.url, nil); !errors.Is(err, fs.ErrNotExist) || b != nil {
			t.Errorf("%s, which is missing: %v, %v", c.url, b, err)
		}
		if _, err := os.Stat(c.folder); err == nil {
			t.Errorf("%s is made without Create", c.url)
		}
		for range 2 {
			if _, err := open.URL(t.Context(), c.url, &open.Options{Create: true}); err != nil {
				t.Errorf("%s: %v", c.url, err)
			}
		}
		if fi, err := os.Stat(c.folder); err != nil || !fi.IsDir() {
			t.Errorf("%s: no folder %s: %v", c.url, c.folder, err)
		}
	}
	for _, bad := range []string{"s4://key:secret@bucket/x", "s4:bucket", "sftp://host/x", "http://host/"} {
		_, err := open.URL(t.Context(), bad, &open.Options{Create: true})
		if !errors.Is(err, open.ErrScheme) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "file:", "file:rel", "file://host/x", "file:///x?y", "file:///x#y", "file:///%zz", "file://u@/x"} {
		if b, err := open.URL(t.Context(), bad, nil); err == nil || b != nil {
			t.Errorf("%q: %v, %v; want an error", bad, b, err)
		}
	}
}

func TestS3(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKVARVE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("versioning") {
			io.WriteString(w, "<VersioningConfiguration/>")
			return
		}
		asked = append(asked, r.Method+" "+r.Host+r.URL.Path+" "+r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusNoContent)
	}))
	defer srv.Close()
	host := srv.Listener.Addr().String()
	for query, want := range map[string]string{
		"endpoint=" + host + "&insecure=1&region=eu-west-1":                        "DELETE " + host + "/some-bucket/some/prefix/x AWS4-HMAC-SHA256 Credential=AKVARVE/",
		"endpoint=http://" + host + "&insecure=true&region=eu-west-1&path-style=1": "DELETE " + host + "/some-bucket/some/prefix/x AWS4-HMAC-SHA256 Credential=AKVARVE/",
	} {
		asked = nil
		b, err := open.URL(t.Context(), "s3://some-bucket/some/prefix/?"+query, &open.Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		err = b.Delete(t.Context(), "x")
		if err != nil || len(asked) != 1 || !strings.HasPrefix(asked[0], want) || !strings.Contains(asked[0], "/eu-west-1/s3/") {
			t.Errorf("%s: asked %q, %v; want %q", query, asked, err, want)
		}
		b.(io.Closer).Close()
	}
	for _, bad := range []string{
		"s3:", "s3:bucket", "s3://", "s3:///prefix", "s3://bucket:9000/x", "s3://key:secret@bucket/x", "s3://bucket/x#y", "s3://bucket/a//b",
		"s3://bucket/x?endpoint=a&endpoint=b", "s3://bucket/x?insecure=maybe", "s3://bucket/x?path-style=", "s3://bucket/x?secret=secret",
		"s3://bucket/x?as-of=yesterday", "s3://bucket/x?as-of=", "s3://bucket/x?as-of=2026-13-01", "s3://bucket/x?as-of=2026-11-19T00:00:00", "s3://bucket/x?as-of=0001-01-01",
		"s3://bucket/x?endpoint=http://host", "s3://bucket/x?ca=/none/such",
	} {
		b, err := open.URL(t.Context(), bad, nil)
		if err == nil || b != nil || strings.Contains(err.Error(), "key:secret") {
			t.Errorf("%s: %v, %v; want an error", bad, b, err)
		}
	}
}

// With as-of, a bucket is what it was, and one that can't know says so.
func TestAsOf(t *testing.T) {
	srv := miniotest.Start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
	before := goleak.IgnoreCurrent()
	defer goleak.VerifyNone(t, before)
	openURL := func(bucket, more string) (backend.Backend, error) {
		return open.URL(t.Context(), "s3://"+bucket+"/p?insecure=1&region=us-east-1&endpoint="+srv.Endpoint+more, nil)
	}
	bucket := srv.Bucket()
	if err := srv.Client().EnableVersioning(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	b, err := openURL(bucket, "")
	if err != nil {
		t.Fatal(err)
	}
	defer b.(io.Closer).Close()
	for _, data := range []string{"old", "new"} {
		if err := backend.PutBytes(t.Context(), b, "x", []byte(data), nil); err != nil {
			t.Fatal(err)
		}
	}
	var times []time.Time
	for v, err := range backend.Versions(t.Context(), b, "x") {
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, v.Modified)
	}
	if len(times) != 2 || !times[0].After(times[1]) {
		t.Fatalf("times %v", times)
	}
	tomorrow := times[0].UTC().Add(24 * time.Hour).Format(time.DateOnly)
	for at, want := range map[string]string{
		times[1].UTC().Format(time.RFC3339Nano): "old", times[0].UTC().Format(time.RFC3339Nano): "new", tomorrow: "new",
		times[1].In(time.FixedZone("", 3600)).Format(time.RFC3339Nano): "old", "2001-02-03": "",
		strings.Replace(times[1].In(time.FixedZone("", 3600)).Format(time.RFC3339Nano), "+", "%2B", 1): "old",
	} {
		v, err := openURL(bucket, "&as-of="+at)
		if err != nil {
			t.Fatal(err)
		}
		got, err := v.Get(t.Context(), "x", 0, -1, nil)
		if want == "" && !errors.Is(err, fs.ErrNotExist) || want != "" && err != nil || string(got) != want {
			t.Errorf("as of %s: %q, %v; want %q", at, got, err, want)
		}
		if err := v.Delete(t.Context(), "x"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("as of %s: delete: %v", at, err)
		}
		if _, ok := v.(backend.Versioner); !ok {
			t.Error("its versions are out of reach")
		}
		if err := v.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	}
	plain := srv.Bucket()
	if v, err := openURL(plain, "&as-of=2026-11-19"); !errors.Is(err, errors.ErrUnsupported) || v != nil || !strings.Contains(err.Error(), "keeps no versions") {
		t.Errorf("as of a time, without versions: %v, %v", v, err)
	}
	if v, err := openURL("none-such", "&as-of=2026-11-19"); err == nil || v != nil || !strings.Contains(err.Error(), "there is no bucket none-such") {
		t.Errorf("as of a time, without a bucket: %v, %v", v, err)
	}
}

func ExampleURL() {
	_, err := open.URL(context.Background(), "gopher://host/backup", nil)
	fmt.Println(err)
	// Output: backend/open: gopher: no such kind of store (there are: a path, file:///path, s3://bucket/prefix)
}

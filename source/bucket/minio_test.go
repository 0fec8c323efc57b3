package bucket_test

import (
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source/bucket"
)

// counter counts requests by kind.
type counter struct {
	base http.RoundTripper
	mu   sync.Mutex // guards n
	n    map[string]int
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	kind := r.Method
	switch q := r.URL.Query(); {
	case q.Has("list-type"):
		kind = "LIST"
	case q.Has("tagging"):
		kind = "TAGS"
	}
	c.mu.Lock()
	c.n[kind]++
	c.mu.Unlock()
	return c.base.RoundTrip(r)
}

func (c *counter) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = map[string]int{}
	return n
}

func openMinio(t *testing.T, srv *miniotest.Server, name, prefix string) (*bucket.FS, *counter) {
	t.Helper()
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxIdleConnsPerHost = 32
	t.Cleanup(tr.CloseIdleConnections)
	c := &counter{base: tr, n: map[string]int{}}
	o := &bucket.Options{Prefix: prefix}
	o.S3.Endpoint, o.S3.Region, o.S3.Insecure, o.S3.Credentials, o.S3.Transport = srv.Endpoint, "us-east-1", true, srv.Credentials(), c
	f, err := bucket.Open(t.Context(), name, o)
	must(t, err)
	return f, c
}

// keepingClient keeps its connections, for there are many requests.
func keepingClient(t *testing.T, srv *miniotest.Server) *minio.Client {
	t.Helper()
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxIdleConnsPerHost = 32
	t.Cleanup(tr.CloseIdleConnections)
	c, err := minio.New(srv.Endpoint, &minio.Options{Creds: srv.Credentials(), Region: "us-east-1", Transport: tr})
	must(t, err)
	return c
}

// described is all that is kept of an object.
type described struct {
	sum, kind string
	meta      map[string]string
	tags      map[string]string
}

func describeBucket(t *testing.T, c *minio.Client, name string) map[string]described {
	t.Helper()
	all := map[string]described{}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	for o := range c.ListObjectsIter(t.Context(), name, minio.ListObjectsOptions{Recursive: true}) {
		must(t, o.Err)
		g.Go(func() error {
			var opts minio.GetObjectOptions
			opts.Set("Accept-Encoding", "identity") // or the transport unpacks what says that it is packed
			r, err := c.GetObject(ctx, name, o.Key, opts)
			if err != nil {
				return err
			}
			defer r.Close()
			h := md5.New()
			if _, err := io.Copy(h, r); err != nil {
				return fmt.Errorf("%q: %w", o.Key, err)
			}
			info, err := r.Stat()
			if err != nil {
				return err
			}
			d := described{sum: fmt.Sprintf("%x", h.Sum(nil)), kind: info.ContentType, meta: map[string]string{}, tags: map[string]string{}}
			for k, v := range info.Metadata {
				if k != "Etag" && k != "Last-Modified" {
					d.meta[k] = v[0]
				}
			}
			if info.UserTagCount > 0 {
				tags, err := c.GetObjectTagging(ctx, name, o.Key, minio.GetObjectTaggingOptions{})
				if err != nil {
					return err
				}
				d.tags = tags.ToMap()
			}
			mu.Lock()
			defer mu.Unlock()
			all[o.Key] = d
			return nil
		})
	}
	must(t, g.Wait())
	return all
}

func TestMinIO(t *testing.T) {
	srv := miniotest.Start(t)
	n := 10_000
	if testing.Short() || raceEnabled {
		n = 400
	}
	client := keepingClient(t, srv)
	media, copied := srv.Bucket(), srv.Bucket()
	rnd := rand.New(rand.NewPCG(1, 2))
	refused := 0
	put := func(ctx context.Context, key string, size, i int) error {
		o := minio.PutObjectOptions{ContentType: "image/jpeg"}
		if i%3 == 0 {
			o.UserMetadata = map[string]string{"Owner": fmt.Sprint("user ", i), "note": "ü"}
			o.CacheControl, o.ContentDisposition, o.ContentEncoding, o.ContentLanguage = "max-age=3600", `attachment; filename="a b"`, "gzip", "de"
			o.Expires = time.Date(2044, 12, 1, 16, 0, 0, 0, time.UTC)
		}
		if i%5 == 0 {
			o.UserTags = map[string]string{"state": "new", "no": fmt.Sprint(i)}
		}
		_, err := client.PutObject(ctx, media, key, strings.NewReader(strings.Repeat(fmt.Sprintf("%d\n", i), size)), int64(size*len(fmt.Sprintf("%d\n", i))), o)
		return err
	}
	for i, key := range odd() {
		if err := put(t.Context(), key, 3, i); err != nil {
			refused++ // "a" beside "a/b" and the like, which Amazon has
		}
	}
	t.Logf("of %d odd keys MinIO refuses %d", len(odd()), refused)
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	for i := range n {
		size := rnd.IntN(300)
		if i%1000 == 0 {
			size = 500_000
		}
		g.Go(func() error { return put(ctx, fmt.Sprintf("uploads-%d/%d/%d.jpg", i%3, i%41, i), size, i) })
	}
	must(t, g.Wait())
	want := describeBucket(t, client, media)

	time.Sleep(2100 * time.Millisecond) // a token is kept of what is older than two seconds
	r := newRepo(t)
	src, count := openMinio(t, srv, media, "")
	begun := time.Now()
	first, list := unread(t, r, "shop", src)
	requests := count.take()
	t.Logf("first backup: %v, %v", time.Since(begun).Round(time.Millisecond), requests)
	if len(list) > 0 || int(first.Stats.Files) != len(want) || requests["GET"] != len(want) || requests["HEAD"] > 0 {
		t.Errorf("first backup: %d of %d files, %v, %q", first.Stats.Files, len(want), requests, list)
	}
	begun = time.Now()
	second, _ := unread(t, r, "shop", src)
	requests = count.take()
	t.Logf("second backup: %v, %v", time.Since(begun).Round(time.Millisecond), requests)
	if len(requests) != 1 || second.Stats.Read > 0 || requests["LIST"] > 10+n/300 {
		t.Errorf("second backup: %v, %d bytes read", requests, second.Stats.Read)
	}

	dst, count := openMinio(t, srv, copied, "")
	tree := snapshotFS(t, r, second)
	for i := range 2 {
		begun = time.Now()
		report, err := dst.Put(t.Context(), tree, &bucket.PutOptions{Overwrite: repo.OverwriteIfDifferent})
		must(t, err)
		requests = count.take()
		t.Logf("put: %v, %+v, %v", time.Since(begun).Round(time.Millisecond), *report, requests)
		if done := []int64{report.Put, report.Kept}[i]; int(done) != len(want) || i == 1 && requests["PUT"]+requests["POST"] > 0 {
			t.Errorf("put %d: %+v, %v", i, report, requests)
		}
		if i == 0 {
			got := describeBucket(t, client, copied)
			if len(got) != len(want) {
				t.Errorf("%d objects instead of %d", len(got), len(want))
			}
			for key, w := range want {
				if g := got[key]; g.sum != w.sum || g.kind != w.kind || !maps.Equal(g.meta, w.meta) || !maps.Equal(g.tags, w.tags) {
					t.Errorf("%q is %+v, and was %+v", key, g, w)
				}
			}
		}
	}
}

// An object of many parts is put in parts, compared by them, and what else is in the bucket is deleted when asked for.
func TestMinIOParts(t *testing.T) {
	srv := miniotest.Start(t)
	client := srv.Client()
	media, copied := srv.Bucket(), srv.Bucket()
	big := make([]byte, 40<<20)
	rnd := rand.NewChaCha8([32]byte{7})
	rnd.Read(big)
	for key, size := range map[string]int{"p/big": len(big), "p/large": 17 << 20, "p/small": 5} {
		_, err := client.PutObject(t.Context(), media, key, strings.NewReader(string(big[:size])), int64(size), minio.PutObjectOptions{PartSize: 5 << 20, ContentType: "video/mp4", UserTags: map[string]string{"a": "b"}})
		must(t, err)
	}
	_, err := client.PutObject(t.Context(), copied, "q/extra", strings.NewReader("x"), 1, minio.PutObjectOptions{})
	must(t, err)
	_, err = client.PutObject(t.Context(), copied, "other", strings.NewReader("x"), 1, minio.PutObjectOptions{})
	must(t, err)
	r := newRepo(t)
	src, _ := openMinio(t, srv, media, "p/")
	snap, list := unread(t, r, "shop", src)
	if len(list) > 0 {
		t.Fatal(list)
	}
	dst, count := openMinio(t, srv, copied, "q/")
	tree := snapshotFS(t, r, snap)
	for i := range 2 {
		report, err := dst.Put(t.Context(), tree, &bucket.PutOptions{Overwrite: repo.OverwriteIfDifferent, Delete: true})
		must(t, err)
		n := count.take()
		t.Logf("put: %+v, %v", *report, n)
		if i == 0 && (report.Put != 3 || report.Deleted != 1) || i == 1 && (report.Kept != 3 || n["PUT"]+n["POST"] > 0) {
			t.Errorf("put %d: %+v, %v", i, report, n)
		}
	}
	keys := slices.Sorted(maps.Keys(describeBucket(t, client, copied)))
	if !slices.Equal(keys, []string{"other", "q/big", "q/large", "q/small"}) {
		t.Errorf("%q", keys)
	}
	for name, size := range map[string]int{"big": len(big), "large": 17 << 20, "small": 5} {
		if b, err := fs.ReadFile(dst, name); string(b) != string(big[:size]) || err != nil {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/internal/miniotest"
)

// A wire records requests, and may change what passes.
type wire struct {
	base http.RoundTripper

	mu       sync.Mutex // guards requests
	requests []*http.Request

	up, down func(body []byte) // change bodies; nil: leave them
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.requests = append(w.requests, r)
	w.mu.Unlock()
	if w.up != nil && r.Body != nil {
		r = r.Clone(r.Context())
		r.Body = changed(r.Body, w.up)
	}
	resp, err := w.base.RoundTrip(r)
	if err == nil && w.down != nil && r.Method == http.MethodGet {
		resp.Body = changed(resp.Body, w.down)
	}
	return resp, err
}

func changed(body io.ReadCloser, change func([]byte)) io.ReadCloser {
	p, err := io.ReadAll(body)
	body.Close()
	if err != nil {
		panic(err)
	}
	change(p)
	return io.NopCloser(bytes.NewReader(p))
}

// take returns the requests since the last call, as "PUT /bucket/key".
func (w *wire) take() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.requests {
		list = append(list, r.Method+" "+r.URL.Path)
	}
	w.requests = nil
	return list
}

func wired(t *testing.T, srv *miniotest.Server, bucket string, change func(*s3.Options)) (*s3.Bucket, *wire) {
	tr := &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}
	w := &wire{base: tr}
	o := at(srv, srv.Endpoint)
	o.Transport = w
	if change != nil {
		change(o)
	}
	return open(t, bucket, o), w
}

// What each call costs and says.
func TestRequests(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	b, w := wired(t, srv, bucket, nil)
	key := "/" + bucket + "/x"
	count := func(what string, want ...string) {
		t.Helper()
		if got := w.take(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: requests %q, want %q", what, got, want)
		}
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), backend.MaxSize/16)
	for _, o := range []*backend.PutOptions{{IfAbsent: true}, nil} {
		if err := backend.PutBytes(t.Context(), b, "x", data, o); err != nil {
			t.Fatal(err)
		}
		h := w.requests[0].Header
		if got, want := h.Get("If-None-Match"), map[bool]string{true: "*"}[o != nil]; got != want {
			t.Errorf("If-None-Match %q, want %q", got, want)
		}
		signed := h.Get("Authorization")
		if len(h.Get("X-Amz-Content-Sha256")) != 64 || len(h.Get("X-Amz-Checksum-Crc32c")) != 8 || !strings.Contains(signed, "x-amz-checksum-crc32c") || !strings.Contains(signed, "x-amz-content-sha256") {
			t.Errorf("checksums: %q", h)
		}
		if w.requests[0].URL.RawQuery != "" {
			t.Errorf("query %q", w.requests[0].URL.RawQuery)
		}
		count("put", "PUT "+key)
	}
	if err := backend.PutBytes(t.Context(), b, "x", data, &backend.PutOptions{IfAbsent: true}); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	count("put of what is there", "PUT "+key)
	if got, err := b.Get(t.Context(), "x", 0, -1, nil); err != nil || !bytes.Equal(got, data) {
		t.Error(len(got), err)
	}
	count("get", "GET "+key)
	if _, err := b.Get(t.Context(), "x", 10, 20, nil); err != nil {
		t.Error(err)
	}
	count("get a range", "GET "+key)
	if _, err := b.Get(t.Context(), "x", backend.MaxSize-1, -1, nil); err != nil {
		t.Error(err)
	}
	count("get the rest", "GET "+key)
	if _, err := b.Get(t.Context(), "none", 0, -1, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	count("get what is not there", "GET /"+bucket+"/none")
	if _, err := b.Stat(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	count("stat", "HEAD "+key)
	if _, err := b.Stat(t.Context(), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	count("stat what is not there", "HEAD /"+bucket+"/none", "GET /"+bucket+"/none")
	for _, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Error(err)
		}
	}
	count("list", "GET /"+bucket+"/")
	if err := b.Delete(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	count("first delete", "GET /"+bucket+"/", "DELETE "+key)
	if err := b.Delete(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	count("delete", "DELETE "+key)
}

// A bit that flips on the way is noticed, on either way, and the request repeated.
func TestBitFlips(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	data := bytes.Repeat([]byte("layer"), 100_000)
	flips := 0
	flip := func(p []byte) {
		if flips++; flips <= 2 && len(p) == len(data) {
			p[len(p)/2] ^= 1
		}
	}
	b, w := wired(t, srv, bucket, nil)
	w.up = flip
	if err := backend.PutBytes(t.Context(), b, "x", data, &backend.PutOptions{IfAbsent: true}); err != nil || flips != 3 {
		t.Errorf("put: %v after %d tries", err, flips)
	}
	w.up, w.down, flips = nil, flip, 0
	got, err := b.Get(t.Context(), "x", 0, -1, []byte("prefix"))
	if err != nil || string(got) != "prefix"+string(data) || flips != 3 {
		t.Errorf("get: %d bytes, %v after %d tries", len(got), err, flips)
	}
}

// A listing of several pages, whose requests fail now and then, is whole.
func TestListPages(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	b := open(t, bucket, at(srv, srv.Endpoint))
	const n = 2500
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				if err := backend.PutBytes(t.Context(), b, fmt.Sprintf("packs/%02x/%d", i%256, i), nil, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	p := &rough{server: srv.Endpoint, seed: 3, busy: 20, dropDown: 40}
	shaky := open(t, bucket, at(srv, p.start(t)))
	for range 3 {
		seen := make(map[string]bool)
		for info, err := range shaky.List(t.Context(), "packs/") {
			if err != nil {
				t.Fatal(err)
			}
			if seen[info.Name] {
				t.Errorf("%s is listed twice", info.Name)
			}
			seen[info.Name] = true
		}
		if len(seen) != n {
			t.Errorf("%d of %d objects are listed", len(seen), n)
		}
	}
	if p.faults.Load() < 3 {
		t.Errorf("only %d faults", p.faults.Load())
	}
}

// Of several processes that put one name, exactly one is first.
func TestProcesses(t *testing.T) {
	const names, processes = 30, 4
	if bucket := os.Getenv("VARVE_S3_CHILD"); bucket != "" {
		b, err := s3.Open(t.Context(), bucket, &s3.Options{Endpoint: os.Getenv("VARVE_S3_ENDPOINT"), Region: "us-east-1", Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for i := range names {
			err := backend.PutBytes(t.Context(), b, fmt.Sprintf("race/%d", i), fmt.Appendf(nil, "process %d", os.Getpid()), &backend.PutOptions{IfAbsent: true})
			switch {
			case err == nil:
				fmt.Printf("first %d\n", i)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		}
		return
	}
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	var out [processes][]byte
	var errs [processes]error
	var pids [processes]int
	var wg sync.WaitGroup
	for i := range processes {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestProcesses$", "-test.count=1", "-test.timeout=2m")
			cmd.Env = append(os.Environ(), "VARVE_S3_CHILD="+bucket, "VARVE_S3_ENDPOINT="+srv.Endpoint, "AWS_ACCESS_KEY_ID="+srv.AccessKey, "AWS_SECRET_ACCESS_KEY="+srv.SecretKey, "AWS_SESSION_TOKEN=")
			out[i], errs[i] = cmd.CombinedOutput()
			pids[i] = cmd.Process.Pid
		})
	}
	wg.Wait()
	b := open(t, bucket, at(srv, srv.Endpoint))
	for k := range names {
		first := 0
		for i := range processes {
			if errs[i] != nil {
				t.Fatalf("process %d: %v\n%s", i, errs[i], out[i])
			}
			if !bytes.Contains(out[i], fmt.Appendf(nil, "first %d\n", k)) {
				continue
			}
			first++
			got, err := b.Get(t.Context(), fmt.Sprintf("race/%d", k), 0, -1, nil)
			if want := fmt.Sprintf("process %d", pids[i]); err != nil || string(got) != want {
				t.Errorf("object %d: %q, %v; want %q", k, got, err, want)
			}
		}
		if first != 1 {
			t.Errorf("object %d: %d processes were first", k, first)
		}
	}
}

// BenchmarkPut puts objects of the size of packs.
func BenchmarkPut(b *testing.B) {
	srv := miniotest.Start(b)
	store := open(b, srv.Bucket(), at(srv, srv.Endpoint))
	data := bytes.Repeat([]byte{1, 2, 3, 5, 7, 11, 13, 17}, 2<<20)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := backend.PutBytes(b.Context(), store, fmt.Sprintf("packs/%d", i), data, &backend.PutOptions{IfAbsent: true}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGet reads a frame's size out of a pack.
func BenchmarkGet(b *testing.B) {
	srv := miniotest.Start(b)
	store := open(b, srv.Bucket(), at(srv, srv.Endpoint))
	if err := backend.PutBytes(b.Context(), store, "x", make([]byte, 16<<20), nil); err != nil {
		b.Fatal(err)
	}
	const n = 256 << 10
	buf := make([]byte, 0, n)
	b.SetBytes(n)
	b.ReportAllocs()
	var slowest time.Duration
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		if _, err := store.Get(b.Context(), "x", int64(i%60)*n, n, buf); err != nil {
			b.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
	}
	b.ReportMetric(float64(slowest.Milliseconds()), "slowest-ms")
}

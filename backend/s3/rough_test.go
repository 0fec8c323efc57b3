package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/internal/miniotest"
)

// A rough is a bad way to a server: it delays, answers 503 itself, drops
// connections and cuts bodies short in either direction, and loses replies to
// requests that took effect. It knows HTTP just enough to do each of these at a
// chosen place, which a proxy of TCP streams (toxiproxy) can't: it neither
// answers 503, nor knows where a body is, nor when a request has taken effect.
type rough struct {
	server string
	seed   uint64

	latency time.Duration
	// Of a hundred requests, so many fail in each way.
	busy, dropUp, dropDown, lose int

	mu     sync.Mutex // guards rng
	rng    *rand.Rand
	faults atomic.Int64
}

func (p *rough) start(t testing.TB) (endpoint string) {
	t.Helper()
	p.rng = rand.New(rand.NewPCG(p.seed, 1))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	srv := &http.Server{Handler: p.handler(tr), ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() { srv.Serve(l); close(ended) }()
	t.Cleanup(func() {
		srv.Close()
		<-ended
		tr.CloseIdleConnections()
	})
	return l.Addr().String()
}

func (p *rough) draw(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rng.IntN(n)
}

func (p *rough) handler(tr *http.Transport) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p.latency > 0 {
			time.Sleep(time.Duration(p.draw(int(p.latency))))
		}
		fate := p.draw(100)
		hits := func(percent int) bool {
			hit := fate >= 0 && fate < percent
			fate -= percent
			if hit {
				p.faults.Add(1)
			}
			return hit
		}
		if hits(p.busy) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, "<html><title>503 Service Temporarily Unavailable</title></html>")
			return
		}
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI = "http", p.server, ""
		if hits(p.dropUp) {
			if r.ContentLength > 0 {
				// Some of the body reaches the server.
				out.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, int64(p.draw(int(r.ContentLength)))), brokenReader{}))
				if resp, err := tr.RoundTrip(out); err == nil {
					resp.Body.Close()
				}
			}
			panic(http.ErrAbortHandler)
		}
		resp, err := tr.RoundTrip(out)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		if hits(p.lose) {
			io.Copy(io.Discard, resp.Body)
			panic(http.ErrAbortHandler)
		}
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		if resp.ContentLength > 1 && hits(p.dropDown) {
			io.CopyN(w, resp.Body, int64(p.draw(int(resp.ContentLength))))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		io.Copy(w, resp.Body)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("cut") }

func TestContractOnARoughWay(t *testing.T) {
	srv := miniotest.Start(t)
	for _, p := range []*rough{
		{latency: 10 * time.Millisecond},
		{busy: 20},
		{dropUp: 15, dropDown: 25},
		{latency: 3 * time.Millisecond, busy: 10, dropUp: 5, dropDown: 10},
	} {
		p.server, p.seed = srv.Endpoint, 7
		t.Run(fmt.Sprintf("latency=%v,busy=%d,dropUp=%d,dropDown=%d", p.latency, p.busy, p.dropUp, p.dropDown), func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backend.Backend {
				return open(t, srv.Bucket(), at(srv, p.start(t)))
			})
			if p.busy+p.dropUp+p.dropDown > 0 && p.faults.Load() < 20 {
				t.Errorf("only %d faults", p.faults.Load())
			}
		})
	}
}

// With replies that get lost, of several puts of equal bytes more than one may
// succeed; each put of bytes of its own is told exactly whether it was first.
func TestLostReplies(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	p := &rough{server: srv.Endpoint, seed: 9, lose: 30, busy: 10, dropUp: 10, dropDown: 10}
	endpoint := p.start(t)
	plain := open(t, bucket, at(srv, srv.Endpoint))
	const writers, names = 4, 12
	stores := make([]backend.Backend, writers)
	for i := range stores {
		stores[i] = open(t, bucket, at(srv, endpoint))
	}
	data := func(i, k int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 1+k*100_000) }
	var wins [names][writers]error
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for k := range names {
				wins[k][i] = backend.PutBytes(t.Context(), stores[i], fmt.Sprintf("race/%d", k), data(i, k), &backend.PutOptions{IfAbsent: true})
			}
		})
	}
	wg.Wait()
	for k := range names {
		winner := -1
		for i, err := range wins[k] {
			switch {
			case err == nil && winner >= 0:
				t.Errorf("object %d: both %d and %d were first", k, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("object %d, writer %d: %v", k, i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("object %d: nobody was first", k)
		}
		got, err := plain.Get(t.Context(), fmt.Sprintf("race/%d", k), 0, -1, nil)
		if err != nil || !bytes.Equal(got, data(winner, k)) {
			t.Errorf("object %d: not what %d put: %d bytes, %v", k, winner, len(got), err)
		}
	}
	if p.faults.Load() < 20 {
		t.Errorf("only %d faults", p.faults.Load())
	}
}

// A server that is killed and comes back is a pause, not an error.
func TestServerKilled(t *testing.T) {
	srv := miniotest.Start(t)
	b := open(t, srv.Bucket(), at(srv, srv.Endpoint))
	if err := backend.PutBytes(t.Context(), b, "first", []byte("first"), nil); err != nil {
		t.Fatal(err)
	}
	const n = 40
	var wg sync.WaitGroup
	var done atomic.Int64
	half := make(chan struct{})
	errs := make([]error, n)
	limit := make(chan struct{}, 4)
	for i := range n {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			errs[i] = backend.PutBytes(t.Context(), b, fmt.Sprintf("k/%d", i), bytes.Repeat([]byte{byte(i)}, 2<<20), &backend.PutOptions{IfAbsent: true})
			if done.Add(1) == n/4 {
				close(half)
			}
		})
	}
	<-half
	srv.Kill()
	srv.Restart()
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("put %d: %v", i, err)
			continue
		}
		got, err := b.Get(t.Context(), fmt.Sprintf("k/%d", i), 0, -1, nil)
		if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, 2<<20)) {
			t.Errorf("get %d: %d bytes, %v", i, len(got), err)
		}
	}
}

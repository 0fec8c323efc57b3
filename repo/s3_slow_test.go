package repo_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/chunk"
	"github.com/varvebackup/varve/internal/miniotest"
)

// crashStreamDigest is what crashDigest says of a file with a crashStream in it.
func crashStreamDigest(t testing.TB, seed uint64, size int64) uint64 {
	t.Helper()
	h := sha256.New()
	_, err := io.Copy(h, newCrashStream(context.Background(), seed, size))
	crashMust(t, err)
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

// A slowLink is a way to a server that lets a number of bytes a second through, all connections together, for some time after its first connection, and then
// as many as come.
type slowLink struct {
	server string
	rate   int           // bytes a second
	lasts  time.Duration //
	passed atomic.Int64  // bytes to the server while it was slow

	turn  sync.Mutex // held by the connection that has the link
	first sync.Once
	until time.Time // written once, by first
}

// start returns where the link begins. It ends with the test.
func (s *slowLink) start(t testing.TB) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	crashMust(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.carry(ctx, c) })
		}
	})
	return l.Addr().String()
}

// carry returns when one of the two ends the connection.
func (s *slowLink) carry(ctx context.Context, client net.Conn) {
	s.first.Do(func() { s.until = time.Now().Add(s.lasts) })
	var d net.Dialer
	server, err := d.DialContext(ctx, "tcp", s.server)
	if err != nil {
		client.Close()
		return
	}
	hangUp := sync.OnceFunc(func() { client.Close(); server.Close() })
	defer context.AfterFunc(ctx, hangUp)()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer hangUp()
		io.Copy(client, server)
	})
	buf := make([]byte, 16<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 {
			s.wait(ctx, n)
			if _, err := server.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	hangUp()
	wg.Wait()
}

// wait holds the link as long as n bytes take.
func (s *slowLink) wait(ctx context.Context, n int) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if time.Now().After(s.until) {
		return
	}
	s.passed.Add(int64(n))
	select {
	case <-time.After(time.Duration(n) * time.Second / time.Duration(s.rate)):
	case <-ctx.Done():
	}
}

// A stream is faster than the way to the server: what cannot be sent yet is not read yet, either, and memory stays what it is on a fast disk.
func TestS3SlowMemory(t *testing.T) {
	srv := miniotest.Start(t)
	if crashRss() == 0 {
		t.Skip("this system does not tell RssAnon")
	}
	size, lasts := int64(200<<20), 5*time.Second
	if long() {
		size, lasts = 2<<30, 25*time.Second
	}
	if raceEnabled {
		size, lasts = 32<<20, 2*time.Second
	}
	link := &slowLink{server: srv.Endpoint, rate: 1e6, lasts: lasts}
	bucket, at := srv.Bucket(), link.start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	b, err := s3.Open(t.Context(), bucket, &s3.Options{Endpoint: srv.Endpoint, Region: "us-east-1", Prefix: "backups", Insecure: true, Credentials: srv.Credentials()})
	crashMust(t, err)
	defer b.Close()
	r, key := crashRepo(t, b, nil)
	defer r.Close()

	_, _, wait := crashStart(t, crashJob{
		Repo: fmt.Sprintf("s3://%s/backups?endpoint=%s&region=us-east-1&insecure=1", bucket, at), Key: key.Text(),
		Series: "shop", Cache: t.TempDir(), Stream: size, Own: 78, Memory: true,
	})
	res, err := wait()
	crashMust(t, err)
	if res.Stats.New != size {
		t.Errorf("%+v, want %d bytes, all new", res.Stats, size)
	}
	blobs := size / int64(chunk.Fine.Avg)
	budget := int64(128<<20) + 64*blobs
	t.Logf("%d MB in %v, %.1f MB of them in the first %v: RssAnon %.1f MiB above the idle %.1f MiB, at most %.1f; about %d blobs", size/1e6,
		res.Duration.Round(time.Millisecond), float64(link.passed.Load())/1e6, lasts, float64(res.Peak-res.Idle)/(1<<20), float64(res.Idle)/(1<<20), float64(budget)/(1<<20), blobs)
	if res.Duration < lasts {
		t.Errorf("it took %v, and the link was slow for %v", res.Duration, lasts)
	}
	if res.Peak-res.Idle > budget && !raceEnabled {
		t.Errorf("the backup took %d bytes of memory, at most %d", res.Peak-res.Idle, budget)
	}
	s, err := r.Lookup(t.Context(), "shop@latest")
	crashMust(t, err)
	if got := crashSnapshotDigest(t, r, s)["dump.sql"]; got != crashStreamDigest(t, 78, size) {
		t.Error("other bytes than went in")
	}
}

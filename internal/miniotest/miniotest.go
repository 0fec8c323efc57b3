// Package miniotest runs a real MinIO for tests and benchmarks: a server of their own, on a free port of the loopback interface and in a temporary folder, that
// ends with them.
//
//	srv := miniotest.Start(t)
//	b, err := s3.Open(ctx, srv.Bucket(), &s3.Options{Endpoint: srv.Endpoint, Insecure: true, Credentials: srv.Credentials()})
//
// The program is built from the module in the folder server, which pins its version, once for all tests into the user's cache folder; that takes some minutes.
// So tests are skipped unless VARVE_TEST_MINIO=1 asks for it, or VARVE_TEST_REQUIRE=1, with which CI says that nothing may be skipped.
package miniotest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Server is a running MinIO with one folder. Its methods are for the goroutine of the test, and fail it.
type Server struct {
	Endpoint             string // 127.0.0.1:port; it speaks plain HTTP
	AccessKey, SecretKey string // of its all-powerful user

	t       testing.TB
	program string
	dir     string
	log     *buffer
	buckets atomic.Int64

	cmd   *exec.Cmd  // nil while it is not running
	ended chan error // of cmd
}

// Start starts a server that is stopped when the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	if os.Getenv("VARVE_TEST_MINIO") != "1" && os.Getenv("VARVE_TEST_REQUIRE") != "1" {
		t.Skip("no MinIO: VARVE_TEST_MINIO=1 has it built, which takes some minutes the first time")
	}
	program, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{AccessKey: "varve-test", SecretKey: "varve-test-secret", t: t, program: program, dir: t.TempDir(), log: new(buffer)}
	t.Cleanup(s.stop) // before the folder is removed
	// Somebody else may take the port before the server does.
	for range 5 {
		if s.Endpoint, err = freePort(); err != nil {
			t.Fatal(err)
		}
		if err = s.start(); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start returns when the server answers.
func (s *Server) start() error {
	home := filepath.Join(s.dir, "home")
	data := filepath.Join(s.dir, "data")
	for _, d := range []string{home, data} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	cmd := exec.Command(s.program, "server", "--address", s.Endpoint, "--certs-dir", filepath.Join(home, "certs"), data)
	cmd.Dir = home
	cmd.Env = []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(),
		"MINIO_ROOT_USER=" + s.AccessKey, "MINIO_ROOT_PASSWORD=" + s.SecretKey,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1",
		"MINIO_SITE_REGION=us-east-1", // or any will do
	}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = s.log, s.log, 10*time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.cmd, s.ended = cmd, ended
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			s.cmd = nil
			return fmt.Errorf("minio ended: %v\n%s", err, s.log)
		default:
		}
		resp, err := client.Get("http://" + s.Endpoint + "/minio/health/cluster")
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		if time.Since(began) > time.Minute {
			s.Kill()
			return fmt.Errorf("minio is not ready after a minute: %v\n%s", err, s.log)
		}
	}
}

func (s *Server) stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(os.Interrupt)
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		<-s.ended
	}
	s.cmd = nil
	if s.t.Failed() {
		s.t.Logf("minio said:\n%s", s.log)
	}
}

// Kill ends the server as kill -9 does, and returns when it is gone.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.ended
	s.cmd = nil
}

// Restart starts a server that was killed, with the same address and data, and returns when it answers.
func (s *Server) Restart() {
	s.t.Helper()
	if s.cmd != nil {
		s.t.Fatal("miniotest: Restart of a server that runs")
	}
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Credentials are those of the all-powerful user.
func (s *Server) Credentials() *credentials.Credentials {
	return credentials.NewStaticV4(s.AccessKey, s.SecretKey, "")
}

// Client returns a client with all power.
func (s *Server) Client() *minio.Client {
	s.t.Helper()
	// No connection outlives a request: tests look for what is left behind.
	tr := &http.Transport{DisableKeepAlives: true}
	c, err := minio.New(s.Endpoint, &minio.Options{Creds: s.Credentials(), Region: "us-east-1", Transport: tr})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// Bucket makes a bucket and returns its name.
func (s *Server) Bucket() string { return s.BucketWith(minio.MakeBucketOptions{}) }

// BucketWith makes a bucket with options: with object lock, say.
func (s *Server) BucketWith(o minio.MakeBucketOptions) string {
	s.t.Helper()
	name := "test-" + strconv.FormatInt(s.buckets.Add(1), 10)
	if err := s.Client().MakeBucket(context.Background(), name, o); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// AssumeRole returns temporary credentials that may do what the policy, a JSON document, allows.
func (s *Server) AssumeRole(policy string) *credentials.Credentials {
	s.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	c := credentials.New(&credentials.STSAssumeRole{
		Client: &http.Client{Transport: tr}, STSEndpoint: "http://" + s.Endpoint,
		Options: credentials.STSAssumeRoleOptions{AccessKey: s.AccessKey, SecretKey: s.SecretKey, Policy: policy, Location: "us-east-1", DurationSeconds: 3600},
	})
	v, err := c.GetWithContext(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return credentials.NewStaticV4(v.AccessKeyID, v.SecretAccessKey, v.SessionToken)
}

// A buffer keeps what a server says.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Package miniotest runs a real MinIO for tests and benchmarks: a server of their own, on a free port of the loopback interface and in a temporary folder, that
// ends with them.
//
//	srv := miniotest.Start(t)
//	b, err := s3.Open(ctx, srv.Bucket(), &s3.Options{Endpoint: srv.Endpoint, Insecure: true, Credentials: srv.Credentials()})
//
// [InCluster] runs a test beside four of them that keep each object in common.
//
// The program is built by package minioserver, once for all tests; that takes some minutes. So tests are skipped unless VARVE_TEST_MINIO=1 asks for it, or
// VARVE_TEST_REQUIRE=1, with which CI says that nothing may be skipped.
package miniotest

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/varvebackup/varve/internal/minioserver"
	"github.com/varvebackup/varve/internal/needs"
)

// Access is how to get at a server. Its methods are for the goroutine of the test, and fail it.
type Access struct {
	Endpoint             string // host:port; it speaks plain HTTP
	AccessKey, SecretKey string // of its all-powerful user

	t       testing.TB
	buckets atomic.Int64
}

// Server is a running MinIO with one folder. Its methods are for the goroutine of the test, and fail it.
type Server struct {
	Access
	server *minioserver.Server
}

// program returns the server's, or skips the test.
func program(t testing.TB) string {
	t.Helper()
	if os.Getenv("VARVE_TEST_MINIO") != "1" && !needs.Required() {
		t.Skip("no MinIO: VARVE_TEST_MINIO=1 has it built, which takes some minutes the first time")
	}
	p, err := minioserver.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Start starts a server that is stopped when the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	program := program(t)
	s := &Server{Access: Access{AccessKey: "varve-test", SecretKey: "varve-test-secret", t: t}}
	dir := t.TempDir()
	t.Cleanup(func() { // before the folder is removed
		if s.server != nil {
			s.server.Stop()
			if t.Failed() {
				t.Logf("minio said:\n%s", s.server.Log())
			}
		}
	})
	// Somebody else may take the port before the server does.
	var err error
	for range 5 {
		if s.Endpoint, err = minioserver.FreePort(); err != nil {
			t.Fatal(err)
		}
		s.server = &minioserver.Server{Program: program, Address: s.Endpoint, Dir: dir, User: s.AccessKey, Password: s.SecretKey}
		if err = s.start(); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return nil
}

// start returns when the server answers.
func (s *Server) start() error {
	if err := s.server.Start(); err != nil {
		return err
	}
	if err := s.server.Ready(context.Background()); err != nil {
		s.server.Kill()
		return err
	}
	return nil
}

// Kill ends the server as kill -9 does, and returns when it is gone.
func (s *Server) Kill() { s.server.Kill() }

// Restart starts a server that was killed, with the same address and data, and returns when it answers.
func (s *Server) Restart() {
	s.t.Helper()
	if s.server.Running() {
		s.t.Fatal("miniotest: Restart of a server that runs")
	}
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Credentials are those of the all-powerful user.
func (a *Access) Credentials() *credentials.Credentials {
	return credentials.NewStaticV4(a.AccessKey, a.SecretKey, "")
}

// Client returns a client with all power.
func (a *Access) Client() *minio.Client {
	a.t.Helper()
	// No connection outlives a request: tests look for what is left behind.
	tr := &http.Transport{DisableKeepAlives: true}
	c, err := minio.New(a.Endpoint, &minio.Options{Creds: a.Credentials(), Region: "us-east-1", Transport: tr})
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// Bucket makes a bucket and returns its name.
func (a *Access) Bucket() string { return a.BucketWith(minio.MakeBucketOptions{}) }

// BucketWith makes a bucket with options: with object lock, say.
func (a *Access) BucketWith(o minio.MakeBucketOptions) string {
	a.t.Helper()
	name := "test-" + strconv.FormatInt(a.buckets.Add(1), 10)
	if err := a.Client().MakeBucket(context.Background(), name, o); err != nil {
		a.t.Fatal(err)
	}
	return name
}

// AssumeRole returns temporary credentials that may do what the policy, a JSON document, allows.
func (a *Access) AssumeRole(policy string) *credentials.Credentials {
	a.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	c := credentials.New(&credentials.STSAssumeRole{
		Client: &http.Client{Transport: tr}, STSEndpoint: "http://" + a.Endpoint,
		Options: credentials.STSAssumeRoleOptions{AccessKey: a.AccessKey, SecretKey: a.SecretKey, Policy: policy, Location: "us-east-1", DurationSeconds: 3600},
	})
	v, err := c.GetWithContext(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return credentials.NewStaticV4(v.AccessKeyID, v.SecretAccessKey, v.SessionToken)
}

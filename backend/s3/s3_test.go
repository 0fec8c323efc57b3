package s3_test

import (
	"context"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/internal/miniotest"
)

// quick are retries for tests.
var quick = &backend.RetryOptions{Wait: 5 * time.Millisecond, MaxWait: 200 * time.Millisecond, Elapsed: 20 * time.Second}

// open opens a bucket until the test ends.
func open(t testing.TB, bucket string, o *s3.Options) *s3.Bucket {
	t.Helper()
	if o.Retry == nil {
		o.Retry = quick
	}
	b, err := s3.Open(t.Context(), bucket, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// at are the options for a bucket at an endpoint, with all power.
func at(srv *miniotest.Server, endpoint string) *s3.Options {
	return &s3.Options{Endpoint: endpoint, Region: "us-east-1", Insecure: true, Credentials: srv.Credentials()}
}

// A hiding is a Bucket with the power to put marks, as other programs do.
type hiding struct {
	*s3.Bucket
	srv            *miniotest.Server
	bucket, prefix string
}

func (h hiding) Hide(ctx context.Context, name string) error {
	return h.srv.Client().RemoveObject(ctx, h.bucket, h.prefix+name, minio.RemoveObjectOptions{})
}

// kinds are buckets with and without versions and locks.
var kinds = map[string]func(srv *miniotest.Server) (bucket string){
	"plain":    (*miniotest.Server).Bucket,
	"versions": versionedBucket,
	"locks":    lockBucket,
	"suspended": func(srv *miniotest.Server) string {
		name := versionedBucket(srv)
		if err := srv.Client().SuspendVersioning(context.Background(), name); err != nil {
			panic(err)
		}
		return name
	},
}

func versionedBucket(srv *miniotest.Server) string {
	name := srv.Bucket()
	if err := srv.Client().EnableVersioning(context.Background(), name); err != nil {
		panic(err)
	}
	return name
}

func TestContractOfKinds(t *testing.T) {
	srv := miniotest.Start(t)
	for kind, bucket := range kinds {
		t.Run(kind, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backend.Backend {
				o := at(srv, srv.Endpoint)
				o.Prefix = "deep/down"
				name := bucket(srv)
				return hiding{open(t, name, o), srv, name, "deep/down/"}
			})
		})
	}
}

func TestContract(t *testing.T) {
	srv := miniotest.Start(t)
	t.Run("bucket", func(t *testing.T) {
		backendtest.Run(t, func(t *testing.T) backend.Backend { return open(t, srv.Bucket(), at(srv, srv.Endpoint)) })
	})
	t.Run("prefix", func(t *testing.T) {
		shared := srv.Bucket()
		n := 0
		backendtest.Run(t, func(t *testing.T) backend.Backend {
			o := at(srv, srv.Endpoint)
			n++
			o.Prefix = "/some/where" + string(rune('a'+n)) + "/"
			o.Region = ""
			return open(t, shared, o)
		})
	})
}

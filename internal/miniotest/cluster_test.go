package miniotest_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/internal/miniotest"
)

// Any node may go, one at a time; two are enough for reading. And nothing outside is within reach.
func TestCluster(t *testing.T) {
	miniotest.InCluster(t, func(t *testing.T, c *miniotest.Cluster) {
		ifs, err := net.InterfaceAddrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range ifs {
			if a := i.String(); !strings.HasPrefix(a, "127.") && !strings.HasPrefix(a, "10.83.0.") && !strings.HasPrefix(a, "::1/") {
				t.Errorf("there is the address %s", a)
			}
		}
		bucket := c.Bucket()
		put := func(name, data string) {
			t.Helper()
			if _, err := c.Client().PutObject(t.Context(), bucket, name, strings.NewReader(data), int64(len(data)), minio.PutObjectOptions{}); err != nil {
				t.Error(err)
			}
		}
		get := func(name, want string) {
			t.Helper()
			o, err := c.Client().GetObject(t.Context(), bucket, name, minio.GetObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, []byte(want)) {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		put("one", "all are there")
		c.Kill(2)
		c.Kill(2)
		get("one", "all are there")
		put("two", "node 2 is gone")
		c.Restart(2)
		c.Kill(3)
		get("two", "node 2 is gone")
		put("three", "node 3 is gone")
		c.Kill(1)
		get("one", "all are there")
		c.Restart(1)
		c.Restart(3)
		get("three", "node 3 is gone")
	})
}

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/internal/miniotest"
)

// A bucket that keeps versions, and a thief who overwrites everything in it.
func TestRobbedBucket(t *testing.T) {
	srv := miniotest.Start(t)
	client, name := srv.Client(), srv.Bucket()
	if err := client.EnableVersioning(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
	url := "s3://" + name + "/shop?endpoint=" + srv.Endpoint + "&region=us-east-1&insecure=1"
	s := newShell(t)
	s.run(t, 0, "init", "--repo", url)
	s.run(t, 0, "backup", "--repo", url, "shop", t.TempDir())
	// Times in URLs have seconds, and the store's are finer.
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1100 * time.Millisecond)))
	then := time.Now().UTC().Format(time.RFC3339)
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1100 * time.Millisecond)))
	for o := range client.ListObjects(t.Context(), name, minio.ListObjectsOptions{Recursive: true}) {
		if _, err := client.PutObject(t.Context(), name, o.Key, strings.NewReader("junk"), 4, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, 1, "check", "--repo", url)
	if !strings.Contains(s.err.String(), "all can still be restored, from their older versions") {
		t.Error(s.err.String())
	}
	s.run(t, 0, "restore", "--repo", url, "--no-cache", "shop@latest", t.TempDir()+"/out")
	s.run(t, 0, "heal", "--repo", url, "--replace", "--from", url+"&as-of="+then)
	s.run(t, 0, "check", "--repo", url, "--read-data")
}

package miniotest_test

import (
	"testing"

	"github.com/varvebackup/varve/internal/miniotest"
)

func TestServer(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	srv.Kill()
	srv.Kill()
	srv.Restart()
	if ok, err := srv.Client().BucketExists(t.Context(), bucket); err != nil || !ok {
		t.Errorf("after a restart: %v, %v", ok, err)
	}
}

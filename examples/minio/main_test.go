package main

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/varvebackup/varve/internal/miniotest"
)

func TestRun(t *testing.T) {
	srv := miniotest.Start(t) // or skips
	t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("TMP", tmp) // Windows
	given := fmt.Sprintf("s3://%s/shop?endpoint=%s&region=us-east-1&insecure=1", srv.Bucket(), srv.Endpoint)
	for _, c := range []struct {
		name, url string
		again     bool
	}{{"own", "", false}, {"given", given, false}, {"given again", given, true}} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := run(t.Context(), &out, c.url); err != nil {
				t.Fatal(err)
			}
			var read, stored [2]int64
			var last string
			if _, err := fmt.Sscanf(out.String(), "day 1: %d bytes read, %d bytes stored\nday 2: %d bytes read, %d bytes stored\nday 1 restored: %s",
				&read[0], &stored[0], &read[1], &stored[1], &last); err != nil || last != "identical" {
				t.Fatalf("it prints %q: %v", &out, err)
			}
			if read[0] < 10e6 || stored[0] > read[0] || !c.again && stored[1]*5 > stored[0] || c.again && stored[0]*5 > read[0] {
				t.Errorf("it prints %q", &out)
			}
			left, err := os.ReadDir(tmp)
			if err != nil || len(left) != 0 {
				t.Errorf("it leaves %v, %v", left, err)
			}
		})
	}
}

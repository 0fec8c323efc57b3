package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/internal/miniotest"
)

// In a bucket, with the policy that the command itself prints.
func TestDoctorInBucket(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.BucketWith(minio.MakeBucketOptions{ObjectLocking: true})
	url := fmt.Sprintf("s3://%s/shop?endpoint=%s&region=us-east-1&insecure=1", bucket, srv.Endpoint)
	varve := func(args ...string) (status int, stdout, stderr string) {
		var out, errs bytes.Buffer
		vars := map[string]string{"VARVE_REPO": url, "VARVE_PASSPHRASE": "secret"}
		status = run(t.Context(), env{stdout: &out, stderr: &errs, getenv: func(k string) string { return vars[k] }, width: func() int { return 0 }}, append(args, "--no-cache"))
		return status, out.String(), errs.String()
	}
	login := func(key, secret, token string) {
		t.Setenv("AWS_ACCESS_KEY_ID", key)
		t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
		t.Setenv("AWS_SESSION_TOKEN", token)
	}
	login(srv.AccessKey, srv.SecretKey, "")
	if s, _, stderr := varve("init", "--lock", "compliance:1h"); s != 0 {
		t.Fatal(stderr)
	}
	_, policy, _ := varve("doctor", "--policy", "writer", "--without-conditions")
	v, err := srv.AssumeRole(policy).GetWithContext(nil)
	if err != nil {
		t.Fatal(err)
	}
	login(v.AccessKeyID, v.SecretAccessKey, v.SessionToken)
	s, stdout, stderr := varve("doctor", "--json", "--strict")
	var doc struct {
		Thief, Versions, TLS string
		Repository           bool
		Used                 struct {
			InUse bool `json:"in_use"`
			Mode  string
		}
		Left []string
	}
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || s != 0 {
		t.Fatalf("status %d, %s, %v", s, stderr, err)
	}
	if doc.Thief != "undone" || doc.Versions != "yes" || doc.TLS != "no" || !doc.Repository || !doc.Used.InUse || doc.Used.Mode != "compliance" || len(doc.Left) == 0 {
		t.Errorf("%s", stdout)
	}
	if s, stdout, _ := varve("doctor"); s != 0 || !strings.Contains(stdout, "thief: undone\n") || !strings.Contains(stdout, "can't remove") {
		t.Errorf("status %d, %s", s, stdout)
	}
	login(v.AccessKeyID, "wrong", v.SessionToken)
	if s, stdout, stderr := varve("doctor"); s != 1 || stdout != "" || !strings.Contains(stderr, "does not belong") {
		t.Errorf("a wrong key: status %d, %s%s", s, stdout, stderr)
	}
	url = strings.Replace(url, bucket, "no-such-bucket", 1)
	login(srv.AccessKey, srv.SecretKey, "")
	if s, stdout, stderr := varve("doctor"); s != 1 || stdout != "" || !strings.Contains(stderr, "no bucket no-such-bucket") {
		t.Errorf("no bucket: status %d, %s%s", s, stdout, stderr)
	}
}

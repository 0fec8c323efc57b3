package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/internal/miniotest"
)

func TestBucketURLs(t *testing.T) {
	s := newShell(t)
	s.run(t, 0, "init")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"keys don't belong into a URL", []string{"backup", "shop", "media=s3://key:secret@media/x"}},
		{"keys don't belong into a URL", []string{"restore", "shop@latest", "s3://key:secret@media/x"}},
		{`"regoin" means nothing here (there are endpoint, region, path-style, insecure, ca and profile)`, []string{"backup", "shop", "s3://media/x?regoin=secret"}},
		{"--delete is for buckets", []string{"restore", "shop@latest", t.TempDir(), "--delete"}},
		{"--verify is for folders", []string{"restore", "shop@latest", "s3://media", "--verify"}},
		{"would both be called \"media\"", []string{"backup", "shop", "s3://media", "s3://other/media/"}},
	} {
		s.run(t, 1, c.args...)
		if !strings.Contains(s.err.String(), c.want) || strings.Contains(s.err.String(), "secret") {
			t.Errorf("%q: %s", c.args, &s.err)
		}
	}
}

// From one bucket into the repository, and from there into another one.
func TestBucket(t *testing.T) {
	srv := miniotest.Start(t)
	client := srv.Client()
	media, copied := srv.Bucket(), srv.Bucket()
	put := func(bucket, key, data string) {
		t.Helper()
		_, err := client.PutObject(t.Context(), bucket, key, strings.NewReader(data), int64(len(data)), minio.PutObjectOptions{ContentType: "image/png", UserTags: map[string]string{"k": "v"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(media, "shop/cats/1.png", "a cat")
	put(media, "shop/dir/", "")
	put(media, "else", "not this")
	put(copied, "here/cats/1.png", "a dog")
	put(copied, "here/extra", "x")
	keys := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(keys, fmt.Appendf(nil, "[media]\naws_access_key_id = %s\naws_secret_access_key = %s\n", srv.AccessKey, srv.SecretKey), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", keys)
	url := func(path string) string {
		return "s3://" + path + "?endpoint=" + srv.Endpoint + "&region=us-east-1&insecure=1&profile=media"
	}
	s := newShell(t)
	s.run(t, 0, "init")
	s.run(t, 1, "backup", "shop", "media="+url("pictures"))
	if !strings.Contains(s.err.String(), "there is no bucket pictures") {
		t.Error(s.err.String())
	}
	s.run(t, 0, "backup", "shop", "media="+url(media+"/shop"))
	s.run(t, 0, "ls", "-R", "shop@latest")
	if got := s.out.String(); got != "media/\nmedia/cats/\nmedia/cats/1.png\nmedia/dir/\nmedia/dir/%~.\n" {
		t.Error(got)
	}
	s.run(t, 0, "restore", "shop@latest:media", url(copied+"/here"))
	if !strings.Contains(s.out.String(), "1 file, 0 B, kept 1 entry as they were") {
		t.Error(s.out.String())
	}
	s.run(t, 0, "restore", "shop@latest:media", url(copied+"/here/"), "--overwrite", "if-different", "--delete", "--json")
	if got := s.out.String(); !strings.Contains(got, `"files":1,"folders":0,"others":0,"kept":1,"deleted":1,"bytes":5`) {
		t.Error(got)
	}
	o, err := client.GetObject(t.Context(), copied, "here/cats/1.png", minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if b, err := io.ReadAll(o); string(b) != "a cat" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if info, _ := o.Stat(); info.ContentType != "image/png" || info.UserTagCount != 1 {
		t.Errorf("%+v", info)
	}
}

package varve_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/miniotest"
)

// BenchmarkResticS3 runs the first backup of BenchmarkRestic into a bucket of a MinIO on this machine, by varve and by restic in turns, each into a fresh
// repository; of the random bytes, there are 128 MiB unless VARVE_TEST_LONG=1. restic/varve is how many times as fast varve is. In turns with them it backs up to a folder, and puts the packs that are there then into
// a bucket, four at a time, with minio-go alone: varve/floor is the time to the bucket by the sum of these two. -benchtime 5x gives five rounds.
func BenchmarkResticS3(b *testing.B) {
	srv := miniotest.Start(b)
	size := int64(128 << 20)
	if os.Getenv("VARVE_TEST_LONG") != "" {
		size = 1 << 30
	}
	restic, varve, input, other := againstRestic(b, size)
	tmp := b.TempDir()
	key := try(crypt.NewKey())
	env := []string{"AWS_ACCESS_KEY_ID=" + srv.AccessKey, "AWS_SECRET_ACCESS_KEY=" + srv.SecretKey, "AWS_REGION=us-east-1"}
	run := func(env []string, program string, args ...string) {
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s %v: %v\n%s", program, args, err, out)
		}
	}
	// fresh calls f with a new bucket and a new folder, and removes them.
	fresh := func(f func(bucket, dir string)) {
		bucket, dir := srv.Bucket(), filepath.Join(tmp, "fresh")
		must(os.Mkdir(dir, 0o700))
		f(bucket, dir)
		must(os.RemoveAll(dir))
		c := srv.Client()
		for e := range c.RemoveObjects(b.Context(), bucket, c.ListObjects(b.Context(), bucket, minio.ListObjectsOptions{Recursive: true}), minio.RemoveObjectsOptions{}) {
			b.Fatal(e.Err)
		}
	}
	backup := func(s *series, repository, dir string) {
		env := append(slices.Clip(env), "VARVE_KEY="+key.Text(), "VARVE_REPO="+repository, "VARVE_CACHE="+filepath.Join(dir, "cache"))
		run(env, varve, "init")
		s.time(func() { run(env, varve, "backup", "bench", "input="+input, "go="+other) })
	}
	var ours, theirs, local, puts series
	for b.Loop() {
		fresh(func(bucket, dir string) {
			backup(&ours, fmt.Sprintf("s3://%s/repository?endpoint=%s&region=us-east-1&insecure=1", bucket, srv.Endpoint), dir)
		})
		fresh(func(bucket, dir string) {
			env := append(slices.Clip(env), "RESTIC_PASSWORD=secret", "HOME="+dir, "RESTIC_REPOSITORY=s3:http://"+srv.Endpoint+"/"+bucket+"/repository")
			run(env, restic, "init")
			theirs.time(func() { run(env, restic, "backup", "-q", input, other) })
		})
		fresh(func(bucket, dir string) {
			repository := filepath.Join(dir, "repository")
			backup(&local, repository, dir)
			packs := try(filepath.Glob(filepath.Join(repository, "packs", "*", "*")))
			tr := &http.Transport{MaxIdleConnsPerHost: 4}
			defer tr.CloseIdleConnections()
			c := try(minio.New(srv.Endpoint, &minio.Options{Creds: srv.Credentials(), Region: "us-east-1", Transport: tr}))
			puts.time(func() { must(putAll(b.Context(), c, bucket, packs)) })
		})
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ours), "varve-s")
	b.ReportMetric(median(theirs), "restic-s")
	b.ReportMetric(median(local), "local-s")
	b.ReportMetric(median(puts), "puts-s")
	b.ReportMetric(per(theirs, ours), "restic/varve")
	b.ReportMetric(per(ours, sum(local, puts)), "varve/floor")
	for name, s := range map[string]series{"varve": ours, "restic": theirs, "local": local, "puts": puts} {
		b.Logf("%s: %s s", name, seconds(s))
	}
}

// putAll puts files, four at a time.
func putAll(ctx context.Context, c *minio.Client, bucket string, files []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, file := range files {
		g.Go(func() error {
			_, err := c.FPutObject(ctx, bucket, filepath.Base(file), file, minio.PutObjectOptions{})
			return err
		})
	}
	return g.Wait()
}

// seconds writes times down, in the order in which they were taken.
func seconds(s series) string {
	var words []string
	for _, x := range s {
		words = append(words, fmt.Sprintf("%.2f", x))
	}
	return strings.Join(words, " ")
}

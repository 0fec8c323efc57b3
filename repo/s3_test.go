package repo_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/repo"
)

// s3Repo makes a repository in a new bucket, and returns the URL for child processes, which find the keys in their environment.
func s3Repo(t *testing.T, srv *miniotest.Server) (url string, b *s3.Bucket, r *repo.Repo, key crypt.RawKey) {
	t.Helper()
	bucket := srv.Bucket()
	b, err := s3.Open(t.Context(), bucket, &s3.Options{Endpoint: srv.Endpoint, Region: "us-east-1", Prefix: "backups", Insecure: true, Credentials: srv.Credentials()})
	crashMust(t, err)
	t.Cleanup(func() { b.Close() })
	t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	r, key = crashRepo(t, b, nil)
	return fmt.Sprintf("s3://%s/backups?endpoint=%s&region=us-east-1&insecure=1", bucket, srv.Endpoint), b, r, key
}

// Eight processes back up to one bucket at once, in four series.
func TestS3Processes(t *testing.T) {
	srv := miniotest.Start(t)
	const processes = 8
	shared, own := 6<<20, 1<<20
	for _, before := range []bool{true, false} {
		for _, kill := range []bool{false, true} {
			t.Run(fmt.Sprintf("snapshot before: %v, server killed: %v", before, kill), func(t *testing.T) {
				tmp := t.TempDir()
				url, b, r, key := s3Repo(t, srv)
				if before {
					_, err := r.Backup(t.Context(), "shared", crashShared(1, shared, 2, 0), nil)
					crashMust(t, err)
				}
				start := filepath.Join(tmp, "start")
				var waits []func() (*crashResult, error)
				for i := range processes {
					_, _, wait := crashStart(t, crashJob{Repo: url, Key: key.Text(), Series: fmt.Sprintf("host/%d", i%4), Shared: 1, SharedSize: shared, Own: uint64(100 + i), OwnSize: own, Start: start})
					waits = append(waits, wait)
				}
				crashMust(t, os.WriteFile(start, nil, 0o644))
				if kill {
					// As soon as somebody has put a pack of the new ones.
					packs := len(crashNames(t, b, "packs/"))
					for len(crashNames(t, b, "packs/")) == packs {
						time.Sleep(time.Millisecond)
					}
					srv.Kill()
					srv.Restart()
				}
				made := map[string]int{}
				for i, wait := range waits {
					res, err := wait()
					crashMust(t, err) // a server that comes back is no reason to fail
					made[res.ID] = i
					if limit := int64(own) * 11 / 10; before && res.Stats.Stored > limit {
						t.Errorf("process %d stored %d bytes, at most %d", i, res.Stats.Stored, limit)
					}
				}
				snaps := crashSnapshots(t, r, "")
				if want := processes + map[bool]int{true: 1}[before]; len(snaps) != want || len(made) != processes {
					t.Errorf("%d snapshots, %d were made", len(snaps), len(made))
				}
				for _, s := range snaps {
					if i, ok := made[s.ID]; ok {
						crashSame(t, s.Series, crashSnapshotDigest(t, r, s), crashDigest(t, crashShared(1, shared, uint64(100+i), own)))
					}
				}
				crashSound(t, r, true)
				dir := filepath.Join(tmp, "restored")
				_, err := r.Restore(t.Context(), snaps[len(snaps)-1], dir, nil)
				crashMust(t, err)
				crashSame(t, "restored", crashDigest(t, os.DirFS(dir)), crashSnapshotDigest(t, r, snaps[len(snaps)-1]))
			})
		}
	}
}

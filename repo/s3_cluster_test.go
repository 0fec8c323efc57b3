//go:build linux

package repo_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// A markedStream tells where its reader has come to, and lets it wait.
type markedStream struct {
	*crashStream
	marks []mark
}

// A mark is a place in a stream: when it is reached, reached is closed; reading goes on once resume, if it is not nil, is closed.
type mark struct {
	off             int64
	reached, resume chan struct{}
}

func (s *markedStream) Read(p []byte) (int, error) {
	for len(s.marks) > 0 && s.off >= s.marks[0].off {
		m := s.marks[0]
		s.marks = s.marks[1:]
		close(m.reached)
		if m.resume != nil {
			select {
			case <-m.resume:
			case <-s.ctx.Done():
				return 0, s.ctx.Err()
			}
		}
	}
	return s.crashStream.Read(p)
}

// A node of a cluster is killed amid a backup and comes back in it, another one is killed after it: nobody notices.
func TestS3Cluster(t *testing.T) {
	miniotest.InCluster(t, func(t *testing.T, c *miniotest.Cluster) {
		tmp := t.TempDir()
		b, err := s3.Open(t.Context(), c.Bucket(), &s3.Options{Endpoint: c.Endpoint, Region: "us-east-1", Prefix: "backups", Insecure: true, Credentials: c.Credentials()})
		crashMust(t, err)
		defer b.Close()
		o := &repo.Options{Cache: filepath.Join(tmp, "cache")}
		r, key := crashRepo(t, b, o)

		files := filepath.Join(tmp, "files")
		crashPlant(t, files, 1, 20<<20)
		size := int64(160 << 20)
		if raceEnabled {
			size = 80 << 20
		}
		gone := mark{off: size / 4, reached: make(chan struct{})} // reading and putting go on meanwhile
		back := mark{off: size * 3 / 4, reached: make(chan struct{}), resume: make(chan struct{})}
		dir, err := source.Dir(files, nil)
		crashMust(t, err)
		defer dir.Close()
		dump := func(seed uint64, marks ...mark) source.Join {
			return source.Join{"files": dir, "db.sql": source.Stream("db.sql", func(ctx context.Context) (io.ReadCloser, error) {
				return &markedStream{newCrashStream(ctx, seed, size), marks}, nil
			})}
		}

		var first *repo.Snapshot
		ended := make(chan error, 1)
		go func() {
			var err error
			first, err = r.Backup(t.Context(), "shop", dump(7, gone, back), nil)
			ended <- err
		}()
		reach := func(m mark) {
			t.Helper()
			select {
			case <-m.reached:
			case err := <-ended:
				t.Fatalf("the backup ended early: %v", err)
			}
		}
		reach(gone)
		c.Kill(2)
		packs := func() int { return len(crashNames(t, b, "packs/")) }
		before := packs()
		reach(back)
		for packs() == before { // some are put while the node is away
			time.Sleep(time.Millisecond)
		}
		alone := packs()
		c.Restart(2)
		close(back.resume)
		crashMust(t, <-ended)
		if all := packs(); alone >= all {
			t.Errorf("all %d packs were there when the node came back", all)
		}
		wantFiles, wantDump := crashDigest(t, os.DirFS(files)), crashStreamDigest(t, 7, size)
		restore := func(r *repo.Repo, s *repo.Snapshot, dump uint64) {
			t.Helper()
			out := filepath.Join(tmp, "restored")
			defer os.RemoveAll(out)
			_, err := r.Restore(t.Context(), s, out, nil)
			crashMust(t, err)
			crashSame(t, "restored files", crashDigest(t, os.DirFS(filepath.Join(out, "files"))), wantFiles)
			if got := crashDigest(t, os.DirFS(out))["db.sql"]; got != dump {
				t.Error("restored dump: other bytes than went in")
			}
		}

		// What was put while node 2 was away lies on the three others. Node 3 was there all the time, and goes.
		c.Kill(3)
		restore(r, first, wantDump)
		second, err := r.Backup(t.Context(), "shop", dump(8), nil)
		crashMust(t, err)
		// Somebody without a cache finds everything, too.
		fresh := crashOpen(t, b, key, nil)
		defer fresh.Close()
		restore(fresh, second, crashStreamDigest(t, 8, size))
		if rep := crashSound(t, fresh, true); rep.Snapshots != 2 {
			t.Errorf("check saw %d snapshots", rep.Snapshots)
		}
		c.Restart(3)
		crashSound(t, fresh, true)
		crashMust(t, r.Close())
	})
}

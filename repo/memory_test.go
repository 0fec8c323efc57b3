package repo_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/chunk"
	"github.com/varvebackup/varve/repo"
)

// The memory of a backup is bounded by its options and the number of its blobs, not by its length; and a little of a long stream is a few small requests.
func TestStreamMemory(t *testing.T) {
	if crashRss() == 0 {
		t.Skip("this system does not tell RssAnon")
	}
	size, seed := int64(600<<20), uint64(77)
	if long() {
		size = 20 << 30
	}
	if raceEnabled {
		size = 32 << 20
	}
	if s := os.Getenv("VARVE_TEST_STREAM"); s != "" {
		size, _ = strconv.ParseInt(s, 10, 64)
	}
	tmp := t.TempDir()
	b, err := dir.Create(filepath.Join(tmp, "repo"))
	crashMust(t, err)
	_, key := crashRepo(t, b, nil)
	cache := filepath.Join(tmp, "cache")
	job := crashJob{Repo: filepath.Join(tmp, "repo"), Key: key.Text(), Series: "shop", Cache: cache, Stream: size, Own: seed, Memory: true}
	_, _, wait := crashStart(t, job)
	res, err := wait()
	crashMust(t, err)

	f := &backendtest.Faulty{Backend: b}
	r := crashOpen(t, f, key, &repo.Options{Cache: cache})
	s, err := r.Lookup(t.Context(), "shop@latest")
	crashMust(t, err)
	if s.Stats.Bytes != size || s.Stats.New != size {
		t.Fatalf("%+v, want %d bytes, all new", s.Stats, size)
	}
	blobs := size / int64(chunk.Fine.Avg)
	budget := int64(128<<20) + 64*blobs
	t.Logf("%d MB in %v (%.0f MB/s): RssAnon %.1f MiB above the idle %.1f MiB, at most %.1f; about %d blobs", size/1e6, res.Duration.Round(time.Millisecond),
		float64(size)/1e6/res.Duration.Seconds(), float64(res.Peak-res.Idle)/(1<<20), float64(res.Idle)/(1<<20), float64(budget)/(1<<20), blobs)
	if res.Peak-res.Idle > budget && !raceEnabled {
		t.Errorf("the backup took %d bytes of memory, at most %d", res.Peak-res.Idle, budget)
	}

	off := size - size/20 + 12345
	f.Reset()
	fsys, err := r.FS(t.Context(), s)
	crashMust(t, err)
	file, err := fsys.Open("dump.sql")
	crashMust(t, err)
	got := make([]byte, 1024)
	_, err = file.(io.ReaderAt).ReadAt(got, off)
	crashMust(t, err)
	if !bytes.Equal(got, crashStreamAt(seed, off, len(got))) {
		t.Error("other bytes than went in")
	}
	c := f.Counts()
	t.Logf("1 KiB at %d: %d gets, %d bytes, %d lists", off, c.Gets, c.BytesRead, c.Lists)
	if c.Gets > 4 || c.BytesRead > 2<<20 {
		t.Errorf("1 KiB took %d gets of %d bytes, at most 4 and 2 MiB", c.Gets, c.BytesRead)
	}

	// The next backup of the series stands on the token file that the long stream left: that must not cost memory either.
	if !raceEnabled {
		job.Stream, job.Own = 32<<20, seed+1
		_, _, wait = crashStart(t, job)
		next, err := wait()
		crashMust(t, err)
		t.Logf("a small backup afterwards: RssAnon %.1f MiB above the idle one", float64(next.Peak-next.Idle)/(1<<20))
		if next.Peak-next.Idle > budget {
			t.Errorf("a small backup afterwards took %d bytes of memory, at most %d", next.Peak-next.Idle, budget)
		}
	}
}

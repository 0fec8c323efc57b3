package repo_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// Sixteen processes back up into one repository at once.
func TestProcesses(t *testing.T) {
	const processes = 16
	shared, own := 6<<20, 1<<20
	switch {
	case long():
		shared = 40 << 20
	case raceEnabled:
		shared = 2 << 20
	}
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprintf("snapshot before: %v", before), func(t *testing.T) {
			tmp := t.TempDir()
			store := filepath.Join(tmp, "repo")
			b, err := dir.Create(store)
			crashMust(t, err)
			r, key := crashRepo(t, b, nil)
			if before {
				_, err := r.Backup(t.Context(), "shared", crashShared(1, shared, 2, 0), nil)
				crashMust(t, err)
			}
			// All at the same time, and some with one cache.
			start := filepath.Join(tmp, "start")
			var waits []func() (*crashResult, error)
			for i := range processes {
				job := crashJob{Repo: store, Key: key.Text(), Series: fmt.Sprintf("host/%d", i), Shared: 1, SharedSize: shared, Own: uint64(100 + i), OwnSize: own, Start: start}
				if i%2 == 0 {
					job.Cache = filepath.Join(tmp, "cache")
				}
				_, _, wait := crashStart(t, job)
				waits = append(waits, wait)
			}
			crashMust(t, os.WriteFile(start, nil, 0o644))
			var total int64
			for i, wait := range waits {
				res, err := wait()
				crashMust(t, err)
				total += res.Stats.Stored
				if limit := int64(own) * 11 / 10; before && res.Stats.Stored > limit {
					t.Errorf("process %d stored %d bytes, at most %d", i, res.Stats.Stored, limit)
				}
			}
			t.Logf("%d bytes stored, %d of content", total, processes*own)
			for i := range processes {
				s, err := r.Lookup(t.Context(), fmt.Sprintf("host/%d@latest", i))
				crashMust(t, err)
				crashSame(t, s.Series, crashSnapshotDigest(t, r, s), crashDigest(t, crashShared(1, shared, uint64(100+i), own)))
			}
			crashSound(t, r, true)
			if ends := crashEnds(t, b); len(ends) < processes {
				t.Errorf("%d sessions ended", len(ends))
			}
		})
	}
}

// Sessions of one process share nothing of what they believe present, whether they have one Repo or several.
func TestGoroutines(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	b := mem.New(nil)
	cache := t.TempDir()
	r1, key := crashRepo(t, b, &repo.Options{Cache: cache})
	r2 := crashOpen(t, b, key, &repo.Options{Cache: cache, Workers: 3})
	r3 := crashOpen(t, b, key, nil)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards want
	want := map[string]map[string]uint64{}
	for i := range 9 {
		wg.Go(func() {
			r := []*repo.Repo{r1, r2, r3}[i%3]
			for j := range 3 {
				src := crashShared(1, 2<<20, uint64(i*10+j), 200<<10)
				// Two series are written by several at a time.
				s, err := r.Backup(context.Background(), fmt.Sprintf("s%d", i/4), src, nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[s.ID] = crashDigest(t, src)
				mu.Unlock()
				if _, err := r.Lookup(context.Background(), s.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	snaps := crashSnapshots(t, r3, "")
	if len(snaps) != 27 || len(want) != 27 {
		t.Fatalf("%d snapshots, %d were made", len(snaps), len(want))
	}
	for _, s := range snaps {
		crashSame(t, s.ID, crashSnapshotDigest(t, r3, s), want[s.ID])
	}
	crashSound(t, r1, true)
}

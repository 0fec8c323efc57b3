//go:build unix

package repo_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/repo"
)

// Hours become tenths of seconds.
var hasty = repo.Times{Renew: 300 * time.Millisecond, Expire: 6 * time.Second, Lag: 1500 * time.Millisecond, Segment: 50 * time.Millisecond, Margin: 6 * time.Second,
	Undo: 3 * time.Second, Slack: 3 * time.Second}

// Eight writers back up, with content that comes and goes, and two maintainers prune, each in a process of its own, some of which are killed or put to sleep at random. What returned
// success and was not forgotten restores byte for byte, and in the end nothing is stored that nobody needs.
func TestReality(t *testing.T) {
	t.Run("dir", func(t *testing.T) {
		path := t.TempDir()
		if !long() {
			if shm, err := os.MkdirTemp("/dev/shm", "varve-test-"); err == nil {
				t.Cleanup(func() { os.RemoveAll(shm) })
				path = shm
			}
		}
		b, err := dir.Create(path)
		crashMust(t, err)
		reality(t, path, b)
	})
	t.Run("MinIO", func(t *testing.T) {
		srv := miniotest.Start(t)
		bucket := srv.Bucket()
		b := s3Open(t, srv, bucket)
		t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
		t.Setenv("AWS_SESSION_TOKEN", "")
		reality(t, fmt.Sprintf("s3://%s?endpoint=%s&region=us-east-1&insecure=1", bucket, srv.Endpoint), b)
	})
}

func reality(t *testing.T, url string, b backend.Backend) {
	length := 15 * time.Second
	if raceEnabled {
		length = 8 * time.Second
	}
	if long() {
		length = 10 * time.Minute
	}
	if l := os.Getenv("VARVE_TEST_REALITY"); l != "" {
		d, err := time.ParseDuration(l)
		crashMust(t, err)
		length = d
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("VARVE_TEST_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	t.Logf("VARVE_TEST_SEED=%d", seed)
	repo.SetTimes(t, hasty)
	r, key := crashRepo(t, b, nil)

	var mu sync.Mutex // guards what follows
	rnd := rand.New(rand.NewPCG(seed, 1))
	made := map[string]map[string]uint64{} // digests by snapshot
	gone := map[string]bool{}
	killed, slept, voided, failed, freed := 0, 0, 0, 0, 0
	draw := func(n int) int { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) }

	var group sync.WaitGroup
	end := time.Now().Add(length)
	start := func(j crashJob) (*crashResult, error) {
		j.Repo, j.Key, j.Times = url, key.Text(), hasty
		cmd, ready, wait := crashStart(t, j)
		over := make(chan struct{})
		var violence sync.WaitGroup
		if fate := draw(10); fate < 4 {
			after := time.Duration(draw(600)) * time.Millisecond
			nap := time.Duration(draw(9000)) * time.Millisecond
			violence.Go(func() {
				<-ready
				sleep := func(d time.Duration) bool {
					select {
					case <-over:
						return false
					case <-time.After(d):
						return true
					}
				}
				if !sleep(after) {
					return
				}
				if fate < 2 {
					cmd.Process.Signal(syscall.SIGKILL)
					mu.Lock()
					killed++
					mu.Unlock()
					return
				}
				cmd.Process.Signal(syscall.SIGSTOP)
				sleep(nap)
				cmd.Process.Signal(syscall.SIGCONT)
				mu.Lock()
				slept++
				mu.Unlock()
			})
		}
		res, err := wait()
		close(over)
		violence.Wait()
		return res, err
	}
	for w := range 8 {
		group.Go(func() {
			for time.Now().Before(end) {
				blocks := []uint64{uint64(1000 + w*1000 + draw(1000))}
				for range 4 {
					blocks = append(blocks, uint64(draw(14)))
				}
				slices.Sort(blocks)
				blocks = slices.Compact(blocks)
				res, err := start(crashJob{Series: fmt.Sprintf("s/%d", w%4), Blocks: blocks})
				mu.Lock()
				switch {
				case err != nil:
					failed++
					if !strings.Contains(err.Error(), "signal: killed") {
						t.Errorf("a backup failed: %v", err)
					}
				case res.Void:
					voided++
				default:
					made[res.ID] = crashDigest(t, crashBlocks(blocks))
				}
				mu.Unlock()
			}
		})
	}
	for range 2 {
		group.Go(func() {
			for time.Now().Before(end) {
				res, err := start(crashJob{Prune: true})
				mu.Lock()
				if err == nil {
					freed += res.Report.Freed
				} else if !strings.Contains(err.Error(), "signal: killed") {
					t.Errorf("a prune failed: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	group.Go(func() { // all but the last two of each series are forgotten
		for time.Now().Before(end) {
			time.Sleep(time.Second)
			series := map[string][]string{}
			for _, s := range crashSnapshots(t, r, "") {
				series[s.Series] = append(series[s.Series], s.ID)
			}
			for _, ids := range series {
				if len(ids) <= 2 {
					continue
				}
				if err := r.Forget(t.Context(), ids[:len(ids)-2]...); err != nil {
					t.Errorf("forget: %v", err)
				}
				mu.Lock()
				for _, id := range ids[:len(ids)-2] {
					gone[id] = true
				}
				mu.Unlock()
			}
		}
	})
	group.Wait()
	t.Logf("%d backups made, %d forgotten, %d processes killed, %d slept, %d backups voided, %d failed, %d packs freed", len(made), len(gone), killed, slept, voided, failed, freed)

	there := func() {
		t.Helper()
		left := maps.Clone(made)
		for _, s := range crashSnapshots(t, r, "") {
			if want := left[s.ID]; want != nil {
				crashSame(t, s.ID, crashSnapshotDigest(t, r, s), want)
			}
			delete(left, s.ID)
		}
		for id := range left {
			if !gone[id] {
				t.Errorf("snapshot %s is not there", id)
			}
		}
	}
	there()
	// When all is quiet, garbage goes.
	time.Sleep(hasty.Expire + time.Second)
	var last *repo.PruneReport
	for range 20 {
		rep, err := r.Prune(t.Context(), nil)
		if err != nil {
			t.Fatalf("prune: %v", err)
		}
		if last = rep; rep.Run == 0 {
			break
		}
		time.Sleep(hasty.Lag)
	}
	there()
	crashSound(t, r, true)
	if waste := last.Stored - last.Live; last.Run != 0 || float64(waste) > 0.35*float64(last.Stored) {
		t.Errorf("garbage is left: %+v", last)
	}
}

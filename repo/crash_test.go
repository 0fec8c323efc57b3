package repo_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/repo"
)

// Backups are killed at random moments. After each, the repository is sound, the snapshots before it are whole, and the next backup succeeds and stores only
// what had not arrived.
func TestKilled(t *testing.T) {
	switch {
	case long():
		for i := range 5 { // a repository for each ten, for each check reads all of it
			t.Run(fmt.Sprint(i), func(t *testing.T) { kill(t, 10, 110<<20) })
		}
	case raceEnabled:
		kill(t, 2, 16<<20)
	default:
		kill(t, 8, 40<<20)
	}
}

// kill kills so many backups of a tree of about size bytes.
func kill(t *testing.T, rounds, size int) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("VARVE_TEST_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	t.Logf("VARVE_TEST_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	tmp := t.TempDir()
	tree, store := filepath.Join(tmp, "tree"), filepath.Join(tmp, "repo")
	crashMust(t, os.Mkdir(tree, 0o755))
	b, err := dir.Create(store)
	crashMust(t, err)
	r, key := crashRepo(t, b, nil)
	job := crashJob{Repo: store, Key: key.Text(), Series: "shop", Dir: tree, Cache: filepath.Join(tmp, "cache"), Segment: 10 * time.Millisecond}

	// How long one takes.
	crashPlant(t, tree, 1, size)
	begun := time.Now()
	_, _, wait := crashStart(t, job)
	first, err := wait()
	crashMust(t, err)
	whole := min(time.Since(begun), first.Duration)
	want := map[string]map[string]uint64{first.ID: crashDigest(t, os.DirFS(tree))}

	indexed := func() int64 {
		n, err := repo.IndexedContent(t.Context(), r)
		crashMust(t, err)
		return n
	}
	var arrived, reused, committed int
	for i := range rounds {
		crashMust(t, os.RemoveAll(tree)) // all is new
		crashMust(t, os.Mkdir(tree, 0o755))
		crashPlant(t, tree, uint64(i+2), size)
		before, named := indexed(), len(crashNames(t, b, "index/"))
		cmd, ready, wait := crashStart(t, job)
		<-ready
		if i%2 == 0 {
			time.Sleep(time.Duration(rnd.Float64() * 1.1 * float64(whole)))
		} else { // where the next one has something to go on with
			for limit := time.Now().Add(time.Minute); len(crashNames(t, b, "index/")) == named && time.Now().Before(limit); {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Duration(rnd.Float64() * 0.3 * float64(whole)))
		}
		crashMust(t, cmd.Process.Signal(syscall.SIGKILL))
		_, err := wait()
		if err == nil {
			committed++
		}
		r = crashOpen(t, b, key, nil)
		crashSound(t, r, true)
		there := indexed()
		snaps := crashSnapshots(t, r, "shop")
		for _, s := range snaps {
			if want[s.ID] == nil { // it was killed between the commit and its last word
				want[s.ID] = crashDigest(t, os.DirFS(tree))
				crashSame(t, s.ID, crashSnapshotDigest(t, r, s), want[s.ID])
			}
		}
		if there > before {
			arrived++
		}

		_, _, wait = crashStart(t, job)
		next, err := wait()
		crashMust(t, err)
		r = crashOpen(t, b, key, nil)
		after := indexed()
		if next.Stats.New != after-there {
			t.Errorf("round %d: the next backup stored %d new bytes, the index grew by %d", i, next.Stats.New, after-there)
		}
		if there > before && next.Stats.New < after-before {
			reused++
		}
		s, err := r.Lookup(t.Context(), "shop@latest")
		crashMust(t, err)
		if s.ID != next.ID {
			t.Fatalf("the newest is %s, not %s", s.ID, next.ID)
		}
		want[s.ID] = crashDigest(t, os.DirFS(tree))
		crashSame(t, s.ID, crashSnapshotDigest(t, r, s), want[s.ID])
	}
	snaps := crashSnapshots(t, r, "shop")
	t.Logf("%d killed, %d of them too late; %d left something behind that %d reused; %d snapshots", rounds, committed, arrived, reused, len(snaps))
	if reused == 0 {
		t.Error("no backup went on where another one was killed")
	}
	if len(snaps) != len(want) {
		t.Errorf("%d snapshots, want %d", len(snaps), len(want))
	}
	for _, s := range snaps {
		crashSame(t, s.ID, crashSnapshotDigest(t, r, s), want[s.ID])
	}
	target := filepath.Join(tmp, "target")
	_, err = r.Restore(t.Context(), snaps[len(snaps)-1], target, &repo.RestoreOptions{Verify: true})
	crashMust(t, err)
	crashSame(t, "restored", crashDigest(t, os.DirFS(target)), want[snaps[len(snaps)-1].ID])
	left, err := filepath.Glob(filepath.Join(job.Cache, "*", "*", ".new-*"))
	crashMust(t, err)
	t.Logf("%d unfinished files in the cache", len(left))
}

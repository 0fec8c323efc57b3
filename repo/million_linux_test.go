package repo_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/repo"
)

// millionFiles is how many files the folder of TestMillion has: a million with VARVE_TEST_LONG=1, or what VARVE_BENCH_FILES says.
func millionFiles() int {
	if n, err := strconv.Atoi(os.Getenv("VARVE_BENCH_FILES")); err == nil {
		return n
	}
	if long() {
		return 1_000_000
	}
	return 30_000
}

// millionPlant makes n files in one folder, each of another content, older than the margin for change tokens.
func millionPlant(t testing.TB, dir string, n int) {
	t.Helper()
	treeMust(t, os.Mkdir(dir, 0o755))
	for i := range n {
		treeMust(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("image-%07d.jpeg", i*7919%n)), fmt.Appendf(nil, "content %d", i), 0o644))
	}
	time.Sleep(2100 * time.Millisecond)
}

// millionRepo plants the folder and makes a repository. job backs it up as the owner, without a cache.
func millionRepo(t *testing.T) (n int, r *repo.Repo, job crashJob) {
	t.Helper()
	if crashRss() == 0 {
		t.Skip("this system does not tell RssAnon")
	}
	n = millionFiles()
	if raceEnabled {
		n = min(n, 3000)
	}
	tmp := treeTemp(t)
	tree, store := filepath.Join(tmp, "tree"), filepath.Join(tmp, "repo")
	millionPlant(t, tree, n)
	b, err := dir.Create(store)
	crashMust(t, err)
	r, key := crashRepo(t, b, nil)
	return n, r, crashJob{Repo: store, Key: key.Text(), Series: "shop", Dir: tree, Memory: true}
}

// millionBackup runs job, whose memory above the idle one is at most budget.
func millionBackup(t *testing.T, what string, job crashJob, budget int64) *crashResult {
	t.Helper()
	_, _, wait := crashStart(t, job)
	res, err := wait()
	crashMust(t, err)
	t.Logf("%s: %v, read %d bytes, stored %d, RssAnon %.1f MiB above the idle %.1f", what, res.Duration.Round(time.Millisecond), res.Stats.Read, res.Stats.Stored,
		float64(res.Peak-res.Idle)/(1<<20), float64(res.Idle)/(1<<20))
	if res.Peak-res.Idle > budget && !raceEnabled {
		t.Errorf("%s took %d bytes of memory, at most %d", what, res.Peak-res.Idle, budget)
	}
	return res
}

// A folder of a million files: the memory of its backups, what one new file costs, and, reported and not asserted, the time of an unchanged backup against that of find.
func TestMillion(t *testing.T) {
	n, _, job := millionRepo(t)
	job.Cache = filepath.Join(treeTemp(t), "cache")
	const budget = 128 << 20
	first := millionBackup(t, "the first", job, budget)
	if first.Stats.Files != int64(n) {
		t.Errorf("%d files, want %d", first.Stats.Files, n)
	}
	var ours, find []time.Duration
	for range 5 {
		res := millionBackup(t, "unchanged", job, budget)
		if res.Stats.Read != 0 || res.Stats.New != 0 {
			t.Errorf("an unchanged folder: %+v", res.Stats)
		}
		ours = append(ours, res.Duration)
		begun := time.Now()
		crashMust(t, exec.Command("find", job.Dir, "-printf", `%s %T@\n`).Run())
		find = append(find, time.Since(begun))
	}
	slices.Sort(ours)
	slices.Sort(find)
	t.Logf("unchanged: %.2f times as long as find's %v, on %d processors", ours[2].Seconds()/find[2].Seconds(), find[2].Round(time.Millisecond), runtime.GOMAXPROCS(0))

	crashMust(t, os.WriteFile(filepath.Join(job.Dir, "image-0000000.png"), []byte("new"), 0o644))
	if more := millionBackup(t, "one new file", job, budget); more.Stats.Stored > 200_000 || more.Stats.Read != 3 {
		t.Errorf("one new file: %+v", more.Stats)
	}
}

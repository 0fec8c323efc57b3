package repo_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
)

// The memory of a writer without a cache is bounded like anybody's; VARVE_BENCH_FILES says of how many files.
func TestHintsMemory(t *testing.T) {
	if crashRss() == 0 {
		t.Skip("this system does not tell RssAnon")
	}
	n := millionFiles()
	if raceEnabled {
		n = min(n, 3000)
	}
	tmp := treeTemp(t)
	tree := filepath.Join(tmp, "tree")
	millionPlant(t, tree, n)
	b, err := dir.Create(filepath.Join(tmp, "repo"))
	crashMust(t, err)
	r, _ := crashRepo(t, b, nil)
	key, err := crypt.NewKey()
	crashMust(t, err)
	_, err = r.AddSlot(t.Context(), crypt.Writer, key, "")
	crashMust(t, err)
	job := crashJob{Repo: filepath.Join(tmp, "repo"), Key: key.Text(), Series: "shop", Dir: tree, Memory: true}
	budget := int64(128<<20) + 64*int64(n)
	for _, what := range []string{"the first", "unchanged", "again"} {
		_, _, wait := crashStart(t, job)
		res, err := wait()
		crashMust(t, err)
		t.Logf("%s: %v, read %d bytes, stored %d, RssAnon %.1f MiB above the idle %.1f", what, res.Duration.Round(time.Millisecond), res.Stats.Read, res.Stats.Stored,
			float64(res.Peak-res.Idle)/(1<<20), float64(res.Idle)/(1<<20))
		if res.Peak-res.Idle > budget && !raceEnabled {
			t.Errorf("%s took %d bytes of memory, at most %d", what, res.Peak-res.Idle, budget)
		}
		if what != "the first" && (res.Stats.Read != 0 || res.Stats.Stored > 8000) {
			t.Errorf("%s: %+v", what, res.Stats)
		}
	}
}

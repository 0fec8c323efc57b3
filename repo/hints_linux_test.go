package repo_test

import (
	"testing"

	"github.com/varvebackup/varve/crypt"
)

// The memory of a writer without a cache is bounded like anybody's; VARVE_BENCH_FILES says of how many files.
func TestHintsMemory(t *testing.T) {
	n, r, job := millionRepo(t)
	key, err := crypt.NewKey()
	crashMust(t, err)
	_, err = r.AddSlot(t.Context(), crypt.Writer, key, "")
	crashMust(t, err)
	job.Key = key.Text()
	budget := int64(128<<20) + 64*int64(n)
	for _, what := range []string{"the first", "unchanged", "again"} {
		res := millionBackup(t, what, job, budget)
		if what != "the first" && (res.Stats.Read != 0 || res.Stats.Stored > 8000) {
			t.Errorf("%s: %+v", what, res.Stats)
		}
	}
}

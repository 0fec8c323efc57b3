package repo_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// BenchmarkMillion backs up one folder of 30,000 files, a million with VARVE_TEST_LONG=1, of which none has changed. x-find is the median of what that takes in units of
// find -printf over the same folder, the two in turns.
func BenchmarkMillion(b *testing.B) {
	n := millionFiles()
	tmp := treeTemp(b)
	tree := filepath.Join(tmp, "tree")
	millionPlant(b, tree, n)
	store, err := dir.Create(filepath.Join(tmp, "repo"))
	treeMust(b, err)
	key, err := crypt.NewKey()
	treeMust(b, err)
	ctx := context.Background()
	r, _, err := repo.Create(ctx, store, key, &repo.Options{Cache: filepath.Join(tmp, "cache")})
	treeMust(b, err)
	src, err := source.Dir(tree, nil)
	treeMust(b, err)
	defer src.Close()
	_, err = r.Backup(ctx, "shop", src, nil)
	treeMust(b, err)
	var ours, find []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		begun := time.Now()
		s, err := r.Backup(ctx, "shop", src, nil)
		ours = append(ours, time.Since(begun))
		treeMust(b, err)
		if s.Stats.Read != 0 || s.Stats.Files != int64(n) {
			b.Fatalf("not an unchanged folder: %+v", s.Stats)
		}
		b.StopTimer()
		begun = time.Now()
		treeMust(b, exec.Command("find", tree, "-printf", `%s %T@\n`).Run())
		find = append(find, time.Since(begun))
		b.StartTimer()
	}
	slices.Sort(ours)
	slices.Sort(find)
	o, f := ours[len(ours)/2], find[len(find)/2]
	b.ReportMetric(o.Seconds()*1e9/float64(n), "ns/file")
	b.ReportMetric(o.Seconds()/f.Seconds(), "x-find")
	b.ReportMetric(f.Seconds()*1e9/float64(n), "find-ns/file")
}

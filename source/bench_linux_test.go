package source_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// statAll does what an unchanged backup does: each entry described, none opened.
func statAll(b testing.TB, d *source.Tree, dir string) (n int) {
	for e, err := range d.Entries(context.Background(), dir) {
		must(b, err)
		fi, err := e.Info()
		must(b, err)
		n++
		if _ = fi.Sys().(*repo.Attr).Token; fi.IsDir() {
			sub := e.Name()
			if dir != "." {
				sub = dir + "/" + sub
			}
			n += statAll(b, d, sub)
		}
	}
	return n
}

// BenchmarkWalk describes 100,000 files and reports how long that takes in units of find -printf, run alternately.
func BenchmarkWalk(b *testing.B) {
	for _, bb := range []struct {
		name          string
		folders, each int
		exclude       []string
	}{
		{"folders=1000", 1000, 100, nil},
		{"folders=1", 1, 100_000, nil},
		{"folders=1000/patterns", 1000, 100, []string{"*.tmp", "/cache/", "logs/**/*.gz", "node_modules/"}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			root := b.TempDir()
			for i := range bb.folders {
				dir := filepath.Join(root, fmt.Sprintf("%02d/%04d", i%10, i))
				must(b, os.MkdirAll(dir, 0o755))
				for j := range bb.each {
					must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("image-%06d.jpeg", j)), nil, 0o644))
				}
			}
			find := func() time.Duration {
				start := time.Now()
				must(b, exec.Command("find", root, "-printf", `%s %T@\n`).Run())
				return time.Since(start)
			}
			d := newDir(b, root, &source.DirOptions{Exclude: bb.exclude})
			files := statAll(b, d, ".")
			find()
			var ours, theirs time.Duration
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			b.ResetTimer()
			for b.Loop() {
				theirs += find()
				start := time.Now()
				statAll(b, d, ".")
				ours += time.Since(start)
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N)/float64(files), "ns/file")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N)/float64(files), "allocs/file")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/float64(files), "B/file")
			b.ReportMetric(float64(ours)/float64(theirs), "x-find")
			b.ReportMetric(0, "ns/op")
		})
	}
}

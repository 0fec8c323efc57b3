//go:build linux

package repo_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// BenchmarkRestore restores from a repository in a folder to the same disk, and copies the same data with cp -r in turns. cp/varve is the
// speed of the restore as a multiple of cp's. cp-cpu/varve-cpu is the same by processor time: cp uses one processor, a restore all, so on n idle ones the
// speed comes to at most n times that.
func BenchmarkRestore(b *testing.B) {
	data := map[string]func(b *testing.B) string{
		"goroot": func(b *testing.B) string { return treeGoroot(b) },
		"small": func(b *testing.B) string { // 30,000 files of some 3 KiB in 300 folders
			in := filepath.Join(b.TempDir(), "in")
			for i := range 30_000 {
				path := filepath.Join(in, fmt.Sprint(i%300))
				treeMust(b, os.MkdirAll(path, 0o755))
				treeMust(b, os.WriteFile(filepath.Join(path, fmt.Sprint(i)), treeBytes(uint64(i), i%6000), 0o644))
			}
			return in
		},
		"large": func(b *testing.B) string { // 8 files of 64 MiB of random bytes
			in := filepath.Join(b.TempDir(), "in")
			treeMust(b, os.MkdirAll(in, 0o755))
			for i := range 8 {
				treeMust(b, os.WriteFile(filepath.Join(in, fmt.Sprint(i)), treeBytes(uint64(i), 64<<20), 0o644))
			}
			return in
		},
	}
	for _, name := range []string{"small", "large", "goroot"} {
		b.Run(name, func(b *testing.B) {
			in, tmp := data[name](b), b.TempDir()
			treeMust(b, os.Mkdir(tmp+"/repo", 0o700))
			store, err := dir.Open(tmp + "/repo")
			treeMust(b, err)
			key, err := crypt.NewKey()
			treeMust(b, err)
			ctx := context.Background()
			r, _, err := repo.Create(ctx, store, key, &repo.Options{Cache: tmp + "/cache"})
			treeMust(b, err)
			tree, err := source.Dir(in, nil)
			treeMust(b, err)
			defer tree.Close()
			s, err := r.Backup(ctx, "bench", tree, nil)
			treeMust(b, err)
			b.SetBytes(s.Stats.Bytes)
			run := func(what func(out string)) (d time.Duration) {
				out := tmp + "/out"
				treeMust(b, os.RemoveAll(out))
				treeMust(b, exec.Command("sync", "-f", tmp).Run())
				begun := time.Now()
				what(out)
				return time.Since(begun)
			}
			var varve, cp, varveCPU, cpCPU time.Duration
			used := func() time.Duration {
				var u syscall.Rusage
				treeMust(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
				return time.Duration(u.Utime.Nano() + u.Stime.Nano())
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				cp += run(func(out string) {
					cmd := exec.Command("cp", "-r", in, out)
					treeMust(b, cmd.Run())
					cpCPU += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				})
				varve += run(func(out string) {
					r, err := repo.Open(ctx, store, key, &repo.Options{Cache: tmp + "/cache"})
					treeMust(b, err)
					before := used()
					b.StartTimer()
					_, err = r.Restore(ctx, s, out, nil)
					b.StopTimer()
					varveCPU += used() - before
					treeMust(b, err)
				})
				b.StartTimer()
			}
			b.ReportMetric(cp.Seconds()/varve.Seconds(), "cp/varve")
			b.ReportMetric(cpCPU.Seconds()/varveCPU.Seconds(), "cp-cpu/varve-cpu")
			b.ReportMetric(cp.Seconds()/float64(b.N), "cp-s/op")
		})
	}
}

package repo_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// BenchmarkRepack prunes, with a maintainer's key, packs of each of which a third is not needed. The ratio is to reading, hashing and writing the same packs, one after
// the other, through the same backend: the packs alone, without looking for what is needed. VARVE_BENCH_REPACK=full takes 2 GiB.
//
//	VARVE_BENCH_REPACK=full go test -run - -bench Repack -benchtime 3x -v ./repo
func BenchmarkRepack(b *testing.B) {
	size := 64 << 20
	if os.Getenv("VARVE_BENCH_REPACK") == "full" {
		size = 2 << 30
	}
	repo.SetTimes(b, repo.Times{Lag: time.Millisecond, Margin: time.Millisecond, Undo: time.Millisecond, Slack: time.Millisecond})
	var prunes, copies []float64
	var repacked, copied, total int64
	for b.Loop() {
		b.StopTimer()
		tmp := b.TempDir()
		store, err := dir.Create(filepath.Join(tmp, "repo"))
		crashMust(b, err)
		r, _ := crashRepo(b, store, nil)
		key, err := crypt.NewKey()
		crashMust(b, err)
		_, err = r.AddSlot(b.Context(), crypt.Maintainer, key, "m")
		crashMust(b, err)
		// Of each four files of a megabyte two neighbours go: so much that every pack is worth copying, wherever frames begin.
		all, some := fstest.MapFS{}, fstest.MapFS{}
		src := rand.NewChaCha8([32]byte{byte(b.N)})
		for i := range size >> 20 {
			data := make([]byte, 1<<20)
			src.Read(data)
			name := fmt.Sprintf("%05d", i)
			all[name] = &fstest.MapFile{Data: data, Mode: 0o644}
			if i%4 < 2 {
				some[name] = all[name]
			}
		}
		gone, err := r.Backup(b.Context(), "shop", all, nil)
		crashMust(b, err)
		_, err = r.Backup(b.Context(), "shop", some, nil)
		crashMust(b, err)
		crashMust(b, r.Forget(b.Context(), gone.ID))
		all, some = nil, nil
		packs := dmgNames(b, store, "packs/")
		to, err := dir.Create(filepath.Join(tmp, "copy"))
		crashMust(b, err)
		cp := func() {
			begun := time.Now()
			var buf []byte
			for _, name := range packs {
				buf, err = store.Get(b.Context(), name, 0, -1, buf[:0])
				crashMust(b, err)
				crashMust(b, crypt.Verify(name, buf))
				crashMust(b, to.Put(b.Context(), name, bytes.NewReader(buf), int64(len(buf)), &backend.PutOptions{IfAbsent: true}))
				total += int64(len(buf))
			}
			copies = append(copies, time.Since(begun).Seconds())
		}
		m, err := repo.Open(b.Context(), store, key, nil)
		crashMust(b, err)
		prune := func() {
			b.StartTimer()
			begun := time.Now()
			rep, err := m.Prune(b.Context(), nil)
			prunes = append(prunes, time.Since(begun).Seconds())
			b.StopTimer()
			crashMust(b, err)
			repacked, copied = repacked+rep.RepackedBytes, copied+rep.CopiedBytes
			if rep.RepackedBytes < int64(size)*9/10 || rep.CopiedBytes < int64(size)/2 || rep.CopiedBytes > int64(size)*3/4 {
				b.Fatalf("%+v", rep)
			}
		}
		// In turns: whoever comes second finds the packs in memory.
		if len(prunes)%2 == 0 {
			cp()
			prune()
		} else {
			prune()
			cp()
		}
		crashMust(b, os.RemoveAll(tmp))
		b.StartTimer()
	}
	var p, c float64
	for i := range prunes {
		p, c = p+prunes[i], c+copies[i]
	}
	b.SetBytes(int64(size))
	b.ReportMetric(p/c, "x-copy")
	b.ReportMetric(float64(total)/1e6/c, "copy-MB/s")
	b.ReportMetric(float64(repacked)/1e6/p, "repack-MB/s")
}

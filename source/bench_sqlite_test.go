//go:build cgo

package source_test

import (
	"context"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/varvebackup/varve/repo"
)

// BenchmarkSQLiteStall copies a database of 100 MB while transfers are made at full speed: stall-ms is the longest that one of them
// took, idle-ms the same without a copy, and transfers/s how many there were.
//
//	go test -run - -bench SQLiteStall -benchtime 3x ./source
func BenchmarkSQLiteStall(b *testing.B) {
	needProgram(b)
	for _, journal := range []string{"wal", "delete"} {
		for _, way := range sqliteWays {
			b.Run(journal+"/"+way.name, func(b *testing.B) {
				path, temp := filepath.Join(b.TempDir(), "bank.db"), b.TempDir()
				writer := openSQLite(b, path, "_busy_timeout=60000&_synchronous=normal&_txlock=immediate")
				reader := openSQLite(b, path, "_busy_timeout=60000")
				newBank(b, writer, journal)
				execSQL(b, writer, "CREATE TABLE photos(id INTEGER PRIMARY KEY, b BLOB)",
					"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<10000) INSERT INTO photos SELECT i, randomblob(10000) FROM n")
				during := func(f func()) (longest time.Duration, rate float64) {
					ctx, cancel := context.WithCancel(b.Context())
					var wg sync.WaitGroup
					var count atomic.Int64
					var err error
					begin := time.Now()
					wg.Go(func() { longest, err = transfer(ctx, writer, &count) })
					f()
					cancel()
					wg.Wait()
					must(b, err)
					return longest, float64(count.Load()) / time.Since(begin).Seconds()
				}
				idle, _ := during(func() { time.Sleep(time.Second) })
				var longest time.Duration
				var rate float64
				var size int64
				for b.Loop() {
					stall, r := during(func() {
						f, err := way.make(reader, path, temp).(repo.ContextFS).OpenContext(b.Context(), "bank.db")
						must(b, err)
						size, err = io.Copy(io.Discard, f)
						must(b, err)
						must(b, f.Close())
					})
					longest, rate = max(longest, stall), r
				}
				b.SetBytes(size)
				b.ReportMetric(float64(longest.Microseconds())/1000, "stall-ms")
				b.ReportMetric(float64(idle.Microseconds())/1000, "idle-ms")
				b.ReportMetric(rate, "transfers/s")
			})
		}
	}
}

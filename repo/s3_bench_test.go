package repo_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// A counter counts requests.
type counter struct {
	base  http.RoundTripper
	count atomic.Int64
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.count.Add(1)
	return c.base.RoundTrip(r)
}

// BenchmarkS3Requests reports how many requests backups cost, and fails where they cost more than they may: a first one 1.2 for each pack and 20 besides, an
// unchanged one with a warm cache 12, however many packs the repository has. The first backup is of 200 MiB and the repository of no more. With
// VARVE_TEST_LONG=1 the first is of 1 GiB, and others follow until there are 200 packs; VARVE_BENCH_S3=PACKS grows it to another number.
func BenchmarkS3Requests(b *testing.B) {
	srv := miniotest.Start(b)
	size, want := 200<<20, 0
	if long() {
		size, want = 1<<30, 200
	}
	if s := os.Getenv("VARVE_BENCH_S3"); s != "" {
		n, err := strconv.Atoi(s)
		crashMust(b, err)
		want = n
	}
	for b.Loop() {
		tr := &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}
		c := &counter{base: tr}
		store, err := s3.Open(b.Context(), srv.Bucket(), &s3.Options{Endpoint: srv.Endpoint, Region: "us-east-1", Insecure: true, Credentials: srv.Credentials(), Transport: c})
		crashMust(b, err)
		o := &repo.Options{Cache: b.TempDir()}
		_, key := crashRepo(b, store, o)
		src := b.TempDir()
		packs := func() int { return len(crashNames(b, store, "packs/")) }
		// backup returns its requests, and those that it may cost, if all that it stores is new.
		backup := func() (requests, limit int) {
			before := packs()
			c.count.Store(0)
			r := crashOpen(b, store, key, o)
			defer r.Close()
			d, err := source.Dir(src, nil)
			crashMust(b, err)
			defer d.Close()
			_, err = r.Backup(b.Context(), "shop", d, nil)
			crashMust(b, err)
			requests = int(c.count.Load())
			return requests, (packs()-before)*12/10 + 20
		}
		crashPlant(b, filepath.Join(src, "1"), 1, size)
		first, limit := backup()
		b.ReportMetric(float64(first), "first-requests")
		b.ReportMetric(float64(packs()), "first-packs")
		if first > limit {
			b.Errorf("a first backup of %d packs: %d requests, at most %d", packs(), first, limit)
		}
		for day := 2; packs() < want; day++ {
			crashPlant(b, filepath.Join(src, strconv.Itoa(day)), uint64(day), 400<<20)
			if n, limit := backup(); n > limit {
				b.Errorf("day %d: %d requests, at most %d", day, n, limit)
			}
		}
		// What is hardly a moment old is read again, and gets its token only later.
		unchanged := 0
		for before := -1; before != packs(); {
			before = packs()
			unchanged, _ = backup()
			time.Sleep(500 * time.Millisecond)
		}
		b.ReportMetric(float64(packs()), "packs")
		b.ReportMetric(float64(unchanged), "unchanged-requests")
		if unchanged > 12 {
			b.Errorf("an unchanged backup of a repository of %d packs: %d requests, at most 12", packs(), unchanged)
		}
	}
}

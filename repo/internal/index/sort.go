package index

import (
	"runtime"
	"slices"
	"sync"
)

// sortRecs sorts in place: ids are uniform, so one pass by first byte (an American flag sort, McIlroy, Bostic and McIlroy 1993) leaves 256
// parts of equal size that all cores sort.
func sortRecs(recs []rec) {
	compare := func(a, b rec) int { return a.compare(&b) }
	if len(recs) < 1<<14 {
		slices.SortFunc(recs, compare)
		return
	}
	if slices.IsSortedFunc(recs, compare) {
		return
	}
	var counts, next, end [256]int
	for i := range recs {
		counts[recs[i].id[0]]++
	}
	sum := 0
	for b := range counts {
		next[b] = sum
		sum += counts[b]
		end[b] = sum
	}
	start := next
	for b := range counts {
		for next[b] < end[b] {
			r := recs[next[b]]
			for int(r.id[0]) != b {
				o := r.id[0]
				recs[next[o]], r = r, recs[next[o]]
				next[o]++
			}
			recs[next[b]] = r
			next[b]++
		}
	}
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), 16)
	for w := range workers {
		wg.Go(func() {
			for b := w; b < 256; b += workers {
				slices.SortFunc(recs[start[b]:end[b]], compare)
			}
		})
	}
	wg.Wait()
}

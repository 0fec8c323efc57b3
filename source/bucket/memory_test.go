package bucket_test

import (
	"fmt"
	"runtime"
	"testing"
)

// A folder of any size is listed in the memory of some pages.
func TestMemory(t *testing.T) {
	s := newService(t)
	n := 100_000
	if testing.Short() || raceEnabled {
		n = 5_000
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for i := range n {
		s.put("media", fmt.Sprintf("uploads/photo-%09d.jpg", i), "x")
	}
	s.put("media", "uploads/photo/last.jpg", "x") // its folder comes first
	f := s.open("media", nil)
	var most, before int64
	count := 0
	first := ""
	for d, err := range f.Entries(t.Context(), "uploads") {
		must(t, err)
		if count == 0 {
			first = d.Name()
			before = heap() // by now the service has sorted its keys
		}
		if count++; count%(n/10) == 0 {
			most = max(most, heap())
		}
	}
	requests, _ := s.requests()
	t.Logf("%d entries: %.1f MiB more at most, %v", count, float64(most-before)/(1<<20), requests)
	if first != "photo" || count != n+1 || requests["LIST"] > n/1000+5 {
		t.Errorf("%d entries, the first is %q, %v", count, first, requests)
	}
	if most-before > 12<<20 {
		t.Errorf("%d bytes", most-before)
	}
}

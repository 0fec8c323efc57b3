package tree_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

func nowhere(node []byte) (pack.ID, error) { return pack.ID(hash32(uint64(len(node)))), nil }

func BenchmarkFolderAdd(b *testing.B) {
	e, name := file("IMG_0000000000.jpg"), []byte("0000000000")
	f := tree.NewFolder(nowhere, split(128))
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		for i, v := len(name)-1, n; v > 0; i, v = i-1, v/10 {
			name[i] = byte('0' + v%10)
		}
		copy(e.Name[4:], name)
		if err := f.Add(e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSmallFolder(b *testing.B) {
	entries := []*tree.Entry{file("a"), file("b"), file("c"), folder("d")}
	never := split(1 << 62)
	b.ReportAllocs()
	for b.Loop() {
		f := tree.NewFolder(nowhere, never)
		for _, e := range entries {
			if err := f.Add(e); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := f.Finish(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListAdd(b *testing.B) {
	l := tree.NewList(nowhere)
	id := hash32(1)
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		if n++; n%512 == 0 {
			id[7] = 0
		} else {
			id[7] = 0xff
		}
		if err := l.Add(16<<10, id); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParse reports its time for each entry or piece of a node.
func BenchmarkParse(b *testing.B) {
	s := newStore()
	var entries []*tree.Entry
	for _, n := range names(128, 1) {
		entries = append(entries, file(n))
	}
	l := tree.NewList(s.put)
	for i := range 500 {
		id := hash32(uint64(i))
		id[7] = 0xff
		if err := l.Add(1, id); err != nil {
			b.Fatal(err)
		}
	}
	var e tree.Entry
	if err := l.Finish(&e); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		id   pack.ID
		n    int
	}{{"entries", build(b, s, split(1<<62), entries), 128}, {"pieces", pack.ID(e.List), 500}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tree.Parse(s.nodes[c.id]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(c.n), "ns/item")
		})
	}
}

// A folder of a million entries is built in a few MB.
func TestMemory(t *testing.T) {
	n := 1_000_000
	if raceEnabled {
		n /= 20
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := heap(), uint64(0)
	f, e := tree.NewFolder(nowhere, split(128)), file("")
	for i := range n {
		e.Name = fmt.Appendf(e.Name[:0], "IMG_%08d.jpg", i)
		if err := f.Add(e); err != nil {
			t.Fatal(err)
		}
		if i%(n/8) == n/8-1 {
			most = max(most, heap())
		}
	}
	if _, err := f.Finish(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d KiB of live heap", (most-before)>>10)
	if most > before+4<<20 {
		t.Errorf("%d bytes of live heap", most-before)
	}
}

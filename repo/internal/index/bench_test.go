package index_test

import (
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
)

// segments makes payloads that describe n blobs of 16 KiB: 32 in a frame, 32 frames in a pack, 16 packs in a segment.
func segments(n int, r *rand.Rand, yield func(payload []byte)) {
	var packs []index.Pack
	section := pack.Section{Kind: 1, AEAD: 1, Key: key(0)}
	for n > 0 {
		p := index.Pack{ID: uniform(r), Dir: &pack.Directory{Sections: []pack.Section{section}}}
		for i := 0; i < 32 && n > 0; i++ {
			f := pack.Frame{Codec: pack.Zstd, Offset: p.Size, Stored: 400 << 10, Counter: uint64(i)}
			for j := 0; j < 32 && n > 0; j++ {
				f.Blobs = append(f.Blobs, pack.Blob{ID: uniform(r), Length: 16 << 10})
				f.Plain += 16 << 10
				n--
			}
			p.Size += f.Stored
			p.Dir.Frames = append(p.Dir.Frames, f)
		}
		if packs = append(packs, p); len(packs) == 16 || n == 0 {
			yield(index.EncodeSegment(session, packs))
			packs = packs[:0]
		}
	}
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func builtOf(t testing.TB, n int) *index.Index {
	b := index.NewBuilder(nil)
	segments(n, rand.New(rand.NewPCG(1, 1)), func(payload []byte) {
		if err := b.Add(payload, 0, false); err != nil {
			t.Fatal(err)
		}
	})
	return b.Index()
}

// An Index takes at most 64 bytes a blob, a Set at most 48. With VARVE_LARGE set, of five million.
func TestMemory(t *testing.T) {
	n := 200_000
	if os.Getenv("VARVE_LARGE") != "" {
		n = 5_000_000
	}
	before := heap()
	x := builtOf(t, n)
	perBlob := float64(heap()-before) / float64(n)
	t.Logf("Index: %.1f bytes a blob", perBlob)
	if perBlob > 64 || x.Len() != n {
		t.Errorf("%.1f bytes a blob, %d blobs", perBlob, x.Len())
	}
	runtime.KeepAlive(x)

	before = heap()
	var s index.Set
	r := rand.New(rand.NewPCG(1, 1))
	for range n {
		s.Add(uniform(r))
	}
	perBlob = float64(heap()-before) / float64(n)
	t.Logf("Set: %.1f bytes an id", perBlob)
	if perBlob > 48 {
		t.Errorf("%.1f bytes an id", perBlob)
	}
	runtime.KeepAlive(&s)
}

func BenchmarkBuild(b *testing.B) {
	const n = 1_000_000
	var payloads [][]byte
	size := 0
	segments(n, rand.New(rand.NewPCG(1, 1)), func(p []byte) {
		payloads = append(payloads, p)
		size += len(p)
	})
	before := heap()
	var x *index.Index
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		bl := index.NewBuilder(nil)
		for _, p := range payloads {
			if err := bl.Add(p, 0, false); err != nil {
				b.Fatal(err)
			}
		}
		x = bl.Index()
	}
	b.ReportMetric(float64(heap()-before)/n, "live-B/blob")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/blob")
	runtime.KeepAlive(x)
	runtime.KeepAlive(payloads)
}

func BenchmarkFind(b *testing.B) {
	const n = 1_000_000
	x := builtOf(b, n)
	r := rand.New(rand.NewPCG(2, 2))
	probes := make([]pack.ID, 1<<16)
	for _, hit := range []bool{true, false} {
		name := "miss"
		for i := range probes {
			probes[i] = uniform(r)
		}
		if hit {
			name = "hit"
			for i := range probes {
				probes[i], _ = x.At(uint32(r.IntN(n)))
			}
		}
		var dst [4]index.Copy
		b.Run("Find/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if got := x.Find(dst[:0], probes[i%len(probes)], 1); len(got) > 0 != hit {
					b.Fatal(got)
				}
			}
		})
		b.Run("Has/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if x.Has(probes[i%len(probes)], 1, 16<<10) != hit {
					b.Fatal("Has")
				}
			}
		})
	}
	// The floor: a map, which takes three times the memory.
	for i := range probes {
		probes[i], _ = x.At(uint32(r.IntN(n)))
	}
	m := map[pack.ID]uint32{}
	for id, c := range x.All() {
		m[id] = c.Ordinal
	}
	b.Run("map", func(b *testing.B) {
		n := uint32(0)
		for i := 0; b.Loop(); i++ {
			n += m[probes[i%len(probes)]]
		}
	})
}

func BenchmarkSetAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	ids := make([]pack.ID, 1_000_000)
	for i := range ids {
		ids[i] = uniform(r)
	}
	b.ReportAllocs()
	for b.Loop() {
		var s index.Set
		for i := range ids {
			s.Add(ids[i])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(ids)), "ns/id")
}

func BenchmarkEncodeSegment(b *testing.B) {
	var packs []index.Pack
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 16 {
		ids := make([]pack.ID, 1024)
		for j := range ids {
			ids[j] = uniform(r)
		}
		packs = append(packs, packOf(byte(i), frame(ids...)))
	}
	b.SetBytes(int64(index.SegmentSize(packs)))
	b.ReportAllocs()
	for b.Loop() {
		index.EncodeSegment(session, packs)
	}
}

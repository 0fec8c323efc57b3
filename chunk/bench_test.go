package chunk_test

// Floors and peers, all over the same bytes in memory:
//
//	go test ./chunk -bench . -run xxx
//
// Ratio alternates gear with each of the others, so that a noisy machine slows
// both, and reports medians: how many times as fast gear is.

import (
	"bytes"
	"io"
	"math/bits"
	"slices"
	"testing"
	"time"

	"github.com/restic/chunker"

	"github.com/varvebackup/varve/chunk"
)

const benchSize = 32 << 20

var benchProfiles = []struct {
	name string
	p    chunk.Params
}{
	{"Fine", chunk.Fine},
	{"Coarse", chunk.Coarse},
}

// drain cuts r and returns the number of chunks.
func drain(b *testing.B, c *chunk.Chunker, r io.Reader) (n int) {
	c.Reset(r)
	for {
		if _, err := c.Next(); err == io.EOF {
			return n
		} else if err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// plainGear is the floor: the least that a gear hash can cost, with no key, no
// election, no reader and no copy. It skips Min and cuts one in Avg-Min by
// comparing the hash alone.
type plainGear struct {
	table [256]uint64
	p     chunk.Params
}

func newPlainGear(p chunk.Params) *plainGear {
	g := &plainGear{p: p}
	for i := range g.table {
		// splitmix64
		z := uint64(i+1) * 0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		g.table[i] = z ^ z>>31
	}
	return g
}

func (g *plainGear) drain(data []byte) (n int) {
	for ; len(data) > 0; n++ {
		data = data[g.cut(data):]
	}
	return n
}

func (g *plainGear) cut(data []byte) int {
	data = data[:min(len(data), g.p.Max)]
	if len(data) < g.p.Min {
		return len(data)
	}
	bound, _ := bits.Div64(1, 0, uint64(g.p.Avg-g.p.Min))
	t, i := &g.table, g.p.Min-64
	var h uint64
	for ; i < g.p.Min; i++ {
		h = h + h + t[data[i]]
	}
	for ; i <= len(data)-4; i += 4 {
		b := (*[4]byte)(data[i : i+4])
		if h = h + h + t[b[0]]; h < bound {
			return i + 1
		}
		if h = h + h + t[b[1]]; h < bound {
			return i + 2
		}
		if h = h + h + t[b[2]]; h < bound {
			return i + 3
		}
		if h = h + h + t[b[3]]; h < bound {
			return i + 4
		}
	}
	return len(data)
}

// restic is the peer, as its users run it, with the same bounds and the next
// larger power of two as the distance that gear has beyond Min.
type restic struct {
	c    *chunker.Chunker
	pol  chunker.Pol
	p    chunk.Params
	bits int
	buf  []byte
}

func newRestic(b *testing.B, p chunk.Params) *restic {
	pol, err := chunker.DerivePolynomial(bytes.NewReader(random(12, 1<<16)))
	if err != nil {
		b.Fatal(err)
	}
	return &restic{chunker.New(nil, pol), pol, p, bits.Len(uint(p.Avg - p.Min)), make([]byte, p.Max)}
}

func (r *restic) drain(b *testing.B, rd io.Reader) (n int) {
	r.c.Reset(rd, r.pol, chunker.WithBoundaries(uint(r.p.Min), uint(r.p.Max)), chunker.WithAverageBits(r.bits))
	for {
		if _, err := r.c.Next(r.buf); err == io.EOF {
			return n
		} else if err != nil {
			b.Fatal(err)
		}
		n++
	}
}

func bench(b *testing.B, data []byte, f func() int) {
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	chunks := 0
	for b.Loop() {
		chunks = f()
	}
	b.ReportMetric(float64(len(data))/float64(chunks), "B/chunk")
}

func BenchmarkGear(b *testing.B) {
	data := random(13, benchSize)
	for _, pr := range benchProfiles {
		c := newChunker(b, pr.p, &testKey)
		b.Run(pr.name, func(b *testing.B) {
			bench(b, data, func() int { return drain(b, c, bytes.NewReader(data)) })
		})
	}
}

// BenchmarkGearText is gear on bytes with little entropy.
func BenchmarkGearText(b *testing.B) {
	data := counting(benchSize)
	c := newChunker(b, chunk.Fine, &testKey)
	bench(b, data, func() int { return drain(b, c, bytes.NewReader(data)) })
}

func BenchmarkRabin(b *testing.B) {
	data := random(13, benchSize)
	c := newChunker(b, chunk.Params{Algorithm: chunk.Rabin, Min: 4 << 10, Avg: 20 << 10, Max: 128 << 10}, &testKey)
	bench(b, data, func() int { return drain(b, c, bytes.NewReader(data)) })
}

func BenchmarkRestic(b *testing.B) {
	data := random(13, benchSize)
	for _, pr := range benchProfiles {
		r := newRestic(b, pr.p)
		b.Run(pr.name, func(b *testing.B) {
			bench(b, data, func() int { return r.drain(b, bytes.NewReader(data)) })
		})
	}
}

func BenchmarkPlainGear(b *testing.B) {
	data := random(13, benchSize)
	for _, pr := range benchProfiles {
		g := newPlainGear(pr.p)
		b.Run(pr.name, func(b *testing.B) {
			bench(b, data, func() int { return g.drain(data) })
		})
	}
}

func BenchmarkRatio(b *testing.B) {
	data := random(13, benchSize)
	for _, pr := range benchProfiles {
		b.Run(pr.name, func(b *testing.B) {
			c, r, g := newChunker(b, pr.p, &testKey), newRestic(b, pr.p), newPlainGear(pr.p)
			timed := func(f func()) float64 {
				start := time.Now()
				f()
				return float64(time.Since(start))
			}
			var overRestic, overPlain []float64
			for b.Loop() {
				gear := timed(func() { drain(b, c, bytes.NewReader(data)) })
				restic := timed(func() { r.drain(b, bytes.NewReader(data)) })
				plain := timed(func() { g.drain(data) })
				overRestic = append(overRestic, restic/gear)
				overPlain = append(overPlain, plain/gear)
			}
			for _, m := range []struct {
				name   string
				ratios []float64
			}{{"restic", overRestic}, {"plain", overPlain}} {
				slices.Sort(m.ratios)
				at := func(q float64) float64 { return m.ratios[int(q*float64(len(m.ratios)-1))] }
				b.ReportMetric(at(0.5), "x-"+m.name)
				b.ReportMetric(at(0.1), "x-"+m.name+"-p10")
				b.ReportMetric(at(0.9), "x-"+m.name+"-p90")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for _, pr := range profiles[:4] {
		b.Run(pr.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				newChunker(b, pr.p, &testKey)
			}
		})
	}
}

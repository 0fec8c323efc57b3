package chunk_test

import (
	"bytes"
	"io"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/varvebackup/varve/chunk"
)

// On random data lengths beyond Min are geometric: the mean is Avg, short of what
// Max takes away, and the deviation Avg-Min.
func TestDistribution(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		p    chunk.Params
		size int64
	}{
		{"gear-fine", chunk.Fine, 64 << 20},
		{"gear-coarse", chunk.Coarse, 64 << 20},
		{"rabin-fine", profiles[3].p, 16 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newChunker(t, tt.p, &testKey)
			var n, sum, squares, short, long float64
			c.Reset(io.LimitReader(rand.NewChaCha8(testKey), tt.size))
			for {
				b, err := c.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				l := float64(len(b))
				n++
				sum += l
				squares += l * l
				if len(b) < (tt.p.Min+tt.p.Avg)/2 {
					short++
				}
				if len(b) == tt.p.Max {
					long++
				}
			}
			mean := sum / n
			deviation := math.Sqrt(squares/n - mean*mean)
			spread := float64(tt.p.Avg - tt.p.Min)
			tail := math.Exp(-float64(tt.p.Max-tt.p.Min) / spread)
			t.Logf("%v chunks, mean %.0f, deviation %.0f, %.4f at Max", n, mean, deviation, long/n)
			within := func(what string, got, want, tolerance float64) {
				t.Helper()
				if math.Abs(got-want) > tolerance {
					t.Errorf("%s %.4g, want %.4g within %.2g", what, got, want, tolerance)
				}
			}
			// Four standard errors each.
			e := 4 / math.Sqrt(n)
			within("mean", mean, float64(tt.p.Min)+spread*(1-tail), e*spread)
			within("mean/Avg", mean/float64(tt.p.Avg), 1, 0.1)
			within("deviation", deviation, spread, 2*e*spread+0.05*spread)
			within("share below (Min+Avg)/2", short/n, 1-math.Exp(-0.5), e/2)
			within("share at Max", long/n, tail, e*math.Sqrt(tail)+1/n)
		})
	}
}

func TestZeros(t *testing.T) {
	for _, pr := range profiles {
		want := pr.p.Max
		if pr.p.Algorithm == chunk.Rabin {
			want = pr.p.Min
		}
		for i, l := range lengths(cut(t, pr.p, &testKey, bytes.NewReader(make([]byte, 4*pr.p.Max)))) {
			if l != want {
				t.Fatalf("%s: chunk %d has %d bytes, want %d", pr.name, i, l, want)
			}
		}
	}
}

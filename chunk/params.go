package chunk

import (
	"fmt"
	"math/bits"
)

// An Algorithm names a way to find cuts, as a repository's config stores it.
type Algorithm string

// The algorithms, which the package comment specifies.
const (
	Gear  Algorithm = "gear"
	Rabin Algorithm = "rabin"
)

// Params say how to cut. Sizes are in bytes.
//
// On random data chunks have the mean length Avg, a little less as Max nears
// Avg. No chunk is longer than Max, only the last of a stream is shorter than Min.
type Params struct {
	Algorithm Algorithm `cbor:"algorithm"`
	Min       int       `cbor:"min"`
	Avg       int       `cbor:"avg"`
	Max       int       `cbor:"max"`
}

// The profiles. They are the defaults of new repositories, not to be changed.
var (
	Fine   = Params{Gear, 4 << 10, 16 << 10, 128 << 10} // dumps and other streams
	Coarse = Params{Gear, 64 << 10, 256 << 10, 1 << 20} // large files in trees
)

const (
	window    = 64       // bytes that a decision looks at
	minSpread = 1 << 11  // least Avg-Min: gear has no more nominees than that
	maxMax    = 16 << 20 // bounds the memory that a config can ask for
)

// Validate returns nil if [New] accepts p, for p may come from anywhere:
// a known algorithm, 64 <= Min, Min+2048 <= Avg, 2*Avg <= Max <= 16 MiB, and
// for [Rabin] Avg-Min is a power of two.
func (p Params) Validate() error {
	switch {
	case p.Algorithm != Gear && p.Algorithm != Rabin:
		return fmt.Errorf("chunk: unknown algorithm %.32q", p.Algorithm)
	case p.Min < window:
		return fmt.Errorf("chunk: min %d is less than %d", p.Min, window)
	case p.Max > maxMax:
		return fmt.Errorf("chunk: max %d is more than %d", p.Max, maxMax)
	case p.Avg > p.Max/2:
		return fmt.Errorf("chunk: avg %d is more than half of max %d", p.Avg, p.Max)
	// Avg < Min first: the difference of hostile values may overflow.
	case p.Avg < p.Min || p.Avg-p.Min < minSpread:
		return fmt.Errorf("chunk: avg %d is less than %d above min %d", p.Avg, minSpread, p.Min)
	case p.Algorithm == Rabin && bits.OnesCount(uint(p.Avg-p.Min)) != 1:
		return fmt.Errorf("chunk: rabin needs a power of two as avg - min, not %d - %d", p.Avg, p.Min)
	}
	return nil
}

package chunk

import (
	"fmt"
	"math/bits"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"
)

const rabinPolynomial = "varve v1 chunk rabin polynomial"

// rabin is the cutter of [Rabin]. It drives restic's search over our buffer and
// not restic's Chunker, which takes a reader's own io.ErrUnexpectedEOF, a
// stream cut short, for nothing, and then reads on for ever.
//
// That package keeps the tables of each polynomial in a global map, under a lock
// that each cut takes.
type rabin struct {
	base, fresh chunker.BaseChunker // fresh is base before its first byte
}

func newRabin(p Params, key *[32]byte) (*rabin, error) {
	h := blake3.NewDeriveKey(rabinPolynomial)
	h.Write(key[:])
	pol, err := chunker.DerivePolynomial(h.Digest())
	if err != nil {
		// One try in 27 succeeds, and there are a million.
		return nil, fmt.Errorf("chunk: no polynomial: %w", err)
	}
	// It starts hashing windowSize bytes before Min, as gear does, so no byte
	// before the window counts; Validate has made sure that Min >= windowSize.
	fresh := chunker.NewBase(pol,
		chunker.WithBaseBoundaries(uint(p.Min), uint(p.Max)),
		chunker.WithBaseAverageBits(bits.TrailingZeros(uint(p.Avg-p.Min))))
	return &rabin{base: *fresh, fresh: *fresh}, nil
}

func (r *rabin) reset() { r.base = r.fresh }

func (r *rabin) cut(data []byte, seen int) int {
	n := r.base.NextSplitPoint(data[seen:])
	if n < 0 {
		return -1
	}
	return seen + n
}

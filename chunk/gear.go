package chunk

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/zeebo/blake3"
)

const (
	gearTable    = "varve v1 chunk gear table"
	gearElection = "varve v1 chunk gear election"

	nominees = 1 << 11        // one position in so many is nominated
	nominal  = 1 << (64 - 11) // by a hash below this
)

// gear is the cutter of [Gear]. It has no state between calls.
type gear struct {
	table    [256]uint64
	election *blake3.Hasher
	last     uint64   // the greatest vote that elects
	vote     [32]byte // scratch, here because a local one would escape
	min, max int
}

func newGear(p Params, key *[32]byte) *gear {
	g := &gear{last: lastVote(p.Avg - p.Min), min: p.Min, max: p.Max}

	var table [8 * 256]byte
	blake3.DeriveKey(gearTable, key[:], table[:])
	for i := range g.table {
		g.table[i] = binary.LittleEndian.Uint64(table[8*i:])
	}

	var electionKey [32]byte
	blake3.DeriveKey(gearElection, key[:], electionKey[:])
	h, err := blake3.NewKeyed(electionKey[:])
	if err != nil {
		panic("chunk: " + err.Error()) // only for a key that is not of 32 bytes
	}
	g.election = h
	return g
}

// lastVote returns floor(2^64 * nominees / spread) - 1: for the least spread
// the bound itself is 2^64, which is no uint64.
func lastVote(spread int) uint64 {
	if spread <= nominees {
		return math.MaxUint64
	}
	bound, _ := bits.Div64(nominees, 0, uint64(spread))
	return bound - 1
}

func (g *gear) reset() {}

func (g *gear) cut(data []byte, seen int) int {
	// The first position to decide, and the hash of its window without its
	// last byte. As seen bytes begin this very chunk, hashing the window anew
	// after a fill gives what rolling on would have given.
	p := max(g.min, seen+1)
	if p > len(data) {
		return -1
	}
	var h uint64
	for _, b := range data[p-window : p-1] {
		h = h + h + g.table[b]
	}
	p--

	var loser []byte // the last window that was not elected
	for {
		var n int
		n, h = nominate(&g.table, data[p:], h)
		if n < 0 {
			break
		}
		p += n
		// A repeated pattern with a nominee in it would be voted on at every
		// turn, at some 80 ns for perhaps a single byte. Ask once.
		w := data[p-window : p]
		if bytes.Equal(w, loser) {
			continue
		}
		if g.elected(w) {
			return p
		}
		loser = w
	}
	if len(data) == g.max {
		return g.max
	}
	return -1
}

// elected holds the keyed vote on a window.
func (g *gear) elected(w []byte) bool {
	g.election.Reset()
	g.election.Write(w)
	g.election.Sum(g.vote[:0])
	return binary.LittleEndian.Uint64(g.vote[:]) <= g.last
}

// nominate rolls h over data until it nominates a position. It returns how many
// bytes that took, -1 if there is none, and the hash there.
//
// This loop is the package's speed. h+h+t and not h<<1+t: Go makes one LEA of
// the former (a cycle a byte), two dependent additions of the latter. The array
// pointer and the byte indices leave no bounds checks.
func nominate(t *[256]uint64, data []byte, h uint64) (int, uint64) {
	i := 0
	for ; i <= len(data)-8; i += 8 {
		b := (*[8]byte)(data[i : i+8])
		if h = h + h + t[b[0]]; h < nominal {
			return i + 1, h
		}
		if h = h + h + t[b[1]]; h < nominal {
			return i + 2, h
		}
		if h = h + h + t[b[2]]; h < nominal {
			return i + 3, h
		}
		if h = h + h + t[b[3]]; h < nominal {
			return i + 4, h
		}
		if h = h + h + t[b[4]]; h < nominal {
			return i + 5, h
		}
		if h = h + h + t[b[5]]; h < nominal {
			return i + 6, h
		}
		if h = h + h + t[b[6]]; h < nominal {
			return i + 7, h
		}
		if h = h + h + t[b[7]]; h < nominal {
			return i + 8, h
		}
	}
	for ; i < len(data); i++ {
		if h = h + h + t[data[i]]; h < nominal {
			return i + 1, h
		}
	}
	return -1, h
}

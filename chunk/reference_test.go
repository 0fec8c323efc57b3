package chunk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/chunk"
)

// reference cuts data as the package comment says, one position and one window
// at a time, and returns the lengths.
func reference(p chunk.Params, key *[32]byte, data []byte) []int {
	var cuts func(window []byte) bool
	switch p.Algorithm {
	case chunk.Gear:
		cuts = referenceGear(p, key)
	case chunk.Rabin:
		cuts = referenceRabin(p, key)
	}
	var lengths []int
	for len(data) > 0 {
		n := 1
		for n < len(data) && n < p.Max && (n < p.Min || !cuts(data[n-64:n])) {
			n++
		}
		lengths = append(lengths, n)
		data = data[n:]
	}
	return lengths
}

func referenceGear(p chunk.Params, key *[32]byte) func([]byte) bool {
	var stream [2048]byte
	blake3.DeriveKey("varve v1 chunk gear table", key[:], stream[:])
	var table [256]uint64
	for i := range table {
		table[i] = binary.LittleEndian.Uint64(stream[8*i:])
	}
	var election [32]byte
	blake3.DeriveKey("varve v1 chunk gear election", key[:], election[:])
	h, err := blake3.NewKeyed(election[:])
	if err != nil {
		panic(err)
	}
	bound := new(big.Int).Lsh(big.NewInt(1), 75)
	bound.Div(bound, big.NewInt(int64(p.Avg-p.Min)))

	return func(window []byte) bool {
		var sum uint64
		for i := range 64 {
			sum += table[window[63-i]] << i
		}
		if sum>>53 != 0 {
			return false
		}
		h.Reset()
		h.Write(window)
		vote := binary.LittleEndian.Uint64(h.Sum(nil))
		return new(big.Int).SetUint64(vote).Cmp(bound) < 0
	}
}

func referenceRabin(p chunk.Params, key *[32]byte) func([]byte) bool {
	h := blake3.NewDeriveKey("varve v1 chunk rabin polynomial")
	h.Write(key[:])
	d := h.Digest()
	var pol chunker.Pol
	for pol == 0 || !pol.Irreducible() {
		var b [8]byte
		d.Read(b[:])
		pol = chunker.Pol(binary.LittleEndian.Uint64(b[:])&(1<<54-1) | 1<<53 | 1)
	}
	return func(window []byte) bool {
		var f chunker.Pol
		for _, b := range window {
			f = (f<<8 | chunker.Pol(b)).Mod(pol)
		}
		return f%chunker.Pol(p.Avg-p.Min) == 0
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	for _, pr := range profiles {
		t.Run(pr.name, func(t *testing.T) {
			n := 512 << 10
			if pr.p.Algorithm == chunk.Rabin {
				n = 160 << 10
			}
			data := slices.Concat(random(2, n/4), counting(n/4), make([]byte, n/4), random(3, n/4))
			got := lengths(cut(t, pr.p, &testKey, bytes.NewReader(data)))
			if want := reference(pr.p, &testKey, data); !slices.Equal(got, want) {
				t.Errorf("lengths %v, want %v", got, want)
			}
		})
	}
}

// FuzzReference compares against the reference with hostile parameters, any
// key, and data in which patterns repeat.
func FuzzReference(f *testing.F) {
	f.Add(false, uint16(0), uint16(0), uint16(0), []byte("key"), []byte("pattern"), uint16(999))
	f.Add(true, uint16(4000), uint16(9), uint16(1), []byte{}, []byte{0}, uint16(20000))
	f.Add(false, uint16(64), uint16(4096), uint16(65535), []byte("k"), bytes.Repeat([]byte("abcdefg"), 99), uint16(65535))
	f.Fuzz(func(t *testing.T, rabin bool, least, spread, beyond uint16, k, pattern []byte, n uint16) {
		p := chunk.Params{chunk.Gear, 64 + int(least), 0, 0}
		p.Avg = p.Min + 2048 + int(spread)
		if rabin {
			p.Algorithm = chunk.Rabin
			p.Avg = p.Min + 2048<<(spread%4)
			n %= 8192 // that reference is slow
		}
		p.Max = 2*p.Avg + int(beyond)
		var key [32]byte
		copy(key[:], k)

		// Random bytes, a pattern that repeats, and random bytes again.
		var data []byte
		r := rand.New(rand.NewPCG(uint64(n), uint64(least)))
		noise := func() {
			for range r.IntN(int(n) + 1) {
				data = append(data, byte(r.Uint32()))
			}
		}
		noise()
		if len(pattern) > 0 {
			data = append(data, bytes.Repeat(pattern, 1+int(n)/len(pattern))...)
		}
		noise()

		got := lengths(cut(t, p, &key, bytes.NewReader(data)))
		if want := reference(p, &key, data); !slices.Equal(got, want) {
			t.Errorf("%+v: lengths %v, want %v", p, got, want)
		}
	})
}

// A run of one byte is one window again and again. Where that is nominated, the
// vote must stand for the whole run: chunks of Min if elected, of Max if not.
func TestRunOfNominees(t *testing.T) {
	t.Parallel()
	var elected, not int
	for seed := 0; elected == 0 || not == 0; seed++ {
		if seed == 5000 {
			t.Fatal("no key nominates a run of zeros")
		}
		var key [32]byte
		blake3.DeriveKey("varve chunk test key", fmt.Append(nil, seed), key[:])
		// The window of zeros hashes to T[0] * (2^64-1).
		var first [8]byte
		blake3.DeriveKey("varve v1 chunk gear table", key[:], first[:])
		if -binary.LittleEndian.Uint64(first[:])>>53 != 0 {
			continue
		}
		want := chunk.Fine.Max
		if referenceGear(chunk.Fine, &key)(make([]byte, 64)) {
			elected++
			want = chunk.Fine.Min
		} else {
			not++
		}
		for i, c := range cut(t, chunk.Fine, &key, bytes.NewReader(make([]byte, 512<<10))) {
			if len(c) != want {
				t.Fatalf("key %d, chunk %d: %d bytes, want %d", seed, i, len(c), want)
			}
		}
	}
}

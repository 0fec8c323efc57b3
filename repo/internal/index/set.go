package index

import (
	"encoding/binary"

	"github.com/varvebackup/varve/pack"
)

// A Set is a growing set of blob ids: what a session has stored itself. Of an id it keeps the first half, 128 bits of a keyed hash, for a backup's memory is
// bounded and most of it is this; that takes 22 to 27 bytes and never moves, so growing the Set leaves no garbage but the small table. It is for one goroutine. The zero Set is empty.
type Set struct {
	slabs [][]half
	table []uint32 // ordinal + 1, 0 when free; open addressing by the id's own bits, which are uniform
	n     int
}

const slab = 4096

type half [16]byte

// Len returns the number of ids.
func (s *Set) Len() int { return s.n }

func (s *Set) at(i uint32) *half { return &s.slabs[i/slab][i%slab] }

func (s *Set) slot(id *half) int {
	mask := len(s.table) - 1
	for i := int(binary.LittleEndian.Uint64(id[8:])) & mask; ; i = (i + 1) & mask {
		if s.table[i] == 0 || *s.at(s.table[i] - 1) == *id {
			return i
		}
	}
}

// Has tells whether id is in the set.
func (s *Set) Has(id pack.ID) bool {
	h := half(id[:16])
	return s.n > 0 && s.table[s.slot(&h)] != 0
}

// Add adds id and tells whether it is new.
func (s *Set) Add(id pack.ID) bool {
	if s.n >= len(s.table)*3/4 {
		s.grow()
	}
	h := half(id[:16])
	i := s.slot(&h)
	if s.table[i] != 0 {
		return false
	}
	if s.n%slab == 0 {
		s.slabs = append(s.slabs, make([]half, slab))
	}
	*s.at(uint32(s.n)) = h
	s.n++
	s.table[i] = uint32(s.n)
	return true
}

func (s *Set) grow() {
	s.table = make([]uint32, max(1024, 2*len(s.table)))
	for i := range s.n {
		s.table[s.slot(s.at(uint32(i)))] = uint32(i + 1)
	}
}

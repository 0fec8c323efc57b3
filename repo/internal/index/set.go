package index

import (
	"encoding/binary"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/memory"
)

// A Set is a growing set of blob ids: what a session has stored itself. Of an id it keeps the first half, 128 bits of a keyed hash, for a backup's memory is
// bounded and most of it is this; that takes 22 to 27 bytes and never moves. All but that of a small Set lies beside the heap: a collector that lets the heap become twice what is alive
// would take as much again for nothing. It is for one goroutine. The zero Set is empty; Close gives its memory back.
type Set struct {
	slabs  [][]byte
	table  []byte // of uint32: ordinal + 1, 0 when free; open addressing by the id's own bits, which are uniform
	n      int
	blocks []memory.Block // of slabs but the first
	block  memory.Block   // of table
}

const (
	half      = 16      // bytes of an id
	slab      = 1 << 16 // ids; the first slab, for small backups, is on the heap and grows
	slabBytes = slab * half
	smallest  = 1 << 10 // entries of the table
	onHeap    = 1 << 17 // entries of a table that is on the heap
)

// Len returns the number of ids.
func (s *Set) Len() int { return s.n }

// Close empties s.
func (s *Set) Close() {
	for i := range s.blocks {
		s.blocks[i].Free()
	}
	s.block.Free()
	*s = Set{}
}

func (s *Set) at(i uint32) []byte { return s.slabs[i/slab][i%slab*half:][:half] }

func (s *Set) entry(i int) uint32       { return binary.LittleEndian.Uint32(s.table[4*i:]) }
func (s *Set) setEntry(i int, v uint32) { binary.LittleEndian.PutUint32(s.table[4*i:], v) }

func (s *Set) slot(id []byte) int {
	mask := len(s.table)/4 - 1
	for i := int(binary.LittleEndian.Uint64(id[8:])) & mask; ; i = (i + 1) & mask {
		if e := s.entry(i); e == 0 || string(s.at(e-1)) == string(id[:half]) {
			return i
		}
	}
}

// Has tells whether id is in the set.
func (s *Set) Has(id pack.ID) bool { return s.n > 0 && s.entry(s.slot(id[:half])) != 0 }

// Add adds id and tells whether it is new.
func (s *Set) Add(id pack.ID) bool {
	if s.n >= len(s.table)/4*3/4 {
		s.grow()
	}
	i := s.slot(id[:half])
	if s.entry(i) != 0 {
		return false
	}
	if s.n < slab {
		if s.n == 0 {
			s.slabs = [][]byte{nil}
		}
		s.slabs[0] = append(s.slabs[0], id[:half]...)
	} else {
		if s.n%slab == 0 {
			b := memory.New(slabBytes)
			s.slabs, s.blocks = append(s.slabs, b.Bytes), append(s.blocks, b)
		}
		copy(s.at(uint32(s.n)), id[:half])
	}
	s.n++
	s.setEntry(i, uint32(s.n))
	return true
}

func (s *Set) grow() {
	n := max(smallest, 2*(len(s.table)/4))
	old := s.block
	if s.block = (memory.Block{}); n <= onHeap {
		s.table = make([]byte, 4*n)
	} else {
		s.block = memory.New(4 * n)
		s.table = s.block.Bytes
	}
	for i := range s.n {
		s.setEntry(s.slot(s.at(uint32(i))), uint32(i+1))
	}
	old.Free()
}

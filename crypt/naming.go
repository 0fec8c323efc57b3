package crypt

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

// Namer computes ids of blobs without allocating. It is for one goroutine.
type Namer struct{ content, tree, hint *blake3.Hasher }

// Namer returns a new Namer.
func (k *Keys) Namer() *Namer {
	return &Namer{content: keyed(&k.contentID), tree: keyed(&k.treeID), hint: keyed(&k.hintID)}
}

// Content returns the id of a content blob: keyed BLAKE3-256 of its plaintext.
func (n *Namer) Content(p []byte) [32]byte { return sum(n.content, p) }

// Tree returns the id of a tree blob, under a key other than that of contents.
func (n *Namer) Tree(p []byte) [32]byte { return sum(n.tree, p) }

// Hint returns the id of a hint blob, under a key of its own.
func (n *Namer) Hint(p []byte) [32]byte { return sum(n.hint, p) }

// Splitter decides where directories and lists of chunks are split into nodes. It is for one goroutine and doesn't
// allocate.
type Splitter struct {
	h     *blake3.Hasher
	level [1]byte
	sum   [32]byte
}

// Splitter returns a new Splitter.
func (k *Keys) Splitter() *Splitter { return &Splitter{h: keyed(&k.split)} }

// Split returns 64 pseudorandom bits for a name at a level of the tree: the first 8 bytes, little-endian, of the
// keyed BLAKE3 of level and name.
func (s *Splitter) Split(level uint8, name []byte) uint64 {
	s.level[0] = level
	s.h.Reset()
	s.h.Write(s.level[:])
	s.h.Write(name)
	s.h.Sum(s.sum[:0])
	return binary.LittleEndian.Uint64(s.sum[:])
}

// SeriesID returns the pseudonym that stands for a series in the names of objects.
func (k *Keys) SeriesID(series string) [8]byte {
	id := sum(keyed(&k.series), []byte(series))
	return [8]byte(id[:8])
}

func keyed(key *[32]byte) *blake3.Hasher { return must(blake3.NewKeyed(key[:])) }

func sum(h *blake3.Hasher, p []byte) (id [32]byte) {
	h.Reset()
	h.Write(p)
	h.Sum(id[:0])
	return id
}

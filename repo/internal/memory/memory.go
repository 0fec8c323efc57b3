// Package memory gives out bytes beside the heap. A collector lets the heap become a multiple of what is alive in it: for buffers that live for a whole backup that is
// memory for nothing, and most of what a backup takes. Where the system has no such memory they are on the heap.
package memory

// A Block is some bytes, all zero at first. Whoever holds it frees it, once, when nothing can reach the bytes any more: to touch them later ends the process.
type Block struct {
	Bytes []byte
	free  func()
}

// Free gives the bytes back. Of the zero Block there are none.
func (b *Block) Free() {
	if b.free != nil {
		b.free()
	}
	*b = Block{}
}

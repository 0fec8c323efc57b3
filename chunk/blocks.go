package chunk

import "fmt"

// Blocks returns a [Chunker] that cuts at the multiples of size: each chunk but
// the last has that length. It suits what is rewritten in place, as the pages of
// a database are; one byte more at the front changes every chunk. A size below
// 1 panics.
func Blocks(size int) *Chunker {
	if size < 1 {
		panic(fmt.Sprintf("chunk: Blocks of %d bytes", size))
	}
	return &Chunker{cutter: blocks(size), max: size, buf: make([]byte, size+readAhead)}
}

type blocks int

func (b blocks) cut(data []byte, _ int) int {
	if len(data) < int(b) {
		return -1
	}
	return int(b)
}

func (blocks) reset() {}

package chunk

import (
	"io"
)

const (
	readAhead     = 256 << 10 // beyond Max, so that a fill is one long read for many chunks
	maxEmptyReads = 100       // as in bufio
)

// A cutter finds the end of one chunk after the other.
type cutter interface {
	// cut returns the length of the chunk that data begins with, or -1 if data
	// ends before the chunk does. Then the next call gets the same bytes and
	// more, and seen = len(data). data is never longer than Max.
	cut(data []byte, seen int) int
	// reset forgets a chunk that did not end.
	reset()
}

// A Chunker cuts streams, one at a time. It is for one goroutine. All its
// memory, Max plus 256 KiB for data and the tables, is allocated by [New].
type Chunker struct {
	cutter     cutter
	max        int
	r          io.Reader // nil before Reset and after an error
	err        error     // r's first one
	buf        []byte
	start, end int // buf[start:end] is read and not yet returned
}

// New derives an algorithm's tables from the secret chunking key, which it does
// not keep. The error is that of [Params.Validate]. Call [Chunker.Reset] next.
func New(p Params, key *[32]byte) (*Chunker, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if key == nil {
		panic("chunk: New without a key")
	}
	c := &Chunker{max: p.Max, buf: make([]byte, p.Max+readAhead)}
	switch p.Algorithm {
	case Gear:
		c.cutter = newGear(p, key)
	case Rabin:
		r, err := newRabin(p, key)
		if err != nil {
			return nil, err
		}
		c.cutter = r
	}
	return c, nil
}

// Reset starts a new stream, whatever became of the last one. Slices that
// Next returned are void.
func (c *Chunker) Reset(r io.Reader) {
	c.cutter.reset()
	c.r, c.err = r, nil
	c.start, c.end = 0, 0
}

// Next returns the next chunk, which is never empty. It is the caller's, to
// change as well, until the following call of Next or Reset.
//
// After the last chunk the error is [io.EOF]. An error of the reader comes, as
// it is, after all chunks that end before it; the bytes that follow the last of
// these are dropped, as nobody knows how their chunk would end. A reader that
// returns neither bytes nor an error, again and again, gives
// [io.ErrNoProgress]. Errors are sticky and the reader isn't read again.
func (c *Chunker) Next() ([]byte, error) {
	if c.r == nil && c.err == nil {
		panic("chunk: Next without Reset")
	}
	for seen := 0; ; {
		data := c.buf[c.start:c.end]
		if n := c.cutter.cut(data[:min(len(data), c.max)], seen); n > 0 {
			return c.take(n), nil
		}
		// Not cut, so len(data) < Max and fill has room.
		if c.err == io.EOF && len(data) > 0 {
			return c.take(len(data)), nil
		}
		if c.err != nil {
			c.start = c.end
			return nil, c.err
		}
		seen = len(data)
		c.fill()
	}
}

func (c *Chunker) take(n int) []byte {
	chunk := c.buf[c.start : c.start+n : c.start+n]
	c.start += n
	return chunk
}

// fill reads until the buffer is full or the reader fails, for short reads must
// not become short searches. What it moves to the front is less than a chunk
// and follows at least a chunk, so no byte moves twice.
func (c *Chunker) fill() {
	c.end = copy(c.buf, c.buf[c.start:c.end])
	c.start = 0
	for empty := 0; c.end < len(c.buf); {
		n, err := c.r.Read(c.buf[c.end:])
		if n < 0 || n > len(c.buf)-c.end {
			panic("chunk: reader returned an impossible count")
		}
		c.end += n
		if empty++; n > 0 {
			empty = 0
		}
		if err == nil && empty == maxEmptyReads {
			err = io.ErrNoProgress
		}
		if err != nil {
			c.r, c.err = nil, err
			return
		}
	}
}

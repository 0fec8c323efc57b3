package chunk_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/varvebackup/varve/chunk"
)

func TestBlocks(t *testing.T) {
	data := random(10, 1_000_000)
	for _, size := range []int{1, 7, 4096, 300_000, 1_000_000, 1_000_001} {
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(data), "halves": iotest.HalfReader(bytes.NewReader(data))} {
			c := chunk.Blocks(size)
			c.Reset(r)
			chunks, err := rest(c)
			if want := slices.Collect(slices.Chunk(data, size)); err != io.EOF || !slices.EqualFunc(chunks, want, bytes.Equal) {
				t.Errorf("%d, %s: %d chunks of %d, %v", size, name, len(chunks), len(want), err)
			}
		}
	}
	c := chunk.Blocks(10)
	broken := errors.New("broken")
	c.Reset(io.MultiReader(bytes.NewReader(data[:25]), iotest.ErrReader(broken)))
	if chunks, err := rest(c); err != broken || len(chunks) != 2 {
		t.Errorf("%d chunks, %v", len(chunks), err)
	}
}

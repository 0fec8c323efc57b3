package memory_test

import (
	"testing"

	"github.com/varvebackup/varve/repo/internal/memory"
)

func TestBlock(t *testing.T) {
	for _, n := range []int{1, 4095, 1 << 20} {
		b := memory.New(n)
		if len(b.Bytes) != n {
			t.Fatalf("%d bytes, want %d", len(b.Bytes), n)
		}
		for i := range b.Bytes {
			if b.Bytes[i] != 0 {
				t.Fatalf("byte %d is %d", i, b.Bytes[i])
			}
			b.Bytes[i] = 1
		}
		b.Free()
		b.Free()
		if b.Bytes != nil {
			t.Error("bytes after Free")
		}
	}
}

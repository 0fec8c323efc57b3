package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// Holds reports whether an object has exactly the size bytes of r. It is for
// whoever repeats a Put with IfAbsent after a try with no clear outcome, and is
// told that the object exists: it may be what that try put. (So several who put
// equal bytes may all take theirs for the first; where that matters, the bytes
// must tell them apart.)
//
// An object that is replaced meanwhile is compared in part as it was, and in part
// as it is. The error is [fs.ErrNotExist] if there is no such object, that of b,
// or that of r; r ending early is [io.ErrUnexpectedEOF].
func Holds(ctx context.Context, b Backend, name string, r io.ReaderAt, size int64) (bool, error) {
	info, err := b.Stat(ctx, name)
	if err != nil || info.Size != size {
		return false, err
	}
	const piece = 1 << 20
	var got []byte
	want := make([]byte, min(piece, size))
	for off := int64(0); off < size; off += piece {
		n := min(piece, size-off)
		if got, err = b.Get(ctx, name, off, n, got[:0]); errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil // replaced by a shorter one
		} else if err != nil {
			return false, err
		}
		if k, err := r.ReadAt(want[:n], off); int64(k) < n {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return false, fmt.Errorf("backend: reading what was put as %s: %w", name, err)
		}
		if !bytes.Equal(got, want[:n]) {
			return false, nil
		}
	}
	return true, nil
}

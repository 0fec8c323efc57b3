//go:build linux || darwin

package repo

import (
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// nextData returns where the next byte that is in no hole may be, off or behind it; off if that cannot be told.
func nextData(f *os.File, off int64) int64 {
	next, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return math.MaxInt64 // nothing but a hole
	case err != nil || next < off:
		return off
	}
	return next
}

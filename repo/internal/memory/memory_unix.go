//go:build unix && !aix && !solaris

package memory

import "golang.org/x/sys/unix"

// New returns a Block of n bytes, n > 0. The system gives it memory as it is written to.
func New(n int) Block {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return Block{Bytes: make([]byte, n)}
	}
	return Block{b, func() { unix.Munmap(b) }}
}

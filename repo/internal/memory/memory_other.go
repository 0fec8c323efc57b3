//go:build !unix || aix || solaris

package memory

// New returns a Block of n bytes.
func New(n int) Block { return Block{Bytes: make([]byte, n)} }

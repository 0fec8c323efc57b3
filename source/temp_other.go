//go:build !unix || aix || solaris

package source

import "os"

// tempFile makes a file of the user's own.
func tempFile(dir string) (*os.File, error) { return os.CreateTemp(dir, ".varve-names-*") }

func closeTemp(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}

//go:build unix && !aix && !solaris

package source

import "os"

// tempFile makes a file that only this process can reach, and that is gone when it ends, however it does.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".varve-names-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func closeTemp(f *os.File) { f.Close() }

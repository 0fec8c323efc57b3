//go:build unix && !linux && !aix && !solaris

package source

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

const openStep = openFolder

func (d sysDir) wholePaths() bool { return false }

// openDir opens the folder at path below d.
func (d sysDir) openDir(path string, list bool) (sysDir, error) { return d.stepDir(path, openFolder) }

// names reads the names in d, which was opened to be listed just now; their kinds are not known.
func (d sysDir) names(ctx context.Context, buf []byte, l *names) error {
	fd, err := unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	return addNames(ctx, f, buf, l)
}

//go:build unix && !linux && !aix && !solaris

package source

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/repo"
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
	for ctx.Err() == nil {
		batch, err := f.Readdirnames(1024)
		packed := buf[:0]
		for _, name := range batch {
			packed = packName(packed, kindUnknown, []byte(name))
		}
		if err := l.add(packed, len(batch)); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func extents(*os.File) ([]repo.Extent, error) { return nil, nil }

func (d sysDir) xattrs(string) (map[string][]byte, error) { return nil, nil }

func fileXattrs(*os.File) (map[string][]byte, error) { return nil, nil }

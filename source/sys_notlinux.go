//go:build !linux

package source

import (
	"context"
	"io"
	"os"

	"github.com/varvebackup/varve/repo"
)

// addNames reads the names in a folder; their kinds are not known.
func addNames(ctx context.Context, f *os.File, buf []byte, l *names) error {
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

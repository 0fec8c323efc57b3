//go:build !unix || aix || solaris

package source

import (
	"context"
	"io/fs"
	"os"
	"strings"
)

// A sysDir is a folder below an os.Root, which is looked up again for each step: there are no handles to step from.
// The root guards against leaving it; that no link is followed inside is only as sure as a look beforehand.
type sysDir struct {
	root *os.Root
	path string // "." is the root
}

type fileID struct{ dev, ino uint64 } // always zero

func openRoot(path string) (sysDir, error) {
	r, err := os.OpenRoot(path)
	return sysDir{r, "."}, err
}

func (d sysDir) close() {
	if d.path == "." {
		d.root.Close()
	}
}

func (d sysDir) id() (fileID, error) { return fileID{}, nil }

func (d sysDir) join(name string) string {
	switch {
	case d.path == ".":
		return name
	case name == ".":
		return d.path
	}
	return d.path + "/" + name
}

// local refuses what another system's rules would take apart: a backslash, a drive.
func local(path string) error {
	if !fs.ValidPath(path) || strings.ContainsAny(path, `\:`) && os.PathSeparator == '\\' {
		return fs.ErrInvalid
	}
	return nil
}

func (d sysDir) openDir(path string, list bool) (sysDir, error) {
	if err := local(path); err != nil {
		return sysDir{}, err
	}
	if path == "." { // closed on its own
		r, err := d.root.OpenRoot(".")
		return sysDir{r, "."}, err
	}
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		fi, err := d.root.Lstat(path[:i])
		if err != nil {
			return sysDir{}, err
		}
		if !fi.IsDir() {
			return sysDir{}, errLink
		}
	}
	return sysDir{d.root, path}, nil
}

func (d sysDir) lstat(name string, o *owners) (*info, error) {
	if err := local(name); err != nil {
		return nil, err
	}
	fi, err := d.root.Lstat(d.join(name))
	if err != nil {
		return nil, err
	}
	return newInfo(name, fi, o), nil
}

func (d sysDir) openFile(name, _ string) (*os.File, error) { return d.root.Open(d.join(name)) }

func (d sysDir) readLink(name string) (string, error) { return d.root.Readlink(d.join(name)) }

func (d sysDir) names(ctx context.Context, buf []byte, l *names) error {
	f, err := d.root.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return addNames(ctx, f, buf, l)
}

func fstat(f *os.File, name string, o *owners) (*info, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return newInfo(name, fi, o), nil
}

func newInfo(name string, fi fs.FileInfo, o *owners) *info {
	i := &info{name: name, size: fi.Size(), mode: fi.Mode(), mtime: fi.ModTime()}
	i.setToken(fi.ModTime(), 0, o.sight)
	return i
}

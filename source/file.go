package source

import (
	"context"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/varvebackup/varve/repo"
)

var (
	_ repo.SparseFile = (*file)(nil)
	_ repo.XattrFile  = (*file)(nil)
	_ io.ReadSeeker   = (*file)(nil)
	_ io.ReaderAt     = (*file)(nil)
	_ fs.ReadDirFile  = (*folder)(nil)
)

// A file is an opened file.
type file struct {
	f    *os.File
	t    *Tree
	path string
}

// Stat asks the system each time, so that the tokens from before and after reading can be compared.
func (f *file) Stat() (fs.FileInfo, error) {
	fi, err := fstat(f.f, baseName(f.path), &f.t.owners)
	if err != nil {
		return nil, pathError("stat", f.path, err)
	}
	return fi, nil
}

// Extents returns where the data is, if the file takes less room than its size; else nil. It must not run while another
// goroutine reads or seeks.
func (f *file) Extents() ([]repo.Extent, error) {
	x, err := extents(f.f)
	return x, f.err("extents", err)
}

// Xattrs is Tree.Xattrs of the opened file.
func (f *file) Xattrs() (map[string][]byte, error) {
	if f.t.o.NoXattrs {
		return nil, nil
	}
	x, err := fileXattrs(f.f)
	return x, f.err("xattrs", err)
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.f.Read(p)
	return n, f.err("read", err)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	return n, f.err("read", err)
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	n, err := f.f.Seek(offset, whence)
	return n, f.err("seek", err)
}

func (f *file) Close() error { return f.err("close", f.f.Close()) }

func (f *file) err(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return pathError(op, f.path, err)
}

// A folder is an opened folder.
type folder struct {
	t    *Tree
	path string

	mu     sync.Mutex // guards the rest
	h      *handle
	listed bool
	rest   []fs.DirEntry
	closed bool
}

func (t *Tree) openFolder(path string) (fs.File, error) {
	dir, err := t.openDir(path, true)
	if err != nil {
		return nil, err
	}
	h, err := t.newHandle(path, dir)
	if err != nil {
		return nil, err
	}
	h.keep()
	return &folder{t: t, path: path, h: h}, nil
}

func (d *folder) Stat() (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fi, err := d.stat()
	if err != nil {
		return nil, pathError("stat", d.path, err)
	}
	return fi, nil
}

func (d *folder) stat() (*info, error) {
	if d.closed {
		return nil, fs.ErrClosed
	}
	if err := d.h.acquire(); err != nil {
		return nil, err
	}
	defer d.h.release()
	fi, err := d.h.dir.lstat(".", &d.t.owners)
	if err == nil {
		fi.name = baseName(d.path)
	}
	return fi, err
}

func (d *folder) Read([]byte) (int, error) {
	return 0, pathError("read", d.path, errFolder)
}

func (d *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.list(); err != nil {
		return nil, pathError("readdir", d.path, err)
	}
	var list []fs.DirEntry
	var err error
	list, d.rest, err = take(d.rest, n)
	return list, err
}

// list reads the folder, once.
func (d *folder) list() error {
	if d.closed {
		return fs.ErrClosed
	}
	if d.listed {
		return nil
	}
	ctx := context.Background()
	h, l, err := d.t.list(ctx, d.path)
	if err != nil {
		return err
	}
	if h.id != d.h.id {
		l.close()
		h.finish()
		return fs.ErrNotExist // another folder has its place
	}
	defer l.close()
	d.h.finish()
	d.h, d.listed = h, true
	for e, err := range d.t.entries(ctx, h, l) {
		if err != nil {
			return err
		}
		d.rest = append(d.rest, e)
	}
	return nil
}

func (d *folder) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return pathError("close", d.path, fs.ErrClosed)
	}
	d.closed = true
	d.h.finish()
	return nil
}

func baseName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

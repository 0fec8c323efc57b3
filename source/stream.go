package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/varvebackup/varve/repo"
)

var (
	_ repo.ContextFS = (*stream)(nil)
	_ fs.ReadLinkFS  = (*stream)(nil)
	_ fs.StatFS      = (*stream)(nil)
)

// Stream returns an fs.FS with a single file, name, whose content is what the reader that open returns yields: a dump,
// say. Its Attr says Stream: Backup reads it to the end, once, and fails if a Read does, with that error.
//
// Each Open of the file, and nothing else, calls open, with a context (the caller's, if OpenContext is used) that
// governs the reader as well: once it is done, Read returns its error. Closing the file, early or not, closes the reader.
// The size is unknown, given as 0; the time is zero, that is unknown; the mode is 0600, since a dump holds what the
// database guards. A name that is no single element of a path makes every use fs.ErrInvalid.
func Stream(name string, open func(ctx context.Context) (io.ReadCloser, error)) fs.FS {
	return &stream{name, open}
}

type stream struct {
	name string
	open func(ctx context.Context) (io.ReadCloser, error)
}

func (s *stream) Open(name string) (fs.File, error) { return s.OpenContext(context.Background(), name) }

func (s *stream) OpenContext(ctx context.Context, name string) (fs.File, error) {
	fi, err := s.stat("open", name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return &listing{info: fi, rest: []fs.DirEntry{fs.FileInfoToDirEntry(s.info())}}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, pathError("open", name, err)
	}
	r, err := s.open(ctx)
	if err == nil && r == nil {
		err = errors.New("source: Stream: open returned no reader")
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &streamFile{ctx: ctx, r: r, info: fi}, nil
}

func (s *stream) Stat(name string) (fs.FileInfo, error)  { return s.stat("stat", name) }
func (s *stream) Lstat(name string) (fs.FileInfo, error) { return s.stat("lstat", name) }

func (s *stream) ReadLink(name string) (string, error) {
	_, err := s.stat("readlink", name)
	if err == nil {
		err = pathError("readlink", name, fs.ErrInvalid)
	}
	return "", err
}

func (s *stream) stat(op, name string) (fs.FileInfo, error) {
	switch {
	case !validName(s.name):
		return nil, pathError(op, s.name, fs.ErrInvalid)
	case name == ".":
		return rootInfo(), nil
	case name == s.name:
		return s.info(), nil
	}
	return nil, pathError(op, name, fs.ErrNotExist)
}

func (s *stream) info() *info {
	i := &info{name: s.name, mode: 0o600}
	i.attr.Stream = true
	return i
}

// A streamFile is a stream being read.
type streamFile struct {
	ctx    context.Context
	r      io.ReadCloser
	info   fs.FileInfo
	closed atomic.Bool
}

func (f *streamFile) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *streamFile) Read(p []byte) (int, error) {
	if f.closed.Load() {
		return 0, pathError("read", f.info.Name(), fs.ErrClosed)
	}
	if err := f.ctx.Err(); err != nil {
		return 0, pathError("read", f.info.Name(), err)
	}
	return f.r.Read(p)
}

func (f *streamFile) Close() error {
	if f.closed.Swap(true) {
		return pathError("close", f.info.Name(), fs.ErrClosed)
	}
	return f.r.Close()
}

// rootInfo describes a root that is on no disk.
func rootInfo() fs.FileInfo { return &info{name: ".", mode: fs.ModeDir | 0o755} }

// A listing is an opened root that is on no disk.
type listing struct {
	info fs.FileInfo
	rest []fs.DirEntry
}

func (d *listing) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *listing) Close() error               { return nil }

func (d *listing) Read([]byte) (int, error) {
	return 0, pathError("read", d.info.Name(), errFolder)
}

func (d *listing) ReadDir(n int) (list []fs.DirEntry, err error) {
	list, d.rest, err = take(d.rest, n)
	return list, err
}

var errFolder = errors.New("is a folder")

// take splits entries as fs.ReadDirFile.ReadDir does.
func take(entries []fs.DirEntry, n int) (list, rest []fs.DirEntry, err error) {
	if n <= 0 {
		return entries, nil, nil
	}
	if len(entries) == 0 {
		return nil, nil, io.EOF
	}
	n = min(n, len(entries))
	return entries[:n:n], entries[n:], nil
}

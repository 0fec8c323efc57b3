package main

import (
	"io/fs"

	"github.com/varvebackup/varve/source"
)

// A fileFS is an fs.FS whose root is a file: one of a folder.
type fileFS struct {
	tree *source.Tree
	base string
}

func (f *fileFS) of(name string) (string, error) {
	if name != "." {
		return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return f.base, nil
}

// Open opens the root.
func (f *fileFS) Open(name string) (fs.File, error) {
	base, err := f.of(name)
	if err != nil {
		return nil, err
	}
	return f.tree.Open(base)
}

// Lstat describes the root.
func (f *fileFS) Lstat(name string) (fs.FileInfo, error) {
	base, err := f.of(name)
	if err != nil {
		return nil, err
	}
	return f.tree.Lstat(base)
}

// Stat is Lstat.
func (f *fileFS) Stat(name string) (fs.FileInfo, error) { return f.Lstat(name) }

// ReadLink is for fs.ReadLinkFS, which Lstat belongs to: the root is no link.
func (f *fileFS) ReadLink(name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

// Xattrs implements repo.XattrFS.
func (f *fileFS) Xattrs(name string) (map[string][]byte, error) {
	base, err := f.of(name)
	if err != nil {
		return nil, err
	}
	return f.tree.Xattrs(base)
}

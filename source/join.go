package source

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/varvebackup/varve/repo"
)

var (
	_ repo.OptionalFS = Join(nil)
	_ repo.ContextFS  = Join(nil)
	_ repo.EntriesFS  = Join(nil)
	_ repo.XattrFS    = Join(nil)
	_ fs.ReadLinkFS   = Join(nil)
	_ fs.ReadDirFS    = Join(nil)
	_ fs.StatFS       = Join(nil)
)

// Join is an fs.FS whose root has the parts as its entries, by name: a Stream or Command as a file, anything else as a
// folder that is that part's root. Parts gives the order in which Backup reads them: streams first, then parts that are
// themselves joined, then trees, then buckets, each sorted.
//
// A part that cannot be read, or a stream of it that fails, fails the backup, unless it is [Optional]. A Join within a Join is
// one part: what is in it is read in the order of names, and none of that is optional by itself.
//
// What a part offers beyond io/fs it offers in the Join too, by paths that begin with its name. A name may be any
// element of a path but "." and ".."; if one is not, or a part is nil, every use is fs.ErrInvalid. The map must not change
// meanwhile, and the parts are their owner's to close.
type Join map[string]fs.FS

// Optional marks a part of a [Join] as one without which there may be a snapshot: if it cannot be read, that is recorded like a
// file that cannot be read. Elsewhere it changes nothing.
func Optional(part fs.FS) fs.FS {
	if part == nil {
		return nil
	}
	return optional{part}
}

type optional struct{ fs.FS }

// must returns a part without that mark.
func must(part fs.FS) fs.FS {
	for {
		o, ok := part.(optional)
		if !ok {
			return part
		}
		part = o.FS
	}
}

// Optional tells whether a part is marked so. It implements repo.OptionalFS.
func (j Join) Optional(name string) bool { _, ok := j[name].(optional); return ok }

// Parts returns the names of the parts in the order in which they are to be read. It implements repo.JoinedFS.
func (j Join) Parts() []string {
	rank := func(name string) int {
		switch must(j[name]).(type) {
		case *stream, *dumps:
			return 0
		case repo.JoinedFS:
			return 1
		case interface{ Bucket() string }:
			return 3 // what the rows of a dump and the files of a tree point at is there by now
		}
		return 2
	}
	return slices.SortedFunc(maps.Keys(j), func(a, b string) int {
		return cmp.Or(rank(a)-rank(b), strings.Compare(a, b))
	})
}

// A joined is a place in a Join: a path in the part of that name. At the root of the Join, part is nil.
type joined struct {
	part fs.FS
	key  string
	path string
}

func (j Join) find(op, name string) (joined, error) {
	for key, part := range j {
		if !validName(key) || must(part) == nil {
			return joined{}, pathError(op, name, fmt.Errorf("%w part %q of a Join", fs.ErrInvalid, key))
		}
	}
	if name == "." {
		return joined{}, nil
	}
	key, path, below := strings.Cut(name, "/")
	if !validName(key) || path == "." {
		return joined{}, pathError(op, name, fs.ErrInvalid)
	}
	part, ok := j[key]
	part = must(part)
	s, isFile := part.(*stream)
	switch {
	case !ok, isFile && below:
		return joined{}, pathError(op, name, fs.ErrNotExist)
	case isFile:
		as := *s
		as.name = key
		return joined{&as, key, key}, nil
	case !below:
		path = "."
	}
	return joined{part, key, path}, nil
}

// error gives a part's error the path that it has in the Join.
func (at joined) error(err error) error {
	pe, ok := err.(*fs.PathError)
	if !ok || at.path == at.key { // a stream has it already
		return err
	}
	path := at.key
	if pe.Path != "." {
		path += "/" + pe.Path
	}
	return &fs.PathError{Op: pe.Op, Path: path, Err: pe.Err}
}

// info gives the root of a part the part's name.
func (at joined) info(fi fs.FileInfo, err error) (fs.FileInfo, error) {
	if err != nil {
		return nil, at.error(err)
	}
	if at.path == "." {
		fi = partInfo{fi, at.key}
	}
	return fi, nil
}

// Open opens a file or folder of a part.
func (j Join) Open(name string) (fs.File, error) { return j.OpenContext(context.Background(), name) }

// OpenContext is Open, with ctx for a part that is a repo.ContextFS.
func (j Join) OpenContext(ctx context.Context, name string) (fs.File, error) {
	at, err := j.find("open", name)
	if err != nil {
		return nil, err
	}
	if at.part == nil {
		list, err := j.ReadDir(name)
		return &listing{info: rootInfo(), rest: list}, err
	}
	var f fs.File
	if c, ok := at.part.(repo.ContextFS); ok {
		f, err = c.OpenContext(ctx, at.path)
	} else if err = ctx.Err(); err == nil {
		f, err = at.part.Open(at.path)
	}
	if err != nil {
		return nil, at.error(err)
	}
	if d, ok := f.(fs.ReadDirFile); ok && at.path == "." {
		return partRoot{d, at}, nil
	}
	return f, nil
}

// Stat describes an entry.
func (j Join) Stat(name string) (fs.FileInfo, error) {
	at, err := j.find("stat", name)
	if err != nil {
		return nil, err
	}
	if at.part == nil {
		return rootInfo(), nil
	}
	return at.info(fs.Stat(at.part, at.path))
}

// Lstat describes an entry, without following a link if the part can.
func (j Join) Lstat(name string) (fs.FileInfo, error) {
	at, err := j.find("lstat", name)
	if err != nil {
		return nil, err
	}
	if at.part == nil {
		return rootInfo(), nil
	}
	return at.info(fs.Lstat(at.part, at.path))
}

// ReadLink returns the target of a symbolic link.
func (j Join) ReadLink(name string) (string, error) {
	at, err := j.find("readlink", name)
	if err != nil {
		return "", err
	}
	if at.part == nil {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	target, err := fs.ReadLink(at.part, at.path)
	return target, at.error(err)
}

// Xattrs returns an entry's extended attributes, none if the part is no repo.XattrFS.
func (j Join) Xattrs(name string) (map[string][]byte, error) {
	at, err := j.find("xattrs", name)
	if err != nil {
		return nil, err
	}
	x, ok := at.part.(repo.XattrFS)
	if !ok {
		return nil, nil
	}
	m, err := x.Xattrs(at.path)
	return m, at.error(err)
}

// ReadDir lists a folder, sorted.
func (j Join) ReadDir(name string) ([]fs.DirEntry, error) {
	return collect(j.Entries(context.Background(), name))
}

// Entries lists a folder, sorted. It is lean if the part is a repo.EntriesFS.
func (j Join) Entries(ctx context.Context, dir string) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		at, err := j.find("readdir", dir)
		if err != nil {
			yield(nil, err)
			return
		}
		entries := j.roots()
		if e, ok := at.part.(repo.EntriesFS); ok {
			entries = e.Entries(ctx, at.path)
		} else if at.part != nil {
			entries = readDir(at.part, at.path)
		}
		for e, err := range entries {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(nil, at.error(err))
				return
			}
			if at.part != nil {
				e = partEntry{e, at}
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// roots yields the parts as entries.
func (j Join) roots() iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(j)) {
			fi, err := j.Lstat(key)
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(fs.FileInfoToDirEntry(fi), nil) {
				return
			}
		}
	}
}

// readDir lists a folder of an FS that is no repo.EntriesFS.
func readDir(fsys fs.FS, dir string) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		list, err := fs.ReadDir(fsys, dir)
		slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

func collect(entries iter.Seq2[fs.DirEntry, error]) (list []fs.DirEntry, err error) {
	for e, err := range entries {
		if err != nil {
			return list, err
		}
		list = append(list, e)
	}
	return list, nil
}

// A partEntry is an entry whose errors have the path in the Join.
type partEntry struct {
	fs.DirEntry
	at joined
}

func (e partEntry) Info() (fs.FileInfo, error) {
	fi, err := e.DirEntry.Info()
	if err != nil {
		return nil, e.at.error(err)
	}
	return fi, nil
}

// A partInfo is that of a part's root.
type partInfo struct {
	fs.FileInfo
	name string
}

func (i partInfo) Name() string { return i.name }

func (i partInfo) Sys() any {
	sys := i.FileInfo.Sys()
	if a, ok := sys.(*repo.Attr); ok && a.Name != nil {
		c := *a
		c.Name = nil
		return &c
	}
	return sys
}

// A partRoot is a part's root, opened.
type partRoot struct {
	fs.ReadDirFile
	at joined
}

func (d partRoot) Stat() (fs.FileInfo, error) { return d.at.info(d.ReadDirFile.Stat()) }

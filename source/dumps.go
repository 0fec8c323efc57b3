package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/varvebackup/varve/repo"
)

var (
	_ repo.ContextFS = (*dumps)(nil)
	_ repo.EntriesFS = (*dumps)(nil)
	_ fs.ReadLinkFS  = (*dumps)(nil)
	_ fs.ReadDirFS   = (*dumps)(nil)
	_ fs.StatFS      = (*dumps)(nil)
)

// dumps is an fs.FS of streams side by side, which of them being for the server to know.
type dumps struct {
	list func(ctx context.Context) ([]dumpFile, error) // sorted by name
	warn func(path, text string)                       // see Warn; may be nil
}

type dumpFile struct {
	name string
	open func(ctx context.Context) (io.ReadCloser, error)

	// meta returns what a backup is to record with the dump that it begins now; nil: nothing.
	meta func(ctx context.Context) (map[string]string, error)
}

// find returns the file of that name; nil for the root.
func (d *dumps) find(ctx context.Context, op, name string) (*dumpFile, error) {
	if name == "." {
		return nil, nil
	}
	files, err := d.list(ctx)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	for i := range files {
		if files[i].name == name {
			return &files[i], nil
		}
	}
	return nil, pathError(op, name, fs.ErrNotExist)
}

func (d *dumps) Open(name string) (fs.File, error) { return d.OpenContext(context.Background(), name) }

func (d *dumps) OpenContext(ctx context.Context, name string) (fs.File, error) {
	f, err := d.find(ctx, "open", name)
	if err != nil {
		return nil, err
	}
	if f == nil {
		list, err := d.ReadDir(name)
		if err != nil {
			return nil, err
		}
		return &listing{info: rootInfo(), rest: list}, nil
	}
	s := &stream{name: name, open: f.open, warn: d.warn}
	return s.OpenContext(ctx, name)
}

func (d *dumps) Stat(name string) (fs.FileInfo, error)  { return d.stat("stat", name) }
func (d *dumps) Lstat(name string) (fs.FileInfo, error) { return d.stat("lstat", name) }

func (d *dumps) stat(op, name string) (fs.FileInfo, error) {
	f, err := d.find(context.Background(), op, name)
	switch {
	case err != nil:
		return nil, err
	case f == nil:
		return rootInfo(), nil
	}
	return streamInfo(name), nil
}

func (d *dumps) ReadLink(name string) (string, error) {
	_, err := d.stat("readlink", name)
	if err == nil {
		err = pathError("readlink", name, fs.ErrInvalid)
	}
	return "", err
}

func (d *dumps) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.find(context.Background(), "readdir", name)
	if f != nil {
		err = pathError("readdir", name, errNotFolder)
	}
	if err != nil {
		return nil, err
	}
	files, err := d.list(context.Background())
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	var entries []fs.DirEntry
	for _, f := range files {
		entries = append(entries, fs.FileInfoToDirEntry(streamInfo(f.name)))
	}
	return entries, nil
}

// Entries is ReadDir, but for what is recorded with each dump: that is asked for when its turn comes.
func (d *dumps) Entries(ctx context.Context, dir string) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		f, err := d.find(ctx, "readdir", dir)
		if f != nil {
			err = pathError("readdir", dir, errNotFolder)
		}
		var files []dumpFile
		if err == nil {
			if files, err = d.list(ctx); err != nil {
				err = &fs.PathError{Op: "readdir", Path: dir, Err: err}
			}
		}
		for _, f := range files {
			info := streamInfo(f.name)
			if f.meta != nil {
				// Whatever is wrong is wrong when the dump is opened too, and fails the backup there.
				info.attr.Meta, _ = f.meta(ctx)
			}
			if !yield(fs.FileInfoToDirEntry(info), nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

var errNotFolder = errors.New("is not a folder")

// dumpName returns the name of the file for a database, which may have any name: what can't be in the name of a file
// everywhere, and what begins as reserved does, is written as in a URL.
func dumpName(db, suffix string, reserved ...string) string {
	var b strings.Builder
	for i := 0; i < len(db); {
		r, n := utf8.DecodeRuneInString(db[i:])
		if r == utf8.RuneError && n == 1 || r < ' ' || r == 0x7f || strings.ContainsRune(`%/\:*?"<>|`, r) {
			for _, c := range []byte(db[i : i+n]) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		} else {
			b.WriteString(db[i : i+n])
		}
		i += n
	}
	name := b.String()
	for _, r := range reserved {
		if name == r {
			name = fmt.Sprintf("%%%02X", name[0]) + name[1:]
		}
	}
	return name + suffix
}

// A dump is the output of a dump program.
type dump struct {
	*run
	hint     func(*CommandError)    // completes an error; may be nil
	complete func(last []byte) bool // whether a dump with this end is whole; nil: the exit status tells
	close    func()                 // called by the first Close; may be nil
	last     []byte                 // the last bytes, dumpEnd of them if there are as many, if complete needs them
	err      error                  // what Read goes on to return
}

// dumpEnd is how much of its end tells whether a dump is whole.
const dumpEnd = 128

func (d *dump) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	n, err := d.run.Read(p)
	if d.complete != nil {
		d.last = append(d.last, p[max(0, n-dumpEnd):n]...)
		d.last = append(d.last[:0], d.last[max(0, len(d.last)-dumpEnd):]...)
	}
	if err == nil {
		return n, nil
	}
	if err == io.EOF && d.complete != nil && !d.complete(d.last) {
		err = &CommandError{Name: d.name, Err: fmt.Errorf("the dump was cut short: %w", io.ErrUnexpectedEOF), Stderr: d.tail.String()}
	} else if ce, ok := err.(*CommandError); ok && d.hint != nil {
		c := *ce
		d.hint(&c)
		err = &c
	}
	d.err = err
	return n, err
}

func (d *dump) Close() error {
	err := d.run.Close()
	if d.close != nil {
		d.close()
		d.close = nil
	}
	return err
}

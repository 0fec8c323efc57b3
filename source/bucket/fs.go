package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/varvebackup/varve/repo"
)

var (
	errIsDir  = errors.New("is a directory")
	errNotDir = errors.New("not a directory")
)

// info is fs.FileInfo and fs.DirEntry of an object or folder.
type info struct {
	name     string
	dir      bool
	size     int64
	modified time.Time
	attr     *repo.Attr
}

func (i *info) Name() string               { return i.name }
func (i *info) Size() int64                { return i.size }
func (i *info) ModTime() time.Time         { return i.modified }
func (i *info) IsDir() bool                { return i.dir }
func (i *info) Type() fs.FileMode          { return i.Mode().Type() }
func (i *info) Sys() any                   { return i.attr }
func (i *info) Info() (fs.FileInfo, error) { return i, nil }
func (i *info) String() string             { return fs.FormatDirEntry(i) }

// No bucket knows of permissions: these are those of files that people make.
func (i *info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

func folderInfo(name string) *info { return &info{name: name, dir: true, attr: &repo.Attr{}} }

// infoOf describes an object as a listing does.
func infoOf(name string, o *object) *info {
	return &info{name: name, size: o.size, modified: o.modified, attr: &repo.Attr{Token: o.token(), Changed: o.modified}}
}

// token changes with the content, for which the ETag stands, and with the metadata, which are replaced by copying an object onto itself.
func (o *object) token() []byte {
	t := append([]byte(o.etag), 0)
	t = strconv.AppendInt(t, o.size, 10)
	t = append(t, 0)
	return strconv.AppendInt(t, o.modified.UnixMilli(), 10)
}

// Entries lists a folder, sorted by name, in the memory of a page of the listing. It implements repo.EntriesFS.
func (f *FS) Entries(ctx context.Context, dir string) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		fail := func(err error) { yield(nil, &fs.PathError{Op: "readdir", Path: dir, Err: err}) }
		key, err := f.dirKey("readdir", dir)
		if err != nil {
			yield(nil, err)
			return
		}
		w, ps, end := f.begin(ctx, dir)
		all := false
		defer func() { end(all) }()
		any := false
		for it, err := range f.named(ctx, ps, key) {
			if err != nil {
				fail(err)
				return
			}
			any = true
			if it.folder {
				if !yield(folderInfo(it.name), nil) {
					return
				}
				continue
			}
			w.pass(join(dir, it.name), &it.object)
			if !yield(infoOf(it.name, &it.object), nil) {
				return
			}
		}
		if all = any; !any && key != "" {
			fail(fmt.Errorf("no key begins with %q: %w", key, fs.ErrNotExist))
		}
	}
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// ReadDir lists a folder, sorted by name. It implements fs.ReadDirFS.
func (f *FS) ReadDir(dir string) (list []fs.DirEntry, err error) {
	if !fs.ValidPath(dir) {
		return nil, &fs.PathError{Op: "readdir", Path: dir, Err: fs.ErrInvalid}
	}
	for e, err := range f.Entries(context.Background(), dir) {
		if err != nil {
			if len(list) == 0 && errors.Is(err, fs.ErrNotExist) {
				if is, serr := f.isObject(context.Background(), dir); serr == nil && is {
					err = &fs.PathError{Op: "readdir", Path: dir, Err: errNotDir}
				}
			}
			return list, err
		}
		list = append(list, e)
	}
	return list, nil
}

func (f *FS) isObject(ctx context.Context, path string) (bool, error) {
	o, _, err := f.find(ctx, "stat", path)
	return o != nil, err
}

// find returns the object that has a path, or tells that it is a folder.
func (f *FS) find(ctx context.Context, op, name string) (o *object, isFolder bool, err error) {
	if name == "." {
		return nil, true, nil
	}
	fail := func(err error) (*object, bool, error) {
		return nil, false, &fs.PathError{Op: op, Path: name, Err: err}
	}
	w, ps, listed := f.current()
	if !listed || op == "open" {
		if o := w.passed(name); o != nil {
			return o, false, nil
		}
	}
	rel, isBeside, err := Key(name)
	if err != nil {
		return fail(fs.ErrNotExist)
	}
	key := f.prefix + rel
	folder, err := ps.begins(ctx, key+"/")
	if err != nil {
		return fail(err)
	}
	switch {
	case folder && !isBeside:
		return nil, true, nil
	case !folder && isBeside:
		return fail(fs.ErrNotExist)
	}
	o, err = ps.exists(ctx, key)
	if err == nil && o == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return fail(err)
	}
	return o, false, nil
}

// Stat describes an object, as a listing does, or a folder. It implements fs.StatFS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrInvalid}
	}
	o, isFolder, err := f.find(context.Background(), "stat", name)
	switch {
	case err != nil:
		return nil, err
	case isFolder:
		return folderInfo(path.Base(name)), nil
	}
	return infoOf(path.Base(name), o), nil
}

// Open opens an object or folder.
func (f *FS) Open(name string) (fs.File, error) { return f.OpenContext(context.Background(), name) }

// OpenContext opens an object or folder, until ctx is done. It implements repo.ContextFS. The Attr of a file that is open has the content type and metadata too.
func (f *FS) OpenContext(ctx context.Context, name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	o, isFolder, err := f.find(ctx, "open", name)
	switch {
	case err != nil:
		return nil, err
	case isFolder:
		return &folder{fs: f, ctx: ctx, path: name}, nil
	}
	w, _, _ := f.current()
	c, err := w.open(ctx, f, name, o)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	c.info.name = path.Base(name)
	return &file{content: c, path: name}, nil
}

// folder is a folder that is open.
type folder struct {
	fs   *FS
	ctx  context.Context
	path string
	next func() (fs.DirEntry, error, bool)
	stop func()
}

func (d *folder) Stat() (fs.FileInfo, error) { return folderInfo(path.Base(d.path)), nil }

func (d *folder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: errIsDir}
}

func (d *folder) Close() error {
	if d.stop != nil {
		d.stop()
	}
	return nil
}

func (d *folder) ReadDir(n int) (list []fs.DirEntry, err error) {
	if d.next == nil {
		d.next, d.stop = iter.Pull2(d.fs.Entries(d.ctx, d.path))
	}
	for n <= 0 || len(list) < n {
		e, err, ok := d.next()
		if err != nil {
			return list, err
		}
		if !ok {
			if n > 0 && len(list) == 0 {
				return nil, io.EOF
			}
			break
		}
		list = append(list, e)
	}
	return list, nil
}

// file is an object that is open.
type file struct {
	*content
	path string
}

func (f *file) Stat() (fs.FileInfo, error) { return f.content.info, nil }

func (f *file) Read(p []byte) (int, error) {
	n, err := f.content.Read(p)
	if err != nil && err != io.EOF {
		err = &fs.PathError{Op: "read", Path: f.path, Err: err}
	}
	return n, err
}

// Xattrs has none to tell of, but whether the tags could be read: what repo.Backup records of a file, whose content it keeps all the same.
func (f *file) Xattrs() (map[string][]byte, error) {
	if f.content.tagsErr != nil {
		return nil, fmt.Errorf("the tags of the object: %w", f.content.tagsErr)
	}
	return nil, nil
}

var _ repo.XattrFile = (*file)(nil)

// dirKey returns what begins the keys in a folder.
func (f *FS) dirKey(op, dir string) (string, error) {
	if dir == "." {
		return f.prefix, nil
	}
	key, isBeside, err := Key(dir)
	if err != nil || isBeside || dir == "" || strings.HasSuffix(dir, "/") {
		return "", &fs.PathError{Op: op, Path: dir, Err: fs.ErrNotExist}
	}
	return f.prefix + key + "/", nil
}
